"""When each decoder of a replica finishes, compiled: a binary heap, smallest ``(decode step, id)`` on top.

Steps and ids stand beside each other in the replica's own part of the pool, so that pushing and popping
touch no request record. The rare removal of another entry than the first searches for it: a replica runs
at most a few hundred sequences.
"""

from __future__ import annotations

from burstenv.cluster.kernel import kernel


@kernel
def _sift_up(pool, steps, ids, position, step, request_id):
    while position > 0:
        parent = (position - 1) >> 1
        parent_step = pool[steps + parent]
        if parent_step < step or (parent_step == step and pool[ids + parent] < request_id):
            break
        pool[steps + position] = parent_step
        pool[ids + position] = pool[ids + parent]
        position = parent
    pool[steps + position] = step
    pool[ids + position] = request_id


@kernel
def _sift_down(pool, steps, ids, size, position, step, request_id):
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        child_step = pool[steps + child]
        if child + 1 < size:
            other_step = pool[steps + child + 1]
            if other_step < child_step or (other_step == child_step and pool[ids + child + 1] < pool[ids + child]):
                child += 1
                child_step = other_step
        if step < child_step or (step == child_step and request_id < pool[ids + child]):
            break
        pool[steps + position] = child_step
        pool[ids + position] = pool[ids + child]
        position = child
    pool[steps + position] = step
    pool[ids + position] = request_id


@kernel
def next_finish_step(replica, pool):
    """Return the decode step at which the next decoder finishes; there must be one."""
    return pool[replica.finish_step_base]


@kernel
def next_finisher(replica, pool):
    """Return the id of the decoder that finishes next; there must be one."""
    return pool[replica.finish_base]


@kernel
def finish_heap_push(replica, pool, step, request_id):
    """Enter a decoder that finishes at ``step``."""
    _sift_up(pool, replica.finish_step_base, replica.finish_base, replica.decoding, step, request_id)
    replica.decoding += 1


@kernel
def _replace(replica, pool, position, step, request_id):
    """Put another entry in the place of one, wherever it belongs then."""
    steps, ids = replica.finish_step_base, replica.finish_base
    parent = (position - 1) >> 1
    if position > 0 and (
        step < pool[steps + parent] or (step == pool[steps + parent] and request_id < pool[ids + parent])
    ):
        _sift_up(pool, steps, ids, position, step, request_id)
    else:
        _sift_down(pool, steps, ids, replica.decoding, position, step, request_id)


@kernel
def _position_of(replica, pool, request_id):
    position = 0
    while pool[replica.finish_base + position] != request_id:
        position += 1
    return position


@kernel
def finish_heap_remove(replica, pool, request_id):
    """Remove a decoder, wherever it stands; return the step at which it would have finished."""
    position = _position_of(replica, pool, request_id)
    step = pool[replica.finish_step_base + position]
    replica.decoding -= 1
    last = replica.decoding
    if position < last:
        _replace(replica, pool, position, pool[replica.finish_step_base + last], pool[replica.finish_base + last])
    return step


@kernel
def finish_later(replica, pool, request_id, steps):
    """Put off the finish of a decoder by ``steps``."""
    position = _position_of(replica, pool, request_id)
    _replace(replica, pool, position, pool[replica.finish_step_base + position] + steps, request_id)


@kernel
def count_steps_from(replica, pool, first_step):
    """Count decode steps from ``first_step`` on: every finish moves with it. The order stays."""
    for position in range(replica.decoding):
        pool[replica.finish_step_base + position] -= first_step
