"""A request's KV blocks, compiled: growing, publishing, sharing a cached prefix, giving back.

With prefix caching a running request has a table of its blocks; without, only their number counts.
"""

from __future__ import annotations

from burstenv.cluster.block_table import (
    find_block,
    has_key,
    is_unused,
    publish_block,
    release_blocks,
    share_block,
    take_block,
)
from burstenv.cluster.kernel import kernel, outlined
from burstenv.cluster.queues import blocks_of, tokens_to_compute


@kernel
def stream_of(replica, request, index):
    """Return the stream that decides the tokens of a request's block."""
    if (index + 1) * replica.block_size <= request.prefix_tokens:
        return request.prefix_stream
    return request.stream


@kernel
def table_of(replica, request):
    """Return where in the pool the numbers of a running request's blocks stand."""
    return replica.table_base + request.slot * replica.table_size


@outlined
def grow_blocks(replica, pool, request, tokens):
    """Give the request the blocks for ``tokens`` tokens, if there are enough."""
    needed = blocks_of(min(tokens, replica.max_model_len), replica.block_size)
    if needed - request.blocks > replica.free_blocks:
        return False
    if replica.prefix_caching:
        table = table_of(replica, request)
        while request.blocks < needed:
            pool[table + request.blocks] = take_block(replica, pool)
            request.blocks += 1
    elif needed > request.blocks:
        replica.free_blocks -= needed - request.blocks
        request.blocks = needed
    return True


@outlined
def give_back_blocks(replica, pool, request):
    """Give back all blocks of a request, and its table."""
    if replica.prefix_caching:
        release_blocks(replica, pool, table_of(replica, request), request.blocks)
        pool[replica.slot_base + replica.free_slots] = request.slot
        replica.free_slots += 1
    else:
        replica.free_blocks += request.blocks
    request.blocks = 0


@outlined
def publish_full_blocks(replica, pool, request, tokens):
    """Give their keys to the request's blocks that ``tokens`` tokens, all of them known, fill."""
    if not replica.prefix_caching:
        return
    table = table_of(replica, request)
    for index in range(tokens // replica.block_size - 1, -1, -1):
        block = pool[table + index]
        if has_key(replica, pool, block):
            break
        publish_block(replica, pool, block, stream_of(replica, request, index), index)


@kernel
def _next_table(replica, pool):
    """Return where the next admitted request's table will stand."""
    return replica.table_base + pool[replica.slot_base + replica.free_slots - 1] * replica.table_size


@outlined
def _find_prefix(replica, pool, request):
    most = (tokens_to_compute(request) - 1) // replica.block_size
    table = _next_table(replica, pool)
    hits = 0
    while hits < most:
        block = find_block(replica, pool, stream_of(replica, request, hits), hits)
        if block == 0:
            break
        pool[table + hits] = block
        hits += 1
    return hits


@kernel
def cached_blocks(replica, pool, request):
    """Return how many blocks the request could share, and write them where its table will stand.

    At least one token is always computed.
    """
    return _find_prefix(replica, pool, request) if replica.prefix_caching else 0


@kernel
def revived_blocks(replica, pool, hits):
    """Return how many of the ``hits`` blocks just found would leave the free list."""
    revived = 0
    if hits > 0:
        table = _next_table(replica, pool)
        for index in range(hits):
            revived += is_unused(replica, pool, pool[table + index])
    return revived


@outlined
def _share_prefix(replica, pool, request, hits):
    replica.free_slots -= 1
    request.slot = pool[replica.slot_base + replica.free_slots]
    table = table_of(replica, request)
    for index in range(hits):
        share_block(replica, pool, pool[table + index])
    request.blocks = hits


@kernel
def open_table(replica, pool, request, hits):
    """Give a request that is being admitted the table that starts with the ``hits`` blocks just found."""
    request.blocks = 0
    if replica.prefix_caching:
        _share_prefix(replica, pool, request, hits)
