"""Asynchronous scheduling on the fast path, compiled: the tokens that are on their way.

Two iterations are in flight. When the older one ends, the newer one becomes the older one, and the next is scheduled.
All counts of decoders are those of the scheduler: they include the iterations in flight. So a decoder whose last token
is on its way has left the decoders, but stays in the running list and keeps its KV blocks until that token is back.

At its end an iteration must touch few requests: those that get their first or last token from it, and those that were
preempted while it computed their token. They are noted in a list, and have ``in_flight_tokens`` 1.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.block_keys import publish_full_blocks
from burstenv.engine.decoders import start_decoding, stop_decoding
from burstenv.engine.enums import NO_REQUEST, RUNNING
from burstenv.engine.finish_heap import finish_later
from burstenv.engine.gateway_log import log_held_back
from burstenv.engine.iterations import is_left_out, last_ended_iteration
from burstenv.engine.kv_cache import ENDED
from burstenv.engine.lifecycle import bring_token, finish
from burstenv.engine.queues import blocks_of, queue_discard, tokens_to_compute


@kernel
def await_token(engine, request_id):
    """Note that the older iteration in flight, or the one that becomes it now, brings a token of a request."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    requests[request_id].in_flight_tokens = 1
    arena[spec.flight_base + replica.awaited] = request_id
    replica.awaited += 1


@kernel
def publish_last_step(engine, request_id):
    """Set the keys of the full blocks of a request that has left the decoders.

    While a token is on its way, the iteration that brings it had one to compute that was not back either, and a block
    that it filled has no key yet. If the iteration before left the request out, that token was back.
    """
    request, older = engine.requests[request_id], last_ended_iteration(engine)
    publish_full_blocks(engine, request_id, request.computed_tokens - request.in_flight_tokens, ENDED)
    if request.in_flight_tokens > 0 and is_left_out(request, older):
        publish_full_blocks(engine, request_id, request.computed_tokens, older + 1)


@kernel
def await_last_token(engine, request_id):
    """Note that the last token of a request that has left the decoders is on its way."""
    replica, request = engine.replica, engine.requests[request_id]
    request.produced_tokens = request.target_tokens - 1
    replica.ending_context += request.computed_tokens + 1
    await_token(engine, request_id)
    if engine.spec.prefix_caching:
        publish_last_step(engine, request_id)


@kernel
def lose_token(engine, request_id):
    """Count only what is back of an evicted decoder's tokens; its last one is delivered while it waits."""
    request = engine.requests[request_id]
    if request.in_flight_tokens == 0 and not is_left_out(request, last_ended_iteration(engine) + 1):
        await_token(engine, request_id)
    request.produced_tokens -= request.in_flight_tokens


@kernel
def stop_computing(engine, request_id):
    """Let a running request compute no further: it decodes, or its prompt is computed; return whether it did either."""
    replica, spec = engine.replica, engine.spec
    if engine.requests[request_id].decoding:
        stop_decoding(engine, request_id)
        if spec.depth > 1:
            lose_token(engine, request_id)
        if spec.prefix_caching:
            publish_last_step(engine, request_id)
        return True
    if request_id == replica.prefill_id:
        replica.prefill_id = NO_REQUEST
        return True
    return False


@outlined
def decode_on(engine):
    """Return to the decoders the requests with a last token on its way that is no longer their last."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    for k in range(replica.awaited):
        request_id = arena[spec.flight_base + k]
        request = requests[request_id]
        if request.status == RUNNING and not request.decoding and request.target_tokens > request.produced_tokens + 1:
            replica.ending_context -= request.computed_tokens + 1
            left_out = replica.in_flight == spec.depth  # the newest iteration was scheduled without it
            request.computed_tokens -= left_out
            start_decoding(engine, request_id)
            if left_out:
                finish_later(engine, request_id, 1)
                request.left_at = last_ended_iteration(engine) + 2
                log_held_back(engine, request_id, request.left_at)


@kernel
def deliver_to_waiting(engine, request_id, now_s):
    """Deliver the token that was on its way when a request was preempted; it may be its last."""
    replica, spec, request = engine.replica, engine.spec, engine.requests[request_id]
    replica.waiting_blocks -= blocks_of(tokens_to_compute(request), spec.block_size)
    bring_token(engine, request_id, now_s)
    replica.waiting_tokens += 1
    replica.waiting_blocks += blocks_of(tokens_to_compute(request), spec.block_size)
    if request.produced_tokens >= request.target_tokens:
        queue_discard(engine, request_id)
        replica.blocked = 0
        finish(engine, request_id, now_s)
