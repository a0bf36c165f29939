"""One replica under every rule of the reference engine, compiled one iteration at a time.

The fast engine of :mod:`burstenv.engine.replica` requires chunked prefill and fcfs eviction. A replica with priorities,
a long-prefill threshold, unchunked prefill, or a batching mode with its own order, batch or memory rule runs here,
rule by rule as in :mod:`burstenv.engine.reference.engine`, with the same function names.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel
from burstenv.engine.admission import blocks_to_admit
from burstenv.engine.background import may_train, train
from burstenv.engine.background_rule import ONE_BY_ONE
from burstenv.engine.block_keys import publish_full_blocks, sequence_of
from burstenv.engine.cancelling import let_leave
from burstenv.engine.counters import count_busy
from burstenv.engine.enums import (
    AS_NEEDED,
    LIVELOCK_PREEMPTIONS,
    MIXED,
    NO_REQUEST,
    PREFILL_FIRST,
    PRIORITY,
    RUNNING,
)
from burstenv.engine.fair_queueing import count_output, count_prompt
from burstenv.engine.iterations import next_iteration
from burstenv.engine.lifecycle import bring_token, finish, run
from burstenv.engine.prefix_cache import cached_blocks, give_back_blocks, grow_blocks, open_sequence
from burstenv.engine.published import publish_general
from burstenv.engine.queues import (
    blocks_of,
    drop_hopeless,
    phase_of,
    queue_discard,
    queue_head,
    queue_push,
    queue_remove,
    running_append,
    running_remove,
    tokens_to_compute,
)
from burstenv.engine.records import BLOCKS, DECODES, HANDS_OUT, LEAVES, STEP_TOKENS
from burstenv.engine.reservation import leaves_room
from burstenv.engine.shared_iterations import share_iteration
from burstenv.engine.timing import at_pace_s, iteration_time_s
from burstenv.engine.transfer_ends import hand_out, hands_out, holds_most
from burstenv.engine.world import engine_type


@kernel
def _publish_known(engine, request_id, tokens, iteration):
    """Publish the blocks that ``tokens`` tokens fill, as far as the tokens are back; ``iteration`` computes them."""
    if engine.spec.prefix_caching:
        known = tokens_to_compute(engine.requests[request_id])
        publish_full_blocks(engine, request_id, min(tokens, known), iteration)


@kernel
def _only_prefills(engine, request):
    """Return whether a running request will leave with its next token."""
    if not engine.gateway.hands_over:
        return False
    sequence = sequence_of(engine, request)
    return engine.arena[sequence + HANDS_OUT] > 0 and engine.arena[sequence + DECODES] == 0


@kernel
def _victim(engine):
    """Return the request to evict: the last admitted, or under priorities the least urgent, latest arrived."""
    replica, requests = engine.replica, engine.requests
    limits = engine.limits
    if limits.order != PRIORITY:
        return replica.running_tail
    victim = replica.running_head
    request_id = requests[victim].next
    while request_id != NO_REQUEST:
        request, worst = requests[request_id], requests[victim]
        if request.priority > worst.priority or (
            request.priority == worst.priority and request.arrival_s > worst.arrival_s
        ):
            victim = request_id
        request_id = request.next
    return victim


@kernel
def _preempt(engine, victim):
    replica, arena, requests = engine.replica, engine.arena, engine.requests
    request = requests[victim]
    running_remove(engine, victim)
    give_back_blocks(engine, request, arena[sequence_of(engine, request) + BLOCKS])
    request.recomputed_tokens += request.computed_tokens
    request.computed_tokens = 0
    request.preemptions += 1
    request.left_at = next_iteration(engine)
    replica.preemptions += 1
    replica.preemptions_without_token += 1
    if replica.preemptions_without_token == LIVELOCK_PREEMPTIONS + 1:
        replica.livelocked = 1
        replica.livelock_id = victim
    queue_push(engine, victim, True)


@kernel
def _schedule_running(engine, budget, threshold):
    """Give running requests their share, in order of admission; return the budget that is left."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    coming = next_iteration(engine)
    request_id = replica.running_head
    while request_id != NO_REQUEST and budget > 0:
        request = requests[request_id]
        following = request.next
        in_flight = request.in_flight_tokens
        last = request.prompt_tokens + request.target_tokens
        on_its_way = in_flight > 0 and (
            request.computed_tokens + 2 - in_flight >= last or _only_prefills(engine, request)
        )  # its last token here
        leaves = engine.gateway.transfers and arena[sequence_of(engine, request) + LEAVES] > 0
        if on_its_way or leaves:
            request_id = following
            continue
        tokens = tokens_to_compute(request) + in_flight - request.computed_tokens
        if 0 < threshold < tokens:
            tokens = threshold
        tokens = min(tokens, budget, spec.max_model_len - request.computed_tokens - 1)
        if tokens <= 0:
            request_id = following
            continue
        evicted_itself = False
        while not grow_blocks(engine, request, request.computed_tokens + tokens, coming):
            victim = _victim(engine)
            budget += arena[
                sequence_of(engine, requests[victim]) + STEP_TOKENS
            ]  # one already scheduled gives its tokens back
            evicted_itself = victim == request_id
            if evicted_itself:
                following = request.next
            _preempt(engine, victim)
            if evicted_itself:
                break
        if not evicted_itself:
            if in_flight > 0 and spec.prefix_caching and phase_of(request.computed_tokens, spec.block_size) == 0:
                # The iteration in flight fills a block, whose last token was not back when it was scheduled.
                _publish_known(engine, request_id, request.computed_tokens, coming - 1)
            _publish_known(engine, request_id, request.computed_tokens + tokens, coming)
            arena[sequence_of(engine, request) + STEP_TOKENS] = tokens
            budget -= tokens
            following = request.next
        request_id = following
    return budget


