"""A request's KV blocks, compiled: finding and sharing a cached prefix, adding blocks, freeing them.

With prefix caching a running request holds the spans that it found, noted in its table, and those that it computes:
the first of them, and from there each is followed by the next.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.block_keys import open_span, sequence_at, sequence_of, settle_contest, shared_blocks, update_stream
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.iterations import next_iteration
from burstenv.engine.kv_cache import (
    BEGIN,
    CHAIN,
    END,
    FOLLOWING,
    HOLDERS,
    NO_SPAN,
    OWNER,
    STREAM,
    bucket_of,
    cut_span,
    forget_span,
    free_span,
    hold_span,
    span_at,
    take_blocks,
)
from burstenv.engine.queues import blocks_of, full_blocks, tokens_to_compute
from burstenv.engine.records import (
    ADMISSION,
    BLOCKS,
    CONTESTED,
    DECODES,
    FIRST_SPAN,
    FOUND_BLOCKS,
    FOUND_SPANS,
    HANDS_OUT,
    LAST_SPAN,
    LEAVES,
    STEP_TOKENS,
)


@kernel
def _table_at(engine, place):
    """Return the arena index of a table of found spans: of each its number, and the place where it ends."""
    spec = engine.spec
    return spec.table_base + 2 * place * spec.table_size


# -- growing and freeing ------------------------------------------------------------------------------------


@kernel
def grow_blocks(engine, request, tokens, iteration):
    """Give the request the blocks for ``tokens`` tokens, in iteration number ``iteration``, if enough are free."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    held = sequence_of(engine, request) + BLOCKS
    needed = blocks_of(min(tokens, spec.max_model_len), spec.block_size)
    more = needed - arena[held]
    if more > replica.free_blocks:
        return False
    if more > 0:
        take_blocks(engine, more, iteration)
        arena[held] = needed
    return True


@kernel
def _let_go(engine, span, begin, end):
    """Give up the blocks ``begin`` to ``end`` of a span and those that follow it, last block first."""
    arena = engine.arena
    while end > begin:
        last = span
        while arena[span_at(engine, last) + END] < end:
            last = arena[span_at(engine, last) + FOLLOWING]
        at = span_at(engine, last)
        end = arena[at + BEGIN]
        arena[at + HOLDERS] -= 1
        if arena[at + HOLDERS] == 0:
            free_span(engine, last)


@kernel
def close_spans(engine, sequence):
    """Let a request add no more blocks; return the number of those with a key."""
    replica, arena = engine.replica, engine.arena
    replica.contested -= arena[sequence + CONTESTED]
    last = arena[sequence + LAST_SPAN]
    at = span_at(engine, last)
    end = arena[at + END]
    arena[at + OWNER] = NO_REQUEST
    if arena[at + BEGIN] == end:
        forget_span(engine, last)
    return end


@kernel
def give_up_spans(engine, place, end, blocks):
    """Give up the ``blocks`` blocks of a slot, of which those before ``end`` have keys."""
    replica, arena, sequence = engine.replica, engine.arena, sequence_at(engine, place)
    replica.free_blocks += blocks - end
    _let_go(engine, arena[sequence + FIRST_SPAN], arena[sequence + FOUND_BLOCKS], end)
    table = _table_at(engine, place)
    for k in range(arena[sequence + FOUND_SPANS] - 1, -1, -1):
        begin = arena[table + 2 * k - 1] if k > 0 else 0
        _let_go(engine, arena[table + 2 * k], begin, arena[table + 2 * k + 1])


@kernel
def free_slot(engine, place):
    """Free a slot among the sequences."""
    replica = engine.replica
    engine.arena[engine.spec.slot_base + replica.free_slots] = place
    replica.free_slots += 1


@outlined
def give_back_blocks(engine, request, blocks):
    """Free the ``blocks`` blocks of a request, and its slot among the sequences."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    if spec.prefix_caching:
        sequence = sequence_of(engine, request)
        give_up_spans(engine, request.place, close_spans(engine, sequence), blocks)
        if arena[sequence + CONTESTED]:
            settle_contest(engine, request.stream)
    else:
        replica.free_blocks += blocks
    free_slot(engine, request.place)


@kernel
def release(engine, request):
    """Free the blocks of a request that leaves the batch of the fast engine."""
    replica, spec = engine.replica, engine.spec
    blocks = blocks_of(request.computed_tokens, spec.block_size)
    if spec.prefix_caching:
        give_back_blocks(engine, request, blocks)
    else:
        replica.free_blocks += blocks


# -- sharing a cached prefix -----------------------------------------------------------------------------


@kernel
def _next_place(engine):
    """Return the slot among the sequences of the next admitted request."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    return arena[spec.slot_base + replica.free_slots - 1]


