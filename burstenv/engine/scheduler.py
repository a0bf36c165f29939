"""One iteration of the fast engine, compiled: its requests, and its results at its end.

The batch is always all decoders, then the one request in mid-prefill, then new admissions; see
:mod:`burstenv.engine.replica`.
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.admission import blocks_to_admit
from burstenv.engine.asynchronous import (
    await_last_token,
    await_token,
    deliver_to_waiting,
    stop_computing,
)
from burstenv.engine.background_rule import ONE_BY_ONE
from burstenv.engine.block_keys import publish_decoder, publish_full_blocks, sequence_of
from burstenv.engine.cancelling import let_leave
from burstenv.engine.counters import count_busy
from burstenv.engine.decoders import blocks_due, context_of, hold_back, start_decoding, stop_decoding
from burstenv.engine.enums import NO_REQUEST, RUNNING
from burstenv.engine.finish_heap import next_finish_step, next_finisher
from burstenv.engine.iterations import is_left_out, last_ended_iteration, next_iteration
from burstenv.engine.kv_cache import ENDED, take_blocks
from burstenv.engine.lifecycle import bring_token, finish, run
from burstenv.engine.prefix_cache import cached_blocks, may_be_fed, open_sequence, release
from burstenv.engine.published import publish
from burstenv.engine.queues import (
    blocks_of,
    queue_head,
    queue_push,
    queue_remove,
    running_append,
    running_remove,
    tokens_to_compute,
)
from burstenv.engine.records import ADMISSION, CONTESTED
from burstenv.engine.shared_iterations import share_iteration
from burstenv.engine.timing import at_pace_s, iteration_time_s
from burstenv.engine.transfer_ends import hand_out, hands_out, holds_most


@kernel
def _finish(engine, request_id, now_s):
    """Settle a request after its last token, and free its blocks."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    request = requests[request_id]
    if spec.prefix_caching:
        publish_full_blocks(engine, request_id, request.computed_tokens, ENDED)
    release(engine, request)
    running_remove(engine, request_id)
    replica.blocked = 0
    finish(engine, request_id, now_s)


@kernel
def _sort_in(engine, request_id, count):
    """Insert a request among ``count`` that finish with it, by admission.

    The order in which blocks are freed is the order in which they are reused.
    """
    spec, arena, requests = engine.spec, engine.arena, engine.requests
    admission = arena[sequence_of(engine, requests[request_id]) + ADMISSION]
    place = spec.flight_base + count
    while place > spec.flight_base:
        before = requests[arena[place - 1]]
        if arena[sequence_of(engine, before) + ADMISSION] < admission:
            break
        arena[place] = arena[place - 1]
        place -= 1
    arena[place] = request_id


@kernel
def finish_decoders(engine, now_s):
    """Finish every decoder with its last token out, in running order if the order matters.

    Under asynchronous scheduling that token is still on its way.
    """
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    finished = 0
    while replica.decoding > 0 and next_finish_step(engine) <= replica.decode_step:
        first = next_finisher(engine)
        stop_decoding(engine, first)
        if spec.depth > 1:
            await_last_token(engine, first)
        elif not spec.prefix_caching:
            _finish(engine, first, now_s)
            continue
        if spec.prefix_caching:
            _sort_in(engine, first, finished)
        finished += 1
    if spec.depth == 1 and spec.prefix_caching:
        for k in range(finished):
            _finish(engine, arena[spec.flight_base + k], now_s)


@outlined
def _evict_tail(engine):
    """Preempt the last admitted request: its KV is lost, its outputs are kept, it waits again."""
    replica, requests = engine.replica, engine.requests
    victim = replica.running_tail
    request = requests[victim]
    stop_computing(engine, victim)
    release(engine, request)
    request.recomputed_tokens += request.computed_tokens
    request.computed_tokens = 0
    request.preemptions += 1
    request.left_at = next_iteration(engine)
    replica.preemptions += 1
    running_remove(engine, victim)
    queue_push(engine, victim, True)


@kernel
def _hold(engine, request_id, computed, tokens):
    """Take the blocks for ``tokens`` more tokens after ``computed`` ones; they must be free."""
    spec = engine.spec
    blocks = blocks_of(computed + tokens, spec.block_size) - blocks_of(computed, spec.block_size)
    iteration = next_iteration(engine)
    take_blocks(engine, blocks, iteration)
    if spec.prefix_caching:
        publish_full_blocks(engine, request_id, computed + tokens, iteration)


@outlined
def _evict_for_decoders(engine):
    """Take the free blocks for the next decode step and evict the last admitted requests, until the rest is free.

    In running order: later requests, not earlier ones, reuse the blocks that an eviction frees.

    Returns:
        The blocks that the decoders still take.
    """
    replica = engine.replica
    taken = 0
    while True:
        due = blocks_due(engine, min(replica.decoding, replica.token_budget)) - taken
        if due <= replica.free_blocks:
            return due
        taken += replica.free_blocks
        take_blocks(engine, replica.free_blocks, next_iteration(engine))
        _evict_tail(engine)