@kernel
def _opens(engine):
    """Return whether admission is open: under a deferral bound, from the first wait of that length until all are in.

    Waiting requests are fcfs then.
    """
    replica, requests = engine.replica, engine.requests
    limits = engine.limits
    if limits.deferral_s == 0.0 or replica.waiting == 0:
        return True
    waited_s = replica.clock_s - requests[replica.waiting_head].arrival_s
    if replica.running == 0 or waited_s >= limits.deferral_s:
        replica.admitting = 1
    return replica.admitting == 1


@kernel
def _schedule_waiting(engine, budget, threshold):
    """Admit waiting requests from the head of the queue while they fit; no request overtakes."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    limits = engine.limits
    if not _opens(engine):
        return
    coming = next_iteration(engine)
    whole = not spec.chunked_prefill or limits.batch != MIXED
    most = limits.max_num_seqs
    if spec.background and replica.background_flags & ONE_BY_ONE:
        most = min(most, replica.running + 1)
    while replica.waiting > 0 and budget > 0 and replica.running < most and not holds_most(engine):
        request_id = queue_head(engine, replica.clock_s)
        request = requests[request_id]
        hits, revived = cached_blocks(engine, request)
        cached_tokens = hits * spec.block_size
        known = tokens_to_compute(request)
        tokens = known - cached_tokens
        if 0 < threshold < tokens:
            tokens = threshold
        if whole and tokens > budget:
            break
        tokens = min(tokens, budget)
        needed = blocks_to_admit(engine, known, cached_tokens + tokens, replica.running)
        if needed - hits + revived > replica.free_blocks:
            break
        if limits.memory != AS_NEEDED and not leaves_room(engine, request):
            break
        queue_remove(engine, request_id)
        running_append(engine, request_id)
        run(request, cached_tokens, replica.clock_s)
        count_prompt(engine, request)
        open_sequence(engine, request_id, hits)
        request.computed_tokens = cached_tokens
        grow_blocks(engine, request, cached_tokens + tokens, coming)
        _publish_known(engine, request_id, cached_tokens + tokens, coming)
        arena[sequence_of(engine, request) + STEP_TOKENS] = tokens
        budget -= tokens
    if replica.waiting == 0:
        replica.admitting = 0


@kernel
def _brings_something(engine):
    """Return whether an iteration in flight is still under way or brings a token; else it is as if there were none."""
    replica = engine.replica
    if replica.in_flight == 0:
        return False
    samples = replica.flight0_samples if replica.first_flight == 0 else replica.flight1_samples
    return samples > 0 or replica.busy_until_s > replica.clock_s


@kernel
def _schedule(engine):
    """Schedule one iteration at the clock; return whether it has work."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    limits = engine.limits
    preemptions_before = replica.preemptions
    lone = replica.running + replica.waiting == 1
    threshold = 0 if lone else spec.long_prefill_threshold
    budget = replica.token_budget
    preempted = False
    prefill_first = limits.batch == PREFILL_FIRST
    running_before = replica.running
    for turn in range(2):
        if (turn == 0) == prefill_first:
            if not preempted:
                _schedule_waiting(engine, budget, threshold)
        elif not prefill_first or replica.running == running_before:  # new prompts run alone
            budget = _schedule_running(engine, budget, threshold)
            preempted = replica.preemptions > preemptions_before

    prefill_tokens = prefill_attention = decodes = context = sequences = samples = used = 0
    flight = (replica.first_flight + replica.in_flight) % 2
    flight_base = spec.flight_base + flight * spec.flight_size
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        request = requests[request_id]
        step_tokens = sequence_of(engine, request) + STEP_TOKENS
        tokens = arena[step_tokens]
        if tokens > 0:
            computed = request.computed_tokens
            sequences += 1
            used += tokens
            if tokens == 1 and computed >= request.prompt_tokens:
                decodes += 1
                context += computed + 1
            else:
                prefill_tokens += tokens
                prefill_attention += tokens * computed + tokens * (tokens + 1) // 2
            request.computed_tokens = computed + tokens
            if request.computed_tokens == tokens_to_compute(request) + request.in_flight_tokens:
                if engine.gateway.hands_over and request.in_flight_tokens == 0:
                    arena[sequence_of(engine, request) + HANDS_OUT] = hands_out(replica)
                request.in_flight_tokens += 1
                arena[flight_base + samples] = request_id
                samples += 1
            arena[step_tokens] = 0
        request_id = request.next
    if sequences == 0 and not preempted and not _brings_something(engine):
        return False
    duration_s = 0.0
    if sequences > 0:
        duration_s = iteration_time_s(engine, prefill_tokens, prefill_attention, decodes, context, sequences)
        duration_s = at_pace_s(engine, duration_s, sequences)
    if spec.background:
        duration_s = share_iteration(
            engine, duration_s, used, prefill_tokens, prefill_attention, decodes, context, sequences
        )
    start_s = max(replica.clock_s, replica.busy_until_s)
    replica.busy_until_s = start_s + duration_s
    count_busy(engine, duration_s, replica.free_blocks)
    if sequences > 0 or preempted:
        replica.iterations += 1
    if flight == 0:
        replica.flight0_samples = samples
        replica.flight0_end_s = replica.busy_until_s
    else:
        replica.flight1_samples = samples
        replica.flight1_end_s = replica.busy_until_s
    replica.in_flight += 1
    replica.ahead = 1
    return True