@kernel
def _find_spans(engine, stream, first, last, spans, schedules):
    """Note the spans with the blocks first published at the places ``first`` to ``last`` of a stream.

    ``spans`` are noted already. ``schedules`` is that of :func:`update_stream`.

    Returns:
        The first place without a block, the number of the found blocks that are free, and that of the noted spans.
    """
    arena = engine.arena
    table = _table_at(engine, _next_place(engine))
    free = 0
    if first < last:
        update_stream(engine, stream, schedules)
    while first < last:
        end = last
        span = arena[bucket_of(engine, stream)]
        while span != NO_SPAN:
            at = span_at(engine, span)
            if arena[at + STREAM] == stream:
                if arena[at + BEGIN] <= first < arena[at + END]:
                    end = min(end, arena[at + END])
                    break
                if first < arena[at + BEGIN] < arena[at + END]:  # from there on its blocks are the first published
                    end = min(end, arena[at + BEGIN])
            span = arena[at + CHAIN]
        if span == NO_SPAN:
            break
        arena[table + 2 * spans] = span
        arena[table + 2 * spans + 1] = end
        spans += 1
        if arena[span_at(engine, span) + HOLDERS] == 0:
            free += end - first
        first = end
    return first, free, spans


@kernel
def find_blocks(engine, request, most, schedules):
    """Return how many of the request's first ``most`` blocks are cached, and the number of these in the free list.

    Notes them in the table of the next slot. ``schedules`` is that of :func:`update_stream`.
    """
    arena = engine.arena
    shared = min(shared_blocks(engine, request), most)
    hits, free, spans = _find_spans(engine, request.prefix_stream, 0, shared, 0, schedules)
    if hits == shared:
        hits, further, spans = _find_spans(engine, request.stream, shared, most, spans, schedules)
        free += further
    arena[sequence_at(engine, _next_place(engine)) + FOUND_SPANS] = spans
    return hits, free


@outlined
def _find_prefix(engine, request):
    return find_blocks(engine, request, full_blocks(tokens_to_compute(request) - 1, engine.spec.block_size), True)


@kernel
def cached_blocks(engine, request):
    """Return the number of blocks the request could share, and the number of these in the free list.

    Notes them in the place of its table. At least one token is always computed.
    """
    if engine.spec.prefix_caching:
        return _find_prefix(engine, request)
    return 0, 0


@kernel
def _hold_found_spans(engine, sequence, place):
    """Hold the noted spans; those that are not wholly shared are cut."""
    arena = engine.arena
    table = _table_at(engine, place)
    begin = 0
    for k in range(arena[sequence + FOUND_SPANS]):
        span, end = arena[table + 2 * k], arena[table + 2 * k + 1]
        while arena[span_at(engine, span) + END] <= begin:  # it has just been cut
            span = arena[span_at(engine, span) + FOLLOWING]
        if arena[span_at(engine, span) + BEGIN] < begin:
            span = cut_span(engine, span, begin)
        at = span_at(engine, span)
        if arena[at + END] > end or arena[at + OWNER] != NO_REQUEST:
            owner = arena[at + OWNER]
            rest = cut_span(engine, span, end)
            if owner != NO_REQUEST:
                arena[sequence_of(engine, engine.requests[owner]) + LAST_SPAN] = rest
        hold_span(engine, span)
        arena[table + 2 * k] = span
        begin = end


@kernel
def take_slot(engine, hits):
    """Take the next slot among the sequences, with a hold of the ``hits`` blocks just found; return it."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    place = _next_place(engine)
    replica.free_slots -= 1
    sequence = sequence_at(engine, place)
    arena[sequence + STEP_TOKENS] = 0
    arena[sequence + BLOCKS] = hits
    arena[sequence + FOUND_BLOCKS] = hits
    arena[sequence + CONTESTED] = 0
    if engine.gateway.transfers:
        arena[sequence + DECODES] = 0
        arena[sequence + LEAVES] = 0
        arena[sequence + HANDS_OUT] = 0
    if spec.prefix_caching:
        _hold_found_spans(engine, sequence, place)
    return place


@kernel
def number_admission(engine, place):
    """Number the admission of the request in a slot, after all others."""
    engine.arena[sequence_at(engine, place) + ADMISSION] = engine.replica.admissions
    engine.replica.admissions += 1


@kernel
def stream_at(engine, request, blocks):
    """Return the stream that the request's block after ``blocks`` blocks belongs to."""
    return request.stream if blocks >= shared_blocks(engine, request) else request.prefix_stream


@outlined
def open_sequence(engine, request_id, hits):
    """Give a request at its admission a slot, and a hold of the ``hits`` blocks just found.

    For the general engine and with prefix caching; otherwise requests have no slot.
    """
    arena, request = engine.arena, engine.requests[request_id]
    request.place = take_slot(engine, hits)
    number_admission(engine, request.place)
    if engine.spec.prefix_caching:
        first = open_span(engine, request_id, stream_at(engine, request, hits), hits, next_iteration(engine))
        arena[sequence_of(engine, request) + FIRST_SPAN] = first


@kernel
def may_be_fed(engine, request, hits):
    """Return whether a running request may publish the next block that a blocked one could share."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    if not spec.prefix_caching or (hits + 1) * spec.block_size >= tokens_to_compute(request):
        return False
    stream = stream_at(engine, request, hits)
    span = arena[bucket_of(engine, stream)]
    while span != NO_SPAN:
        at = span_at(engine, span)
        if arena[at + OWNER] != NO_REQUEST and arena[at + STREAM] == stream:
            return True
        span = arena[at + CHAIN]
    return replica.contested > 0
