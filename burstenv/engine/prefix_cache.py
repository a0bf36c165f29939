"""A request's KV blocks, compiled: finding and sharing a cached prefix, adding blocks, freeing them.

With prefix caching a running request holds the spans that it found, noted in its table, and those that it computes:
the first of them, and from there each is followed by the next.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.block_keys import open_span, sequence_at, sequence_of, settle_contest, shared_blocks, update_stream
from burstenv.engine.enums import NO_REQUEST
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
def _give_back_spans(engine, sequence, place, blocks):
    """Give up all spans of a request with ``blocks`` blocks; those after the spans have no key."""
    replica, arena = engine.replica, engine.arena
    replica.contested -= arena[sequence + CONTESTED]
    last = arena[sequence + LAST_SPAN]
    at = span_at(engine, last)
    end = arena[at + END]
    replica.free_blocks += blocks - end
    arena[at + OWNER] = NO_REQUEST
    if arena[at + BEGIN] == end:
        forget_span(engine, last)
    _let_go(engine, arena[sequence + FIRST_SPAN], arena[sequence + FOUND_BLOCKS], end)
    table = _table_at(engine, place)
    for k in range(arena[sequence + FOUND_SPANS] - 1, -1, -1):
        begin = arena[table + 2 * k - 1] if k > 0 else 0
        _let_go(engine, arena[table + 2 * k], begin, arena[table + 2 * k + 1])


@outlined
def give_back_blocks(engine, request, blocks):
    """Free the ``blocks`` blocks of a request, and its slot among the sequences."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    if spec.prefix_caching:
        sequence = sequence_of(engine, request)
        _give_back_spans(engine, sequence, request.place, blocks)
        if arena[sequence + CONTESTED]:
            settle_contest(engine, request.stream)
    else:
        replica.free_blocks += blocks
    arena[spec.slot_base + replica.free_slots] = request.place
    replica.free_slots += 1


# -- sharing a cached prefix -----------------------------------------------------------------------------


@kernel
def _next_place(engine):
    """Return the slot among the sequences of the next admitted request."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    return arena[spec.slot_base + replica.free_slots - 1]


@kernel
def _find_spans(engine, stream, first, last, spans):
    """Note the spans with the blocks first published at the places ``first`` to ``last`` of a stream.

    ``spans`` are noted already.

    Returns:
        The first place without a block, the number of the found blocks that are free, and that of the noted spans.
    """
    arena = engine.arena
    table = _table_at(engine, _next_place(engine))
    free = 0
    if first < last:
        update_stream(engine, stream)
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


@outlined
def _find_prefix(engine, request):
    arena, spec = engine.arena, engine.spec
    most = full_blocks(tokens_to_compute(request) - 1, spec.block_size)
    shared = min(shared_blocks(engine, request), most)
    hits, free, spans = _find_spans(engine, request.prefix_stream, 0, shared, 0)
    if hits == shared:
        hits, further, spans = _find_spans(engine, request.stream, shared, most, spans)
        free += further
    arena[sequence_at(engine, _next_place(engine)) + FOUND_SPANS] = spans
    return hits, free


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


@outlined
def open_sequence(engine, request_id, hits):
    """Give a request at its admission a slot, and a hold of the ``hits`` blocks just found.

    For the general engine and with prefix caching; otherwise requests have no slot.
    """
    replica, spec, arena, request = engine.replica, engine.spec, engine.arena, engine.requests[request_id]
    place = _next_place(engine)
    replica.free_slots -= 1
    request.place = place
    sequence = sequence_at(engine, place)
    arena[sequence + STEP_TOKENS] = 0
    arena[sequence + BLOCKS] = hits
    arena[sequence + FOUND_BLOCKS] = hits
    arena[sequence + ADMISSION] = replica.admissions
    arena[sequence + CONTESTED] = 0
    if engine.gateway.transfers:
        arena[sequence + DECODES] = 0
        arena[sequence + LEAVES] = 0
    replica.admissions += 1
    if spec.prefix_caching:
        _hold_found_spans(engine, sequence, place)
        stream = request.stream if hits >= shared_blocks(engine, request) else request.prefix_stream
        arena[sequence + FIRST_SPAN] = open_span(engine, request_id, stream, hits)


@kernel
def may_be_fed(engine, request, hits):
    """Return whether a running request may publish the next block that a blocked one could share."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    if not spec.prefix_caching or (hits + 1) * spec.block_size >= tokens_to_compute(request):
        return False
    stream = request.stream if hits >= shared_blocks(engine, request) else request.prefix_stream
    span = arena[bucket_of(engine, stream)]
    while span != NO_SPAN:
        at = span_at(engine, span)
        if arena[at + OWNER] != NO_REQUEST and arena[at + STREAM] == stream:
            return True
        span = arena[at + CHAIN]
    return replica.contested > 0
