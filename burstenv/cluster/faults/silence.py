"""Requests that a gateway takes back from a silent replica, compiled: it sends them elsewhere.

A policy may ask for it (``memory.take_back_s``). A request that has waited so long in a replica's queue since it was
sent, without a first token, is withdrawn, comes back to its gateway and is decided about again. One that the replica
has begun to compute stays. With ``memory.hedges`` it stays in any case, and a second copy of it is decided about, see
``hedges.py``. ``ReferenceCluster`` says the same in plain Python.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, outlined
from burstenv._jit.floats import real_at
from burstenv.cluster.advance import catch_up
from burstenv.cluster.clients import RESENDS, client_of
from burstenv.cluster.events import RETURN, SILENCE, foresee
from burstenv.cluster.faults.hedges import propose_copy
from burstenv.cluster.seats import seat
from burstenv.cluster.traffic import decay_rates
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.arena import KIND, SENT_S
from burstenv.engine.arena_records import WATCHED
from burstenv.engine.enums import RUNNING, WAITING
from burstenv.engine.gateway_log import gateway_of, log_lost
from burstenv.engine.lifecycle import come_back
from burstenv.engine.replica import withdraw


@outlined
def watch(world, request_id):
    """Foresee that a request which was just sent is taken back, unless that was foreseen for an earlier sending."""
    memory, arena, client = world.memory, world.arena, client_of(world, request_id)
    if arena[client + KIND] & WATCHED or arena[client + RESENDS] >= memory.most_resends:
        return
    arena[client + KIND] |= WATCHED
    foresee(world, real_at(arena, client + SENT_S) + memory.take_back_s, SILENCE, request_id)


@detached(lambda state: state.gateway["changes"].any(), lambda state: (world_type(state), types.int64, types.float64))
def take_back(world, request_id, now_s):
    """Take a request back whose time is over, or ask for a second copy; foresee it anew for one sent again since."""
    environment, memory, arena = world.environment, world.memory, world.arena
    request, client = world.requests[request_id], client_of(world, request_id)
    arena[client + KIND] &= ~WATCHED
    if not np.isnan(request.first_token_s) or memory.take_back_s <= 0.0:
        return
    if request.status != WAITING and not (memory.hedges and request.status == RUNNING):
        return
    if real_at(arena, client + SENT_S) + memory.take_back_s > now_s:
        watch(world, request_id)
        return
    if memory.hedges:
        propose_copy(world, request_id, now_s)
        return
    if request.in_flight_tokens > 0:
        return
    engine = engine_of(world, request.replica)
    catch_up(engine, now_s)
    log_lost(engine, request_id, now_s)
    withdraw(engine, request_id, now_s)
    come_back(request)
    arena[client + RESENDS] += 1
    environment.resends += 1
    environment.now_s = now_s
    decay_rates(world, now_s)
    seat(world, gateway_of(world, request_id))
    environment.deferred += 1
    foresee(world, now_s, RETURN, request_id)
