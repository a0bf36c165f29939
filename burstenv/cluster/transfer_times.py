"""The times of transfers of KV blocks, compiled: shares of the bandwidth, and the next step."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.departures import any_emptied, begin_drains
from burstenv.cluster.events import HAND_OVER as LOOK_AGAIN
from burstenv.cluster.events import foresee
from burstenv.cluster.hand_overs import begin_waiting
from burstenv.cluster.token_rounds import waits_for_chunk
from burstenv.cluster.transfer_stages import (
    BYTE_S,
    COPYING,
    DESTINATION,
    DUE_S,
    FREE,
    JOINING,
    LEAVING,
    LEFT_BYTES,
    PHASE,
    PREPARING,
    RETURNING,
    SINCE_S,
    SOURCE,
    UNTIL_S,
    stands_still,
    transfer_at,
)
from burstenv.engine.enums import NO_PLACE


@kernel
def _is_held_up(world, at):
    """Return whether a transfer waits for a replica that stands still."""
    arena, phase = world.arena, world.arena[at + PHASE]
    if world.gateway.transfer_by_tokens and waits_for_chunk(world, at):
        return True
    if phase in (COPYING, LEAVING, RETURNING) and stands_still(world, arena[at + SOURCE]):
        return True
    return phase in (COPYING, JOINING) and stands_still(world, arena[at + DESTINATION])


@kernel
def _count_copy(world, at, one):
    """Add ``one`` to the copies that the ends of this one send and receive, unless it stands still."""
    arena, replicas = world.arena, world.replicas
    if not _is_held_up(world, at):
        replicas[arena[at + SOURCE]].sending += one
        replicas[arena[at + DESTINATION]].receiving += one


@kernel
def _byte_s(world, at, sending, receiving):
    """Return the time of a byte in a copy, one of so many that its source sends and its destination receives [s]."""
    arena, specs = world.arena, world.specs
    source, destination = specs[arena[at + SOURCE]], specs[arena[at + DESTINATION]]
    return max(sending / source.copy_bytes_per_s, receiving / destination.copy_bytes_per_s)


@kernel
def _copy_on(world, at):
    """Bring a copy up to now, and time the rest by its present share of the bandwidth."""
    arena, replicas, now_s = world.arena, world.replicas, world.environment.now_s
    byte_s = _byte_s(world, at, replicas[arena[at + SOURCE]].sending, replicas[arena[at + DESTINATION]].receiving)
    left_bytes, since_s = real_at(arena, at + LEFT_BYTES), real_at(arena, at + SINCE_S)
    if now_s > since_s:
        left_bytes = max(0.0, left_bytes - (now_s - since_s) / real_at(arena, at + BYTE_S))
        put_real(arena, at + LEFT_BYTES, left_bytes)
        put_real(arena, at + SINCE_S, now_s)
    if _is_held_up(world, at):
        put_real(arena, at + BYTE_S, np.inf)
        return
    put_real(arena, at + BYTE_S, byte_s)
    put_real(arena, at + DUE_S, now_s + left_bytes * byte_s)


@kernel
def _step_s(world, at):
    """Return when a transfer takes its next step [s]."""
    due_s = np.inf if _is_held_up(world, at) else real_at(world.arena, at + DUE_S)
    return max(world.environment.now_s, min(due_s, real_at(world.arena, at + UNTIL_S)))


@kernel
def _foresee_step(world, step_s, place):
    """Foresee a step among the next two; of equals that of the first place comes first."""
    environment = world.environment
    if step_s < environment.transfer_s or (step_s == environment.transfer_s and place < environment.transfer_place):
        environment.second_s, environment.second_place = environment.transfer_s, environment.transfer_place
        environment.transfer_s, environment.transfer_place = step_s, place
    elif step_s < environment.second_s or (step_s == environment.second_s and place < environment.second_place):
        environment.second_s, environment.second_place = step_s, place


@outlined
def _time_copies(world, copies):
    """Share the bandwidth among so many copies, which their ends have counted, and foresee their ends."""
    arena = world.arena
    left, place = copies, 0
    while left > 0:
        at = transfer_at(world, place)
        if arena[at + PHASE] == COPYING:
            left -= 1
            _copy_on(world, at)
            _foresee_step(world, _step_s(world, at), place)
        place += 1
    left, place = copies, 0
    while left > 0:
        at = transfer_at(world, place)
        if arena[at + PHASE] == COPYING:
            left -= 1
            _count_copy(world, at, -1)
        place += 1


# -- a copy that begins alone ----------------------------------------------------------------------------


@kernel
def _none_stands_still(gateway):
    """Return whether no transfer may ever wait for a replica that stands still."""
    return not gateway.changes and not gateway.transfer_by_tokens


@kernel
def _foresee_start(world):
    """Pass over the next step if it is the begin of a copy: foreseen are the one after it and the copy's end.

    So it costs nothing. The copy must be alone, or it would change the shares of others. And nothing may wait to
    move, for that looks at each step.
    """
    environment, arena = world.environment, world.arena
    place, start_s = environment.transfer_place, environment.transfer_s
    at = transfer_at(world, place)
    is_start = arena[at + PHASE] == PREPARING and start_s < real_at(arena, at + UNTIL_S)
    if is_start and start_s == real_at(arena, at + DUE_S) and start_s < environment.second_s:
        end_s = start_s + real_at(arena, at + LEFT_BYTES) * _byte_s(world, at, 1, 1)
        environment.start_place = place
        environment.transfer_s, environment.transfer_place = environment.second_s, environment.second_place
        environment.second_s, environment.second_place = np.inf, NO_PLACE
        _foresee_step(world, min(end_s, real_at(arena, at + UNTIL_S)), place)


@kernel
def start_foreseen(world):
    """Begin the copy that :func:`_foresee_start` has passed over, if its time has come."""
    environment, arena = world.environment, world.arena
    if environment.start_place == NO_PLACE:
        return
    at = transfer_at(world, environment.start_place)
    start_s, byte_s = real_at(arena, at + DUE_S), _byte_s(world, at, 1, 1)
    if start_s <= environment.now_s:
        environment.start_place = NO_PLACE
        environment.copying = 1
        arena[at + PHASE] = COPYING
        put_real(arena, at + SINCE_S, start_s)
        put_real(arena, at + BYTE_S, byte_s)
        put_real(arena, at + DUE_S, start_s + real_at(arena, at + LEFT_BYTES) * byte_s)


# -- all transfers ---------------------------------------------------------------------------------------


@kernel
def _begin_those_that_can(world):
    """Let requests begin to move that can; those that cannot look again."""
    environment, gateway = world.environment, world.gateway
    if gateway.hands_over and environment.placed > 0:
        begin_waiting(world)
    if gateway.drains:
        begin_drains(world)
    if not environment.looks_again and (environment.placed > 0 or (gateway.drains and any_emptied(world))):
        environment.looks_again = 1
        foresee(world, environment.now_s + gateway.hand_over_retry_s, LOOK_AGAIN, 0)


@outlined
def _time_all(world):
    """Share the bandwidth among the copies under way, and foresee the next steps of all transfers."""
    environment, arena = world.environment, world.arena
    environment.start_place = NO_PLACE
    next_s, second_s, next_place, second_place = np.inf, np.inf, np.int64(NO_PLACE), np.int64(NO_PLACE)
    copies = 0
    left, place = environment.transfers, 0
    while left > 0:
        at = transfer_at(world, place)
        phase = arena[at + PHASE]
        if phase != FREE:
            left -= 1
            if phase == COPYING:
                copies += 1
                _count_copy(world, at, 1)
            else:
                step_s = _step_s(world, at)
                if step_s < next_s:
                    second_s, second_place = next_s, next_place
                    next_s, next_place = step_s, np.int64(place)
                elif step_s < second_s:
                    second_s, second_place = step_s, np.int64(place)
        place += 1
    environment.transfer_s, environment.transfer_place = next_s, next_place
    environment.second_s, environment.second_place = second_s, second_place
    environment.copying = copies
    if copies > 0:
        _time_copies(world, copies)
    elif next_s < np.inf and environment.placed == 0 and _none_stands_still(world.gateway):
        _foresee_start(world)


@outlined
def time_anew(world):
    """Let requests begin to move that can, and time all transfers anew."""
    start_foreseen(world)
    _begin_those_that_can(world)
    _time_all(world)


@outlined
def time_placed(world):
    """Do the same after one more request waits to move: if it alone begins, it changes no other transfer."""
    environment, gateway = world.environment, world.gateway
    start_foreseen(world)
    alone = environment.placed == 1 and environment.copying == 0 and _none_stands_still(gateway)
    _begin_those_that_can(world)
    if alone and environment.placed == 0:
        place = np.int64(environment.begun_place)
        step_s = _step_s(world, transfer_at(world, place))
        if environment.start_place == NO_PLACE:
            _foresee_step(world, step_s, place)
            _foresee_start(world)
            return
        if step_s > real_at(world.arena, transfer_at(world, environment.start_place) + DUE_S):
            _foresee_step(world, step_s, place)
            return
    _time_all(world)


@kernel
def time_join(world, at):
    """Time a transfer that waits to join, after a copy that was foreseen from its begin; return whether that is all."""
    environment = world.environment
    step_s = _step_s(world, at)
    if environment.placed > 0 or step_s >= environment.second_s:
        return False
    environment.copying = 0
    environment.transfer_s = step_s
    return True