@kernel
def oldest_end_s(engine):
    """Return when the oldest iteration in flight ends [s]."""
    replica = engine.replica
    return replica.flight0_end_s if replica.first_flight == 0 else replica.flight1_end_s


@kernel
def _apply(engine):
    """Apply the results of the oldest iteration in flight, at its end."""
    replica, spec, arena, requests = engine.replica, engine.spec, engine.arena, engine.requests
    flight = replica.first_flight
    samples = replica.flight0_samples if flight == 0 else replica.flight1_samples
    flight_base = spec.flight_base + flight * spec.flight_size
    replica.clock_s = max(replica.clock_s, replica.iteration_end_s)
    replica.first_flight = 1 - flight
    replica.in_flight -= 1
    replica.ahead = 0
    replica.ended_iterations += 1
    now_s = replica.clock_s
    for k in range(samples):
        request_id = arena[flight_base + k]
        request = requests[request_id]
        running = request.status == RUNNING
        if not running:  # preempted while this token was on its way
            replica.waiting_tokens += 1
            replica.waiting_blocks -= blocks_of(tokens_to_compute(request), spec.block_size)
        request.in_flight_tokens -= 1
        bring_token(engine, request_id, now_s)
        count_output(engine, request)
        if not running:
            replica.waiting_blocks += blocks_of(tokens_to_compute(request), spec.block_size)
        replica.preemptions_without_token = 0
        hands_out = running and _only_prefills(engine, request)
        if running:  # a block may have waited for this token to get its key
            if engine.gateway.transfers:
                arena[sequence_of(engine, request) + DECODES] = 1
            known = request.computed_tokens - request.in_flight_tokens
            _publish_known(engine, request_id, known, replica.ended_iterations)
        if request.produced_tokens >= request.target_tokens or tokens_to_compute(request) >= spec.max_model_len:
            request.target_tokens = request.produced_tokens
            if running:
                running_remove(engine, request_id)
                give_back_blocks(engine, request, arena[sequence_of(engine, request) + BLOCKS])
            else:
                queue_discard(engine, request_id)
            finish(engine, request_id, now_s)
        elif hands_out:
            hand_out(engine, request_id)
    if replica.leaving > 0:
        let_leave(engine)


