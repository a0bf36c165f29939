"""The keys of the KV blocks that running requests compute, compiled (with prefix caching).

A running request adds blocks at the end of its last span. While it decodes nothing is noted: the blocks that are full
with its tokens have keys. Its span is brought up to date when another request looks at its stream. Where two requests
may compute the same block, the order of publication counts: they are *contested*, and each of their blocks gets its key
when it is full.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.iterations import is_left_out, is_set_back, next_iteration
from burstenv.engine.kv_cache import (
    BEGIN,
    CHAIN,
    END,
    END_BEFORE,
    END_FIRST,
    ENDED,
    FOLLOWING,
    ITERATION,
    ITERATION_BEFORE,
    NO_SPAN,
    OWNER,
    STREAM,
    bucket_of,
    chain_last,
    cut_span,
    new_span,
    span_at,
    unchain,
)
from burstenv.engine.queues import full_blocks
from burstenv.engine.records import CONTESTED, LAST_SPAN, NUMBERS_OF_A_SEQUENCE


@kernel
def shared_blocks(engine, request):
    """Return the number of the request's first blocks with tokens of its shared prefix alone."""
    return full_blocks(request.prefix_tokens, engine.spec.block_size)


@kernel
def sequence_at(engine, place):
    """Return the arena index of the numbers of a slot among the sequences, see ``NUMBERS_OF_A_SEQUENCE``."""
    return engine.spec.sequence_base + NUMBERS_OF_A_SEQUENCE * place


@kernel
def sequence_of(engine, request):
    """Return the arena index of a running request's numbers."""
    return sequence_at(engine, request.place)


@kernel
def _contest(engine, sequence):
    """Give each further block of a running request its key as soon as it is full."""
    replica, arena = engine.replica, engine.arena
    replica.contested += 1 - arena[sequence + CONTESTED]
    arena[sequence + CONTESTED] = 1


@kernel
def _may_be_overtaken(engine, at):
    """Return whether a span later in the bucket has, at the place where this one grows, a block or soon will."""
    arena = engine.arena
    later = arena[at + CHAIN]
    while later != NO_SPAN:
        other = span_at(engine, later)
        if arena[other + STREAM] == arena[at + STREAM] and arena[other + END] > arena[at + END]:
            return True
        later = arena[other + CHAIN]
    return False


@outlined
def _move_to_end(engine, sequence, span):
    """Let a span grow after all spans of its stream: blocks at the same places were published before its next ones."""
    arena = engine.arena
    at = span_at(engine, span)
    if arena[at + END] == arena[at + BEGIN]:
        unchain(engine, span)
        chain_last(engine, span)
        return
    rest = cut_span(engine, span, arena[at + END])
    unchain(engine, rest)
    chain_last(engine, rest)
    arena[sequence + LAST_SPAN] = rest


@kernel
def _grow_span(engine, sequence, end, iteration):
    """Give a request's blocks up to ``end`` their keys; ``iteration`` computes them."""
    arena = engine.arena
    span = arena[sequence + LAST_SPAN]
    at = span_at(engine, span)
    if end <= arena[at + END]:
        return
    if arena[at + CHAIN] != NO_SPAN and _may_be_overtaken(engine, at):
        _move_to_end(engine, sequence, span)
        at = span_at(engine, arena[sequence + LAST_SPAN])
    if iteration > arena[at + ITERATION]:
        arena[at + END_FIRST] = arena[at + END_BEFORE]
        arena[at + ITERATION_BEFORE] = arena[at + ITERATION]
        arena[at + END_BEFORE] = arena[at + END]
        arena[at + ITERATION] = iteration
    arena[at + END] = end


@kernel
def _full_tokens(engine, request):
    """Return the tokens whose full blocks have keys, of a decoder with a step in the iteration that is being scheduled.

    First those computed by iterations that have ended, then all; then the iteration that computes the rest. Under
    asynchronous scheduling the last token is not back, unless the iteration before left the decoder out: its block gets
    its key in the next iteration.
    """
    replica, spec = engine.replica, engine.spec
    tokens = request.computed_tokens + replica.decode_step
    coming = next_iteration(engine)
    if spec.depth == 1 or is_left_out(request, coming - 1):
        return tokens, tokens + 1, coming
    return tokens - 1, tokens, coming - 1


@kernel
def _tokens_scheduled(engine, request):
    """Return what :func:`_full_tokens` does of a decoder of a synchronous replica while no iteration is scheduled."""
    replica = engine.replica
    set_back = is_set_back(engine, request)
    tokens = request.computed_tokens + replica.decode_step + set_back
    if replica.in_flight == 0 or set_back:
        return tokens, tokens, ENDED
    return tokens, tokens + 1, next_iteration(engine) - 1


@kernel
def update_stream(engine, stream, schedules):
    """Bring the spans of decoders of a stream up to date.

    Some move to the end of the bucket, and are met there again. ``schedules``: in an iteration that is being scheduled
    and has all of them; otherwise between the events of a synchronous replica.
    """
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    span = arena[bucket_of(engine, stream)]
    while span != NO_SPAN:
        at = span_at(engine, span)
        span = arena[at + CHAIN]
        owner = arena[at + OWNER]
        if owner == NO_REQUEST or arena[at + STREAM] != stream or not requests[owner].decoding:
            continue
        sequence = sequence_of(engine, requests[owner])
        if not arena[sequence + CONTESTED]:  # all its next blocks are of this stream
            if schedules:
                ended, tokens, iteration = _full_tokens(engine, requests[owner])
            else:
                ended, tokens, iteration = _tokens_scheduled(engine, requests[owner])
            _grow_span(engine, sequence, full_blocks(ended, spec.block_size), ENDED)
            _grow_span(engine, sequence, full_blocks(tokens, spec.block_size), iteration)


