"""KV blocks on the move between replicas, compiled. Off unless a cluster is made for it (``gateway.transfers``).

``cluster/reference/transfers.py`` says the rules in plain Python; the functions here have the same names. A transfer
has a place in the arena; the next step of all of them is kept in the environment and has no entry in the event queue.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.advance import catch_up
from burstenv.cluster.hand_overs import may_join, reset_hand_overs
from burstenv.cluster.transfer_config import AbortCause, Pick
from burstenv.cluster.transfer_stages import (
    BEGUN_S,
    COPYING,
    DESTINATION,
    DUE_S,
    FREE,
    HAND_OVER,
    HELD_BLOCKS,
    JOINING,
    LAST,
    LEAVING,
    LEFT_S,
    PHASE,
    PREEMPTIONS,
    PREPARING,
    REQUEST,
    RESERVED_BLOCKS,
    RETURNING,
    SENT_TOKENS,
    SINCE_S,
    SOURCE,
    STAGE,
    begin_stage,
    begin_transfer,
    destination_of,
    end_transfer,
    fits,
    is_busy,
    is_moving,
    source_of,
    transfer_at,
)
from burstenv.cluster.transfer_times import time_anew
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import (
    ABORT_CAUSES,
    ATTAINED,
    LATE,
    LENGTH_CAPPED,
    NO_REQUEST,
    RUNNING,
)
from burstenv.engine.gateway_log import log_moved
from burstenv.engine.queues import blocks_of, full_blocks
from burstenv.engine.transfer_ends import (
    begin_leaving,
    cancel,
    decodes,
    join,
    kv_tokens,
    let_go,
    lift_out,
    next_schedule_s,
    preempt_returning,
    reserve,
    stay,
)

_SHORTEST, _NEWEST, _LONGEST = (int(pick) for pick in Pick)
_FINISHED, _PREEMPTED, _BLOCKS, _SLOT, _STAGES, _TIMEOUT = (int(cause) for cause in AbortCause)
assert len(AbortCause) == ABORT_CAUSES


# -- begin ---------------------------------------------------------------------------------------------


@kernel
def is_way(world, source, destination):
    """Return whether requests may move from a replica to another one: both can hold them, and are not busy."""
    busy = is_busy(world, source) or is_busy(world, destination)
    return source != destination and fits(world, source, destination) and not busy


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


@detached(
    lambda state: state.gateway["transfers"].any(),
    lambda state: (world_type(state), types.int64, types.int64, types.int64),
)
def migrate(world, source, destination, pick):
    """Begin to migrate a request; where that cannot be, nothing changes."""
    environment, gateway = world.environment, world.gateway
    now_s = environment.now_s
    if not is_way(world, source, destination):
        return
    here, there = engine_of(world, source), engine_of(world, destination)
    catch_up(here, now_s)
    catch_up(there, now_s)
    request_id = chosen(world, source, pick)
    if request_id == NO_REQUEST:
        return
    request, size = world.requests[request_id], here.spec.block_size
    tokens = full_blocks(kv_tokens(here, request), size) * size if gateway.transfer_live else 0
    blocks = reserve(there, tokens, 0, 0, now_s)
    if blocks < 0:
        return
    at = begin_transfer(world, request_id, source, destination, blocks)
    environment.migrations_begun += 1
    if gateway.transfer_live:
        begin_stage(world, at, tokens, gateway.transfer_orchestration_s)
    else:
        _leave(world, at)
    time_anew(world)


# -- stages --------------------------------------------------------------------------------------------


@kernel
def _why_lost(world, at):
    """Return why the request of a transfer is no longer at the source, -1 if it still is."""
    request = world.requests[world.arena[at + REQUEST]]
    status = request.status
    if status in (ATTAINED, LATE, LENGTH_CAPPED):
        return _FINISHED
    if status == RUNNING and request.preemptions == world.arena[at + PREEMPTIONS]:
        return -1
    return _PREEMPTED


@outlined
def _stage_ends(world, at):
    gateway, arena, now_s = world.gateway, world.arena, world.environment.now_s
    if arena[at + LAST] > 0:
        arena[at + PHASE] = JOINING
        put_real(arena, at + DUE_S, next_schedule_s(destination_of(world, at), now_s))
        return
    cause = _why_lost(world, at)
    if cause >= 0:
        _give_up(world, at, cause)
        return
    here = source_of(world, at)
    request, size = world.requests[arena[at + REQUEST]], here.spec.block_size
    tokens = kv_tokens(here, request)
    if blocks_of(tokens - arena[at + SENT_TOKENS], size) <= gateway.transfer_last_blocks:
        _leave(world, at)
        return
    arena[at + STAGE] += 1
    if arena[at + STAGE] >= gateway.transfer_max_stages:
        _give_up(world, at, _STAGES)
        return
    tokens = full_blocks(tokens, size) * size
    if _reserve(world, at, tokens):
        begin_stage(world, at, tokens, 0.0)


@kernel
def _reserve(world, at, tokens):
    """Reserve for a further stage, or give the transfer up; return whether it goes on."""
    arena = world.arena
    reserved = np.int64(arena[at + RESERVED_BLOCKS])
    blocks = reserve(destination_of(world, at), tokens, reserved, 0, world.environment.now_s)
    if blocks < 0:
        _give_up(world, at, _BLOCKS)
        return False
    arena[at + RESERVED_BLOCKS] = reserved + blocks
    return True


@kernel
def _leave(world, at):
    arena = world.arena
    arena[at + PHASE] = LEAVING
    request = world.requests[arena[at + REQUEST]]
    put_real(arena, at + DUE_S, begin_leaving(source_of(world, at), request, world.environment.now_s))


@outlined
def _last_stage(world, at):
    gateway, arena, now_s = world.gateway, world.arena, world.environment.now_s
    cause = _why_lost(world, at)
    if cause >= 0:
        _give_up(world, at, cause)
        return
    here = source_of(world, at)
    request_id = np.int64(arena[at + REQUEST])
    tokens = np.int64(kv_tokens(here, world.requests[request_id]))
    if not _reserve(world, at, tokens):
        return
    arena[at + HELD_BLOCKS] = lift_out(here, request_id, now_s)
    arena[at + LAST] = 1
    put_real(arena, at + LEFT_S, now_s)
    further_s = gateway.transfer_downtime_s
    if not gateway.transfer_live:
        further_s += gateway.transfer_orchestration_s
    begin_stage(world, at, tokens, further_s)


@kernel
def _count_still(world, at):
    world.environment.still_s += world.environment.now_s - real_at(world.arena, at + LEFT_S)


@outlined
def _join(world, at):
    arena, now_s = world.arena, world.environment.now_s
    there = destination_of(world, at)
    handed_over = arena[at + HAND_OVER] > 0
    if handed_over and not may_join(world, at):
        return
    if there.replica.running >= there.limits.max_num_seqs:
        _give_up(world, at, _SLOT)
        return
    blocks = np.int64(arena[at + RESERVED_BLOCKS])
    there.replica.reserved_blocks -= blocks
    if not handed_over:
        log_moved(source_of(world, at), there, np.int64(arena[at + REQUEST]))
    join(there, np.int64(arena[at + REQUEST]), np.int64(arena[at + DESTINATION]), blocks, now_s)
    let_go(source_of(world, at), np.int64(arena[at + HELD_BLOCKS]), now_s)
    if handed_over:
        world.environment.handed_over += 1
    else:
        world.environment.migrations += 1
    _count_still(world, at)
    end_transfer(world, at)


# -- giving up -----------------------------------------------------------------------------------------


@outlined
def _give_up(world, at, cause):
    """Free the blocks at the destination; a request that stands still goes back."""
    arena, now_s = world.arena, world.environment.now_s
    cancel(destination_of(world, at), np.int64(arena[at + RESERVED_BLOCKS]), now_s)
    arena[at + RESERVED_BLOCKS] = 0
    world.environment.aborted[cause] += 1
    here = source_of(world, at)
    if arena[at + HAND_OVER] > 0:
        log_moved(destination_of(world, at), here, np.int64(arena[at + REQUEST]))
    if arena[at + LAST] > 0:
        arena[at + PHASE] = RETURNING
        put_real(arena, at + DUE_S, next_schedule_s(here, now_s))
        return
    stay(here, world.requests[arena[at + REQUEST]], now_s)
    end_transfer(world, at)


@outlined
def _return(world, at):
    arena, now_s = world.arena, world.environment.now_s
    here, blocks = source_of(world, at), np.int64(arena[at + HELD_BLOCKS])
    request_id = np.int64(arena[at + REQUEST])
    here.replica.held_blocks -= blocks
    if here.replica.running < here.limits.max_num_seqs:
        join(here, request_id, np.int64(arena[at + SOURCE]), blocks, now_s)
    else:
        preempt_returning(here, request_id, blocks, now_s)
    _count_still(world, at)
    end_transfer(world, at)


@detached(lambda state: state.gateway["transfers"].any(), lambda state: (world_type(state),))
def take_step(world):
    """Carry out the next step of the transfers, which is due now."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    now_s = environment.now_s
    at = transfer_at(world, environment.transfer_place)
    catch_up(source_of(world, at), now_s)
    catch_up(destination_of(world, at), now_s)
    phase = arena[at + PHASE]
    settled = phase in (JOINING, RETURNING)
    if not settled and now_s >= real_at(arena, at + BEGUN_S) + gateway.transfer_timeout_s:
        _give_up(world, at, _TIMEOUT)
    elif phase == PREPARING:
        arena[at + PHASE] = COPYING
        put_real(arena, at + SINCE_S, now_s)
    elif phase == COPYING:
        _stage_ends(world, at)
    elif phase == LEAVING:
        _last_stage(world, at)
    elif phase == JOINING:
        _join(world, at)
    else:
        _return(world, at)
    time_anew(world)


@outlined
def reset_transfers(world):
    """Forget all transfers, as an episode begins."""
    environment, gateway = world.environment, world.gateway
    for place in range(gateway.transfer_places):
        world.arena[transfer_at(world, place) + PHASE] = FREE
    environment.transfer_s = np.inf
    environment.transfers = 0
    environment.migrate_number = 1
    environment.migrate_s = gateway.migrate_period_s if gateway.migrate_period_s > 0.0 else np.inf
    environment.migrating = 0
    environment.migrations_begun = 0
    environment.migrations = 0
    for cause in range(ABORT_CAUSES):
        environment.aborted[cause] = 0
    environment.moved_bytes = 0.0
    environment.still_s = 0.0
    reset_hand_overs(world)
