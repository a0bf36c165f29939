"""A request's KV blocks, compiled: growing, publishing, sharing a cached prefix, giving back.

With prefix caching a running request has a table of its blocks; without, only their number counts.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.kv_cache import (
    computed_until,
    find_blocks,
    publish_blocks,
    release_blocks,
    share_blocks,
    take_blocks,
)
from burstenv.engine.queues import blocks_of, full_blocks, tokens_to_compute
from burstenv.engine.records import ADMISSION, BLOCKS, FOUND_BLOCKS, NUMBERS_OF_A_SEQUENCE, STEP_TOKENS


@kernel
def last_ended_iteration(replica):
    """Return the number of the last iteration that has ended, counted from 1."""
    return replica.ended_iterations if replica.general else replica.iterations - replica.in_flight


@kernel
def next_iteration(replica):
    """Return the number of the iteration that is scheduled next, or being scheduled."""
    return last_ended_iteration(replica) + replica.in_flight + 1


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
            take_blocks(replica, pool, table_of(replica, request) + pool[held], more, next_iteration(replica))
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
def publish_full_blocks(replica, pool, request, tokens, iteration):
    """Give their keys to the request's blocks that ``tokens`` tokens, all of them known, fill.

    ``iteration`` is the number of the one that computes the last of these tokens.
    """
    if not replica.prefix_caching:
        return
    table = table_of(replica, request)
    full = full_blocks(tokens, replica.block_size)
    shared = min(_shared_blocks(replica, request), full)
    if publish_blocks(replica, pool, table, request.stream, shared, full, iteration) and shared > 0:
        publish_blocks(replica, pool, table, request.prefix_stream, 0, shared, iteration)


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
    """Return how many prompt tokens of a request a router knows to be in the replica's prefix cache [tokens].

    Changes nothing. This is what routers that follow the engines' KV events know (llm-d's precise prefix scorer,
    Dynamo's KV router). Engines send them after every iteration, whatever the period at which metrics are read: a
    block counts from the end of the iteration that computes it to the end of the one that takes it for other tokens.
    The engine itself shares a block from the iteration on that computes it. 0 without prefix caching. At least one
    token is always computed, as at admission.
    """
    if not replica.prefix_caching:
        return 0
    request = requests[request_id]
    most = full_blocks(tokens_to_compute(request) - 1, replica.block_size)
    shared = min(_shared_blocks(replica, request), most)
    ended = last_ended_iteration(replica)
    hits = computed_until(replica, pool, request.prefix_stream, 0, shared, ended)
    if hits == shared:
        hits = computed_until(replica, pool, request.stream, shared, most, ended)
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
