"""KV blocks on the move between replicas, compiled. Off unless a cluster is made for it (``gateway.transfers``).

``cluster/reference/transfers.py`` says the rules in plain Python; the functions here have the same names. A transfer
has a place in the arena; the next step of all of them is kept in the environment and has no entry in the event queue.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, merged, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.advance import catch_up
from burstenv.cluster.transfer_config import AbortCause, Phase, Pick
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.decode_run import interrupt_run
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
from burstenv.engine.records import TRANSFER
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

DUE_S, BEGUN_S, LEFT_S, LEFT_BYTES, SINCE_S, BYTE_S = (
    TRANSFER.fields[name][1] // 4  # type: ignore[index]
    for name in ("due_s", "begun_s", "left_s", "left_bytes", "since_s", "byte_s")
)
PHASE, REQUEST, SOURCE, DESTINATION, PREEMPTIONS, STAGE, LAST, SENT_TOKENS, RESERVED_BLOCKS, HELD_BLOCKS = (
    TRANSFER.fields[name][1] // 4  # type: ignore[index]
    for name in (
        "phase", "request", "source", "destination", "preemptions", "stage", "last", "sent_tokens", "reserved_blocks",
        "held_blocks",
    )
)  # fmt: skip
_FREE, _PREPARING, _COPYING, _LEAVING, _JOINING, _RETURNING = (int(phase) for phase in Phase)
_SHORTEST, _NEWEST, _LONGEST = (int(pick) for pick in Pick)
_FINISHED, _PREEMPTED, _BLOCKS, _SLOT, _STAGES, _TIMEOUT = (int(cause) for cause in AbortCause)
assert len(AbortCause) == ABORT_CAUSES


@kernel
def transfer_at(world, place):
    """Return where the numbers of a transfer begin in the arena."""
    return world.gateway.transfer_base + world.gateway.transfer_size * place


# -- begin ---------------------------------------------------------------------------------------------


@kernel
def _is_moving(world, request_id):
    for place in range(world.gateway.transfer_places):
        at = transfer_at(world, place)
        if world.arena[at + PHASE] != _FREE and world.arena[at + REQUEST] == request_id:
            return True
    return False


@kernel
def is_way(world, source, destination):
    """Return whether requests may move from a replica to another one: both can hold them, and are not busy."""
    replicas, here, there = world.replicas, world.specs[source], world.specs[destination]
    return (
        source != destination
        and here.model_code == there.model_code
        and here.max_model_len <= there.max_model_len
        and replicas[source].transfers < world.gateway.transfers_at_once
        and replicas[destination].transfers < world.gateway.transfers_at_once
    )


@outlined
def chosen(world, source, pick):
    """Return the request of a replica that would migrate, NO_REQUEST for none; the replica must be caught up."""
    engine, requests = engine_of(world, source), world.requests
    best, most_urgent, tokens = np.int64(NO_REQUEST), np.int64(0), np.int64(0)
    request_id = np.int64(engine.replica.running_head)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if decodes(engine, request) and not _is_moving(world, request_id):
            own = np.int64(kv_tokens(engine, request))
            better = best == NO_REQUEST or request.priority > most_urgent
            if not better and request.priority == most_urgent:
                better = pick == _NEWEST or (own < tokens if pick == _SHORTEST else own > tokens)
            if better:
                best, most_urgent, tokens = request_id, np.int64(request.priority), own
        request_id = np.int64(request.next)
    return best


@kernel
def _free_place(world):
    place = 0
    while world.arena[transfer_at(world, place) + PHASE] != _FREE:
        place += 1
    return place


@detached(
    lambda state: state.gateway["transfers"].any(),
    lambda state: (world_type(state), types.int64, types.int64, types.int64),
)
def migrate(world, source, destination, pick):
    """Begin to migrate a request; where that cannot be, nothing changes."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
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
    at = transfer_at(world, _free_place(world))
    tokens = full_blocks(kv_tokens(here, request), size) * size if gateway.transfer_live else 0
    blocks = reserve(there, tokens, 0, now_s)
    if blocks < 0:
        return
    arena[at + PHASE] = _PREPARING
    arena[at + REQUEST] = request_id
    arena[at + SOURCE] = source
    arena[at + DESTINATION] = destination
    arena[at + PREEMPTIONS] = request.preemptions
    arena[at + STAGE] = 1
    arena[at + LAST] = 0
    arena[at + SENT_TOKENS] = 0
    arena[at + RESERVED_BLOCKS] = blocks
    arena[at + HELD_BLOCKS] = 0
    put_real(arena, at + BEGUN_S, now_s)
    here.replica.transfers += 1
    there.replica.transfers += 1
    environment.transfers += 1
    environment.migrations_begun += 1
    if gateway.transfer_live:
        _begin_stage(world, at, tokens, gateway.transfer_orchestration_s)
    else:
        _leave(world, at)
    _time_anew(world)


