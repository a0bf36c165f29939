"""The end of each decoder of a replica, compiled: a binary heap, smallest ``(decode step, id)`` on top.

An entry is a step and an id, in the replica's own part of the arena: pushing and popping touch no request
record. The rare removal of another entry than the first searches for it: a replica runs
at most a few hundred sequences.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel


@kernel
def _sift_up(arena, base, position, step, request_id):
    while position > 0:
        parent = (position - 1) >> 1
        at = base + 2 * parent
        parent_step, parent_id = arena[at], arena[at + 1]
        if parent_step < step or (parent_step == step and parent_id < request_id):
            break
        arena[base + 2 * position] = parent_step
        arena[base + 2 * position + 1] = parent_id
        position = parent
    arena[base + 2 * position] = step
    arena[base + 2 * position + 1] = request_id


@kernel
def _sift_down(arena, base, size, position, step, request_id):
    while True:
        child = 2 * position + 1
        if child >= size:
            break
        at = base + 2 * child
        child_step, child_id = arena[at], arena[at + 1]
        if child + 1 < size:
            other_step, other_id = arena[at + 2], arena[at + 3]
            if other_step < child_step or (other_step == child_step and other_id < child_id):
                child += 1
                child_step, child_id = other_step, other_id
        if step < child_step or (step == child_step and request_id < child_id):
            break
        arena[base + 2 * position] = child_step
        arena[base + 2 * position + 1] = child_id
        position = child
    arena[base + 2 * position] = step
    arena[base + 2 * position + 1] = request_id


@kernel
def next_finish_step(engine):
    """Return the decode step at which the next decoder finishes; the heap must not be empty."""
    spec, arena = engine.spec, engine.arena
    return arena[spec.finish_base]


@kernel
def next_finisher(engine):
    """Return the id of the decoder that finishes next; the heap must not be empty."""
    spec, arena = engine.spec, engine.arena
    return arena[spec.finish_base + 1]


@kernel
def decoder_at(engine, position):
    """Return the id of the decoder at a position of the heap."""
    spec, arena = engine.spec, engine.arena
    return arena[spec.finish_base + 2 * position + 1]


@kernel
def finish_heap_push(engine, step, request_id):
    """Enter a decoder that finishes at ``step``."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    _sift_up(arena, spec.finish_base, replica.decoding, step, request_id)
    replica.decoding += 1


@kernel
def _replace(engine, position, step, request_id):
    """Replace an entry and restore the heap's order."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    base = spec.finish_base
    at = base + 2 * ((position - 1) >> 1)
    if position > 0 and (step < arena[at] or (step == arena[at] and request_id < arena[at + 1])):
        _sift_up(arena, base, position, step, request_id)
    else:
        _sift_down(arena, base, replica.decoding, position, step, request_id)


@kernel
def _position_of(engine, request_id):
    position = 0
    while decoder_at(engine, position) != request_id:
        position += 1
    return position


@kernel
def finish_heap_remove(engine, request_id):
    """Remove a decoder at any position; return the step at which it would have finished."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    position = _position_of(engine, request_id)
    step = arena[spec.finish_base + 2 * position]
    replica.decoding -= 1
    last = replica.decoding
    if position < last:
        at = spec.finish_base + 2 * last
        _replace(engine, position, arena[at], arena[at + 1])
    return step


@kernel
def finish_later(engine, request_id, steps):
    """Delay the finish of a decoder by ``steps``."""
    spec, arena = engine.spec, engine.arena
    position = _position_of(engine, request_id)
    _replace(engine, position, arena[spec.finish_base + 2 * position] + steps, request_id)


@kernel
def count_steps_from(engine, first_step):
    """Count decode steps from ``first_step`` on: every finish moves with it. The order stays."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    for position in range(replica.decoding):
        arena[spec.finish_base + 2 * position] -= first_step
