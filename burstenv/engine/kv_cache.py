"""KV blocks with prefix caching, compiled: the rules of :mod:`burstenv.engine.reference.kv_cache` on integers.

A replica's part of the arena holds, from ``block_base`` on, eight numbers for each block (block 0 is the head of the
free list): its neighbours in that list, its reference count, its key (stream and index), the next block in its hash
bucket, the iteration that computes its last token, and one unused: a block takes half a cache line. Then the
buckets; then a ring of the keys that were lost last, for routers, which know the cache as it was when the last
iteration ended; then, for each running sequence, its blocks in order.
A *stream* is a number for the origin of a position's tokens: session, or shared prefix.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined

NEXT, PREVIOUS, REFERENCES, STREAM, INDEX, CHAIN, ITERATION = range(7)
NUMBERS_OF_A_BLOCK = 8
FORGOTTEN = 1024  # latest lost keys kept; more than the iterations in flight take from the cache
NUMBERS_OF_A_KEY = 4  # of those: stream, index, the iteration that computed the block, the one that took it
NO_KEY = -1
ENDED = 0  # in place of an iteration's number: one that has ended


def bucket_count(num_blocks: int) -> int:
    """Return the number of hash buckets: a power of two of at least eight times the blocks, for few collisions."""
    return 1 << (8 * num_blocks - 1).bit_length()


def block_slots(num_blocks: int) -> int:
    """Return the number of the arena's integers for the blocks and buckets of a replica."""
    return NUMBERS_OF_A_BLOCK * (num_blocks + 1) + bucket_count(num_blocks) + NUMBERS_OF_A_KEY * FORGOTTEN


@kernel
def _bucket(stream, index, buckets, mask):
    # Streams are scattered, the blocks of one stream lie side by side: they are mostly visited in a row.
    return buckets + ((((stream * 0x9E3779B1) >> 8) + index) & mask)


@kernel
def _blocks(engine):
    """Return the arena indices of the blocks and the buckets, and the mask of a bucket's number.

    Called once before every loop: a kernel cannot know that writes to the arena leave a replica's record unchanged.
    """
    spec = engine.spec
    base = spec.block_base
    return base, base + NUMBERS_OF_A_BLOCK * (spec.num_blocks + 1), spec.bucket_count - 1


@kernel
def _forgotten(engine, number):
    """Return the arena index of the ``number``-th lost key, in a ring."""
    spec = engine.spec
    buckets = spec.block_base + NUMBERS_OF_A_BLOCK * (spec.num_blocks + 1)
    return buckets + spec.bucket_count + NUMBERS_OF_A_KEY * (number % FORGOTTEN)


