"""One replica under every rule of the reference engine, compiled one iteration at a time.

The fast engine of :mod:`burstenv.engine.replica` leans on facts that hold for chunked prefill, fcfs
eviction and synchronous scheduling. A replica that has priorities, a long-prefill threshold, unchunked prefill,
asynchronous scheduling, or a batching mode with an order, a batch or a memory rule of its own runs here, rule by
rule as in :mod:`burstenv.engine.reference.engine`, whose names the functions share.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, types_of
from burstenv.engine.counters import count_busy
from burstenv.engine.enums import AS_NEEDED, LIVELOCK_PREEMPTIONS, MIXED, NOBODY, PREFILL_FIRST, PRIORITY, RUNNING
from burstenv.engine.fair_queueing import count_output, count_prompt
from burstenv.engine.prefix_cache import (
    cached_blocks,
    give_back_blocks,
    grow_blocks,
    next_iteration,
    open_sequence,
    publish_full_blocks,
    sequence_of,
)
from burstenv.engine.published import publish_general
from burstenv.engine.queues import (
    blocks_of,
    drop_hopeless,
    queue_discard,
    queue_head,
    queue_push,
    queue_remove,
    running_append,
    running_remove,
    tokens_to_compute,
)
from burstenv.engine.records import STEP_TOKENS
from burstenv.engine.reservation import leaves_room
from burstenv.engine.settle import settle_finished
from burstenv.engine.timing import iteration_time_s


@kernel
def _publish_known(replica, pool, request, tokens, iteration):
    """Publish the blocks that ``tokens`` tokens fill, as far as the tokens are back; ``iteration`` computes them."""
    publish_full_blocks(replica, pool, request, min(tokens, tokens_to_compute(request)), iteration)


@kernel
def _victim(replica, requests):
    """Return who is evicted: the last admitted, or under priorities the least urgent, latest arrived."""
    if replica.order != PRIORITY:
        return replica.running_tail
    victim = replica.running_head
    request_id = requests[victim].next
    while request_id != NOBODY:
        request, worst = requests[request_id], requests[victim]
        if request.priority > worst.priority or (
            request.priority == worst.priority and request.arrival_s > worst.arrival_s
        ):
            victim = request_id
        request_id = request.next
    return victim


@kernel
def _preempt(replica, pool, requests, victim):
    request = requests[victim]
    running_remove(replica, requests, victim)
    give_back_blocks(replica, pool, request)
    request.recomputed_tokens += request.computed_tokens
    request.computed_tokens = 0
    request.preemptions += 1
    request.evicted_at = replica.iterations
    replica.preemptions += 1
    replica.preemptions_without_token += 1
    if replica.preemptions_without_token == LIVELOCK_PREEMPTIONS + 1:
        replica.livelocked = 1
        replica.livelock_id = victim
    queue_push(replica, pool, requests, victim, True)


@kernel
def _schedule_running(replica, pool, requests, budget, threshold):
    """Give running requests their share, in order of admission; return the budget that is left."""
    request_id = replica.running_head
    while request_id != NOBODY and budget > 0:
        request = requests[request_id]
        following = request.next
        in_flight = request.in_flight_tokens
        last = request.prompt_tokens + request.target_tokens
        if in_flight > 0 and request.computed_tokens + 2 - in_flight >= last:
            request_id = following  # its last token is on its way
            continue
        tokens = tokens_to_compute(request) + in_flight - request.computed_tokens
        if 0 < threshold < tokens:
            tokens = threshold
        tokens = min(tokens, budget, replica.max_model_len - request.computed_tokens - 1)
        if tokens <= 0:
            request_id = following
            continue
        evicted_itself = False
        while not grow_blocks(replica, pool, request, request.computed_tokens + tokens):
            victim = _victim(replica, requests)
            budget += pool[
                sequence_of(replica, requests[victim]) + STEP_TOKENS
            ]  # one already scheduled gives its tokens back
            evicted_itself = victim == request_id
            if evicted_itself:
                following = request.next
            _preempt(replica, pool, requests, victim)
            if evicted_itself:
                break
        if not evicted_itself:
            coming = next_iteration(replica)
            if in_flight > 0:  # what the iteration in flight computes may have got its key only now
                _publish_known(replica, pool, request, request.computed_tokens, coming - 1)
            _publish_known(replica, pool, request, request.computed_tokens + tokens, coming)
            pool[sequence_of(replica, request) + STEP_TOKENS] = tokens
            budget -= tokens
            following = request.next
        request_id = following
    return budget


@kernel
def _opens(replica, requests):
    """Return whether admission is open: under a deferral bound only once somebody has waited so long, till all are in.

    Waiting requests are fcfs then.
    """
    if replica.deferral_s == 0.0 or replica.waiting == 0:
        return True
    waited_s = replica.clock_s - requests[replica.waiting_head].arrival_s
    if replica.running == 0 or waited_s >= replica.deferral_s:
        replica.admitting = 1
    return replica.admitting == 1


@kernel
def _schedule_waiting(replica, pool, requests, budget, threshold):
    """Admit waiting requests from the head of the queue while they fit; nobody overtakes."""
    if not _opens(replica, requests):
        return
    whole = not replica.chunked_prefill or replica.batch != MIXED
    while replica.waiting > 0 and budget > 0 and replica.running < replica.max_num_seqs:
        request_id = queue_head(replica, pool, requests, replica.clock_s)
        request = requests[request_id]
        hits, revived = cached_blocks(replica, pool, request)
        cached_tokens = hits * replica.block_size
        known = tokens_to_compute(request)
        tokens = known - cached_tokens
        if 0 < threshold < tokens:
            tokens = threshold
        if whole and tokens > budget:
            break
        tokens = min(tokens, budget)
        must_fit = known if replica.reserve_full_prompt else cached_tokens + tokens
        headroom = replica.headroom_blocks if replica.running > 0 else 0
        must_fit = min(must_fit, replica.max_model_len)
        missing = blocks_of(must_fit, replica.block_size) - hits + revived
        if missing + headroom > replica.free_blocks:
            break
        if replica.memory != AS_NEEDED and not leaves_room(replica, pool, requests, request):
            break
        queue_remove(replica, pool, requests, request_id)
        running_append(replica, requests, request_id)
        request.status = RUNNING
        count_prompt(replica, request)
        open_sequence(replica, pool, request, hits)
        request.computed_tokens = cached_tokens
        if request.cached_tokens < 0:
            request.cached_tokens = cached_tokens
        grow_blocks(replica, pool, request, cached_tokens + tokens)
        _publish_known(replica, pool, request, cached_tokens + tokens, next_iteration(replica))
        if math.isnan(request.first_scheduled_s):
            request.first_scheduled_s = replica.clock_s
        pool[sequence_of(replica, request) + STEP_TOKENS] = tokens
        budget -= tokens
    if replica.waiting == 0:
        replica.admitting = 0


@kernel
def _brings_something(replica):
    """Return whether an iteration in flight is still under way or brings a token; else it is as if there were none."""
    if replica.in_flight == 0:
        return False
    samples = replica.flight0_samples if replica.first_flight == 0 else replica.flight1_samples
    return samples > 0 or replica.busy_until_s > replica.clock_s


@kernel
def _schedule(replica, pool, requests):
    """Schedule one iteration at the clock; return whether there was anything to run."""
    preemptions_before = replica.preemptions
    lone = replica.running + replica.waiting == 1
    threshold = 0 if lone else replica.long_prefill_threshold
    budget = replica.token_budget
    preempted = False
    prefill_first = replica.batch == PREFILL_FIRST
    running_before = replica.running
    for turn in range(2):
        if (turn == 0) == prefill_first:
            if not preempted:
                _schedule_waiting(replica, pool, requests, budget, threshold)
        elif not prefill_first or replica.running == running_before:  # new prompts run alone
            budget = _schedule_running(replica, pool, requests, budget, threshold)
            preempted = replica.preemptions > preemptions_before

    prefill_tokens = prefill_attention = decodes = context = sequences = samples = 0
    flight = (replica.first_flight + replica.in_flight) % 2
    flight_base = replica.flight_base + flight * replica.flight_size
    request_id = replica.running_head
    while request_id != NOBODY:
        request = requests[request_id]
        step_tokens = sequence_of(replica, request) + STEP_TOKENS
        tokens = pool[step_tokens]
        if tokens > 0:
            computed = request.computed_tokens
            sequences += 1
            if tokens == 1 and computed >= request.prompt_tokens:
                decodes += 1
                context += computed + 1
            else:
                prefill_tokens += tokens
                prefill_attention += tokens * computed + tokens * (tokens + 1) // 2
            request.computed_tokens = computed + tokens
            if request.computed_tokens == tokens_to_compute(request) + request.in_flight_tokens:
                request.in_flight_tokens += 1
                pool[flight_base + samples] = request_id
                samples += 1
            pool[step_tokens] = 0
        request_id = request.next
    if sequences == 0 and not preempted and not _brings_something(replica):
        return False
    duration_s = 0.0
    if sequences > 0:
        duration_s = iteration_time_s(replica, prefill_tokens, prefill_attention, decodes, context, sequences)
    start_s = max(replica.clock_s, replica.busy_until_s)
    replica.busy_until_s = start_s + duration_s
    count_busy(replica, duration_s, replica.free_blocks)
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
def oldest_end_s(replica):
    """Return when the oldest iteration in flight ends [s]."""
    return replica.flight0_end_s if replica.first_flight == 0 else replica.flight1_end_s


@kernel
def _apply(environment, replica, pool, requests):
    """Apply what the oldest iteration in flight produced, at its end."""
    flight = replica.first_flight
    samples = replica.flight0_samples if flight == 0 else replica.flight1_samples
    flight_base = replica.flight_base + flight * replica.flight_size
    replica.clock_s = max(replica.clock_s, replica.iteration_end_s)
    replica.first_flight = 1 - flight
    replica.in_flight -= 1
    replica.ahead = 0
    replica.ended_iterations += 1
    now_s = replica.clock_s
    for k in range(samples):
        request_id = pool[flight_base + k]
        request = requests[request_id]
        running = request.status == RUNNING
        if not running:  # preempted while this token was on its way
            replica.waiting_tokens += 1
            replica.waiting_blocks -= blocks_of(tokens_to_compute(request), replica.block_size)
        request.in_flight_tokens -= 1
        request.produced_tokens += 1
        count_output(replica, request)
        if not running:
            replica.waiting_blocks += blocks_of(tokens_to_compute(request), replica.block_size)
        replica.preemptions_without_token = 0
        if math.isnan(request.first_token_s):
            request.first_token_s = now_s
            environment.first_tokens += 1
            if now_s - request.arrival_s <= request.ttft_slo_s:
                environment.first_in_time += 1
        if running:  # a block may have waited for this token to get its key
            known = request.computed_tokens - request.in_flight_tokens
            _publish_known(replica, pool, request, known, replica.ended_iterations)
        if request.produced_tokens >= request.target_tokens or tokens_to_compute(request) >= replica.max_model_len:
            request.target_tokens = request.produced_tokens
            if running:
                running_remove(replica, requests, request_id)
                give_back_blocks(replica, pool, request)
            else:
                queue_discard(replica, pool, requests, request_id)
            settle_finished(environment, pool, requests, request_id, now_s)


@kernel
def start_general(environment, replica, pool, requests):
    """Put one iteration, scheduled at the clock, in flight; return whether there was anything to run."""
    if replica.drops_hopeless:
        drop_hopeless(environment, replica, pool, requests)
    if not replica.ahead:
        publish_general(replica, requests)
    return _schedule(replica, pool, requests)


@kernel
def finish_general(environment, replica, pool, requests):
    """Apply the oldest iteration in flight, at its end."""
    replica.iteration_end_s = oldest_end_s(replica)
    _apply(environment, replica, pool, requests)


@detached(lambda state: state.replicas["general"].any(), lambda state: (*types_of(state), types.float64))
def advance_general(environment, replica, pool, requests, until_s):
    """Apply every iteration that ends by ``until_s``; schedule none at or after it.

    Leaves in ``wake_s`` when the next thing happens here.
    """
    replica.wake_s = np.inf
    while not replica.livelocked:
        if replica.in_flight < replica.depth and (replica.running > 0 or replica.waiting > 0):
            if replica.clock_s >= until_s:
                replica.wake_s = replica.clock_s
                break
            scheduled = start_general(environment, replica, pool, requests)
            if not scheduled and replica.in_flight == 0:
                replica.wake_s = replica.clock_s
                break
            if scheduled and replica.in_flight < replica.depth:
                continue
        if replica.in_flight == 0:
            break
        replica.iteration_end_s = oldest_end_s(replica)
        if replica.iteration_end_s > until_s:
            replica.wake_s = replica.iteration_end_s
            break
        _apply(environment, replica, pool, requests)
    if not replica.ahead:
        publish_general(replica, requests)
