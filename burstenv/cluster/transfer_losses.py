"""Transfers with replicas that fail, stand still or drain, compiled; off unless a cluster has both.

``cluster/reference/transfers.py`` and ``hand_overs.py`` say the rules in plain Python; the functions here have the same
names.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel
from burstenv.cluster.advance import bring_up
from burstenv.cluster.events import PLACE, foresee
from burstenv.cluster.hand_overs import keep, take_out
from burstenv.cluster.token_rounds import end_chunk, go_on_at
from burstenv.cluster.transfer_config import AbortCause
from burstenv.cluster.transfer_stages import (
    COMPUTING,
    DESTINATION,
    FREE,
    HAND_OVER,
    LAST,
    PHASE,
    REQUEST,
    RETURNING,
    SOURCE,
    count_still,
    destination_of,
    end_transfer,
    source_of,
    transfer_at,
)
from burstenv.cluster.transfer_times import time_anew
from burstenv.cluster.transfers import give_back_reserved, give_up
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.gateway_log import log_moved
from burstenv.engine.queues import running_append

_LOST = int(AbortCause.LOST)


@kernel
def _lose_source(world, at):
    """End a transfer without its source; a request that the source held is back in its batch, to be lost with it."""
    environment, arena = world.environment, world.arena
    here, request_id = source_of(world, at), np.int64(arena[at + REQUEST])
    if arena[at + PHASE] != RETURNING:
        give_back_reserved(world, at)
        environment.aborted[_LOST] += 1
        if arena[at + HAND_OVER] > 0:
            log_moved(destination_of(world, at), here, request_id)
    if arena[at + LAST] > 0:
        count_still(world, at)
        running_append(here, request_id)
    end_transfer(world, at)


@kernel
def _interrupt(world, r, as_source):
    """Interrupt what a replica computes for a request that comes, or another one for a request of its own."""
    arena = world.arena
    for place in range(world.gateway.transfer_places):
        at = transfer_at(world, place)
        if arena[at + PHASE] == COMPUTING and (arena[at + DESTINATION] == r or (as_source and arena[at + SOURCE] == r)):
            end_chunk(world, at)


def _both(state):
    return state.gateway["transfers"].any() and state.gateway["changes"].any()


def _turns_away(state):
    return _both(state) or state.gateway["switches_roles"].any()


@detached(
    lambda state: _both(state) and state.gateway["transfer_by_tokens"].any(),
    lambda state: (world_type(state), types.int64),
)
def interrupt(world, r):
    """Interrupt what a replica computes for a request that comes, as it comes to stand still."""
    _interrupt(world, r, False)


@detached(_both, lambda state: (world_type(state), types.int64))
def lose(world, r):
    """End all that a lost replica takes part in, before its requests are taken out."""
    environment, arena, requests = world.environment, world.arena, world.requests
    if world.gateway.transfer_by_tokens:
        _interrupt(world, r, True)
    for place in range(world.gateway.transfer_places):
        at = transfer_at(world, place)
        if arena[at + PHASE] == FREE:
            continue
        if arena[at + SOURCE] == r or arena[at + DESTINATION] == r:
            bring_up(source_of(world, at), environment.now_s)
            bring_up(destination_of(world, at), environment.now_s)
        if arena[at + SOURCE] == r:
            _lose_source(world, at)
        elif arena[at + DESTINATION] == r and arena[at + PHASE] != RETURNING:
            give_up(world, at, _LOST)
    before, request_id = np.int64(NO_REQUEST), np.int64(NO_REQUEST)
    if environment.placed > 0:
        request_id = np.int64(environment.placed_first)
    while request_id != NO_REQUEST:
        following = np.int64(requests[request_id].next)
        if requests[request_id].replica == r:
            keep(world, request_id)
            take_out(world, request_id, before)
            running_append(engine_of(world, r), request_id)
        else:
            before = request_id
        request_id = following
    _forsake(world, r)


@kernel
def _forsake(world, r):
    environment, requests = world.environment, world.requests
    before, request_id = np.int64(NO_REQUEST), np.int64(NO_REQUEST)
    if environment.placed > 0:
        request_id = np.int64(environment.placed_first)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        following = np.int64(request.next)
        if request.previous == r and request.replica != r:
            keep(world, request_id)
            take_out(world, request_id, before)
            foresee(world, environment.now_s, PLACE, request_id)
        else:
            before = request_id
        request_id = following


@detached(_turns_away, lambda state: (world_type(state), types.int64))
def forsake(world, r):
    """Let the requests that wait to move to a replica which serves no longer be decided about again."""
    _forsake(world, r)


@detached(_both, lambda state: (world_type(state), types.int64))
def go_on(world, r):
    """Go on with the transfers of a replica that stood still."""
    go_on_at(world, r)


@detached(_turns_away, lambda state: (world_type(state),))
def follow_changes(world):
    """Time all transfers anew after a replica has changed."""
    time_anew(world)
