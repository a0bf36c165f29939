"""Copies that are cancelled in the middle of a batch, compiled: they leave it between two iterations.

A copy in an iteration in flight leaves as the oldest one ends, before the next is scheduled, as vLLM aborts a request;
what later ones have computed of it is thrown away.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.arena_records import CANCELLED
from burstenv.engine.asynchronous import stop_computing
from burstenv.engine.block_keys import sequence_of
from burstenv.engine.copies import end_copy, kind_at
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.prefix_cache import give_back_blocks, release
from burstenv.engine.queues import running_remove
from burstenv.engine.records import BLOCKS


@kernel
def _without(arena, base, count, request_id):
    """Take an id out of a list of ``count`` ids; return how many are left."""
    kept = 0
    for k in range(count):
        if arena[base + k] != request_id:
            arena[base + kept] = arena[base + k]
            kept += 1
    return kept


@outlined
def forget_tokens(engine, request_id):
    """Let the iterations in flight bring no token of a request that is on the replica no longer."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    if spec.general:
        replica.flight0_samples = _without(arena, spec.flight_base, replica.flight0_samples, request_id)
        second = spec.flight_base + spec.flight_size
        replica.flight1_samples = _without(arena, second, replica.flight1_samples, request_id)
    elif spec.depth > 1:
        replica.awaited = _without(arena, spec.flight_base, replica.awaited, request_id)
    engine.requests[request_id].in_flight_tokens = 0


@outlined
def lift(engine, request_id):
    """Take a request without a token out of the batch, and free its blocks; another iteration may be scheduled."""
    replica, spec, request = engine.replica, engine.spec, engine.requests[request_id]
    if spec.general:
        give_back_blocks(engine, request, engine.arena[sequence_of(engine, request) + BLOCKS])
    else:
        if not stop_computing(engine, request_id) and request.in_flight_tokens > 0:  # its only token is on its way
            replica.ending_context -= request.computed_tokens + 1
        replica.coming_tokens -= request.in_flight_tokens
        release(engine, request)
    running_remove(engine, request_id)
    forget_tokens(engine, request_id)
    replica.blocked = 0


@outlined
def let_leave(engine):
    """Take the cancelled copies out of the batch, as the oldest iteration has ended."""
    replica, requests = engine.replica, engine.requests
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        following = requests[request_id].next
        if engine.arena[kind_at(engine, request_id)] & CANCELLED:
            lift(engine, request_id)
            end_copy(engine, request_id)
        request_id = following
    replica.leaving = 0
