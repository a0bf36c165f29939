"""An indexed binary heap of request ids, smallest ``(key, id)`` on top.

A heap is a stretch of the pool that begins at ``base``. The key and the position stand in the
request's record, so any request can be removed in O(log n); a request is in at most one heap at a time.
"""

from __future__ import annotations

from burstenv.cluster.kernel import kernel


@kernel
def _before(requests, a, b):
    key_a = requests[a].key
    key_b = requests[b].key
    return key_a < key_b or (key_a == key_b and a < b)


@kernel
def _sift_up(pool, base, requests, position):
    moving = pool[base + position]
    while position > 0:
        parent = (position - 1) >> 1
        if not _before(requests, moving, pool[base + parent]):
            break
        pool[base + position] = pool[base + parent]
        requests[pool[base + position]].place = position
        position = parent
    pool[base + position] = moving
    requests[moving].place = position


@kernel
def _sift_down(pool, base, size, requests, position):
    moving = pool[base + position]
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and _before(requests, pool[base + child + 1], pool[base + child]):
            child += 1
        if not _before(requests, pool[base + child], moving):
            break
        pool[base + position] = pool[base + child]
        requests[pool[base + position]].place = position
        position = child
    pool[base + position] = moving
    requests[moving].place = position


@kernel
def heap_push(pool, base, size, requests, request_id):
    """Add a request to a heap of ``size`` entries (the caller counts)."""
    pool[base + size] = request_id
    _sift_up(pool, base, requests, size)


@kernel
def heap_remove(pool, base, size, requests, request_id):
    """Remove a request, wherever it stands, from a heap of ``size`` entries (the caller counts)."""
    position = requests[request_id].place
    last = pool[base + size - 1]
    if position != size - 1:
        pool[base + position] = last
        requests[last].place = position
        _sift_up(pool, base, requests, position)
        _sift_down(pool, base, size - 1, requests, requests[last].place)


@kernel
def heap_rekey(pool, base, size, requests, request_id, key):
    """Give a request in the heap another key."""
    requests[request_id].key = key
    _sift_up(pool, base, requests, requests[request_id].place)
    _sift_down(pool, base, size, requests, requests[request_id].place)
