"""Who migrates when, decided by a rule at every time for it, compiled: the manager of migrations of a cluster.

``memory.migration`` holds the rule, declared in ``policies/migration.py``; BY_CALLER leaves the decision to the agent.
``cluster/reference/migration.py`` says the rules in plain Python.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv.cluster.adaptive_roles import adapt
from burstenv.cluster.advance import catch_up
from burstenv.cluster.departures import chosen, is_way
from burstenv.cluster.transfers import migrate
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import ACTIVE, DRAINING, NO_REQUEST
from burstenv.engine.queues import blocks_of, queue_head, tokens_to_compute
from burstenv.engine.transfer_ends import kv_tokens

BY_CALLER, NO_MIGRATION, LLUMNIX, LLUMNIX_PAPER, LLUMNIX_BALANCED, LLUMNIX_ADAPTIVE = range(6)
LOW, HIGH, PICK = range(3)  # parameters of the rules of Llumnix


@kernel
def waiting_demand(engine, rule):
    """Return the blocks that the queue asks for: of all requests, or in the form of the paper of the first one."""
    replica, spec = engine.replica, engine.spec
    if rule != LLUMNIX_PAPER:
        return np.int64(replica.seen_waiting_blocks)
    if replica.waiting == 0:
        return np.int64(0)
    head = engine.requests[queue_head(engine, replica.clock_s)]
    return np.int64(blocks_of(tokens_to_compute(head), spec.block_size))


@kernel
def _requests(engine, rule):
    """Return the number of requests that share the free blocks."""
    replica = engine.replica
    if replica.seen_running + replica.seen_waiting == 0:
        return np.int64(0)
    if rule == LLUMNIX_PAPER:
        return np.int64(max(1, replica.seen_running))
    return np.int64(replica.seen_running + (1 if replica.seen_waiting > 0 else 0))


@kernel
def freeness(engine, rule, blocks, requests):
    """Return the blocks that each request can still take, after ``blocks`` more are taken by ``requests`` more.

    Infinity without requests. Below 0 the queue asks for more blocks than are free.
    """
    count = _requests(engine, rule) + requests
    if count <= 0:
        return np.inf
    free = engine.replica.seen_free_blocks - engine.limits.headroom_blocks - waiting_demand(engine, rule)
    return (free - blocks) / count


@kernel
def evens_out(world, source, destination, rule, low, pick):
    """Return whether a migration brings the two ends closer, and leaves the destination above the threshold."""
    here, there = engine_of(world, source), engine_of(world, destination)
    request_id = chosen(world, source, pick)
    if request_id == NO_REQUEST:
        return False
    blocks = blocks_of(kv_tokens(here, world.requests[request_id]), here.spec.block_size)
    source_after = freeness(here, rule, -blocks, -1)
    destination_after = freeness(there, rule, blocks, 1)
    gap = there.replica.freeness - here.replica.freeness
    return destination_after > low and abs(source_after - destination_after) < gap


@outlined
def next_pair(world, low, high):
    """Return the replica with the least freeness below ``low``, and the one with the most above ``high``.

    Of those that are in no pair yet; -1 for none. Of equals the first.
    """
    source, destination = -1, -1
    least, most = low, high
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        if replica.paired:
            continue
        if replica.freeness < least:
            source, least = r, replica.freeness
        if replica.freeness > most:
            destination, most = r, replica.freeness
    return source, destination


@detached(lambda state: state.gateway["transfers"].any(), lambda state: (world_type(state),))
def migrate_by_rule(world):
    """Pair the replicas of too little freeness with those of the most, and begin a migration in each pair."""
    memory, now_s = world.memory, world.environment.now_s
    rule = memory.migration
    if rule == NO_MIGRATION:
        return
    if rule == LLUMNIX_ADAPTIVE:
        adapt(world)
        return
    low, high = memory.migration_parameters[LOW], memory.migration_parameters[HIGH]
    pick = np.int64(memory.migration_parameters[PICK])
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        catch_up(engine, now_s)
        known = engine.replica.known
        engine.replica.freeness = -np.inf if known == DRAINING else freeness(engine, rule, 0, 0)
        engine.replica.paired = known != ACTIVE and known != DRAINING  # it does not serve
    while True:
        source, destination = next_pair(world, low, high)
        if source < 0 or destination < 0:
            return
        world.replicas[source].paired = 1
        world.replicas[destination].paired = 1
        if rule == LLUMNIX_BALANCED and world.replicas[source].known == ACTIVE:
            if not is_way(world, source, destination):
                continue
            if not evens_out(world, source, destination, rule, low, pick):
                continue
        migrate(world, source, destination, pick)
