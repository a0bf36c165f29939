"""KV blocks with prefix caching, compiled: the rules of :mod:`burstenv.engine.reference.kv_cache` on spans of blocks.

A *stream* is a number for the origin of a position's tokens: session, or shared prefix. A block's key is its stream and
its place there. Blocks without a key are alike: only their number counts. Blocks with a key are kept as *spans*: blocks
of one stream, side by side, with the same holders, and a *holder* is a running request. So the work depends on the
number of requests that share something, not on the number of blocks.

The reference's free list is the free blocks without a key, then those with one, as they were freed: a list of spans.
A request frees its last block first, so a span in that list loses its blocks from its end. Where a request holds a
part of a span only, the span is cut in two.

Of several blocks with one key, the one published first is shared. A bucket of the hash table holds the spans of its
streams, and keeps the order of publication at every place of a stream.

Routers know the cache as it was when the last iteration ended. Two iterations at most are in flight: a span remembers
where it ended before each of the last two that computed blocks of it, and a ring has the blocks that were lost last.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.iterations import last_ended_iteration

NEXT, PREVIOUS = 0, 1  # in the list of free spans, or, of unused ones, NEXT in theirs
STREAM = 2
BEGIN, END = 3, 4  # places of its first block, and after its last one with a key
HOLDERS = 5
CHAIN = 6  # the next span in the bucket
FOLLOWING = 7  # the span that goes on where this one ends, of the request that computed it
OWNER = 8  # the running request that adds blocks at its end; NO_REQUEST: it grows no more
ITERATION, END_BEFORE = 9, 10  # the last one that computed blocks of it, and its end before that
ITERATION_BEFORE, END_FIRST = 11, 12  # likewise the one before, and its end before both
TAKEN = 13  # in the ring: the iteration that took its blocks for other tokens
NUMBERS_OF_A_SPAN = 16
NO_SPAN = 0  # also the head of the list of free spans
LOST = 1024  # spans in the ring: if the iterations in flight take blocks of more, the first of them look lost at once
ENDED = 0  # in place of an iteration's number: one that has ended


def span_count(num_blocks: int, max_num_seqs: int) -> int:
    """Return the greatest number of spans: each has a block, except the ends of those that grow."""
    return num_blocks + 2 * max_num_seqs + 2


def bucket_count(num_blocks: int) -> int:
    """Return the number of hash buckets, a power of two: most spans have several blocks."""
    return 1 << max(4, (num_blocks // 2).bit_length())


@kernel
def span_at(engine, span):
    """Return the arena index of a span."""
    return engine.spec.span_base + NUMBERS_OF_A_SPAN * span


@kernel
def bucket_of(engine, stream):
    """Return the arena index of a stream's bucket."""
    spec = engine.spec
    return spec.bucket_base + (((stream * 0x9E3779B1) >> 8) & (spec.bucket_count - 1))