# -- stages --------------------------------------------------------------------------------------------


@kernel
def _begin_stage(world, at, tokens, further_s):
    """Send the KV up to ``tokens`` tokens."""
    environment, arena = world.environment, world.arena
    left_bytes = float(tokens - arena[at + SENT_TOKENS]) * world.specs[arena[at + SOURCE]].kv_bytes_per_token
    put_real(arena, at + LEFT_BYTES, left_bytes)
    environment.moved_bytes += left_bytes
    arena[at + SENT_TOKENS] = tokens
    arena[at + PHASE] = _PREPARING
    put_real(arena, at + DUE_S, environment.now_s + (world.gateway.transfer_base_s + further_s))


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


@merged
def _source(world, at):
    return engine_of(world, world.arena[at + SOURCE])


@merged
def _destination(world, at):
    return engine_of(world, world.arena[at + DESTINATION])


@outlined
def _stage_ends(world, at):
    gateway, arena, now_s = world.gateway, world.arena, world.environment.now_s
    if arena[at + LAST] > 0:
        arena[at + PHASE] = _JOINING
        put_real(arena, at + DUE_S, next_schedule_s(_destination(world, at), now_s))
        return
    cause = _why_lost(world, at)
    if cause >= 0:
        _give_up(world, at, cause)
        return
    here = _source(world, at)
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
        _begin_stage(world, at, tokens, 0.0)


@kernel
def _reserve(world, at, tokens):
    """Reserve for a further stage, or give the transfer up; return whether it goes on."""
    arena = world.arena
    reserved = np.int64(arena[at + RESERVED_BLOCKS])
    blocks = reserve(_destination(world, at), tokens, reserved, world.environment.now_s)
    if blocks < 0:
        _give_up(world, at, _BLOCKS)
        return False
    arena[at + RESERVED_BLOCKS] = reserved + blocks
    return True


@kernel
def _leave(world, at):
    arena = world.arena
    arena[at + PHASE] = _LEAVING
    request = world.requests[arena[at + REQUEST]]
    put_real(arena, at + DUE_S, begin_leaving(_source(world, at), request, world.environment.now_s))


@outlined
def _last_stage(world, at):
    gateway, arena, now_s = world.gateway, world.arena, world.environment.now_s
    cause = _why_lost(world, at)
    if cause >= 0:
        _give_up(world, at, cause)
        return
    here = _source(world, at)
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
    _begin_stage(world, at, tokens, further_s)


@kernel
def _count_still(world, at):
    world.environment.still_s += world.environment.now_s - real_at(world.arena, at + LEFT_S)


@outlined
def _join(world, at):
    arena, now_s = world.arena, world.environment.now_s
    there = _destination(world, at)
    if there.replica.running >= there.limits.max_num_seqs:
        _give_up(world, at, _SLOT)
        return
    blocks = np.int64(arena[at + RESERVED_BLOCKS])
    there.replica.reserved_blocks -= blocks
    log_moved(_source(world, at), there, np.int64(arena[at + REQUEST]))
    join(there, np.int64(arena[at + REQUEST]), np.int64(arena[at + DESTINATION]), blocks, now_s)
    let_go(_source(world, at), np.int64(arena[at + HELD_BLOCKS]), now_s)
    world.environment.migrations += 1
    _count_still(world, at)
    _end(world, at)


# -- giving up -----------------------------------------------------------------------------------------


@outlined
def _give_up(world, at, cause):
    """Free the blocks at the destination; a request that stands still goes back."""
    arena, now_s = world.arena, world.environment.now_s
    cancel(_destination(world, at), np.int64(arena[at + RESERVED_BLOCKS]), now_s)
    arena[at + RESERVED_BLOCKS] = 0
    world.environment.aborted[cause] += 1
    here = _source(world, at)
    if arena[at + LAST] > 0:
        arena[at + PHASE] = _RETURNING
        put_real(arena, at + DUE_S, next_schedule_s(here, now_s))
        return
    stay(here, world.requests[arena[at + REQUEST]], now_s)
    _end(world, at)


