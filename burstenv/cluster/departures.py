"""Requests that begin to move while they decode, compiled: which ones may, and those of replicas that drain.

``cluster/reference/transfers.py`` says the rules in plain Python; the functions here have the same names.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real
from burstenv.cluster.advance import bring_up
from burstenv.cluster.transfer_config import Pick
from burstenv.cluster.transfer_stages import (
    DUE_S,
    LEAVING,
    PHASE,
    REQUEST,
    begin_stage,
    begin_transfer,
    fits,
    is_busy,
    is_moving,
    note_reserved,
    source_of,
    stands_still,
    takes_requests,
)
from burstenv.cluster.world import engine_of
from burstenv.engine.decode_run import interrupt_run
from burstenv.engine.enums import DRAINING, NO_REQUEST, PREFILL, STANDS_STILL
from burstenv.engine.queues import blocks_of, full_blocks
from burstenv.engine.transfer_ends import begin_leaving, decodes, kv_tokens, reserve

_SHORTEST, _NEWEST, _LONGEST = (int(pick) for pick in Pick)


@kernel
def is_way(world, source, destination):
    """Return whether requests may move from a replica to another one: both serve, fit, and are not busy."""
    busy = is_busy(world, source) or is_busy(world, destination)
    serve = takes_requests(world, destination) and (
        takes_requests(world, source) or world.replicas[source].known == DRAINING
    )
    return source != destination and serve and fits(world, source, destination) and not busy


@outlined
def chosen(world, source, pick):
    """Return the request of a replica that would migrate, NO_REQUEST for none; the replica must be caught up."""
    engine, requests = engine_of(world, source), world.requests
    best, most_urgent, tokens = np.int64(NO_REQUEST), np.int64(0), np.int64(0)
    request_id = np.int64(engine.replica.running_head)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if decodes(engine, request) and not is_moving(world, request_id):
            own = np.int64(kv_tokens(engine, request))
            better = best == NO_REQUEST or request.priority > most_urgent
            if not better and request.priority == most_urgent:
                better = pick == _NEWEST or (own < tokens if pick == _SHORTEST else own > tokens)
            if better:
                best, most_urgent, tokens = request_id, np.int64(request.priority), own
        request_id = np.int64(request.next)
    return best


@kernel
def leave(world, at):
    """Let the request of a transfer leave its batch as soon as the iterations in flight have ended."""
    arena = world.arena
    arena[at + PHASE] = LEAVING
    request = world.requests[arena[at + REQUEST]]
    put_real(arena, at + DUE_S, begin_leaving(source_of(world, at), request, world.environment.now_s))


@kernel
def live_tokens(world, tokens, block_size):
    """Return how many of so many tokens are at the destination after a stage in which the request decodes."""
    return tokens if world.gateway.transfer_by_tokens else full_blocks(tokens, block_size) * block_size


@kernel
def _has_room(there, tokens):
    """Return whether a request with KV of so many tokens could join the batch of a replica now."""
    replica = there.replica
    headroom = there.limits.headroom_blocks if replica.running > 0 else 0
    fits_blocks = blocks_of(tokens, there.spec.block_size) + headroom <= replica.free_blocks
    return replica.running < there.limits.max_num_seqs and fits_blocks


@outlined
def begin_migration(world, source, destination, pick, whole):
    """Begin to migrate a request; return whether one begins, otherwise nothing changes.

    ``whole``: only where the destination has room for all of its KV.
    """
    environment, gateway = world.environment, world.gateway
    now_s = environment.now_s
    still = stands_still(world, source) or stands_still(world, destination)
    if still or not is_way(world, source, destination):
        return False
    here, there = engine_of(world, source), engine_of(world, destination)
    bring_up(here, now_s)
    bring_up(there, now_s)
    request_id = chosen(world, source, pick)
    if request_id == NO_REQUEST:
        return False
    request, size = world.requests[request_id], here.spec.block_size
    if whole and not _has_room(there, kv_tokens(here, request)):
        return False
    tokens = live_tokens(world, kv_tokens(here, request), size) if gateway.transfer_live else 0
    blocks, hit_tokens, place = reserve(there, request, tokens, 0, 0, now_s)
    if blocks < 0:
        return False
    at = begin_transfer(world, request_id, source, destination)
    note_reserved(world, at, blocks, hit_tokens, place)
    environment.migrations_begun += 1
    if gateway.transfer_live:
        begin_stage(world, at, tokens, gateway.transfer_orchestration_s)
    else:
        leave(world, at)
    return True


# -- replicas that drain -------------------------------------------------------------------------------


@kernel
def _is_emptied(world, r):
    """Return whether requests are to move away from a replica."""
    replica = world.replicas[r]
    still = replica.frozen == STANDS_STILL
    return replica.known == DRAINING and not still and replica.running + replica.waiting > 0


@kernel
def any_emptied(world):
    """Return whether requests are to move away from any replica."""
    count = 0
    for r in range(len(world.replicas)):
        count += _is_emptied(world, r)
    return count > 0


@kernel
def _emptiest(world, source):
    """Return the replica with the most free blocks of those that requests may move to; ``source`` for none."""
    best, most = np.int64(source), np.int64(-1)
    for r in range(len(world.replicas)):
        if world.replicas[r].role != PREFILL and is_way(world, source, r):
            engine = engine_of(world, r)
            bring_up(engine, world.environment.now_s)
            interrupt_run(engine)
            if engine.replica.free_blocks > most:
                best, most = np.int64(r), np.int64(engine.replica.free_blocks)
    return best


@outlined
def begin_drains(world):
    """Begin to move requests away from the replicas that drain, to where they fit now."""
    for source in range(len(world.replicas)):
        while _is_emptied(world, source):
            if not begin_migration(world, source, _emptiest(world, source), _SHORTEST, True):
                break
