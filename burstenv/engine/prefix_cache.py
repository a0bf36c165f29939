"""A request's KV blocks, compiled: finding and sharing a cached prefix, adding blocks, freeing them.

With prefix caching a running request holds the spans that it found, noted in its table, and those that it computes:
the first of them, and from there each is followed by the next. It adds blocks at the end of the last one.

While it decodes nothing is noted: the blocks that are full with its tokens have keys. This is brought up to date when
another request looks at its stream. Where two requests may compute the same block, the order of publication counts:
these are *contested*, and each of their blocks gets its key when it is full.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.iterations import is_left_out, next_iteration
from burstenv.engine.kv_cache import (
    BEGIN,
    CHAIN,
    END,
    END_BEFORE,
    END_FIRST,
    ENDED,
    FOLLOWING,
    HOLDERS,
    ITERATION,
    ITERATION_BEFORE,
    NO_SPAN,
    OWNER,
    STREAM,
    bucket_of,
    chain_last,
    cut_span,
    forget_span,
    free_span,
    hold_span,
    new_span,
    span_at,
    take_blocks,
    unchain,
)
from burstenv.engine.queues import blocks_of, full_blocks, tokens_to_compute
from burstenv.engine.records import (
    ADMISSION,
    BLOCKS,
    CONTESTED,
    FIRST_SPAN,
    FOUND_BLOCKS,
    FOUND_SPANS,
    LAST_SPAN,
    NUMBERS_OF_A_SEQUENCE,
    STEP_TOKENS,
)


@kernel
def shared_blocks(engine, request):
    """Return the number of the request's first blocks with tokens of its shared prefix alone."""
    return full_blocks(request.prefix_tokens, engine.spec.block_size)


@kernel
def _sequence_at(engine, place):
    return engine.spec.sequence_base + NUMBERS_OF_A_SEQUENCE * place


@kernel
def sequence_of(engine, request):
    """Return the arena index of a running request's numbers, see ``NUMBERS_OF_A_SEQUENCE``."""
    return _sequence_at(engine, request.place)


@kernel
def _table_at(engine, place):
    """Return the arena index of a table of found spans: of each its number, and the place where it ends."""
    spec = engine.spec
    return spec.table_base + 2 * place * spec.table_size


# -- adding blocks ---------------------------------------------------------------------------------------


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
    asynchronous scheduling the last token is not back: its block gets its key in the next iteration.
    """
    replica, spec = engine.replica, engine.spec
    tokens = request.computed_tokens + replica.decode_step
    coming = next_iteration(engine)
    if spec.depth == 1:
        return tokens, tokens + 1, coming
    on_its_way = 0 if is_left_out(request, coming - 1) else 1
    return tokens - on_its_way, tokens, coming - 1


@kernel
def _update_span(engine, at):
    """Bring the span of a decoder up to date, in an iteration that is being scheduled and has all decoders."""
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    owner = arena[at + OWNER]
    if owner == NO_REQUEST or not requests[owner].decoding:
        return
    sequence = sequence_of(engine, requests[owner])
    if not arena[sequence + CONTESTED]:  # all its next blocks are of this stream
        ended, tokens, iteration = _full_tokens(engine, requests[owner])
        _grow_span(engine, sequence, full_blocks(ended, spec.block_size), ENDED)
        _grow_span(engine, sequence, full_blocks(tokens, spec.block_size), iteration)


@kernel
def _open_span(engine, request_id, stream, begin):
    """Let a running request compute blocks of a stream from ``begin`` on; return their span."""
    arena, requests = engine.arena, engine.requests
    span = arena[bucket_of(engine, stream)]
    while span != NO_SPAN:
        at = span_at(engine, span)
        owner = arena[at + OWNER]
        if owner != NO_REQUEST and arena[at + STREAM] == stream:
            _update_span(engine, at)
            _contest(engine, sequence_of(engine, requests[owner]))
            _contest(engine, sequence_of(engine, requests[request_id]))
        span = arena[at + CHAIN]
    span = new_span(engine, stream, begin)
    arena[span_at(engine, span) + OWNER] = request_id
    chain_last(engine, span)
    arena[sequence_of(engine, requests[request_id]) + LAST_SPAN] = span
    return span


@outlined
def _grow_from_prefix(engine, request_id, sequence, shared, full, iteration):
    arena, requests = engine.arena, engine.requests
    _grow_span(engine, sequence, min(full, shared), iteration)
    if full >= shared:  # the next block has tokens of its own
        before = span_at(engine, arena[sequence + LAST_SPAN])
        arena[before + OWNER] = NO_REQUEST
        arena[before + FOLLOWING] = _open_span(engine, request_id, requests[request_id].stream, shared)
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
def contest_odd_decoder(engine, request_id):
    """Let a request that starts to decode within its shared prefix set keys at once: it changes its stream."""
    arena, request = engine.arena, engine.requests[request_id]
    sequence = sequence_of(engine, request)
    if arena[span_at(engine, arena[sequence + LAST_SPAN]) + BEGIN] < shared_blocks(engine, request):
        _contest(engine, sequence)


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


# -- freeing ---------------------------------------------------------------------------------------------


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
        _give_back_spans(engine, sequence_of(engine, request), request.place, blocks)
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
    while first < last:
        end = last
        span = arena[bucket_of(engine, stream)]
        while span != NO_SPAN:
            at = span_at(engine, span)
            if arena[at + STREAM] == stream:
                _update_span(engine, at)
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
    arena[_sequence_at(engine, _next_place(engine)) + FOUND_SPANS] = spans
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
    sequence = _sequence_at(engine, place)
    arena[sequence + STEP_TOKENS] = 0
    arena[sequence + BLOCKS] = hits
    arena[sequence + FOUND_BLOCKS] = hits
    arena[sequence + ADMISSION] = replica.admissions
    arena[sequence + CONTESTED] = 0
    replica.admissions += 1
    if spec.prefix_caching:
        _hold_found_spans(engine, sequence, place)
        stream = request.stream if hits >= shared_blocks(engine, request) else request.prefix_stream
        arena[sequence + FIRST_SPAN] = _open_span(engine, request_id, stream, hits)


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
