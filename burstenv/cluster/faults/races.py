"""Requests with a second copy under way, compiled: which of the two goes on, and what becomes of the other one.

``cluster/reference/hedges.py`` says the rules in plain Python. The one that goes on has the id of the request, and one
that is left over that of the copy.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv.cluster.advance import catch_up
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.arena_records import CANCELLED
from burstenv.engine.copies import copy_of, end_copy, forget_copy, is_hedged, kind_at, origin_of
from burstenv.engine.enums import WAITING
from burstenv.engine.lifecycle import finish
from burstenv.engine.renaming import change_places, rename
from burstenv.engine.replica import cancel_copy


@kernel
def _decide(world, winner):
    """Let the copy go on that has brought its first token, as the request, and cancel the other one."""
    environment, arena, requests = world.environment, world.arena, world.requests
    request_id = origin_of(world, winner)
    copy = copy_of(world, request_id)
    now_s = requests[winner].first_token_s
    environment.now_s = max(environment.now_s, now_s)
    loser = request_id if winner == copy else copy
    engine = engine_of(world, requests[loser].replica)
    catch_up(engine, now_s)
    leaves = cancel_copy(engine, loser, now_s)
    arena[kind_at(world, copy)] = 0
    if winner == copy:
        if leaves:
            rename(engine, request_id, copy)
        if np.isnan(requests[copy].finish_s):
            rename(engine_of(world, requests[copy].replica), copy, request_id)
        change_places(world, request_id, copy)
    if leaves:
        arena[kind_at(world, copy)] = CANCELLED
        engine.replica.leaving += 1
    else:
        end_copy(world, copy)
    request = requests[request_id]
    if not np.isnan(request.finish_s):  # the first token was its last
        finish(engine_of(world, request.replica), request_id, request.finish_s)


@detached(lambda state: state.gateway["changes"].any(), lambda state: (world_type(state),))
def decide_races(world):
    """Go on with one of two copies where the first has brought its first token or was rejected; other ends are left."""
    environment, arena, base = world.environment, world.arena, world.gateway.ended_base
    k = kept = 0
    while k < environment.ended:  # an answer of one token ends here, which may be noted
        request_id = np.int64(arena[base + k])
        k += 1
        if not is_hedged(world, request_id):
            arena[base + kept] = request_id
            kept += 1
        elif np.isnan(world.requests[request_id].first_token_s):  # its replica has rejected it
            lose_copy(world, request_id)
        else:
            _decide(world, request_id)
    environment.ended = kept


@outlined
def lose_copy(world, request_id):
    """Note that a request, or a copy, is on no replica any more; return whether the other one of two goes on."""
    environment, requests = world.environment, world.requests
    if environment.copies == 0 or not is_hedged(world, request_id):
        return False
    origin = origin_of(world, request_id)
    copy = copy_of(world, origin)
    if request_id == origin:
        rename(engine_of(world, requests[copy].replica), copy, origin)
        change_places(world, origin, copy)
    forget_copy(world, copy)
    return True


@outlined
def is_computed_elsewhere(world, request_id):
    """Return whether the second copy of a request that waits does not: its client stays."""
    if world.environment.copies == 0 or not is_hedged(world, request_id):
        return False
    copy = world.requests[copy_of(world, request_id)]
    return copy.status != WAITING or copy.in_flight_tokens > 0


@outlined
def give_copy_up(world, request_id, now_s):
    """Withdraw the second copy, which waits, of a request that is given up."""
    if world.environment.copies > 0 and is_hedged(world, request_id):
        copy = copy_of(world, request_id)
        engine = engine_of(world, world.requests[copy].replica)
        catch_up(engine, now_s)
        cancel_copy(engine, copy, now_s)
        end_copy(world, copy)