@outlined
def _publish_steps(engine, decodes):
    """Publish the blocks of the contested requests among the first ``decodes`` decoders, in running order."""
    replica, arena, requests = engine.replica, engine.arena, engine.requests
    request_id = replica.running_head
    while decodes > 0:
        request = requests[request_id]
        if request.decoding:
            decodes -= 1
            if arena[sequence_of(engine, request) + CONTESTED]:
                publish_decoder(engine, request_id)
        request_id = request.next


@kernel
def _publish_contested(engine, decodes):
    """Publish the blocks of contested requests whose step is scheduled.

    One that comes to the end of its shared prefix contests decoders of its stream before it, too: hence a second time.
    """
    contested = engine.replica.contested
    _publish_steps(engine, decodes)
    if engine.replica.contested > contested:
        _publish_steps(engine, decodes)


@outlined
def _publish_filled(engine):
    """Publish the blocks of contested requests that the older iteration in flight, which ends, has filled."""
    replica, arena, requests = engine.replica, engine.arena, engine.requests
    request_id = replica.running_head
    newest = last_ended_iteration(engine) + 2
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if arena[sequence_of(engine, request) + CONTESTED]:
            if request.decoding:
                tokens = request.computed_tokens + replica.decode_step
                if is_left_out(request, newest):  # it was set back in advance
                    tokens += 1
                publish_full_blocks(engine, request_id, tokens, ENDED)
            elif request.in_flight_tokens > 0:
                publish_full_blocks(engine, request_id, request.computed_tokens, ENDED)
        request_id = request.next


@kernel
def _publish_delivered(engine):
    """Publish what :func:`_publish_filled` says, of requests that are contested only now as well."""
    contested = engine.replica.contested
    _publish_filled(engine)
    if engine.replica.contested > contested:
        _publish_filled(engine)


@kernel
def _advance_newest(engine, now_s):
    """Apply the newest iteration's steps: at its end, or, under asynchronous scheduling, when it becomes the older."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    if replica.decoding > 0:
        # Held-back decoders were set back by one step: the common step leaves them unchanged.
        replica.decode_step += 1
        replica.decode_context_tokens += replica.decoding
        finish_decoders(engine, now_s)
    request_id = replica.flight_first_prefill
    replica.prefill_id = NO_REQUEST if request_id != NO_REQUEST else replica.prefill_id
    while request_id != NO_REQUEST:
        request = requests[request_id]
        following = request.next
        if request.computed_tokens < tokens_to_compute(request):
            replica.prefill_id = request_id
        elif spec.depth > 1:
            replica.coming_tokens += 1
            if request.produced_tokens + 1 >= request.target_tokens:
                await_last_token(engine, request_id)
            else:
                await_token(engine, request_id)
                start_decoding(engine, request_id)
        else:
            bring_token(engine, request_id, now_s)
            if request.produced_tokens >= request.target_tokens:
                _finish(engine, request_id, now_s)
            elif replica.flight_hands_out:
                hand_out(engine, request_id)
            else:
                start_decoding(engine, request_id)
        request_id = following


@kernel
def put_in_flight(engine, duration_s, decodes, sequences):
    """Put a just scheduled iteration in flight: it starts now, or as the one in flight ends."""
    replica, spec = engine.replica, engine.spec
    replica.in_flight += 1
    if spec.depth == 1:
        replica.iteration_end_s = replica.clock_s + duration_s
        return
    replica.coming_tokens = decodes
    replica.flight_sequences = sequences
    if replica.in_flight == 1:  # it is the older one, and the next is scheduled at once
        replica.busy_until_s = replica.clock_s
        _advance_newest(engine, replica.clock_s)
        replica.ahead = 1
    replica.iteration_end_s = replica.busy_until_s  # of the older one
    replica.busy_until_s += duration_s


@kernel
def _deliver(engine, now_s):
    """Deliver the tokens of the older iteration in flight, at its end."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    if replica.contested > 0:
        _publish_delivered(engine)
    for k in range(replica.awaited):
        request_id = arena[spec.flight_base + k]
        request = requests[request_id]
        request.in_flight_tokens = 0
        if request.decoding:  # its first; while it decodes, the finish heap counts its tokens
            bring_token(engine, request_id, now_s)
        elif request.status == RUNNING:  # its last
            bring_token(engine, request_id, now_s)
            _finish(engine, request_id, now_s)
        else:
            deliver_to_waiting(engine, request_id, now_s)
    replica.awaited = 0
    replica.ending_context = 0
    replica.ended_iterations += 1
    replica.ahead = 0


