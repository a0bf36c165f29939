"""The decoders of a replica, compiled: touched only when one joins, leaves, or crosses a block.

A decoder's KV tokens are kept as their number less the replica's decode step, which does not change while
it decodes. That number modulo the block size is its *phase*: all decoders of one phase take a block in the
same step, so a count of each phase is enough.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.block_keys import decide_contest
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.finish_heap import (
    count_steps_from,
    decoder_at,
    finish_heap_push,
    finish_heap_remove,
    finish_later,
)
from burstenv.engine.gateway_log import log_counts_anew, log_held_back, log_joins, log_leaves
from burstenv.engine.iterations import leave_out, next_iteration
from burstenv.engine.queues import blocks_of, phase_of

MOST_STEPS = 2**30  # decode steps are kept in 32 bits


@kernel
def phase_due(engine):
    """Return the index into ``phases`` of the decoders that take a block in the next decode step."""
    replica, spec = engine.replica, engine.spec
    block_size = spec.block_size
    return phase_of(-replica.decode_step, block_size)


@kernel
def _enter_phase(engine, request):
    """Count a decoder in its phase."""
    spec, arena = engine.spec, engine.arena
    arena[spec.phase_base + phase_of(request.computed_tokens, spec.block_size)] += 1


@kernel
def _leave_phase(engine, request):
    """Remove a decoder from its phase."""
    spec, arena = engine.spec, engine.arena
    arena[spec.phase_base + phase_of(request.computed_tokens, spec.block_size)] -= 1


@outlined
def _count_steps_anew(engine):
    """Restart the count of decode steps at a multiple of the block size, which keeps every phase."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    first_step = replica.decode_step - phase_of(replica.decode_step, spec.block_size)
    count_steps_from(engine, first_step)
    log_counts_anew(engine, first_step)
    for place in range(replica.decoding):
        requests[decoder_at(engine, place)].computed_tokens += first_step
    replica.decode_step -= first_step


@kernel
def start_decoding(engine, request_id):
    """Make a decoder of a request with all known tokens computed except the newest."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    if replica.decode_step > MOST_STEPS:
        _count_steps_anew(engine)
    request = requests[request_id]
    replica.decode_context_tokens += request.computed_tokens + 1
    request.computed_tokens -= replica.decode_step
    _enter_phase(engine, request)
    log_joins(engine, request_id)
    request.decoding = 1
    if spec.prefix_caching:
        decide_contest(engine, request_id)
    sampled = request.produced_tokens + request.in_flight_tokens
    finish_step = replica.decode_step + request.target_tokens - sampled
    finish_heap_push(engine, finish_step, request_id)


@kernel
def stop_decoding(engine, request_id):
    """Restore a decoder's own counts: it finishes, or is evicted."""
    replica, requests = engine.replica, engine.requests
    request = requests[request_id]
    finish_step = finish_heap_remove(engine, request_id)
    _leave_phase(engine, request)
    log_leaves(engine, request_id)
    request.computed_tokens += replica.decode_step
    replica.decode_context_tokens -= request.computed_tokens + 1
    request.produced_tokens = request.target_tokens - (finish_step - replica.decode_step)
    request.decoding = 0


@kernel
def blocks_due(engine, decodes):
    """Return the blocks that the first ``decodes`` decoders, in running order, take in the next step."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    if decodes == replica.decoding:
        return arena[spec.phase_base + phase_due(engine)]
    due = 0
    seen = 0
    request_id = replica.running_head
    while seen < decodes:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            if phase_of(request.computed_tokens + replica.decode_step, spec.block_size) == 0:
                due += 1
        request_id = request.next
    return due


@kernel
def context_of(engine, decodes):
    """Return the context tokens that the first ``decodes`` decoders read in the next step."""
    replica, requests = engine.replica, engine.requests
    if decodes == replica.decoding:
        return replica.decode_context_tokens
    context = 0
    seen = 0
    request_id = replica.running_head
    while seen < decodes:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            context += request.computed_tokens + replica.decode_step + 1
        request_id = request.next
    return context


@outlined
def hold_back(engine, decodes):
    """Undo the coming decode step for the decoders after the first ``decodes``: the budget leaves them out."""
    replica, requests = engine.replica, engine.requests
    seen = 0
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            if seen > decodes:
                _leave_phase(engine, request)
                request.computed_tokens -= 1
                _enter_phase(engine, request)
                finish_later(engine, request_id, 1)
                leave_out(engine, request)
                log_held_back(engine, request_id, next_iteration(engine))
                replica.decode_context_tokens -= 1
        request_id = request.next


@kernel
def steps_with_blocks(engine, at_most):
    """Return the number of decode steps, up to ``at_most``, that the free blocks allow."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    block_size = spec.block_size
    decoding = replica.decoding
    free = replica.free_blocks
    if decoding * blocks_of(at_most, block_size) <= free:
        return at_most  # the common case: enough for the worst alignment
    cycles = min(free // decoding, at_most // block_size)
    free -= cycles * decoding
    steps = cycles * block_size
    index = phase_due(engine)
    while steps < at_most:
        free -= arena[spec.phase_base + index]
        if free < 0:
            break
        steps += 1
        index = index - 1 if index > 0 else block_size - 1
    return steps


@kernel
def blocks_taken(engine, steps):
    """Return the blocks that the next ``steps`` decode steps take."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    block_size = spec.block_size
    rest = phase_of(steps, block_size)
    taken = 0
    if steps >= block_size:
        taken = ((steps - rest) // block_size) * replica.decoding
    index = phase_due(engine)
    for _ in range(rest):
        taken += arena[spec.phase_base + index]
        index = index - 1 if index > 0 else block_size - 1
    return taken