@kernel
def start_general(engine, until_s):
    """Put one iteration, scheduled at the clock, in flight; return whether there was anything to run.

    Decisions look at ``until_s``, or now if a turn was rejected here that has a next one. The state is not published
    where another iteration ends before.
    """
    replica = engine.replica
    limits = engine.limits
    if limits.drops_hopeless:
        drop_hopeless(engine)
    seen_before_next_end = replica.in_flight == 0 or oldest_end_s(engine) > until_s or engine.environment.ended > 0
    if not replica.ahead and seen_before_next_end:
        publish_general(engine)
    return _schedule(engine)


@kernel
def finish_general(engine):
    """Apply the oldest iteration in flight, at its end."""
    replica = engine.replica
    replica.iteration_end_s = oldest_end_s(engine)
    _apply(engine)


@detached(lambda state: state.specs["general"].any(), lambda state: (engine_type(state), types.float64, types.boolean))
def advance_general(engine, until_s, turns_stop):
    """Apply every iteration that ends by ``until_s``; schedule none at or after it.

    Writes the time of the next event here into ``wake_s``.
    """
    replica, spec = engine.replica, engine.spec
    environment = engine.environment
    known = environment.ended
    replica.wake_s = np.inf
    while not replica.livelocked:
        trains = replica.training != 0 or (may_train(engine) and not _brings_something(engine))
        if replica.in_flight < spec.depth and (replica.running > 0 or replica.waiting > 0 or trains):
            if replica.clock_s >= until_s:
                replica.wake_s = replica.clock_s
                break
            if trains:
                if not train(engine, until_s):
                    break
                if replica.waiting == 0 or replica.clock_s >= until_s:
                    continue
            scheduled = start_general(engine, until_s)
            if replica.livelocked:
                break
            if not scheduled and may_train(engine):
                replica.unservable = 1
                continue
            if not scheduled and replica.in_flight == 0:
                break  # until something changes
            if scheduled and replica.in_flight < spec.depth:
                continue
        if replica.in_flight == 0:
            break
        replica.iteration_end_s = oldest_end_s(engine)
        goes_on = turns_stop and environment.ended > known  # after a turn that was rejected as an iteration started
        if replica.iteration_end_s > until_s or (goes_on and replica.iteration_end_s > replica.clock_s):
            replica.wake_s = replica.iteration_end_s
            break
        before = environment.ended
        _apply(engine)
        if turns_stop and environment.ended > before:
            replica.wake_s = replica.clock_s
            break
    if not replica.ahead:
        publish_general(engine)
