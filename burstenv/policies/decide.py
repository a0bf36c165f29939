"""A composite policy's decision, compiled: route, then admit to the chosen replica, then its mode."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import entry, kernel
from burstenv.cluster.adaptive_roles import any_without_decodes
from burstenv.cluster.gateway import ADMIT
from burstenv.cluster.placement import choose_place, stays_whole
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.policies.admission import admit
from burstenv.policies.estimates import decode_iteration_s, expected_ttft_s, kv_demand, kv_demand_with
from burstenv.policies.health import judge
from burstenv.policies.known_load import Load, load_of
from burstenv.policies.routing import route

ESTIMATES = (
    "kv_demand", "kv_demand_with", "decode_iteration_s", "expected_ttft_s", "prefix_hit_tokens", *Load._fields,
)  # fmt: skip


@kernel
def choose_replica(policy, world):
    """Return the replica that the routing rule chooses; at a tick, each replica in turn."""
    environment = world.environment
    if environment.at_gateway == NO_REQUEST:
        return environment.decisions % len(world.replicas)
    if world.gateway.hands_over:
        if environment.placing:
            source = np.int64(world.requests[environment.at_gateway].replica)
            return choose_place(world, source, np.int64(world.memory.placement))
        world.memory.whole = stays_whole(world, np.int64(environment.at_gateway))
        world.memory.apart = any_without_decodes(world)
    judged = judge(policy.health, policy.health_parameters, world)
    return route(policy.routing, policy.routing_source, policy.routing_parameters, world, judged)


@kernel
def choose_admission(policy, world, replica):
    """Return the admission rule's decision about the request at the gateway and its chosen replica."""
    environment = world.environment
    if environment.at_gateway == NO_REQUEST or (world.gateway.hands_over and environment.placing):
        return ADMIT
    return admit(policy.admission, policy.admission_source, policy.admission_parameters, world, replica)


@kernel
def decide(policy, world):
    """Return (admission, replica, mode) for the request at the gateway, or for a tick without one."""
    replica = choose_replica(policy, world)
    return choose_admission(policy, world, replica), replica, policy.mode


@entry
def choose_replica_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy, i
):  # fmt: skip
    """Return the replica that the routing rule of ``policy``, (1,) POLICY, chooses in cluster ``i``."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    return choose_replica(policy[0], world_of(arrays, i))


@entry
def choose_admission_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy, i, replica
):  # fmt: skip
    """Return the decision of the admission rule of ``policy``, (1,) POLICY, in cluster ``i`` about a replica."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    return choose_admission(policy[0], world_of(arrays, i), replica)


@entry
def policy_decision(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy, i, out
):  # fmt: skip
    """Write a composite's (admission, replica, mode) for the request at the gateway into ``out``, (3,) int64.

    The call advances the environment's random stream and counters: call it once per decision.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    admission, replica, mode = decide(policy[0], world_of(arrays, i))
    out[0] = admission
    out[1] = replica
    out[2] = mode


@entry
def estimate_at(environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, source, out):
    """Write the ``ESTIMATES`` about replica ``r`` of cluster ``i`` into ``out``, by a source of its load.

    Those about a request are zeros without one.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    engine = engine_of(world, r)
    load = load_of(engine, source)
    at_gateway = world.environment.at_gateway
    out[0] = kv_demand(engine, load)
    out[1] = out[0]
    out[2] = decode_iteration_s(engine, load)
    out[3] = 0.0
    out[4] = 0.0
    if at_gateway != NO_REQUEST:
        request = world.requests[at_gateway]
        out[1] = kv_demand_with(engine, load, request)
        out[3] = expected_ttft_s(engine, load, request)
        out[4] = prefix_hit_tokens(engine, at_gateway)
    out[5] = load.waiting
    out[6] = load.running
    out[7] = load.used_blocks
    out[8] = load.waiting_blocks
    out[9] = load.backlog_tokens
    out[10] = load.context_tokens
