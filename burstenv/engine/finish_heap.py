"""When each decoder of a replica finishes, compiled: a binary heap, smallest ``(decode step, id)`` on top.

An entry is a step and an id, in the replica's own part of the pool, so that pushing and popping touch no request
record. The rare removal of another entry than the first searches for it: a replica runs
at most a few hundred sequences.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel


@kernel
def _sift_up(pool, base, position, step, request_id):
    while position > 0:
        parent = (position - 1) >> 1
        at = base + 2 * parent
        parent_step, parent_id = pool[at], pool[at + 1]
        if parent_step < step or (parent_step == step and parent_id < request_id):
            break
        pool[base + 2 * position] = parent_step
        pool[base + 2 * position + 1] = parent_id
        position = parent
    pool[base + 2 * position] = step
    pool[base + 2 * position + 1] = request_id


@kernel
def _sift_down(pool, base, size, position, step, request_id):
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        at = base + 2 * child
        child_step, child_id = pool[at], pool[at + 1]
        if child + 1 < size:
            other_step, other_id = pool[at + 2], pool[at + 3]
            if other_step < child_step or (other_step == child_step and other_id < child_id):
                child += 1
                child_step, child_id = other_step, other_id
        if step < child_step or (step == child_step and request_id < child_id):
            break
        pool[base + 2 * position] = child_step
        pool[base + 2 * position + 1] = child_id
        position = child
    pool[base + 2 * position] = step
    pool[base + 2 * position + 1] = request_id


@kernel
def next_finish_step(replica, pool):
    """Return the decode step at which the next decoder finishes; there must be one."""
    return pool[replica.finish_base]


@kernel
def next_finisher(replica, pool):
    """Return the id of the decoder that finishes next; there must be one."""
    return pool[replica.finish_base + 1]


@kernel
def decoder_at(replica, pool, position):
    """Return the id of the decoder at a position of the heap."""
    return pool[replica.finish_base + 2 * position + 1]


@kernel
def finish_heap_push(replica, pool, step, request_id):
    """Enter a decoder that finishes at ``step``."""
    _sift_up(pool, replica.finish_base, replica.decoding, step, request_id)
    replica.decoding += 1


@kernel
def _replace(replica, pool, position, step, request_id):
    """Put another entry in the place of one, wherever it belongs then."""
    base = replica.finish_base
    at = base + 2 * ((position - 1) >> 1)
    if position > 0 and (step < pool[at] or (step == pool[at] and request_id < pool[at + 1])):
        _sift_up(pool, base, position, step, request_id)
    else:
        _sift_down(pool, base, replica.decoding, position, step, request_id)


@kernel
def _position_of(replica, pool, request_id):
    position = 0
    while decoder_at(replica, pool, position) != request_id:
        position += 1
    return position


@kernel
def finish_heap_remove(replica, pool, request_id):
    """Remove a decoder, wherever it stands; return the step at which it would have finished."""
    position = _position_of(replica, pool, request_id)
    step = pool[replica.finish_base + 2 * position]
    replica.decoding -= 1
    last = replica.decoding
    if position < last:
        at = replica.finish_base + 2 * last
        _replace(replica, pool, position, pool[at], pool[at + 1])
    return step


@kernel
def finish_later(replica, pool, request_id, steps):
    """Put off the finish of a decoder by ``steps``."""
    position = _position_of(replica, pool, request_id)
    _replace(replica, pool, position, pool[replica.finish_base + 2 * position] + steps, request_id)


@kernel
def count_steps_from(replica, pool, first_step):
    """Count decode steps from ``first_step`` on: every finish moves with it. The order stays."""
    for position in range(replica.decoding):
        pool[replica.finish_base + 2 * position] -= first_step
