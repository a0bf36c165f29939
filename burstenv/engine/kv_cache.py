"""KV blocks with prefix caching, compiled: the rules of :mod:`burstenv.engine.reference.kv_cache` on integers.

A replica's part of the pool holds, from ``block_base`` on, seven numbers for each block (block 0 is the head of the
free list): its neighbours in that list, its reference count, its key (stream and index), the next block in its hash
bucket, and the iteration that computes its last token. Then the buckets; then a ring of the keys that were lost last,
for routers, which know the cache as it was when the last iteration ended; then, for each running sequence, its blocks
in order.
A *stream* is a number for everything that decides the tokens of a position: session, or shared prefix.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined

NEXT, PREVIOUS, REFERENCES, STREAM, INDEX, CHAIN, ITERATION = range(7)
NUMBERS_OF_A_BLOCK = 7
FORGOTTEN = 1024  # keys that were lost last; more than the iterations in flight take from the cache
NUMBERS_OF_A_KEY = 4  # of those: stream, index, the iteration that computed the block, the one that took it
NO_KEY = -1


def bucket_count(num_blocks: int) -> int:
    """Return the number of hash buckets: a power of two of at least eight times the blocks, so that few share one."""
    return 1 << (8 * num_blocks - 1).bit_length()


def block_slots(num_blocks: int) -> int:
    """Return how many integers of the pool the blocks and buckets of a replica take."""
    return NUMBERS_OF_A_BLOCK * (num_blocks + 1) + bucket_count(num_blocks) + NUMBERS_OF_A_KEY * FORGOTTEN


@kernel
def _bucket(stream, index, buckets, mask):
    # Streams are scattered, the blocks of one stream lie side by side: they are mostly visited in a row.
    return buckets + ((((stream * 0x9E3779B1) >> 8) + index) & mask)


@kernel
def _blocks(replica):
    """Return where in the pool the blocks and the buckets begin, and the mask of a bucket's number.

    Asked for once in every loop: a kernel cannot know that writing to the pool leaves a replica's record alone.
    """
    base = replica.block_base
    return base, base + NUMBERS_OF_A_BLOCK * (replica.num_blocks + 1), replica.bucket_count - 1


@kernel
def _forgotten(replica, number):
    """Return where in the pool the ``number``-th lost key stands, in a ring."""
    buckets = replica.block_base + NUMBERS_OF_A_BLOCK * (replica.num_blocks + 1)
    return buckets + replica.bucket_count + NUMBERS_OF_A_KEY * (number % FORGOTTEN)


@kernel
def reset_blocks(replica, pool):
    """Free every block, in ascending order, and forget all keys."""
    count = replica.num_blocks
    base, buckets, mask = _blocks(replica)
    for block in range(count + 1):
        at = base + NUMBERS_OF_A_BLOCK * block
        pool[at + NEXT] = block + 1 if block < count else 0
        pool[at + PREVIOUS] = block - 1 if block > 0 else count
        pool[at + REFERENCES] = 0
        pool[at + STREAM] = NO_KEY
        pool[at + CHAIN] = 0
        pool[at + ITERATION] = 0
    replica.forgotten = 0
    for bucket in range(mask + 1):
        pool[buckets + bucket] = 0


@kernel
def _link_after(pool, base, block, before):
    after = pool[base + NUMBERS_OF_A_BLOCK * before + NEXT]
    pool[base + NUMBERS_OF_A_BLOCK * block + PREVIOUS] = before
    pool[base + NUMBERS_OF_A_BLOCK * block + NEXT] = after
    pool[base + NUMBERS_OF_A_BLOCK * before + NEXT] = block
    pool[base + NUMBERS_OF_A_BLOCK * after + PREVIOUS] = block


@kernel
def _close_list(pool, base, last):
    pool[base + NUMBERS_OF_A_BLOCK * last + NEXT] = 0
    pool[base + PREVIOUS] = last


@kernel
def find_blocks(replica, pool, stream, first, last, table):
    """Write the blocks first published under the keys (``stream``, ``first``) up to ``last`` (exclusive) into a table.

    Returns:
        The index of the first key nobody has published, and how many of the blocks found are in the free list.
    """
    base, buckets, mask = _blocks(replica)
    unused = 0
    for index in range(first, last):
        block = pool[_bucket(stream, index, buckets, mask)]
        at = base + NUMBERS_OF_A_BLOCK * block
        while block != 0:
            if pool[at + STREAM] == stream and pool[at + INDEX] == index:
                break
            block = pool[at + CHAIN]
            at = base + NUMBERS_OF_A_BLOCK * block
        if block == 0:
            return index, unused
        pool[table + index] = block
        unused += pool[at + REFERENCES] == 0
    return last, unused


@kernel
def computed_until(replica, pool, stream, first, last, iteration):
    """Return the index of the first of the keys (``stream``, ``first``) up to ``last`` that no block holds.

    As :func:`find_blocks`, for those who only ask, as it was when iteration ``iteration`` ended: among the blocks that
    it or one before computed, those included that one in flight takes for other tokens.
    """
    base, buckets, mask = _blocks(replica)
    for index in range(first, last):
        block = pool[_bucket(stream, index, buckets, mask)]
        while block != 0:
            at = base + NUMBERS_OF_A_BLOCK * block
            if pool[at + STREAM] == stream and pool[at + INDEX] == index and pool[at + ITERATION] <= iteration:
                break
            block = pool[at + CHAIN]
        if block == 0 and not _is_being_taken(replica, pool, stream, index, iteration):
            return index
    return last


@outlined
def _is_being_taken(replica, pool, stream, index, iteration):
    """Return whether a block held the key when ``iteration`` ended, and was taken since."""
    number = replica.forgotten - 1
    while number >= 0 and number >= replica.forgotten - FORGOTTEN:
        at = _forgotten(replica, number)
        if pool[at + 3] <= iteration:
            return False
        if pool[at] == stream and pool[at + 1] == index and pool[at + 2] <= iteration:
            return True
        number -= 1
    return False


@kernel
def publish_blocks(replica, pool, table, stream, first, last, iteration):
    """Give the full blocks ``first`` to ``last`` (exclusive) of a table their keys, from the last on.

    Stops at a block that has one. A bucket keeps the order of publication. ``iteration`` computes the blocks.

    Returns:
        Whether it came to the first of them.
    """
    base, buckets, mask = _blocks(replica)
    for index in range(last - 1, first - 1, -1):
        block = pool[table + index]
        at = base + NUMBERS_OF_A_BLOCK * block
        if pool[at + STREAM] != NO_KEY:
            return False
        pool[at + STREAM] = stream
        pool[at + INDEX] = index
        pool[at + CHAIN] = 0
        pool[at + ITERATION] = iteration
        place = _bucket(stream, index, buckets, mask)
        while pool[place] != 0:
            place = base + NUMBERS_OF_A_BLOCK * pool[place] + CHAIN
        pool[place] = block
    return True


@kernel
def take_blocks(replica, pool, table, count, iteration):
    """Write ``count`` blocks from the front of the free list into a table; cached ones are forgotten.

    ``iteration`` is the number of the one that takes them.
    """
    base, buckets, mask = _blocks(replica)
    block = pool[base + NEXT]
    for k in range(count):
        at = base + NUMBERS_OF_A_BLOCK * block
        stream = pool[at + STREAM]
        if stream != NO_KEY:
            place = _bucket(stream, pool[at + INDEX], buckets, mask)
            while pool[place] != block:
                place = base + NUMBERS_OF_A_BLOCK * pool[place] + CHAIN
            pool[place] = pool[at + CHAIN]
            pool[at + STREAM] = NO_KEY
            lost = _forgotten(replica, replica.forgotten)
            pool[lost] = stream
            pool[lost + 1] = pool[at + INDEX]
            pool[lost + 2] = pool[at + ITERATION]
            pool[lost + 3] = iteration
            replica.forgotten += 1
        pool[at + REFERENCES] = 1
        pool[table + k] = block
        block = pool[at + NEXT]
    pool[base + NEXT] = block
    pool[base + NUMBERS_OF_A_BLOCK * block + PREVIOUS] = 0
    replica.free_blocks -= count


@kernel
def share_blocks(replica, pool, table, count):
    """Take one more reference to each of the ``count`` cached blocks of a table.

    Those in the free list leave it. What was freed together lies there side by side, last block first, and is cut out
    as a whole.
    """
    base = replica.block_base
    revived = 0
    k = 0
    while k < count:
        at = base + NUMBERS_OF_A_BLOCK * pool[table + k]
        references = pool[at + REFERENCES]
        pool[at + REFERENCES] = references + 1
        k += 1
        if references > 0:
            continue
        begin = k - 1
        before, after = pool[at + PREVIOUS], pool[at + NEXT]
        while k < count and pool[table + k] == before:
            at = base + NUMBERS_OF_A_BLOCK * before
            pool[at + REFERENCES] = 1
            before = pool[at + PREVIOUS]
            k += 1
        pool[base + NUMBERS_OF_A_BLOCK * before + NEXT] = after
        pool[base + NUMBERS_OF_A_BLOCK * after + PREVIOUS] = before
        revived += k - begin
    replica.free_blocks -= revived


@kernel
def release_blocks(replica, pool, table, count):
    """Drop one reference to each of the ``count`` blocks of a table, last block first.

    Blocks nobody refers to any more become free: with a key at the back of the list, without one at its
    front, as a group that keeps its order from the last block on.
    """
    base = replica.block_base
    front = 0
    back = pool[base + PREVIOUS]  # what follows it is written when the next one comes
    freed = 0
    for k in range(count - 1, -1, -1):
        block = pool[table + k]
        at = base + NUMBERS_OF_A_BLOCK * block
        references = pool[at + REFERENCES] - 1
        pool[at + REFERENCES] = references
        if references > 0:
            continue
        freed += 1
        if pool[at + STREAM] != NO_KEY:
            pool[at + PREVIOUS] = back
            pool[base + NUMBERS_OF_A_BLOCK * back + NEXT] = block
            back = block
        else:
            _close_list(pool, base, back)
            _link_after(pool, base, block, front)
            front = block
            back = pool[base + PREVIOUS]
    _close_list(pool, base, back)
    replica.free_blocks += freed