@kernel
def reset_spans(engine):
    """Forget every key."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    arena[spec.span_base + NEXT] = NO_SPAN
    arena[spec.span_base + PREVIOUS] = NO_SPAN
    replica.cached_blocks = 0
    replica.spans = 0
    replica.unused_span = NO_SPAN
    replica.contested = 0
    replica.lost = 0
    for bucket in range(spec.bucket_count):
        arena[spec.bucket_base + bucket] = NO_SPAN


# -- spans ---------------------------------------------------------------------------------------------


@kernel
def new_span(engine, stream, begin):
    """Return an empty span with one holder, in no bucket."""
    replica, arena = engine.replica, engine.arena
    span = replica.unused_span
    if span != NO_SPAN:
        replica.unused_span = arena[span_at(engine, span) + NEXT]
    else:
        replica.spans += 1
        span = replica.spans
    at = span_at(engine, span)
    arena[at + STREAM] = stream
    arena[at + BEGIN] = begin
    arena[at + END] = begin
    arena[at + HOLDERS] = 1
    arena[at + CHAIN] = NO_SPAN
    arena[at + FOLLOWING] = NO_SPAN
    arena[at + OWNER] = NO_REQUEST
    arena[at + ITERATION] = ENDED
    arena[at + END_BEFORE] = begin
    arena[at + ITERATION_BEFORE] = ENDED
    arena[at + END_FIRST] = begin
    return span


@kernel
def chain_last(engine, span):
    """Put a span into its bucket, after all others."""
    arena = engine.arena
    place = bucket_of(engine, arena[span_at(engine, span) + STREAM])
    while arena[place] != NO_SPAN:
        place = span_at(engine, arena[place]) + CHAIN
    arena[place] = span
    arena[span_at(engine, span) + CHAIN] = NO_SPAN


@kernel
def unchain(engine, span):
    """Take a span out of its bucket."""
    arena = engine.arena
    at = span_at(engine, span)
    place = bucket_of(engine, arena[at + STREAM])
    while arena[place] != span:
        place = span_at(engine, arena[place]) + CHAIN
    arena[place] = arena[at + CHAIN]


@kernel
def forget_span(engine, span):
    """Take a span that holds no block out of its bucket, for use by another."""
    replica, arena = engine.replica, engine.arena
    unchain(engine, span)
    arena[span_at(engine, span) + NEXT] = replica.unused_span
    replica.unused_span = span


@kernel
def _link_before(engine, span, after):
    arena = engine.arena
    before = arena[span_at(engine, after) + PREVIOUS]
    at = span_at(engine, span)
    arena[at + PREVIOUS] = before
    arena[at + NEXT] = after
    arena[span_at(engine, before) + NEXT] = span
    arena[span_at(engine, after) + PREVIOUS] = span


@kernel
def _unlink(engine, span):
    arena = engine.arena
    at = span_at(engine, span)
    arena[span_at(engine, arena[at + PREVIOUS]) + NEXT] = arena[at + NEXT]
    arena[span_at(engine, arena[at + NEXT]) + PREVIOUS] = arena[at + PREVIOUS]


@outlined
def cut_span(engine, span, place):
    """Cut a span before ``place``; return the second part, which goes on growing if the span grew."""
    arena = engine.arena
    at = span_at(engine, span)
    rest = new_span(engine, arena[at + STREAM], place)
    to = span_at(engine, rest)
    for number in (END, HOLDERS, CHAIN, FOLLOWING, OWNER, ITERATION, ITERATION_BEFORE):
        arena[to + number] = arena[at + number]
    for number in (END_BEFORE, END_FIRST):
        arena[to + number] = max(arena[at + number], place)
        arena[at + number] = min(arena[at + number], place)
    arena[at + END] = place
    arena[at + CHAIN] = rest
    arena[at + FOLLOWING] = rest
    arena[at + OWNER] = NO_REQUEST
    if arena[to + HOLDERS] == 0:
        _link_before(engine, rest, span)
    return rest


@kernel
def _absorbs(engine, span, later):
    """Return whether a span may go on as one with a free one that begins where it ends: no others are of its stream.

    Nor may blocks of it be under way: it would have to remember more than two iterations.
    """
    arena = engine.arena
    at, other = span_at(engine, span), span_at(engine, later)
    stream = arena[at + STREAM]
    if arena[other + STREAM] != stream or arena[other + BEGIN] != arena[at + END]:
        return False
    if arena[at + ITERATION] > last_ended_iteration(engine):
        return False
    of_stream = 0
    at = span_at(engine, arena[bucket_of(engine, stream)])
    while True:
        of_stream += arena[at + STREAM] == stream
        if arena[at + CHAIN] == NO_SPAN:
            return of_stream == 2
        at = span_at(engine, arena[at + CHAIN])


@kernel
def free_span(engine, span):
    """Put a span without holders at the end of the list of free ones."""
    replica, arena = engine.replica, engine.arena
    at = span_at(engine, span)
    blocks = arena[at + END] - arena[at + BEGIN]
    replica.free_blocks += blocks
    replica.cached_blocks += blocks
    later = arena[span_at(engine, NO_SPAN) + PREVIOUS]
    if later != NO_SPAN and _absorbs(engine, span, later):
        other = span_at(engine, later)
        for number in (END, ITERATION, END_BEFORE, ITERATION_BEFORE, END_FIRST):
            arena[at + number] = arena[other + number]
        _unlink(engine, later)
        forget_span(engine, later)
    _link_before(engine, span, NO_SPAN)


@kernel
def hold_span(engine, span):
    """Give one more request a hold of a span; a free one leaves the list."""
    replica, arena = engine.replica, engine.arena
    at = span_at(engine, span)
    if arena[at + HOLDERS] == 0:
        _unlink(engine, span)
        blocks = arena[at + END] - arena[at + BEGIN]
        replica.free_blocks -= blocks
        replica.cached_blocks -= blocks
    arena[at + HOLDERS] += 1


@kernel
def ended_end(arena, at, ended):
    """Return where the span at an index ended when iteration ``ended`` did."""
    if arena[at + ITERATION] <= ended:
        return arena[at + END]
    return arena[at + END_BEFORE] if arena[at + ITERATION_BEFORE] <= ended else arena[at + END_FIRST]


# -- blocks that are taken -------------------------------------------------------------------------------


@outlined
def _lose_keys(engine, iteration):
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    while replica.cached_blocks > replica.free_blocks:
        span = arena[spec.span_base + NEXT]
        at = span_at(engine, span)
        begin, end = arena[at + BEGIN], arena[at + END]
        count = min(end - begin, replica.cached_blocks - replica.free_blocks)
        if iteration != ENDED:
            lost = spec.lost_base + NUMBERS_OF_A_SPAN * (replica.lost % LOST)
            for number in (STREAM, END, ITERATION, END_BEFORE, ITERATION_BEFORE, END_FIRST):
                arena[lost + number] = arena[at + number]
            arena[lost + BEGIN] = end - count
            arena[lost + TAKEN] = iteration
            replica.lost += 1
        replica.cached_blocks -= count
        if count == end - begin:
            _unlink(engine, span)
            forget_span(engine, span)
        else:
            for number in (END, END_BEFORE, END_FIRST):
                arena[at + number] = min(arena[at + number], end - count)


@kernel
def take_blocks(engine, count, iteration):
    """Take free blocks, in iteration number ``iteration``: first those without a key, then those freed longest ago."""
    replica, spec = engine.replica, engine.spec
    replica.free_blocks -= count
    if spec.prefix_caching and replica.cached_blocks > replica.free_blocks:
        _lose_keys(engine, iteration)


@outlined
def lost_until(engine, stream, place, ended):
    """Return the place up to which blocks from ``place`` on had their keys when ``ended`` did, and lost them since."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    number = replica.lost - 1
    while number >= 0 and number >= replica.lost - LOST:
        at = spec.lost_base + NUMBERS_OF_A_SPAN * (number % LOST)
        if arena[at + TAKEN] <= ended:
            break
        if arena[at + STREAM] == stream and arena[at + BEGIN] <= place < ended_end(arena, at, ended):
            return ended_end(arena, at, ended)
        number -= 1
    return place
