"""An indexed binary heap of request ids, smallest ``(key, id)`` on top.

The key and the position stand in the request's record, so any request can be removed in O(log n).
A request is in at most one heap at a time.
"""

from __future__ import annotations

from burstenv.cluster.kernel import kernel


@kernel
def _before(requests, a, b):
    key_a = requests[a].key
    key_b = requests[b].key
    return key_a < key_b or (key_a == key_b and a < b)


@kernel
def _sift_up(heap, requests, position):
    moving = heap[position]
    while position > 0:
        parent = (position - 1) >> 1
        if not _before(requests, moving, heap[parent]):
            break
        heap[position] = heap[parent]
        requests[heap[position]].heap_position = position
        position = parent
    heap[position] = moving
    requests[moving].heap_position = position


@kernel
def _sift_down(heap, size, requests, position):
    moving = heap[position]
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        if child + 1 < size and _before(requests, heap[child + 1], heap[child]):
            child += 1
        if not _before(requests, heap[child], moving):
            break
        heap[position] = heap[child]
        requests[heap[position]].heap_position = position
        position = child
    heap[position] = moving
    requests[moving].heap_position = position


@kernel
def heap_push(heap, size, requests, request_id):
    """Add a request to a heap of ``size`` entries (the caller counts)."""
    heap[size] = request_id
    _sift_up(heap, requests, size)


@kernel
def heap_remove(heap, size, requests, request_id):
    """Remove a request, wherever it stands, from a heap of ``size`` entries (the caller counts)."""
    position = requests[request_id].heap_position
    last = heap[size - 1]
    if position != size - 1:
        heap[position] = last
        requests[last].heap_position = position
        _sift_up(heap, requests, position)
        _sift_down(heap, size - 1, requests, requests[last].heap_position)


@kernel
def heap_rekey(heap, size, requests, request_id, key):
    """Give a request in the heap another key."""
    requests[request_id].key = key
    _sift_up(heap, requests, requests[request_id].heap_position)
    _sift_down(heap, size, requests, requests[request_id].heap_position)
