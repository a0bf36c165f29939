"""Requests that a gateway sends a second time, compiled: a copy to another replica, while the first one stays.

A policy may ask for it (``memory.hedges``): a request without a first token ``take_back_s`` after it was sent is
decided about again. If it is admitted to another replica, that one gets a copy of it. ``races.py`` says what becomes of
the two, and ``cluster/reference/hedges.py`` says the rules in plain Python.
"""

from __future__ import annotations

from burstenv._jit.decorators import outlined
from burstenv.cluster.clients import RESENDS, client_of
from burstenv.cluster.seats import seat
from burstenv.cluster.telemetry import note_sent
from burstenv.cluster.traffic import decay_rates
from burstenv.cluster.world import engine_of
from burstenv.engine.arena_records import HEDGES
from burstenv.engine.copies import copy_of, kind_at
from burstenv.engine.gateway_log import gateway_of
from burstenv.engine.queues import tokens_to_compute
from burstenv.engine.replica import enqueue
from burstenv.engine.reset import reset_request


@outlined
def propose_copy(world, request_id, now_s):
    """Let a second copy of a request be decided about, unless there is one, or a cancelled one is not gone yet."""
    environment, copy = world.environment, copy_of(world, request_id)
    if copy >= len(world.requests) or world.arena[kind_at(world, copy)] != 0:
        return
    environment.now_s = now_s
    decay_rates(world, now_s)
    seat(world, gateway_of(world, request_id))
    environment.at_gateway, environment.hedging = request_id, 1


@outlined
def send_copy(world, request_id, r):
    """Send a second copy of a request to replica ``r``, unless that has the first one or has no room for an answer."""
    environment, arena, request = world.environment, world.arena, world.requests[request_id]
    engine = engine_of(world, r)
    whole = engine.spec.validate_requests and tokens_to_compute(request) >= engine.spec.max_model_len
    if r == request.replica or whole:
        return
    copy = copy_of(world, request_id)
    world.requests[copy] = request
    reset_request(world.requests[copy])
    world.requests[copy].replica = r
    arena[kind_at(world, copy)] = HEDGES
    arena[client_of(world, request_id) + RESENDS] += 1
    environment.copies += 1
    environment.hedges += 1
    enqueue(engine, copy, environment.now_s)
    if world.gateway.count_sent:
        note_sent(engine, world.requests[copy])