@kernel
def finish_iteration(engine):
    """Apply the results of the oldest iteration in flight, at its end."""
    replica, spec = engine.replica, engine.spec
    now_s = replica.iteration_end_s
    replica.clock_s = now_s
    newest = replica.in_flight == spec.depth
    replica.in_flight -= 1
    if spec.depth > 1:
        _deliver(engine, now_s)
    if newest:
        _advance_newest(engine, now_s)
    if replica.leaving > 0:
        let_leave(engine)


@kernel
def start_iteration(engine):
    """Schedule one iteration at the clock and put it in flight; return False if it and those in flight have no work."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    limits = engine.limits
    publish(engine)
    now_s = replica.clock_s
    block_size = spec.block_size
    preemptions_before = replica.preemptions

    # 1. Decoders, in running order; the last admitted requests give way when blocks run out.
    decodes = min(replica.decoding, replica.token_budget)
    due = blocks_due(engine, decodes)
    if due > replica.free_blocks:
        due = _evict_for_decoders(engine)
        decodes = min(replica.decoding, replica.token_budget)
    take_blocks(engine, due, next_iteration(engine))
    if replica.contested > 0:
        _publish_contested(engine, decodes)
    budget = replica.token_budget - decodes

    prefill_tokens = 0
    prefill_attention = 0
    late_decodes = 0  # a last recomputed token counts as a decode in the iteration's time
    late_context = 0
    sequences = decodes
    replica.flight_first_prefill = NO_REQUEST
    if engine.gateway.hands_over:
        replica.flight_hands_out = hands_out(replica)

    # 2. The request in mid-prefill, which is the tail of the running list.
    if replica.prefill_id != NO_REQUEST and budget > 0:
        request = requests[replica.prefill_id]
        computed = request.computed_tokens
        chunk = min(tokens_to_compute(request) - computed, budget)
        blocks = blocks_of(computed + chunk, block_size) - blocks_of(computed, block_size)
        if blocks > replica.free_blocks:
            _evict_tail(engine)
        else:
            _hold(engine, replica.prefill_id, computed, chunk)
            replica.flight_first_prefill = replica.prefill_id
            if chunk == 1 and computed >= request.prompt_tokens:
                late_decodes += 1
                late_context += computed + 1
            else:
                prefill_tokens += chunk
                prefill_attention += chunk * computed + chunk * (chunk + 1) // 2
            request.computed_tokens = computed + chunk
            sequences += 1
            budget -= chunk

    # 3. Waiting requests, head first without overtaking; none in a step that preempted.
    replica.blocked = 0
    if replica.preemptions == preemptions_before:
        while replica.waiting > 0 and budget > 0:
            if replica.running >= limits.max_num_seqs or holds_most(engine):
                replica.blocked = 1
                break
            request_id = queue_head(engine, now_s)
            request = requests[request_id]
            hits, revived = cached_blocks(engine, request)
            cached = hits * block_size
            tokens = tokens_to_compute(request)
            chunk = min(tokens - cached, budget)
            if blocks_to_admit(engine, tokens, cached + chunk, replica.running) - hits + revived > replica.free_blocks:
                replica.blocked = 0 if may_be_fed(engine, request, hits) else 1
                break
            queue_remove(engine, request_id)
            running_append(engine, request_id)
            run(request, cached, now_s)
            if spec.prefix_caching:
                open_sequence(engine, request_id, hits)
            _hold(engine, request_id, cached, chunk)
            request.computed_tokens = cached + chunk
            if replica.flight_first_prefill == NO_REQUEST:
                replica.flight_first_prefill = request_id
            if chunk == 1 and cached >= request.prompt_tokens:
                late_decodes += 1
                late_context += cached + 1
            else:
                prefill_tokens += chunk
                prefill_attention += chunk * cached + chunk * (chunk + 1) // 2
            sequences += 1
            budget -= chunk
            if spec.background and replica.background_flags & ONE_BY_ONE:
                break

    worked = sequences > 0 or replica.preemptions > preemptions_before
    if not worked and (replica.in_flight == 0 or replica.flight_sequences == 0):
        return False
    context = context_of(engine, decodes) + late_context
    if decodes < replica.decoding:
        hold_back(engine, decodes)
    duration_s = 0.0  # a step that only preempts takes no time
    if sequences > 0:
        duration_s = iteration_time_s(
            engine, prefill_tokens, prefill_attention, decodes + late_decodes, context, sequences
        )
        duration_s = at_pace_s(engine, duration_s, sequences)
    if spec.background:
        used = replica.token_budget - budget
        duration_s = share_iteration(
            engine, duration_s, used, prefill_tokens, prefill_attention, decodes + late_decodes, context, sequences
        )
    count_busy(engine, duration_s, replica.free_blocks)
    replica.iterations += worked
    put_in_flight(engine, duration_s, decodes, sequences)
    return True
