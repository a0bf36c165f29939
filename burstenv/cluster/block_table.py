"""KV blocks with prefix caching, compiled: the rules of :mod:`burstenv.cluster.block_pool` on integers.

A replica's part of the pool holds, from ``block_base`` on, six numbers for each block (block 0 is the
head of the free list): its neighbours in that list, its reference count, its key (stream and index), and
the next block in its hash bucket. Then the buckets; then, for each running sequence, its blocks in order.
A *stream* is a number for everything that decides the tokens of a position: session, or shared prefix.
"""

from __future__ import annotations

from burstenv.cluster.kernel import kernel

NEXT, PREVIOUS, REFERENCES, STREAM, INDEX, CHAIN = range(6)
NUMBERS_OF_A_BLOCK = 8  # six, and two to make a block half a cache line
NO_KEY = -1


def bucket_count(num_blocks: int) -> int:
    """Return the number of hash buckets: a power of two of at least twice the blocks."""
    return 1 << (2 * num_blocks - 1).bit_length()


def block_slots(num_blocks: int) -> int:
    """Return how many integers of the pool the blocks and buckets of a replica take."""
    return NUMBERS_OF_A_BLOCK * (num_blocks + 1) + bucket_count(num_blocks)


@kernel
def _at(replica, number, block):
    return replica.block_base + NUMBERS_OF_A_BLOCK * block + number


@kernel
def _bucket(replica, stream, index):
    mixed = (stream * 0x9E3779B1 + index * 0x85EBCA77) & 0x7FFFFFFF
    mixed ^= mixed >> 15
    return replica.block_base + NUMBERS_OF_A_BLOCK * (replica.num_blocks + 1) + (mixed & (replica.bucket_count - 1))


@kernel
def reset_blocks(replica, pool):
    """Free every block, in ascending order, and forget all keys."""
    count = replica.num_blocks
    for block in range(count + 1):
        pool[_at(replica, NEXT, block)] = block + 1 if block < count else 0
        pool[_at(replica, PREVIOUS, block)] = block - 1 if block > 0 else count
        pool[_at(replica, REFERENCES, block)] = 0
        pool[_at(replica, STREAM, block)] = NO_KEY
        pool[_at(replica, CHAIN, block)] = 0
    base = replica.block_base + NUMBERS_OF_A_BLOCK * (count + 1)
    for bucket in range(replica.bucket_count):
        pool[base + bucket] = 0


@kernel
def _unlink(replica, pool, block):
    before = pool[_at(replica, PREVIOUS, block)]
    after = pool[_at(replica, NEXT, block)]
    pool[_at(replica, NEXT, before)] = after
    pool[_at(replica, PREVIOUS, after)] = before
    replica.free_blocks -= 1


@kernel
def _link_after(replica, pool, block, before):
    after = pool[_at(replica, NEXT, before)]
    pool[_at(replica, PREVIOUS, block)] = before
    pool[_at(replica, NEXT, block)] = after
    pool[_at(replica, NEXT, before)] = block
    pool[_at(replica, PREVIOUS, after)] = block
    replica.free_blocks += 1


@kernel
def find_block(replica, pool, stream, index):
    """Return the block first published under a key, or 0."""
    block = pool[_bucket(replica, stream, index)]
    while block != 0:
        if pool[_at(replica, STREAM, block)] == stream and pool[_at(replica, INDEX, block)] == index:
            return block
        block = pool[_at(replica, CHAIN, block)]
    return 0


@kernel
def publish_block(replica, pool, block, stream, index):
    """Give a full block its key; the bucket keeps the order of publication."""
    pool[_at(replica, STREAM, block)] = stream
    pool[_at(replica, INDEX, block)] = index
    pool[_at(replica, CHAIN, block)] = 0
    place = _bucket(replica, stream, index)
    while pool[place] != 0:
        place = _at(replica, CHAIN, pool[place])
    pool[place] = block


@kernel
def _forget(replica, pool, block):
    stream = pool[_at(replica, STREAM, block)]
    if stream == NO_KEY:
        return
    place = _bucket(replica, stream, pool[_at(replica, INDEX, block)])
    while pool[place] != block:
        place = _at(replica, CHAIN, pool[place])
    pool[place] = pool[_at(replica, CHAIN, block)]
    pool[_at(replica, STREAM, block)] = NO_KEY


@kernel
def take_block(replica, pool):
    """Take the block at the front of the free list; a cached one is forgotten."""
    block = pool[_at(replica, NEXT, 0)]
    _unlink(replica, pool, block)
    _forget(replica, pool, block)
    pool[_at(replica, REFERENCES, block)] = 1
    return block


@kernel
def share_block(replica, pool, block):
    """Take one more reference to a cached block."""
    if pool[_at(replica, REFERENCES, block)] == 0:
        _unlink(replica, pool, block)
    pool[_at(replica, REFERENCES, block)] += 1


@kernel
def is_unused(replica, pool, block):
    """Return whether a cached block is in the free list."""
    return pool[_at(replica, REFERENCES, block)] == 0


@kernel
def has_key(replica, pool, block):
    """Return whether a block is published."""
    return pool[_at(replica, STREAM, block)] != NO_KEY


@kernel
def release_blocks(replica, pool, table, count):
    """Drop one reference to each of the ``count`` blocks of a table, last block first.

    Blocks nobody refers to any more become free: with a key at the back of the list, without one at its
    front, as a group that keeps its order from the last block on.
    """
    front = 0
    for k in range(count - 1, -1, -1):
        block = pool[table + k]
        pool[_at(replica, REFERENCES, block)] -= 1
        if pool[_at(replica, REFERENCES, block)] > 0:
            continue
        if has_key(replica, pool, block):
            _link_after(replica, pool, block, pool[_at(replica, PREVIOUS, 0)])
        else:
            _link_after(replica, pool, block, front)
            front = block
