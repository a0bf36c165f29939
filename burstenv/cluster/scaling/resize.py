"""Replicas that are started and stopped by decisions, compiled: which ones, and how long they boot.

``cluster/reference/scaling.py`` says the rules in plain Python.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.clients import uniform
from burstenv.cluster.cold_start import BOOT_SPREAD
from burstenv.cluster.faults.handlers import start, stop
from burstenv.cluster.transfer_losses import follow_changes
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import ACTIVE, DRAINING, OFF
from burstenv.engine.gateway_log import in_flight, log_of_gateway

BOOT_STREAM = 0x626F6F74  # keeps boots apart from other draws
NO_REPLICA = -1


@kernel
def _boot_s(world, r):
    """Return the duration of a replica's next boot [s]."""
    replica = world.replicas[r]
    u = uniform(world.environment.client_seed ^ np.uint64(BOOT_STREAM), np.int64(r), np.int64(replica.boots))
    return world.specs[r].cold_start_s * (1.0 + BOOT_SPREAD * (2.0 * u - 1.0))


@kernel
def requests_on(world, r):
    """Return the requests in flight on a replica, by the logs of all gateways."""
    engine, count = engine_of(world, r), 0
    for number in range(world.gateway.gateways):
        count += in_flight(engine, log_of_gateway(engine, number))
    return count


@kernel
def num_wanted(world):
    """Return the number of replicas that are to serve, now or when they are booted or repaired."""
    count = 0
    for r in range(len(world.replicas)):
        count += world.replicas[r].wanted
    return np.int64(count)


@outlined
def want(world, r, wanted):
    """Start a replica, or stop it; nothing if it is as wanted."""
    environment, replica = world.environment, world.replicas[r]
    if wanted == replica.wanted:
        return
    world.memory.scaled_s = environment.now_s
    if wanted:
        start(world, r, _boot_s(world, r), environment.now_s)
    else:
        stop(world, r, world.gateway.drain_s, environment.now_s)
    if world.gateway.transfers:
        follow_changes(world)


@kernel
def _next_to_start(world):
    """Return the replica to start: one that drains still serves at once; of equals the first."""
    first = NO_REPLICA
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        if not replica.wanted:
            if replica.known == DRAINING:
                return r
            if first == NO_REPLICA:
                first = r
    return first


@kernel
def _next_to_stop(world):
    """Return the replica to stop: one that does not serve, else that with the fewest requests; of equals the last."""
    chosen, least = NO_REPLICA, np.int64(1 << 60)
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        if replica.wanted:
            requests = np.int64(-1) if replica.known != ACTIVE else np.int64(requests_on(world, r))
            if requests <= least:
                chosen, least = r, requests
    return chosen


@outlined
def resize(world, number):
    """Want so many replicas, within the limits."""
    gateway = world.gateway
    number = min(max(number, np.int64(gateway.least_replicas)), np.int64(gateway.most_replicas))
    wanted = num_wanted(world)
    while wanted < number:
        want(world, _next_to_start(world), 1)
        wanted += 1
    while wanted > number:
        want(world, _next_to_stop(world), 0)
        wanted -= 1


@outlined
def want_replicas(world, number, wanted):
    """Want so many replicas, or, with a number below 0, those that ``wanted`` says, (R,); within the limits."""
    if number >= 0:
        resize(world, np.int64(number))
        return
    for r in range(len(wanted)):
        want(world, r, np.int64(wanted[r]))
    resize(world, num_wanted(world))


@outlined
def reset_scaling(world):
    """Let the replicas beyond the initial number be off, as an episode begins."""
    environment, gateway = world.environment, world.gateway
    environment.control = 0
    environment.scaling = 0
    for r in range(gateway.initial_replicas, len(world.replicas)):
        replica = world.replicas[r]
        replica.wanted = 0
        replica.paid = 0
        replica.status = OFF
        replica.known = OFF
        replica.halted = 1
