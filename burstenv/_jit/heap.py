"""A binary heap of request ids with their keys, smallest ``(key, id)`` on top.

A heap is a section of the arena: entry k begins at ``base + stride k``. Two heaps can share a section that is long
enough for both together, one growing from each end. An entry is a key, in two integers, and an id: comparing entries
touches no request record. Removing another entry than the first is rare and searches for it.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv._jit.floats import put_real, real_at
from burstenv.engine.records import ENTRY, ENTRY_ID

BACKWARDS = -ENTRY  # the stride of a heap that grows from the end of its section; ENTRY is that of the others


@kernel
def heap_first(arena, base):
    """Return the id on top of a heap that is not empty."""
    return arena[base + ENTRY_ID]


@kernel
def heap_first_key(arena, base):
    """Return the smallest key of a heap that is not empty."""
    return real_at(arena, base)


@kernel
def _put(arena, at, key, request_id):
    put_real(arena, at, key)
    arena[at + ENTRY_ID] = request_id


@kernel
def _before(key_a, a, key_b, b):
    return key_a < key_b or (key_a == key_b and a < b)


@kernel
def _sift_up(arena, base, stride, position, key, request_id):
    while position > 0:
        parent = (position - 1) >> 1
        at = base + stride * parent
        parent_key, parent_id = real_at(arena, at), arena[at + ENTRY_ID]
        if not _before(key, request_id, parent_key, parent_id):
            break
        _put(arena, base + stride * position, parent_key, parent_id)
        position = parent
    _put(arena, base + stride * position, key, request_id)


@kernel
def _sift_down(arena, base, stride, size, position, key, request_id):
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        at = base + stride * child
        child_key, child_id = real_at(arena, at), arena[at + ENTRY_ID]
        if child + 1 < size:
            at += stride
            other_key, other_id = real_at(arena, at), arena[at + ENTRY_ID]
            if _before(other_key, other_id, child_key, child_id):
                child += 1
                child_key, child_id = other_key, other_id
        if not _before(child_key, child_id, key, request_id):
            break
        _put(arena, base + stride * position, child_key, child_id)
        position = child
    _put(arena, base + stride * position, key, request_id)


@kernel
def _replace(arena, base, stride, size, position, key, request_id):
    """Replace an entry and restore the heap's order."""
    if position > 0:
        at = base + stride * ((position - 1) >> 1)
        if _before(key, request_id, real_at(arena, at), arena[at + ENTRY_ID]):
            _sift_up(arena, base, stride, position, key, request_id)
            return
    _sift_down(arena, base, stride, size, position, key, request_id)


@kernel
def _position_of(arena, base, stride, request_id):
    position = 0
    while arena[base + stride * position + ENTRY_ID] != request_id:
        position += 1
    return position


@kernel
def heap_push(arena, base, stride, size, key, request_id):
    """Add a request to a heap of ``size`` entries (the caller counts)."""
    _sift_up(arena, base, stride, size, key, request_id)


@kernel
def heap_rename(arena, base, stride, size, old, new):
    """Let a request at any position of a heap of ``size`` entries have the id ``new``."""
    position = _position_of(arena, base, stride, old)
    _replace(arena, base, stride, size, position, real_at(arena, base + stride * position), new)


@kernel
def heap_remove(arena, base, stride, size, request_id):
    """Remove a request at any position from a heap of ``size`` entries (the caller counts)."""
    position, last = _position_of(arena, base, stride, request_id), size - 1
    if position < last:
        at = base + stride * last
        _replace(arena, base, stride, last, position, real_at(arena, at), arena[at + ENTRY_ID])
