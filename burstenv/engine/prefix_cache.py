"""A request's KV blocks, compiled: growing, publishing, sharing a cached prefix, freeing.

With prefix caching a running request has a table of its blocks; without, only their number counts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.iterations import last_ended_iteration
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


class Cache(NamedTuple):
    """The part of an Engine that functions need that only look at blocks: less to hand over at every call."""

    replica: Any
    spec: Any
    arena: Any


@kernel
def stream_of(engine, request, index):
    """Return the stream of the tokens of a request's block."""
    spec = engine.spec
    if (index + 1) * spec.block_size <= request.prefix_tokens:
        return request.prefix_stream
    return request.stream


@kernel
def _shared_blocks(engine, request):
    """Return the number of the request's first blocks with tokens of its shared prefix alone."""
    spec = engine.spec
    return full_blocks(request.prefix_tokens, spec.block_size)


@kernel
def sequence_of(engine, request):
    """Return the arena index of a running request's numbers, see ``NUMBERS_OF_A_SEQUENCE``."""
    spec = engine.spec
    return spec.sequence_base + NUMBERS_OF_A_SEQUENCE * request.place


@kernel
def table_of(engine, request):
    """Return the arena index of a running request's block numbers."""
    spec = engine.spec
    return spec.table_base + request.place * spec.table_size


@outlined
def _grow_blocks(cache, request, tokens, iteration):
    replica, spec, arena = cache.replica, cache.spec, cache.arena
    needed = blocks_of(min(tokens, spec.max_model_len), spec.block_size)
    held = sequence_of(cache, request) + BLOCKS
    more = needed - arena[held]
    if more > replica.free_blocks:
        return False
    if more > 0:
        if spec.prefix_caching:
            take_blocks(cache, table_of(cache, request) + arena[held], more, iteration)
        else:
            replica.free_blocks -= more
        arena[held] = needed
    return True


@kernel
def grow_blocks(engine, request, tokens, iteration):
    """Give the request the blocks for ``tokens`` tokens, in iteration number ``iteration``, if enough are free."""
    return _grow_blocks(Cache(engine.replica, engine.spec, engine.arena), request, tokens, iteration)


@outlined
def _give_back_blocks(cache, request):
    replica, spec, arena = cache.replica, cache.spec, cache.arena
    blocks = arena[sequence_of(cache, request) + BLOCKS]
    if spec.prefix_caching:
        release_blocks(cache, table_of(cache, request), blocks)
    else:
        replica.free_blocks += blocks
    arena[spec.slot_base + replica.free_slots] = request.place
    replica.free_slots += 1


@kernel
def give_back_blocks(engine, request):
    """Free all blocks of a request, and its slot among the sequences."""
    _give_back_blocks(Cache(engine.replica, engine.spec, engine.arena), request)


@outlined
def _publish_full_blocks(cache, request, tokens, iteration):
    spec = cache.spec
    if not spec.prefix_caching:
        return
    table = table_of(cache, request)
    full = full_blocks(tokens, spec.block_size)
    shared = min(_shared_blocks(cache, request), full)
    if publish_blocks(cache, table, request.stream, shared, full, iteration) and shared > 0:
        publish_blocks(cache, table, request.prefix_stream, 0, shared, iteration)


@kernel
def publish_full_blocks(engine, request, tokens, iteration):
    """Set the keys of the request's blocks that are full with ``tokens`` known tokens.

    ``iteration`` is the number of the one that computes the last of these tokens.
    """
    _publish_full_blocks(Cache(engine.replica, engine.spec, engine.arena), request, tokens, iteration)


@kernel
def _next_table(engine):
    """Return the arena index of the next admitted request's table."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    return spec.table_base + arena[spec.slot_base + replica.free_slots - 1] * spec.table_size


@outlined
def _find_prefix(cache, request):
    spec = cache.spec
    most = full_blocks(tokens_to_compute(request) - 1, spec.block_size)
    table = _next_table(cache)
    shared = min(_shared_blocks(cache, request), most)
    hits, unused = find_blocks(cache, request.prefix_stream, 0, shared, table)
    if hits < shared:
        return hits, unused
    hits, further = find_blocks(cache, request.stream, shared, most, table)
    return hits, unused + further


@outlined
def prefix_hit_tokens(engine, request_id):
    """Return the number of a request's prompt tokens in the replica's prefix cache, as known to a router [tokens].

    Read-only. Routers know it from the engines' KV events (llm-d's precise prefix scorer, Dynamo's KV router). Engines
    send these after every iteration, independent of the period of metrics: a block counts from the end of the iteration
    that computes it to the end of the one that takes it for other tokens. The engine itself shares a block from the
    iteration on that computes it. 0 without prefix caching. At least one
    token is always computed, as at admission.
    """
    spec, requests = engine.spec, engine.requests
    if not spec.prefix_caching:
        return 0
    request = requests[request_id]
    most = full_blocks(tokens_to_compute(request) - 1, spec.block_size)
    shared = min(_shared_blocks(engine, request), most)
    ended = last_ended_iteration(engine)
    hits = computed_until(engine, request.prefix_stream, 0, shared, ended)
    if hits == shared:
        hits = computed_until(engine, request.stream, shared, most, ended)
    return hits * spec.block_size


@kernel
def cached_blocks(engine, request):
    """Return the number of blocks the request could share, and the number of these in the free list.

    Writes them to the position of its table. At least one token is always computed.
    """
    spec = engine.spec
    if spec.prefix_caching:
        return _find_prefix(Cache(engine.replica, engine.spec, engine.arena), request)
    return 0, 0


@outlined
def _open_sequence(cache, request, hits):
    replica, spec, arena = cache.replica, cache.spec, cache.arena
    replica.free_slots -= 1
    request.place = arena[spec.slot_base + replica.free_slots]
    sequence = sequence_of(cache, request)
    arena[sequence + STEP_TOKENS] = 0
    arena[sequence + BLOCKS] = hits
    arena[sequence + FOUND_BLOCKS] = hits
    arena[sequence + ADMISSION] = replica.admissions
    replica.admissions += 1
    if hits > 0:
        share_blocks(cache, table_of(cache, request), hits)


@kernel
def open_sequence(engine, request, hits):
    """Give a request at its admission a slot and a table that starts with the ``hits`` blocks just found.

    For the general engine and with prefix caching; otherwise requests have no table.
    """
    _open_sequence(Cache(engine.replica, engine.spec, engine.arena), request, hits)