@kernel
def reset_blocks(engine):
    """Free every block, in ascending order, and clear all keys."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    count = spec.num_blocks
    base, buckets, mask = _blocks(engine)
    for block in range(count + 1):
        at = base + NUMBERS_OF_A_BLOCK * block
        arena[at + NEXT] = block + 1 if block < count else 0
        arena[at + PREVIOUS] = block - 1 if block > 0 else count
        arena[at + REFERENCES] = 0
        arena[at + STREAM] = NO_KEY
        arena[at + CHAIN] = 0
        arena[at + ITERATION] = 0
    replica.forgotten = 0
    for bucket in range(mask + 1):
        arena[buckets + bucket] = 0


@kernel
def _link_after(arena, base, block, before):
    after = arena[base + NUMBERS_OF_A_BLOCK * before + NEXT]
    arena[base + NUMBERS_OF_A_BLOCK * block + PREVIOUS] = before
    arena[base + NUMBERS_OF_A_BLOCK * block + NEXT] = after
    arena[base + NUMBERS_OF_A_BLOCK * before + NEXT] = block
    arena[base + NUMBERS_OF_A_BLOCK * after + PREVIOUS] = block


@kernel
def _close_list(arena, base, last):
    arena[base + NUMBERS_OF_A_BLOCK * last + NEXT] = 0
    arena[base + PREVIOUS] = last


@kernel
def find_blocks(engine, stream, first, last, table):
    """Write the blocks first published under the keys (``stream``, ``first``) up to ``last`` (exclusive) into a table.

    Returns:
        The index of the first unpublished key, and the number of the found blocks in the free list.
    """
    arena = engine.arena
    base, buckets, mask = _blocks(engine)
    unused = 0
    for index in range(first, last):
        block = arena[_bucket(stream, index, buckets, mask)]
        at = base + NUMBERS_OF_A_BLOCK * block
        while block != 0:
            if arena[at + STREAM] == stream and arena[at + INDEX] == index:
                break
            block = arena[at + CHAIN]
            at = base + NUMBERS_OF_A_BLOCK * block
        if block == 0:
            return index, unused
        arena[table + index] = block
        unused += arena[at + REFERENCES] == 0
    return last, unused


@kernel
def computed_until(engine, stream, first, last, iteration):
    """Return the index of the first of the keys (``stream``, ``first``) up to ``last`` that no block holds.

    As :func:`find_blocks`, but read-only and as of the end of iteration ``iteration``: among the blocks computed by
    then, those included that an iteration in flight takes for other tokens.
    """
    arena = engine.arena
    base, buckets, mask = _blocks(engine)
    for index in range(first, last):
        block = arena[_bucket(stream, index, buckets, mask)]
        while block != 0:
            at = base + NUMBERS_OF_A_BLOCK * block
            if arena[at + STREAM] == stream and arena[at + INDEX] == index and arena[at + ITERATION] <= iteration:
                break
            block = arena[at + CHAIN]
        if block == 0 and not _is_being_taken(engine, stream, index, iteration):
            return index
    return last


@outlined
def _is_being_taken(engine, stream, index, iteration):
    """Return whether a block held the key when ``iteration`` ended, and was taken since."""
    replica, arena = engine.replica, engine.arena
    number = replica.forgotten - 1
    while number >= 0 and number >= replica.forgotten - FORGOTTEN:
        at = _forgotten(engine, number)
        if arena[at + 3] <= iteration:
            return False
        if arena[at] == stream and arena[at + 1] == index and arena[at + 2] <= iteration:
            return True
        number -= 1
    return False


@kernel
def publish_blocks(engine, table, stream, first, last, iteration):
    """Give the full blocks ``first`` to ``last`` (exclusive) of a table their keys, from the last on.

    Stops at a block that has one. A bucket keeps the order of publication. ``iteration`` computes the blocks.

    Returns:
        Whether it came to the first of them.
    """
    arena = engine.arena
    base, buckets, mask = _blocks(engine)
    for index in range(last - 1, first - 1, -1):
        block = arena[table + index]
        at = base + NUMBERS_OF_A_BLOCK * block
        if arena[at + STREAM] != NO_KEY:
            return False
        arena[at + STREAM] = stream
        arena[at + INDEX] = index
        arena[at + CHAIN] = 0
        arena[at + ITERATION] = iteration
        place = _bucket(stream, index, buckets, mask)
        while arena[place] != 0:
            place = base + NUMBERS_OF_A_BLOCK * arena[place] + CHAIN
        arena[place] = block
    return True


@kernel
def take_blocks(engine, table, count, iteration):
    """Write ``count`` blocks from the front of the free list into a table; cached ones lose their keys.

    ``iteration`` is the number of the one that takes them.
    """
    replica, arena = engine.replica, engine.arena
    base, buckets, mask = _blocks(engine)
    block = arena[base + NEXT]
    for k in range(count):
        at = base + NUMBERS_OF_A_BLOCK * block
        stream = arena[at + STREAM]
        if stream != NO_KEY:
            place = _bucket(stream, arena[at + INDEX], buckets, mask)
            while arena[place] != block:
                place = base + NUMBERS_OF_A_BLOCK * arena[place] + CHAIN
            arena[place] = arena[at + CHAIN]
            arena[at + STREAM] = NO_KEY
            if iteration != ENDED:
                lost = _forgotten(engine, replica.forgotten)
                arena[lost] = stream
                arena[lost + 1] = arena[at + INDEX]
                arena[lost + 2] = arena[at + ITERATION]
                arena[lost + 3] = iteration
                replica.forgotten += 1
        arena[at + REFERENCES] = 1
        arena[table + k] = block
        block = arena[at + NEXT]
    arena[base + NEXT] = block
    arena[base + NUMBERS_OF_A_BLOCK * block + PREVIOUS] = 0
    replica.free_blocks -= count


@kernel
def share_blocks(engine, table, count):
    """Take one more reference to each of the ``count`` cached blocks of a table.

    Those in the free list leave it. Blocks freed together lie there side by side, last block first, and are cut out as
    a whole.
    """
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    base = spec.block_base
    revived = 0
    k = 0
    while k < count:
        at = base + NUMBERS_OF_A_BLOCK * arena[table + k]
        references = arena[at + REFERENCES]
        arena[at + REFERENCES] = references + 1
        k += 1
        if references > 0:
            continue
        begin = k - 1
        before, after = arena[at + PREVIOUS], arena[at + NEXT]
        while k < count and arena[table + k] == before:
            at = base + NUMBERS_OF_A_BLOCK * before
            arena[at + REFERENCES] = 1
            before = arena[at + PREVIOUS]
            k += 1
        arena[base + NUMBERS_OF_A_BLOCK * before + NEXT] = after
        arena[base + NUMBERS_OF_A_BLOCK * after + PREVIOUS] = before
        revived += k - begin
    replica.free_blocks -= revived


@kernel
def release_blocks(engine, table, count):
    """Drop one reference to each of the ``count`` blocks of a table, last block first.

    Blocks without references become free: with a key at the back of the list, without one at its
    front, as a group that keeps its order from the last block on.
    """
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    base = spec.block_base
    front = 0
    back = arena[base + PREVIOUS]  # its successor is written with the next one
    freed = 0
    for k in range(count - 1, -1, -1):
        block = arena[table + k]
        at = base + NUMBERS_OF_A_BLOCK * block
        references = arena[at + REFERENCES] - 1
        arena[at + REFERENCES] = references
        if references > 0:
            continue
        freed += 1
        if arena[at + STREAM] != NO_KEY:
            arena[at + PREVIOUS] = back
            arena[base + NUMBERS_OF_A_BLOCK * back + NEXT] = block
            back = block
        else:
            _close_list(arena, base, back)
            _link_after(arena, base, block, front)
            front = block
            back = arena[base + PREVIOUS]
    _close_list(arena, base, back)
    replica.free_blocks += freed
