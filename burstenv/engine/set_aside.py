"""KV blocks that are set aside on a replica, compiled: for a request that comes, or for one that has left the batch.

With prefix caching, and in the general engine, they have a slot among the sequences, whose number of blocks with keys
stands in KEYED_BLOCKS. Blocks that come get keys when the request joins the batch; a request that has left adds none.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.block_keys import open_span, publish_full_blocks, sequence_at, sequence_of, settle_contest
from burstenv.engine.enums import NO_PLACE
from burstenv.engine.kv_cache import END, ENDED, FOLLOWING, NO_SPAN, span_at
from burstenv.engine.prefix_cache import close_spans, find_blocks, free_slot, give_up_spans, stream_at, take_slot
from burstenv.engine.queues import full_blocks
from burstenv.engine.records import CONTESTED, FIRST_SPAN, FOUND_BLOCKS, KEYED_BLOCKS


@kernel
def has_slots(engine):
    """Return whether running requests have slots among the sequences."""
    return engine.spec.general or engine.spec.prefix_caching


@outlined
def find_copied(engine, request, tokens):
    """Return how many blocks of the request's first ``tokens`` tokens are cached, and how many of these are free.

    They need not be copied, if :func:`set_aside` follows at once.
    """
    if engine.spec.prefix_caching:
        return find_blocks(engine, request, full_blocks(tokens, engine.spec.block_size), False)
    return 0, 0


@outlined
def set_aside(engine, hits):
    """Hold the ``hits`` blocks just found for a request that comes; return their slot."""
    arena = engine.arena
    place = take_slot(engine, hits)
    sequence = sequence_at(engine, place)
    arena[sequence + KEYED_BLOCKS] = hits
    arena[sequence + FIRST_SPAN] = NO_SPAN
    return place


@outlined
def keep_aside(engine, request_id):
    """Hold the blocks of a request that leaves the batch: all full ones have keys."""
    arena, request = engine.arena, engine.requests[request_id]
    sequence = sequence_of(engine, request)
    publish_full_blocks(engine, request_id, request.computed_tokens, ENDED)
    contested = arena[sequence + CONTESTED]
    arena[sequence + KEYED_BLOCKS] = close_spans(engine, sequence)
    arena[sequence + CONTESTED] = 0
    if contested:
        settle_contest(engine, request.stream)


@outlined
def resume(engine, request_id):
    """Let a request in the batch add blocks after those that were set aside in its slot; all full ones get keys."""
    arena, request = engine.arena, engine.requests[request_id]
    sequence = sequence_of(engine, request)
    keyed = arena[sequence + KEYED_BLOCKS]
    span = open_span(engine, request_id, stream_at(engine, request, keyed), keyed, ENDED)
    if keyed == arena[sequence + FOUND_BLOCKS]:
        arena[sequence + FIRST_SPAN] = span
    else:
        at = span_at(engine, arena[sequence + FIRST_SPAN])
        while arena[at + END] < keyed:
            at = span_at(engine, arena[at + FOLLOWING])
        arena[at + FOLLOWING] = span
    publish_full_blocks(engine, request_id, request.computed_tokens, ENDED)


@outlined
def give_up_aside(engine, place, blocks):
    """Free ``blocks`` blocks that are set aside, and their slot; NO_PLACE: there is none."""
    if engine.spec.prefix_caching and place != NO_PLACE:
        give_up_spans(engine, place, engine.arena[sequence_at(engine, place) + KEYED_BLOCKS], blocks)
    else:
        engine.replica.free_blocks += blocks
    if place != NO_PLACE:
        free_slot(engine, place)
