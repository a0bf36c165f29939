"""What routers know of a replica's prefix cache, compiled: the cached prefix of a request."""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.block_keys import sequence_of, shared_blocks
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.iterations import is_left_out, is_set_back, last_ended_iteration
from burstenv.engine.kv_cache import BEGIN, CHAIN, NO_SPAN, OWNER, STREAM, bucket_of, ended_end, lost_until, span_at
from burstenv.engine.queues import full_blocks, tokens_to_compute
from burstenv.engine.records import CONTESTED


@kernel
def _ended_tokens(engine, request):
    """Return the tokens of a decoder that iterations computed which have ended."""
    replica, spec = engine.replica, engine.spec
    tokens = request.computed_tokens + replica.decode_step
    if is_set_back(engine, request):
        tokens += 1
    if spec.depth > 1 and not is_left_out(request, last_ended_iteration(engine) + 1):
        tokens -= 1
    return tokens


@kernel
def _seen_end(engine, at, ended):
    """Return where the span at an index ended when iteration ``ended``, the last one that has ended, did."""
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    end = ended_end(arena, at, ended)
    owner = arena[at + OWNER]
    if owner == NO_REQUEST or not requests[owner].decoding or arena[sequence_of(engine, requests[owner]) + CONTESTED]:
        return end
    if requests[owner].in_flight_tokens > 0:  # its first: the whole last part of its prompt is under way
        return end
    return max(end, full_blocks(_ended_tokens(engine, requests[owner]), spec.block_size))


@kernel
def _cached_until(engine, stream, first, last, ended):
    """Return the first place from ``first`` to ``last`` of a stream without a block when iteration ``ended`` did."""
    arena = engine.arena
    while first < last:
        end = first
        span = arena[bucket_of(engine, stream)]
        while span != NO_SPAN:
            at = span_at(engine, span)
            if arena[at + STREAM] == stream and arena[at + BEGIN] <= first:
                end = max(end, _seen_end(engine, at, ended))
            span = arena[at + CHAIN]
        if end == first:
            end = lost_until(engine, stream, first, ended)
        if end == first:
            break
        first = min(end, last)
    return first


@outlined
def prefix_hit_tokens(engine, request_id):
    """Return the number of a request's prompt tokens in the replica's prefix cache, as known to a router [tokens].

    Read-only. Routers know it from the engines' KV events (llm-d's precise prefix scorer, Dynamo's KV router). Engines
    send these after every iteration, independent of the period of metrics: a block counts from the end of the iteration
    that computes it to the end of the one that takes it for other tokens. The engine itself shares a block from the
    iteration on that computes it. 0 without prefix caching. At least one token is always computed, as at admission.
    """
    spec, requests = engine.spec, engine.requests
    if not spec.prefix_caching:
        return 0
    request = requests[request_id]
    most = full_blocks(tokens_to_compute(request) - 1, spec.block_size)
    shared = min(shared_blocks(engine, request), most)
    ended = last_ended_iteration(engine)
    hits = _cached_until(engine, request.prefix_stream, 0, shared, ended)
    if hits == shared:
        hits = _cached_until(engine, request.stream, shared, most, ended)
    return hits * spec.block_size
