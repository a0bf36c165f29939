"""KV blocks on the move between replicas, compiled. Off unless a cluster is made for it (``gateway.transfers``).

``cluster/reference/transfers.py`` says the rules in plain Python; the functions here have the same names. A transfer
has a place in the arena; the next step of all of them is kept in the environment and has no entry in the event queue.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.advance import bring_up
from burstenv.cluster.departures import begin_migration, leave, live_tokens
from burstenv.cluster.events import PLACE, foresee
from burstenv.cluster.hand_overs import may_join, reset_hand_overs
from burstenv.cluster.token_rounds import begin_chunk, end_chunk
from burstenv.cluster.transfer_config import AbortCause
from burstenv.cluster.transfer_stages import (
    CHUNK_TOKENS,
    COMPUTED_TOKENS,
    COMPUTING,
    COPYING,
    DESTINATION,
    DUE_S,
    FREE,
    HAND_OVER,
    HELD_BLOCKS,
    HELD_PLACE,
    JOINING,
    LAST,
    LEAVING,
    LEFT_S,
    PHASE,
    PREEMPTIONS,
    PREPARING,
    REQUEST,
    RESERVED_BLOCKS,
    RESERVED_PLACE,
    RETURNING,
    SENT_TOKENS,
    SINCE_S,
    SOURCE,
    STAGE,
    UNTIL_S,
    begin_stage,
    computes,
    count_still,
    destination_of,
    end_transfer,
    note_reserved,
    source_of,
    transfer_at,
)
from burstenv.cluster.transfer_times import start_foreseen, time_anew, time_join
from burstenv.cluster.world import world_type
from burstenv.engine.decode_run import run_schedule_s
from burstenv.engine.enums import (
    ABORT_CAUSES,
    ATTAINED,
    LATE,
    LENGTH_CAPPED,
    NO_PLACE,
    RUNNING,
)
from burstenv.engine.gateway_log import log_moved
from burstenv.engine.queues import blocks_of
from burstenv.engine.transfer_ends import (
    cancel,
    held_place,
    join,
    kv_tokens,
    let_go,
    lift_out,
    next_schedule_s,
    preempt_returning,
    reserve,
    stay,
)

_FINISHED, _PREEMPTED, _BLOCKS, _SLOT, _STAGES, _TIMEOUT, _LOST = (int(cause) for cause in AbortCause)
assert len(AbortCause) == ABORT_CAUSES


@detached(
    lambda state: state.gateway["transfers"].any(),
    lambda state: (world_type(state), types.int64, types.int64, types.int64),
)
def migrate(world, source, destination, pick):
    """Begin to migrate a request; where that cannot be, nothing changes."""
    if begin_migration(world, source, destination, pick, False):
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


@kernel
def _foresee_schedule_s(engine, now_s):
    """Return when a replica can schedule an iteration next [s]; a decode run goes on, unless it is cut before then."""
    replica = engine.replica
    if replica.run_steps > 0 and replica.wake_s > now_s:
        schedule_s = run_schedule_s(engine, now_s)
        if schedule_s <= replica.run_demotion_s:
            return schedule_s
    bring_up(engine, now_s)
    return next_schedule_s(engine, now_s)


@kernel
def _stage_ends(world, at):
    gateway, arena, now_s = world.gateway, world.arena, world.environment.now_s
    if arena[at + LAST] > 0:
        arena[at + PHASE] = JOINING
        put_real(arena, at + UNTIL_S, np.inf)
        put_real(arena, at + DUE_S, _foresee_schedule_s(destination_of(world, at), now_s))
        return
    cause = _why_lost(world, at)
    if cause >= 0:
        give_up(world, at, cause)
        return
    here = source_of(world, at)
    request, size = world.requests[arena[at + REQUEST]], here.spec.block_size
    tokens = kv_tokens(here, request)
    left = tokens - arena[at + SENT_TOKENS]
    if computes(world, at):
        close = left <= gateway.transfer_gap_tokens
    else:
        close = blocks_of(left, size) <= gateway.transfer_last_blocks
    if close:
        leave(world, at)
        return
    arena[at + STAGE] += 1
    if arena[at + STAGE] >= gateway.transfer_max_stages:
        give_up(world, at, _STAGES)
        return
    tokens = live_tokens(world, tokens, size)
    if _reserve(world, at, tokens):
        begin_stage(world, at, tokens, 0.0)


@kernel
def _reserve(world, at, tokens):
    """Reserve for a further stage, or give the transfer up; return whether it goes on."""
    arena = world.arena
    request, reserved = world.requests[arena[at + REQUEST]], np.int64(arena[at + RESERVED_BLOCKS])
    there, now_s = destination_of(world, at), world.environment.now_s
    blocks, hit_tokens, place = reserve(there, request, tokens, reserved, 0, now_s)
    if blocks < 0:
        give_up(world, at, _BLOCKS)
        return False
    note_reserved(world, at, blocks, hit_tokens, place)
    return True


@outlined
def _last_stage(world, at):
    gateway, arena, now_s = world.gateway, world.arena, world.environment.now_s
    cause = _why_lost(world, at)
    if cause >= 0:
        give_up(world, at, cause)
        return
    here = source_of(world, at)
    request_id = np.int64(arena[at + REQUEST])
    tokens = np.int64(kv_tokens(here, world.requests[request_id]))
    if not _reserve(world, at, tokens):
        return
    arena[at + HELD_BLOCKS] = lift_out(here, request_id, now_s)
    arena[at + HELD_PLACE] = held_place(here, world.requests[request_id])
    arena[at + LAST] = 1
    put_real(arena, at + LEFT_S, now_s)
    further_s = gateway.transfer_downtime_s
    if not gateway.transfer_live:
        further_s += gateway.transfer_orchestration_s
    begin_stage(world, at, tokens, further_s)


@kernel
def _join(world, at):
    arena, now_s = world.arena, world.environment.now_s
    there = destination_of(world, at)
    handed_over = arena[at + HAND_OVER] > 0
    if handed_over and not may_join(world, at):
        return
    if there.replica.running >= there.limits.max_num_seqs:
        give_up(world, at, _SLOT)
        return
    request_id, blocks = np.int64(arena[at + REQUEST]), np.int64(arena[at + RESERVED_BLOCKS])
    there.replica.reserved_blocks -= blocks
    if not handed_over:
        log_moved(source_of(world, at), there, request_id)
    join(there, request_id, np.int64(arena[at + DESTINATION]), np.int64(arena[at + RESERVED_PLACE]), blocks, now_s)
    let_go(source_of(world, at), np.int64(arena[at + HELD_PLACE]), np.int64(arena[at + HELD_BLOCKS]), now_s)
    if handed_over:
        world.environment.handed_over += 1
    else:
        world.environment.migrations += 1
    count_still(world, at)
    end_transfer(world, at)


# -- giving up -----------------------------------------------------------------------------------------


@kernel
def give_back_reserved(world, at):
    """Free the blocks at the destination of a transfer."""
    arena = world.arena
    place, blocks = np.int64(arena[at + RESERVED_PLACE]), np.int64(arena[at + RESERVED_BLOCKS])
    cancel(destination_of(world, at), place, blocks, world.environment.now_s)
    arena[at + RESERVED_BLOCKS] = 0
    arena[at + RESERVED_PLACE] = NO_PLACE


@outlined
def give_up(world, at, cause):
    """Free the blocks at the destination; a request that stands still goes back, or is decided about again."""
    arena, now_s = world.arena, world.environment.now_s
    if arena[at + PHASE] == COMPUTING:
        end_chunk(world, at)
    give_back_reserved(world, at)
    world.environment.aborted[cause] += 1
    here = source_of(world, at)
    if arena[at + HAND_OVER] > 0:
        log_moved(destination_of(world, at), here, np.int64(arena[at + REQUEST]))
    if arena[at + HAND_OVER] > 0 and cause == _LOST:
        count_still(world, at)
        end_transfer(world, at)
        foresee(world, now_s, PLACE, np.int64(arena[at + REQUEST]))
        return
    if arena[at + LAST] > 0:
        arena[at + PHASE] = RETURNING
        put_real(arena, at + UNTIL_S, np.inf)
        put_real(arena, at + DUE_S, next_schedule_s(here, now_s))
        return
    stay(here, world.requests[arena[at + REQUEST]], now_s)
    end_transfer(world, at)


@outlined
def _return(world, at):
    arena, now_s = world.arena, world.environment.now_s
    here, blocks, place = source_of(world, at), np.int64(arena[at + HELD_BLOCKS]), np.int64(arena[at + HELD_PLACE])
    request_id = np.int64(arena[at + REQUEST])
    here.replica.held_blocks -= blocks
    here.replica.held -= 1
    if here.replica.running < here.limits.max_num_seqs:
        join(here, request_id, np.int64(arena[at + SOURCE]), place, blocks, now_s)
    else:
        preempt_returning(here, request_id, place, blocks, now_s)
    count_still(world, at)
    end_transfer(world, at)


@outlined
def take_step(world):
    """Carry out the next step of the transfers, which is due now."""
    environment, arena = world.environment, world.arena
    now_s = environment.now_s
    foreseen = environment.start_place == environment.transfer_place  # from its begin on
    start_foreseen(world)
    at = transfer_at(world, environment.transfer_place)
    phase = arena[at + PHASE]
    timed_out = now_s >= real_at(arena, at + UNTIL_S)
    arrives = phase == COPYING and arena[at + LAST] > 0
    if timed_out or computes(world, at) or not (phase == PREPARING or arrives):
        bring_up(source_of(world, at), now_s)
        bring_up(destination_of(world, at), now_s)
    stage_ends = phase == COPYING and not timed_out
    if timed_out:
        give_up(world, at, _TIMEOUT)
    elif phase == PREPARING and computes(world, at):
        stage_ends = arena[at + COMPUTED_TOKENS] == arena[at + SENT_TOKENS]
        if not stage_ends:
            begin_chunk(world, at)
    elif phase == PREPARING:
        arena[at + PHASE] = COPYING
        put_real(arena, at + SINCE_S, now_s)
    elif phase == COMPUTING:
        end_chunk(world, at)
        arena[at + COMPUTED_TOKENS] += arena[at + CHUNK_TOKENS]
        stage_ends = arena[at + COMPUTED_TOKENS] == arena[at + SENT_TOKENS]
        put_real(arena, at + DUE_S, now_s + world.gateway.transfer_base_s)
    elif phase == LEAVING:
        _last_stage(world, at)
    elif phase == JOINING:
        _join(world, at)
    elif phase == RETURNING:
        _return(world, at)
    if stage_ends:
        _stage_ends(world, at)
    if not (foreseen and arena[at + PHASE] == JOINING and time_join(world, at)):
        time_anew(world)


@outlined
def reset_transfers(world):
    """Forget all transfers, as an episode begins."""
    environment, gateway = world.environment, world.gateway
    for place in range(gateway.transfer_places):
        world.arena[transfer_at(world, place) + PHASE] = FREE
    environment.transfer_s = np.inf
    environment.start_place = NO_PLACE
    environment.copying = 0
    environment.second_s = np.inf
    environment.second_place = NO_PLACE
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
