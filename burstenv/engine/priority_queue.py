"""The waiting queue of vLLM's priority policy, compiled: a binary heap by (priority, arrival, number of the request).

Priorities and arrival times stay in the request records, exact to all their 64 bits. The heap uses the section of
the arena that :mod:`burstenv._jit.heap` uses for the other orders, and only the id of each entry.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv.engine.records import ENTRY, ENTRY_ID


@kernel
def _before(requests, a, b):
    one, other = requests[a], requests[b]
    if one.priority != other.priority:
        return one.priority < other.priority
    if one.arrival_s != other.arrival_s:
        return one.arrival_s < other.arrival_s
    return a < b


@kernel
def _sift_up(arena, requests, base, position, request_id):
    while position > 0:
        parent = (position - 1) >> 1
        parent_id = arena[base + ENTRY * parent + ENTRY_ID]
        if not _before(requests, request_id, parent_id):
            break
        arena[base + ENTRY * position + ENTRY_ID] = parent_id
        position = parent
    arena[base + ENTRY * position + ENTRY_ID] = request_id


@kernel
def _sift_down(arena, requests, base, size, position, request_id):
    while 2 * position + 1 < size:
        child = 2 * position + 1
        child_id = arena[base + ENTRY * child + ENTRY_ID]
        if child + 1 < size:
            other_id = arena[base + ENTRY * (child + 1) + ENTRY_ID]
            if _before(requests, other_id, child_id):
                child, child_id = child + 1, other_id
        if not _before(requests, child_id, request_id):
            break
        arena[base + ENTRY * position + ENTRY_ID] = child_id
        position = child
    arena[base + ENTRY * position + ENTRY_ID] = request_id


@kernel
def _replace(arena, requests, base, size, position, request_id):
    """Replace an entry and restore the heap's order."""
    if position > 0 and _before(requests, request_id, arena[base + ENTRY * ((position - 1) >> 1) + ENTRY_ID]):
        _sift_up(arena, requests, base, position, request_id)
    else:
        _sift_down(arena, requests, base, size, position, request_id)


@kernel
def _position_of(arena, base, request_id):
    position = 0
    while arena[base + ENTRY * position + ENTRY_ID] != request_id:
        position += 1
    return position


@kernel
def priority_push(arena, requests, base, size, request_id):
    """Add a request to a queue of ``size`` entries (the caller counts)."""
    _sift_up(arena, requests, base, size, request_id)


@kernel
def priority_remove(arena, requests, base, size, request_id):
    """Remove a request at any position from a queue of ``size`` entries (the caller counts)."""
    position, last = _position_of(arena, base, request_id), size - 1
    if position < last:
        _replace(arena, requests, base, last, position, arena[base + ENTRY * last + ENTRY_ID])


@kernel
def priority_rename(arena, requests, base, size, old, new):
    """Let a request at any position of a queue of ``size`` entries have the id ``new``, with the same priority."""
    _replace(arena, requests, base, size, _position_of(arena, base, old), new)
