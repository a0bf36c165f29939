"""The decoders of a replica, compiled: touched only when one joins, leaves, or crosses a block.

A decoder's KV tokens are kept as their number less the replica's decode step, which does not change while
it decodes. That number modulo the block size is its *phase*: all decoders of one phase take a block in the
same step. Without prefix caching a count of each phase is enough; with it each phase is a list, in order
of admission, because blocks then have identities.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.finish_heap import (
    count_steps_from,
    decoder_at,
    finish_heap_push,
    finish_heap_remove,
    finish_later,
)
from burstenv.engine.gateway_log import log_counts_anew, log_held_back, log_joins, log_leaves
from burstenv.engine.iterations import next_iteration
from burstenv.engine.prefix_cache import grow_blocks, publish_full_blocks, sequence_of
from burstenv.engine.queues import blocks_of, phase_of
from burstenv.engine.records import ADMISSION, PHASE_NEXT, PHASE_PREVIOUS

ALL_ADMISSIONS = 2**62  # an admission number above all
MOST_STEPS = 2**30  # decode steps are kept in 32 bits


@kernel
def phase_due(engine):
    """Return the index into ``phases`` of the decoders that take a block in the next decode step."""
    replica, spec = engine.replica, engine.spec
    block_size = spec.block_size
    return phase_of(-replica.decode_step, block_size)


@kernel
def _enter_phase(engine, request_id):
    """Add a decoder to its phase, after those admitted before it."""
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    request = requests[request_id]
    phase = phase_of(request.computed_tokens, spec.block_size)
    empty = arena[spec.phase_base + phase] == 0
    arena[spec.phase_base + phase] += 1
    if not spec.prefix_caching:
        return
    head = spec.phase_list_base + phase
    tail = head + spec.block_size
    sequence = sequence_of(engine, request)
    before = NO_REQUEST if empty else arena[tail]
    while before != NO_REQUEST:
        other = sequence_of(engine, requests[before])
        if arena[other + ADMISSION] <= arena[sequence + ADMISSION]:
            break
        before = arena[other + PHASE_PREVIOUS]
    after = NO_REQUEST
    if before != NO_REQUEST:
        after = arena[sequence_of(engine, requests[before]) + PHASE_NEXT]
    elif not empty:
        after = arena[head]
    arena[sequence + PHASE_PREVIOUS] = before
    arena[sequence + PHASE_NEXT] = after
    if before == NO_REQUEST:
        arena[head] = request_id
    else:
        arena[sequence_of(engine, requests[before]) + PHASE_NEXT] = request_id
    if after == NO_REQUEST:
        arena[tail] = request_id
    else:
        arena[sequence_of(engine, requests[after]) + PHASE_PREVIOUS] = request_id


@kernel
def _leave_phase(engine, request_id):
    """Remove a decoder from its phase."""
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    request = requests[request_id]
    phase = phase_of(request.computed_tokens, spec.block_size)
    arena[spec.phase_base + phase] -= 1
    if not spec.prefix_caching:
        return
    head = spec.phase_list_base + phase
    sequence = sequence_of(engine, request)
    before, after = arena[sequence + PHASE_PREVIOUS], arena[sequence + PHASE_NEXT]
    if before == NO_REQUEST:
        arena[head] = after
    else:
        arena[sequence_of(engine, requests[before]) + PHASE_NEXT] = after
    if after == NO_REQUEST:
        arena[head + spec.block_size] = before
    else:
        arena[sequence_of(engine, requests[after]) + PHASE_PREVIOUS] = before


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
    replica, requests = engine.replica, engine.requests
    if replica.decode_step > MOST_STEPS:
        _count_steps_anew(engine)
    request = requests[request_id]
    replica.decode_context_tokens += request.computed_tokens + 1
    request.computed_tokens -= replica.decode_step
    _enter_phase(engine, request_id)
    log_joins(engine, request_id)
    request.decoding = 1
    sampled = request.produced_tokens + request.in_flight_tokens
    finish_step = replica.decode_step + request.target_tokens - sampled
    finish_heap_push(engine, finish_step, request_id)


@kernel
def stop_decoding(engine, request_id):
    """Restore a decoder's own counts: it finishes, or is evicted."""
    replica, requests = engine.replica, engine.requests
    request = requests[request_id]
    finish_step = finish_heap_remove(engine, request_id)
    _leave_phase(engine, request_id)
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
                _leave_phase(engine, request_id)
                request.computed_tokens -= 1
                _enter_phase(engine, request_id)
                finish_later(engine, request_id, 1)
                request.left_at = next_iteration(engine)
                log_held_back(engine, request_id, request.left_at)
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


@kernel
def first_of_phase(engine, phase):
    """Return the first admitted decoder of a phase, or NO_REQUEST (with prefix caching)."""
    spec, arena = engine.spec, engine.arena
    if arena[spec.phase_base + phase] == 0:
        return NO_REQUEST
    return arena[spec.phase_list_base + phase]


@kernel
def last_admission(engine, decodes):
    """Return the admission number of the last of the first ``decodes`` decoders, in running order."""
    replica, arena, requests = engine.replica, engine.arena, engine.requests
    if decodes == replica.decoding:
        return ALL_ADMISSIONS
    seen = 0
    request_id = replica.running_head
    admission = -1
    while seen < decodes:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            admission = arena[sequence_of(engine, request) + ADMISSION]
        request_id = request.next
    return admission


@kernel
def publish_decoded_blocks(engine, step, admission, iteration):
    """Publish the blocks that decode step ``step`` fills, for decoders admitted up to ``admission``."""
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    phase = phase_of(-1 - step, spec.block_size)
    request_id = first_of_phase(engine, phase)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        sequence = sequence_of(engine, request)
        if arena[sequence + ADMISSION] > admission:
            break
        publish_full_blocks(engine, request, request.computed_tokens + step + 1, iteration)
        request_id = arena[sequence + PHASE_NEXT]


@outlined
def grow_decoders(engine, steps, iteration):
    """Take and publish the blocks of the next ``steps`` decode steps of all decoders, step by step.

    ``iteration`` is the number of the one step, or ``ENDED``.
    """
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    last = spec.block_size - 1
    phases = spec.phase_base
    phase = phase_due(engine)
    due = arena[phases + phase]  # number of decoders that take a block in the step
    for step in range(replica.decode_step, replica.decode_step + steps):
        if due > 0:
            request_id = arena[spec.phase_list_base + phase]
            while request_id != NO_REQUEST:
                request = requests[request_id]
                grow_blocks(engine, request, request.computed_tokens + step + 1, iteration)
                request_id = arena[sequence_of(engine, request) + PHASE_NEXT]
        phase = phase - 1 if phase > 0 else last
        due = arena[phases + phase]
        if due > 0:  # a decoder that fills a block now takes one in the next step
            publish_decoded_blocks(engine, step, ALL_ADMISSIONS, iteration)
