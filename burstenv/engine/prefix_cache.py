"""A request's KV blocks, compiled: growing, publishing, sharing a cached prefix, giving back.

With prefix caching a running request has a table of its blocks; without, only their number counts.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.kv_cache import (
    find_blocks,
    publish_blocks,
    published_until,
    release_blocks,
    share_blocks,
    take_blocks,
)
from burstenv.engine.queues import blocks_of, full_blocks, tokens_to_compute
from burstenv.engine.records import ADMISSION, BLOCKS, FOUND_BLOCKS, NUMBERS_OF_A_SEQUENCE, STEP_TOKENS


@kernel
def stream_of(replica, request, index):
    """Return the stream that decides the tokens of a request's block."""
    if (index + 1) * replica.block_size <= request.prefix_tokens:
        return request.prefix_stream
    return request.stream


@kernel
def _shared_blocks(replica, request):
    """Return how many of the request's first blocks hold tokens of its shared prefix alone."""
    return full_blocks(request.prefix_tokens, replica.block_size)


@kernel
def sequence_of(replica, request):
    """Return where in the pool the numbers of a running request stand, see ``NUMBERS_OF_A_SEQUENCE``."""
    return replica.sequence_base + NUMBERS_OF_A_SEQUENCE * request.place


@kernel
def table_of(replica, request):
    """Return where in the pool the numbers of a running request's blocks stand."""
    return replica.table_base + request.place * replica.table_size


@outlined
def grow_blocks(replica, pool, request, tokens):
    """Give the request the blocks for ``tokens`` tokens, if there are enough."""
    needed = blocks_of(min(tokens, replica.max_model_len), replica.block_size)
    held = sequence_of(replica, request) + BLOCKS
    more = needed - pool[held]
    if more > replica.free_blocks:
        return False
    if more > 0:
        if replica.prefix_caching:
            take_blocks(replica, pool, table_of(replica, request) + pool[held], more)
        else:
            replica.free_blocks -= more
        pool[held] = needed
    return True


@outlined
def give_back_blocks(replica, pool, request):
    """Give back all blocks of a request, and its place among the sequences."""
    blocks = pool[sequence_of(replica, request) + BLOCKS]
    if replica.prefix_caching:
        release_blocks(replica, pool, table_of(replica, request), blocks)
    else:
        replica.free_blocks += blocks
    pool[replica.slot_base + replica.free_slots] = request.place
    replica.free_slots += 1


@outlined
def publish_full_blocks(replica, pool, request, tokens):
    """Give their keys to the request's blocks that ``tokens`` tokens, all of them known, fill."""
    if not replica.prefix_caching:
        return
    table = table_of(replica, request)
    full = full_blocks(tokens, replica.block_size)
    shared = min(_shared_blocks(replica, request), full)
    if publish_blocks(replica, pool, table, request.stream, shared, full) and shared > 0:
        publish_blocks(replica, pool, table, request.prefix_stream, 0, shared)


@kernel
def _next_table(replica, pool):
    """Return where the next admitted request's table will stand."""
    return replica.table_base + pool[replica.slot_base + replica.free_slots - 1] * replica.table_size


@outlined
def _find_prefix(replica, pool, request):
    most = full_blocks(tokens_to_compute(request) - 1, replica.block_size)
    table = _next_table(replica, pool)
    shared = min(_shared_blocks(replica, request), most)
    hits, unused = find_blocks(replica, pool, request.prefix_stream, 0, shared, table)
    if hits < shared:
        return hits, unused
    hits, further = find_blocks(replica, pool, request.stream, shared, most, table)
    return hits, unused + further


@outlined
def prefix_hit_tokens(replica, pool, requests, request_id):
    """Return how many tokens of a request's known ones (its prompt) the replica would not have to compute now.

    Changes nothing. This is what routers that follow the engines' KV events know (llm-d's precise prefix
    scorer, Dynamo's KV router): the blocks as they are, not as of the last scrape of the metrics. 0 without
    prefix caching. At least one token is always computed, as at admission.
    """
    if not replica.prefix_caching:
        return 0
    request = requests[request_id]
    most = full_blocks(tokens_to_compute(request) - 1, replica.block_size)
    shared = min(_shared_blocks(replica, request), most)
    hits = published_until(replica, pool, request.prefix_stream, 0, shared)
    if hits == shared:
        hits = published_until(replica, pool, request.stream, shared, most)
    return hits * replica.block_size


@kernel
def cached_blocks(replica, pool, request):
    """Return how many blocks the request could share, and how many of these would leave the free list.

    Writes them where its table will stand. At least one token is always computed.
    """
    if replica.prefix_caching:
        return _find_prefix(replica, pool, request)
    return 0, 0


@outlined
def open_sequence(replica, pool, request, hits):
    """Give a request that is being admitted a place and the table that starts with the ``hits`` blocks just found.

    For the general engine and with prefix caching; otherwise nothing of the kind is kept.
    """
    replica.free_slots -= 1
    request.place = pool[replica.slot_base + replica.free_slots]
    sequence = sequence_of(replica, request)
    pool[sequence + STEP_TOKENS] = 0
    pool[sequence + BLOCKS] = hits
    pool[sequence + FOUND_BLOCKS] = hits
    pool[sequence + ADMISSION] = replica.admissions
    replica.admissions += 1
    if hits > 0:
        share_blocks(replica, pool, table_of(replica, request), hits)
