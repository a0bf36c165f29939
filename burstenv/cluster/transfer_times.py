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
    BEGUN_S,
    BYTE_S,
    COPYING,
    DESTINATION,
    DUE_S,
    FREE,
    HAND_OVER,
    JOINING,
    LEAVING,
    LEFT_BYTES,
    PHASE,
    RETURNING,
    SINCE_S,
    SOURCE,
    stands_still,
    transfer_at,
)


@kernel
def limit_s(world, at):
    """Return when a copy is given up [s]."""
    hand_over = world.arena[at + HAND_OVER] > 0
    longest_s = world.gateway.hand_over_lease_s if hand_over else world.gateway.transfer_timeout_s
    return real_at(world.arena, at + BEGUN_S) + longest_s


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
def _count_copies(world):
    """Count the copies under way that each end of a transfer sends and receives."""
    arena, replicas = world.arena, world.replicas
    for turn in range(2):
        left, place = world.environment.transfers, 0
        while left > 0:
            at = transfer_at(world, place)
            place += 1
            if arena[at + PHASE] == FREE:
                continue
            left -= 1
            if turn == 0:
                replicas[arena[at + SOURCE]].sending = 0
                replicas[arena[at + DESTINATION]].receiving = 0
            elif arena[at + PHASE] == COPYING and not _is_held_up(world, at):
                replicas[arena[at + SOURCE]].sending += 1
                replicas[arena[at + DESTINATION]].receiving += 1


@kernel
def _copy_on(world, at):
    """Bring a copy up to now, and time the rest by its present share of the bandwidth."""
    arena, replicas, specs, now_s = world.arena, world.replicas, world.specs, world.environment.now_s
    source, destination = arena[at + SOURCE], arena[at + DESTINATION]
    byte_s = max(
        replicas[source].sending / specs[source].copy_bytes_per_s,
        replicas[destination].receiving / specs[destination].copy_bytes_per_s,
    )
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


@outlined
def time_anew(world):
    """Share the bandwidth among the copies under way, and foresee the next step of all transfers."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    if gateway.hands_over and environment.placed > 0:
        begin_waiting(world)
    if gateway.drains:
        begin_drains(world)
    now_s = environment.now_s
    if not environment.looks_again and (environment.placed > 0 or (gateway.drains and any_emptied(world))):
        environment.looks_again = 1
        foresee(world, now_s + gateway.hand_over_retry_s, LOOK_AGAIN, 0)
    environment.transfer_s = np.inf
    _count_copies(world)
    left, next_place = environment.transfers, 0
    while left > 0:
        place = next_place
        next_place += 1
        at = transfer_at(world, place)
        phase = arena[at + PHASE]
        if phase == FREE:
            continue
        left -= 1
        if phase == COPYING:
            _copy_on(world, at)
        due_s = np.inf if _is_held_up(world, at) else real_at(arena, at + DUE_S)
        if phase != JOINING and phase != RETURNING:
            due_s = min(due_s, limit_s(world, at))
        due_s = max(now_s, due_s)
        if due_s < environment.transfer_s:
            environment.transfer_s = due_s
            environment.transfer_place = place
