"""A composite policy's decision, compiled: route, then admit to the chosen replica, then its mode."""

from __future__ import annotations

from burstenv._jit.decorators import entry, kernel
from burstenv.cluster.gateway import ADMIT
from burstenv.engine.enums import NOBODY
from burstenv.engine.prefix_cache import prefix_hit_tokens
from burstenv.policies.admission import admit
from burstenv.policies.estimates import decode_iteration_s, expected_ttft_s, kv_demand, kv_demand_with
from burstenv.policies.routing import route

ESTIMATES = ("kv_demand", "kv_demand_with", "decode_iteration_s", "expected_ttft_s", "prefix_hit_tokens")


@kernel
def choose_replica(policy, environment, replicas, pool, requests):
    """Return the replica that the routing rule chooses; at a tick, each replica in turn."""
    if environment.at_door == NOBODY:
        return environment.decisions % environment.num_replicas
    return route(policy.routing, policy.routing_parameters, environment, replicas, pool, requests)


@kernel
def choose_admission(policy, environment, replicas, pool, requests, replica):
    """Return what the admission rule decides about the request at the door and the replica chosen for it."""
    if environment.at_door == NOBODY:
        return ADMIT
    return admit(policy.admission, policy.admission_parameters, environment, replicas, pool, requests, replica)


@kernel
def decide(policy, environment, replicas, pool, requests):
    """Return (admission, replica, mode) for the request at the front door, or for nobody at a tick."""
    replica = choose_replica(policy, environment, replicas, pool, requests)
    return choose_admission(policy, environment, replicas, pool, requests, replica), replica, policy.mode


@entry
def choose_replica_at(environments, replicas, pool, requests, policy, i):
    """Return the replica that the routing rule of ``policy``, (1,) POLICY, chooses in cluster ``i``."""
    return choose_replica(policy[0], environments[i], replicas, pool, requests)


@entry
def choose_admission_at(environments, replicas, pool, requests, policy, i, replica):
    """Return what the admission rule of ``policy``, (1,) POLICY, decides in cluster ``i`` about a replica."""
    return choose_admission(policy[0], environments[i], replicas, pool, requests, replica)


@entry
def estimate_at(environments, replicas, pool, requests, i, r, out):
    """Write the ``ESTIMATES`` about replica ``r`` of cluster ``i`` into ``out``; zeros where nobody is at the door."""
    environment = environments[i]
    replica = replicas[environment.first_replica + r]
    out[0] = kv_demand(replica)
    out[1] = out[0]
    out[2] = decode_iteration_s(replica)
    out[3] = 0.0
    out[4] = 0.0
    if environment.at_door != NOBODY:
        request = requests[environment.at_door]
        out[1] = kv_demand_with(replica, request)
        out[3] = expected_ttft_s(replica, request)
        out[4] = prefix_hit_tokens(replica, pool, requests, environment.at_door)
