"""Copying one cluster into another place, compiled: what a simulation of the near future starts from.

Only what the future can touch is copied: requests that are not settled and those that will arrive in time, the filled
part of every heap, and the records, as words of eight bytes. Request ids shift on the way, because an id is a place in
the array of all requests. Nothing is allocated.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.heap import BACKWARDS
from burstenv.cluster.clients import NUMBERS
from burstenv.cluster.state import ClusterState
from burstenv.engine.enums import ATTAINED, AWAY, NOBODY
from burstenv.engine.records import ENTRY, ENTRY_ID, ENVIRONMENT, REPLICA, REQUEST

_ENVIRONMENT_WORDS = ENVIRONMENT.itemsize // 8
_REPLICA_WORDS = REPLICA.itemsize // 8
_REQUEST_WORDS = REQUEST.itemsize // 8
assert all(record.itemsize % 8 == 0 for record in (ENVIRONMENT, REPLICA, REQUEST))


def clusters(state: ClusterState) -> tuple[Any, ...]:
    """Return a state as the functions here take it: its four arrays, flat, and the records as 8-byte words."""
    environments, replicas, pool, requests = state.arrays()
    words = (records.view(np.int64) for records in (environments, replicas, requests))
    return environments, replicas, pool, requests, *words


def id_marks(state: ClusterState) -> np.ndarray:
    """Return which of a replica's integers in the pool are request ids, (fixed,) int8."""
    return state.layout.ids().astype(np.int8)


@kernel
def is_over(request):
    """Return whether nothing more happens to the request."""
    return request.status >= ATTAINED and request.status != AWAY


@kernel
def _copy_ids(source, source_base, target, target_base, count, shift):
    for k in range(count):
        target[target_base + k] = source[source_base + k] + shift


@kernel
def _copy_heap(source, source_base, target, target_base, stride, count, shift):
    for k in range(count):
        at, to = source_base + stride * k, target_base + stride * k
        for number in range(ENTRY):
            target[to + number] = source[at + number]
        target[to + ENTRY_ID] += shift


@outlined
def _copy_environment(source, i, target, j):
    """Copy the record of a cluster; where its parts lie stays, and ids move."""
    environments, words = source[0], source[4]
    mine, other = target[0][j], environments[i]
    first_replica, first_request = mine.first_replica, mine.first_request
    door, client, coming = mine.door_base, mine.client_base, mine.coming_base
    patience, arrival = mine.patience_base, mine.arrival_base
    for k in range(_ENVIRONMENT_WORDS):
        target[4][j * _ENVIRONMENT_WORDS + k] = words[i * _ENVIRONMENT_WORDS + k]
    mine.first_replica, mine.first_request = first_replica, first_request
    mine.door_base, mine.client_base, mine.coming_base = door, client, coming
    mine.patience_base, mine.arrival_base = patience, arrival
    shift = first_request - other.first_request
    mine.next_arrival += shift
    if mine.at_door != NOBODY:
        mine.at_door += shift
    return shift


@outlined
def _copy_replica(source, from_r, target, to_r, marks, shift):
    """Copy a replica with its integers and its queues."""
    other, mine = source[1][from_r], target[1][to_r]
    phase, finish = mine.phase_base, mine.finish_base
    live, hopeless, phase_list, flight = mine.live_base, mine.hopeless_base, mine.phase_list_base, mine.flight_base
    block, sequence, slot, table = mine.block_base, mine.sequence_base, mine.slot_base, mine.table_base
    for k in range(_REPLICA_WORDS):
        target[5][to_r * _REPLICA_WORDS + k] = source[5][from_r * _REPLICA_WORDS + k]
    mine.phase_base, mine.finish_base = phase, finish
    mine.live_base, mine.hopeless_base, mine.phase_list_base, mine.flight_base = live, hopeless, phase_list, flight
    mine.block_base, mine.sequence_base, mine.slot_base, mine.table_base = block, sequence, slot, table
    if mine.running_head != NOBODY:
        mine.running_head += shift
        mine.running_tail += shift
    if mine.prefill_id != NOBODY:
        mine.prefill_id += shift
    if mine.flight_first_prefill != NOBODY:
        mine.flight_first_prefill += shift
    if mine.livelock_id != NOBODY:
        mine.livelock_id += shift
    if mine.waiting_head != NOBODY:
        mine.waiting_head += shift
        mine.waiting_tail += shift
    pool, into = source[2], target[2]
    if mine.general or mine.prefix_caching:
        for k in range(marks.shape[0]):
            value = pool[other.phase_base + k]
            into[phase + k] = value + shift * (marks[k] & (value != NOBODY))
    else:  # of a replica of the fast engine only these are in use
        for k in range(mine.block_size):
            into[phase + k] = pool[other.phase_base + k]
        for k in range(mine.decoding):
            into[finish + 2 * k] = pool[other.finish_base + 2 * k]
            into[finish + 2 * k + 1] = pool[other.finish_base + 2 * k + 1] + shift
    _copy_heap(pool, other.live_base, into, live, ENTRY, mine.live_heap_size, shift)
    _copy_heap(pool, other.hopeless_base, into, hopeless, BACKWARDS, mine.hopeless_heap_size, shift)


@outlined
def copy_cluster(source, i, target, j, marks, low, high):
    """Copy cluster ``i`` of ``source`` over cluster ``j`` of ``target``.

    Args:
        source: What :func:`clusters` returns.
        i: Which cluster.
        target: The same of the state to write to; its clusters are built alike and hold as many requests at least.
        j: Which cluster of it.
        marks: See :func:`id_marks`.
        low: Number, within the episode, of the first request that is copied; those before must be over.
        high: Number behind the last one that is copied; those behind must not be touched by what comes.
    """
    shift = _copy_environment(source, i, target, j)
    other, mine = source[0][i], target[0][j]
    for r in range(mine.num_replicas):
        _copy_replica(source, other.first_replica + r, target, mine.first_replica + r, marks, shift)
    pool, into = source[2], target[2]
    _copy_heap(pool, other.door_base, into, mine.door_base, ENTRY, mine.deferred, shift)
    if mine.clients:
        _copy_heap(pool, other.coming_base, into, mine.coming_base, ENTRY, mine.coming, shift)
        _copy_ids(pool, other.patience_base, into, mine.patience_base, mine.impatient, shift)
        begin, to = other.client_base + low * NUMBERS, mine.client_base + low * NUMBERS
        for k in range((high - low) * NUMBERS):
            into[to + k] = pool[begin + k]
    begin, to = (other.first_request + low) * _REQUEST_WORDS, (mine.first_request + low) * _REQUEST_WORDS
    for k in range((high - low) * _REQUEST_WORDS):
        target[6][to + k] = source[6][begin + k]
    if shift != 0:
        for k in range(mine.first_request + low, mine.first_request + high):
            request = target[3][k]
            if request.next != NOBODY:
                request.next += shift
            if request.previous != NOBODY:
                request.previous += shift
