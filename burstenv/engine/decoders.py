"""The decoders of a replica, compiled: touched only when one joins, leaves, or crosses a block.

A decoder's KV tokens are kept as their number less the replica's decode step, which does not change while
it decodes. That number modulo the block size is its *phase*: all decoders of one phase take a block in the
same step. Without prefix caching a count of each phase is enough; with it each phase is a list, in order
of admission, because it matters whose block is whose.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NOBODY
from burstenv.engine.finish_heap import (
    count_steps_from,
    decoder_at,
    finish_heap_push,
    finish_heap_remove,
    finish_later,
)
from burstenv.engine.prefix_cache import grow_blocks, next_iteration, publish_full_blocks, sequence_of
from burstenv.engine.queues import blocks_of, phase_of
from burstenv.engine.records import ADMISSION, PHASE_NEXT, PHASE_PREVIOUS

EVERYBODY = 2**62  # an admission number above all
MOST_STEPS = 2**30  # decode steps are kept in 32 bits


@kernel
def phase_due(replica):
    """Return the index into ``phases`` of the decoders that take a block in the next decode step."""
    block_size = replica.block_size
    return phase_of(-replica.decode_step, block_size)


@kernel
def _enter_phase(replica, pool, requests, request_id):
    """Put a decoder into its phase, behind those admitted before it."""
    request = requests[request_id]
    phase = phase_of(request.computed_tokens, replica.block_size)
    empty = pool[replica.phase_base + phase] == 0
    pool[replica.phase_base + phase] += 1
    if not replica.prefix_caching:
        return
    head = replica.phase_list_base + phase
    tail = head + replica.block_size
    sequence = sequence_of(replica, request)
    before = NOBODY if empty else pool[tail]
    while before != NOBODY:
        other = sequence_of(replica, requests[before])
        if pool[other + ADMISSION] <= pool[sequence + ADMISSION]:
            break
        before = pool[other + PHASE_PREVIOUS]
    after = NOBODY
    if before != NOBODY:
        after = pool[sequence_of(replica, requests[before]) + PHASE_NEXT]
    elif not empty:
        after = pool[head]
    pool[sequence + PHASE_PREVIOUS] = before
    pool[sequence + PHASE_NEXT] = after
    if before == NOBODY:
        pool[head] = request_id
    else:
        pool[sequence_of(replica, requests[before]) + PHASE_NEXT] = request_id
    if after == NOBODY:
        pool[tail] = request_id
    else:
        pool[sequence_of(replica, requests[after]) + PHASE_PREVIOUS] = request_id


@kernel
def _leave_phase(replica, pool, requests, request_id):
    """Take a decoder out of its phase."""
    request = requests[request_id]
    phase = phase_of(request.computed_tokens, replica.block_size)
    pool[replica.phase_base + phase] -= 1
    if not replica.prefix_caching:
        return
    head = replica.phase_list_base + phase
    sequence = sequence_of(replica, request)
    before, after = pool[sequence + PHASE_PREVIOUS], pool[sequence + PHASE_NEXT]
    if before == NOBODY:
        pool[head] = after
    else:
        pool[sequence_of(replica, requests[before]) + PHASE_NEXT] = after
    if after == NOBODY:
        pool[head + replica.block_size] = before
    else:
        pool[sequence_of(replica, requests[after]) + PHASE_PREVIOUS] = before


@outlined
def _count_steps_anew(replica, pool, requests):
    """Count decode steps from a multiple of the block size on, which leaves every phase where it is."""
    first_step = replica.decode_step - phase_of(replica.decode_step, replica.block_size)
    count_steps_from(replica, pool, first_step)
    for place in range(replica.decoding):
        requests[decoder_at(replica, pool, place)].computed_tokens += first_step
    replica.decode_step -= first_step


@kernel
def start_decoding(replica, pool, requests, request_id):
    """Make a decoder of a request whose known tokens are all computed but the newest."""
    if replica.decode_step > MOST_STEPS:
        _count_steps_anew(replica, pool, requests)
    request = requests[request_id]
    replica.decode_context_tokens += request.computed_tokens + 1
    request.computed_tokens -= replica.decode_step
    _enter_phase(replica, pool, requests, request_id)
    request.decoding = 1
    finish_step = replica.decode_step + request.target_tokens - request.produced_tokens
    finish_heap_push(replica, pool, finish_step, request_id)


@kernel
def stop_decoding(replica, pool, requests, request_id):
    """Give a decoder its own counts back: it finishes, or is evicted."""
    request = requests[request_id]
    finish_step = finish_heap_remove(replica, pool, request_id)
    _leave_phase(replica, pool, requests, request_id)
    request.computed_tokens += replica.decode_step
    replica.decode_context_tokens -= request.computed_tokens + 1
    request.produced_tokens = request.target_tokens - (finish_step - replica.decode_step)
    request.decoding = 0


@kernel
def blocks_due(replica, pool, requests, decodes):
    """Return the blocks that the first ``decodes`` decoders, in running order, take in the next step."""
    if decodes == replica.decoding:
        return pool[replica.phase_base + phase_due(replica)]
    due = 0
    seen = 0
    request_id = replica.running_head
    while seen < decodes:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            if phase_of(request.computed_tokens + replica.decode_step, replica.block_size) == 0:
                due += 1
        request_id = request.next
    return due


@kernel
def context_of(replica, requests, decodes):
    """Return the context tokens that the first ``decodes`` decoders read in the next step."""
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
def hold_back(replica, pool, requests, decodes):
    """Undo the coming decode step for the decoders behind the first ``decodes``: the budget left them out."""
    seen = 0
    request_id = replica.running_head
    while request_id != NOBODY:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            if seen > decodes:
                _leave_phase(replica, pool, requests, request_id)
                request.computed_tokens -= 1
                _enter_phase(replica, pool, requests, request_id)
                finish_later(replica, pool, request_id, 1)
                replica.decode_context_tokens -= 1
        request_id = request.next


@kernel
def steps_with_blocks(replica, pool, at_most):
    """Return how many decode steps, up to ``at_most``, the free blocks allow."""
    block_size = replica.block_size
    decoding = replica.decoding
    free = replica.free_blocks
    if decoding * blocks_of(at_most, block_size) <= free:
        return at_most  # the common case: enough for the worst alignment
    cycles = min(free // decoding, at_most // block_size)
    free -= cycles * decoding
    steps = cycles * block_size
    index = phase_due(replica)
    while steps < at_most:
        free -= pool[replica.phase_base + index]
        if free < 0:
            break
        steps += 1
        index = index - 1 if index > 0 else block_size - 1
    return steps


@kernel
def blocks_taken(replica, pool, steps):
    """Return the blocks that the next ``steps`` decode steps take."""
    block_size = replica.block_size
    rest = phase_of(steps, block_size)
    taken = 0
    if steps >= block_size:
        taken = ((steps - rest) // block_size) * replica.decoding
    index = phase_due(replica)
    for _ in range(rest):
        taken += pool[replica.phase_base + index]
        index = index - 1 if index > 0 else block_size - 1
    return taken


@kernel
def first_of_phase(replica, pool, phase):
    """Return the first admitted decoder of a phase, or NOBODY (with prefix caching)."""
    if pool[replica.phase_base + phase] == 0:
        return NOBODY
    return pool[replica.phase_list_base + phase]


@kernel
def last_admission(replica, pool, requests, decodes):
    """Return the admission number of the last of the first ``decodes`` decoders, in running order."""
    if decodes == replica.decoding:
        return EVERYBODY
    seen = 0
    request_id = replica.running_head
    admission = -1
    while seen < decodes:
        request = requests[request_id]
        if request.decoding:
            seen += 1
            admission = pool[sequence_of(replica, request) + ADMISSION]
        request_id = request.next
    return admission


@kernel
def publish_decoded_blocks(replica, pool, requests, step, admission):
    """Publish the blocks that decode step ``step`` fills, for decoders admitted up to ``admission``."""
    iteration = next_iteration(replica)
    phase = phase_of(-1 - step, replica.block_size)
    request_id = first_of_phase(replica, pool, phase)
    while request_id != NOBODY:
        request = requests[request_id]
        sequence = sequence_of(replica, request)
        if pool[sequence + ADMISSION] > admission:
            break
        publish_full_blocks(replica, pool, request, request.computed_tokens + step + 1, iteration)
        request_id = pool[sequence + PHASE_NEXT]


@outlined
def grow_decoders(replica, pool, requests, steps):
    """Take and publish the blocks of the next ``steps`` decode steps of all decoders, step by step."""
    last = replica.block_size - 1
    phases = replica.phase_base
    phase = phase_due(replica)
    due = pool[phases + phase]  # how many take a block in the step
    for step in range(replica.decode_step, replica.decode_step + steps):
        if due > 0:
            request_id = pool[replica.phase_list_base + phase]
            while request_id != NOBODY:
                request = requests[request_id]
                grow_blocks(replica, pool, request, request.computed_tokens + step + 1)
                request_id = pool[sequence_of(replica, request) + PHASE_NEXT]
        phase = phase - 1 if phase > 0 else last
        due = pool[phases + phase]
        if due > 0:  # who fills a block now takes one in the next step
            publish_decoded_blocks(replica, pool, requests, step, EVERYBODY)