@outlined
def _return(world, at):
    arena, now_s = world.arena, world.environment.now_s
    here, blocks = _source(world, at), np.int64(arena[at + HELD_BLOCKS])
    request_id = np.int64(arena[at + REQUEST])
    here.replica.held_blocks -= blocks
    if here.replica.running < here.limits.max_num_seqs:
        join(here, request_id, np.int64(arena[at + SOURCE]), blocks, now_s)
    else:
        preempt_returning(here, request_id, blocks, now_s)
    _count_still(world, at)
    _end(world, at)


@kernel
def _end(world, at):
    arena = world.arena
    arena[at + PHASE] = _FREE
    _source(world, at).replica.transfers -= 1
    _destination(world, at).replica.transfers -= 1
    world.environment.transfers -= 1


# -- time ----------------------------------------------------------------------------------------------


@kernel
def _sharing(world, end, replica):
    """Return the number of copies that a replica sends (``end`` is SOURCE) or receives (DESTINATION)."""
    arena, count = world.arena, 0
    for place in range(world.gateway.transfer_places):
        at = transfer_at(world, place)
        if arena[at + PHASE] == _COPYING and arena[at + end] == replica:
            count += 1
    return count


@kernel
def _copy_on(world, at):
    """Bring a copy up to now, and time the rest by its present share of the bandwidth."""
    arena, specs, now_s = world.arena, world.specs, world.environment.now_s
    source, destination = arena[at + SOURCE], arena[at + DESTINATION]
    byte_s = max(
        _sharing(world, SOURCE, source) / specs[source].copy_bytes_per_s,
        _sharing(world, DESTINATION, destination) / specs[destination].copy_bytes_per_s,
    )
    left_bytes, since_s = real_at(arena, at + LEFT_BYTES), real_at(arena, at + SINCE_S)
    if now_s > since_s:
        left_bytes = max(0.0, left_bytes - (now_s - since_s) / real_at(arena, at + BYTE_S))
        put_real(arena, at + LEFT_BYTES, left_bytes)
        put_real(arena, at + SINCE_S, now_s)
    put_real(arena, at + BYTE_S, byte_s)
    put_real(arena, at + DUE_S, now_s + left_bytes * byte_s)


@outlined
def _time_anew(world):
    """Share the bandwidth among the copies under way, foresee the next step of all transfers, set the pace."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    now_s = environment.now_s
    environment.transfer_s = np.inf
    for place in range(gateway.transfer_places):
        at = transfer_at(world, place)
        phase = arena[at + PHASE]
        if phase == _FREE:
            continue
        if phase == _COPYING:
            _copy_on(world, at)
        due_s = real_at(arena, at + DUE_S)
        if phase != _JOINING and phase != _RETURNING:
            due_s = min(due_s, real_at(arena, at + BEGUN_S) + gateway.transfer_timeout_s)
        due_s = max(now_s, due_s)
        if due_s < environment.transfer_s:
            environment.transfer_s = due_s
            environment.transfer_place = place
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        pace = 1.0 + (gateway.transfer_slowdown if engine.replica.transfers > 0 else 0.0)
        if engine.replica.slowdown != pace - 1.0:
            catch_up(engine, now_s)
            interrupt_run(engine)
            engine.replica.slowdown = pace - 1.0


@detached(lambda state: state.gateway["transfers"].any(), lambda state: (world_type(state),))
def take_step(world):
    """Carry out the next step of the transfers, which is due now."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    now_s = environment.now_s
    at = transfer_at(world, environment.transfer_place)
    catch_up(_source(world, at), now_s)
    catch_up(_destination(world, at), now_s)
    phase = arena[at + PHASE]
    settled = phase in (_JOINING, _RETURNING)
    if not settled and now_s >= real_at(arena, at + BEGUN_S) + gateway.transfer_timeout_s:
        _give_up(world, at, _TIMEOUT)
    elif phase == _PREPARING:
        arena[at + PHASE] = _COPYING
        put_real(arena, at + SINCE_S, now_s)
    elif phase == _COPYING:
        _stage_ends(world, at)
    elif phase == _LEAVING:
        _last_stage(world, at)
    elif phase == _JOINING:
        _join(world, at)
    else:
        _return(world, at)
    _time_anew(world)


@outlined
def reset_transfers(world):
    """Forget all transfers, as an episode begins."""
    environment, gateway = world.environment, world.gateway
    for place in range(gateway.transfer_places):
        world.arena[transfer_at(world, place) + PHASE] = _FREE
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