@kernel
def open_span(engine, request_id, stream, begin, iteration):
    """Let a running request add blocks of a stream from ``begin`` on; return their span.

    ``iteration`` is the number of the one that computes the first of them, or ``ENDED``.
    """
    arena, requests = engine.arena, engine.requests
    request = requests[request_id]
    if not request.decoding and request.in_flight_tokens == 0:  # some are full at once
        update_stream(engine, stream, iteration != ENDED)
    span = arena[bucket_of(engine, stream)]
    while span != NO_SPAN:
        at = span_at(engine, span)
        owner = arena[at + OWNER]
        if owner != NO_REQUEST and arena[at + STREAM] == stream:
            _contest(engine, sequence_of(engine, requests[owner]))
            _contest(engine, sequence_of(engine, request))
        span = arena[at + CHAIN]
    span = new_span(engine, stream, begin)
    arena[span_at(engine, span) + OWNER] = request_id
    chain_last(engine, span)
    arena[sequence_of(engine, request) + LAST_SPAN] = span
    return span


@outlined
def _grow_from_prefix(engine, request_id, sequence, shared, full, iteration):
    arena, requests = engine.arena, engine.requests
    _grow_span(engine, sequence, min(full, shared), iteration)
    if full >= shared:  # the next block has tokens of its own
        before = span_at(engine, arena[sequence + LAST_SPAN])
        arena[before + OWNER] = NO_REQUEST
        arena[before + FOLLOWING] = open_span(engine, request_id, requests[request_id].stream, shared, iteration)
        _grow_span(engine, sequence, full, iteration)


@kernel
def publish_full_blocks(engine, request_id, tokens, iteration):
    """Set the keys of the request's blocks that are full with ``tokens`` known tokens.

    ``iteration`` is the number of the one that computes the last of these tokens, or ``ENDED``.
    """
    spec, arena, request = engine.spec, engine.arena, engine.requests[request_id]
    sequence = sequence_of(engine, request)
    full = full_blocks(tokens, spec.block_size)
    shared = shared_blocks(engine, request)
    if shared > 0 and arena[span_at(engine, arena[sequence + LAST_SPAN]) + BEGIN] < shared:
        _grow_from_prefix(engine, request_id, sequence, shared, full, iteration)
    else:
        _grow_span(engine, sequence, full, iteration)


@kernel
def publish_decoder(engine, request_id):
    """Set the keys of a contested decoder's full blocks, as its step is scheduled."""
    ended, tokens, iteration = _full_tokens(engine, engine.requests[request_id])
    publish_full_blocks(engine, request_id, ended, ENDED)
    publish_full_blocks(engine, request_id, tokens, iteration)


@kernel
def _changes_stream(engine, request):
    """Return whether a running request still computes blocks of its shared prefix."""
    arena = engine.arena
    last = arena[sequence_of(engine, request) + LAST_SPAN]
    return arena[span_at(engine, last) + BEGIN] < shared_blocks(engine, request)


@kernel
def _last_place(engine, request):
    """Return the place after the last block that a running request will give a key."""
    return full_blocks(request.prompt_tokens + request.target_tokens - 1, engine.spec.block_size)


@outlined
def settle_contest(engine, stream):
    """Contest no request of a stream any more if none will compute a block where another still adds some.

    That is the rule where one is the next turn of another: its prompt has all that the other will compute.
    """
    replica, arena, requests = engine.replica, engine.arena, engine.requests
    first = arena[bucket_of(engine, stream)]
    span = first
    while span != NO_SPAN:
        at = span_at(engine, span)
        if arena[at + OWNER] != NO_REQUEST and arena[at + STREAM] == stream:
            last = _last_place(engine, requests[arena[at + OWNER]])
            other = arena[at + CHAIN]
            while other != NO_SPAN:
                to = span_at(engine, other)
                if (
                    arena[to + OWNER] != NO_REQUEST
                    and arena[to + STREAM] == stream
                    and last > arena[to + END]
                    and _last_place(engine, requests[arena[to + OWNER]]) > arena[at + END]
                ):
                    return
                other = arena[to + CHAIN]
        span = arena[at + CHAIN]
    span = first
    while span != NO_SPAN:
        at = span_at(engine, span)
        owner = arena[at + OWNER]
        if owner != NO_REQUEST and arena[at + STREAM] == stream and not _changes_stream(engine, requests[owner]):
            sequence = sequence_of(engine, requests[owner])
            replica.contested -= arena[sequence + CONTESTED]
            arena[sequence + CONTESTED] = 0
        span = arena[at + CHAIN]


@kernel
def decide_contest(engine, request_id):
    """Decide whether a request that starts to decode must set each key as its block is full."""
    arena, request = engine.arena, engine.requests[request_id]
    sequence = sequence_of(engine, request)
    if _changes_stream(engine, request):
        _contest(engine, sequence)
    elif arena[sequence + CONTESTED]:
        settle_contest(engine, request.stream)
