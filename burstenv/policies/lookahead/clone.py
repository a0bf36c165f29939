"""Copies of one cluster, compiled: the start of a simulation of the near future.

A copy holds only the data that the future can touch: unsettled requests and those that will arrive in time, the filled
part of every heap, and the records, as words of eight bytes. A copy needs no translation. Copying allocates no memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.heap import BACKWARDS
from burstenv.cluster.records import MEMORY
from burstenv.cluster.state import ClusterState
from burstenv.engine.arena import CLIENT_NUMBERS, FAULT_NUMBERS
from burstenv.engine.enums import ATTAINED, AWAY, TRANSFERRING
from burstenv.engine.kv_cache import LOST, NUMBERS_OF_A_SPAN
from burstenv.engine.records import ENTRY, ENVIRONMENT, EVENT, NUMBERS_OF_A_SEQUENCE, REPLICA, REQUEST

REQUEST_WORDS = REQUEST.itemsize // 8
assert all(record.itemsize % 8 == 0 for record in (ENVIRONMENT, MEMORY, REPLICA, REQUEST))


class Copies(NamedTuple):
    """The arrays of a batch of clusters, as in ``Arrays``, and the records also as words of eight bytes."""

    environments: Any
    memories: Any
    replicas: Any
    arenas: Any
    requests: Any
    gateway: Any
    specs: Any
    modes: Any
    environment_words: Any  # (N, words) int64
    memory_words: Any
    replica_words: Any  # of all replicas
    request_words: Any  # of all requests


def copies(state: ClusterState) -> Copies:
    """Return a state in the form of these functions."""
    arrays = state.arrays()
    changing = arrays.environments, arrays.memories, arrays.replicas, arrays.requests
    return Copies(*arrays, *(a.reshape(-1).view(np.int64).reshape(len(a), -1) for a in changing))


@kernel
def is_over(request):
    """Return whether the request is settled for good."""
    return request.status >= ATTAINED and request.status != AWAY and request.status != TRANSFERRING


@kernel
def _copy(source, source_base, target, target_base, count):
    for k in range(count):
        target[target_base + k] = source[source_base + k]


@kernel
def copy_memory(source, i, target, j):
    """Copy the policies' memory of cluster ``i`` of ``source`` to cluster ``j`` of ``target``."""
    words, into = source.memory_words[i], target.memory_words[j]
    _copy(words, 0, into, 0, len(words))


@kernel
def copy_request(source, i, number, target, j, to):
    """Copy a request of cluster ``i`` of ``source`` over request number ``to`` of cluster ``j`` of ``target``."""
    words, into = source.request_words[i], target.request_words[j]
    _copy(words, number * REQUEST_WORDS, into, to * REQUEST_WORDS, REQUEST_WORDS)


@kernel
def _copy_sections(source, target, arena, into, r, replica):
    """Copy a replica's integers and its queue."""
    own, other = source.specs[r], target.specs[r]
    if own.general or own.prefix_caching:
        _copy(arena, own.phase_base, into, other.phase_base, own.span_base - own.phase_base)
        if own.prefix_caching:
            _copy(arena, own.span_base, into, other.span_base, NUMBERS_OF_A_SPAN * (replica.spans + 1))
            _copy(arena, own.bucket_base, into, other.bucket_base, own.bucket_count)
            _copy(arena, own.lost_base, into, other.lost_base, NUMBERS_OF_A_SPAN * min(replica.lost, LOST))
        _copy(arena, own.slot_base, into, other.slot_base, own.sequence_base - own.slot_base)
        used = 0  # the lowest slot that was ever taken: those below it lie in the stack of free ones as at first
        while used < replica.free_slots and arena[own.slot_base + used] == used:
            used += 1
        place = NUMBERS_OF_A_SEQUENCE * used
        _copy(arena, own.sequence_base + place, into, other.sequence_base + place,
              own.table_base - own.sequence_base - place)  # fmt: skip
        place = 2 * own.table_size * used
        _copy(arena, own.table_base + place, into, other.table_base + place,
              own.share_base - own.table_base - place)  # fmt: skip
    else:  # of a replica of the fast engine only these are in use
        _copy(arena, own.phase_base, into, other.phase_base, own.block_size)
        _copy(arena, own.finish_base, into, other.finish_base, 2 * replica.decoding)
        _copy(arena, own.flight_base, into, other.flight_base, replica.awaited)
    _copy(arena, own.live_base, into, other.live_base, ENTRY * replica.live_heap_size)
    back = BACKWARDS * (replica.hopeless_heap_size - 1)  # it grows from its end
    _copy(arena, own.hopeless_base + back, into, other.hopeless_base + back, ENTRY * replica.hopeless_heap_size)


@outlined
def copy_replica(source, i, target, j, r):
    """Copy a replica of cluster ``i`` of ``source``, and the environment, over those of cluster ``j`` of ``target``."""
    words, into_words = source.environment_words[i], target.environment_words[j]
    _copy(words, 0, into_words, 0, len(words))
    words, into_words = source.replica_words[i], target.replica_words[j]
    length = len(words) // len(source.specs)
    _copy(words, r * length, into_words, r * length, length)
    arena, into = source.arenas[i], target.arenas[j]
    _copy(arena, 0, into, 0, source.specs[0].phase_base)  # the classes, and what the gateways know
    _copy_sections(source, target, arena, into, r, source.replicas[i, r])


@outlined
def copy_cluster(source, i, target, j, low, high):
    """Copy cluster ``i`` of ``source`` over cluster ``j`` of ``target``.

    Args:
        source: Copies.
        i: Index of the cluster.
        target: Copies of the state to write to; its clusters have the same build and hold at least as many requests.
        j: Index of its cluster.
        low: Number of the first copied request; those before must be over.
        high: Number after the last copied request; the simulation must not touch later ones.
    """
    words, into_words = source.environment_words[i], target.environment_words[j]
    _copy(words, 0, into_words, 0, len(words))
    copy_memory(source, i, target, j)
    words, into_words = source.replica_words[i], target.replica_words[j]
    _copy(words, 0, into_words, 0, len(words))
    words, into_words = source.request_words[i], target.request_words[j]
    _copy(words, low * REQUEST_WORDS, into_words, low * REQUEST_WORDS, (high - low) * REQUEST_WORDS)
    arena, into = source.arenas[i], target.arenas[j]
    environment, own, other = source.environments[i], source.gateway[0], target.gateway[0]
    _copy(arena, 0, into, 0, source.specs[0].phase_base)  # the classes, and what the gateways know
    for r in range(len(source.specs)):
        _copy_sections(source, target, arena, into, r, source.replicas[i, r])
    _copy(arena, own.event_base, into, other.event_base, EVENT * environment.events)
    if own.transfers:
        _copy(arena, own.transfer_base, into, other.transfer_base, own.transfer_places * own.transfer_size)
    if own.changes:
        _copy(arena, own.fault_base, into, other.fault_base, FAULT_NUMBERS * environment.num_faults)
    if own.clients:
        first, length = low * CLIENT_NUMBERS, (high - low) * CLIENT_NUMBERS
        _copy(arena, own.ended_base, into, other.ended_base, environment.ended)
        _copy(arena, own.client_base + first, into, other.client_base + first, length)
