"""One replica, compiled: the vLLM V1 scheduler with decode stretches skipped in one event.

The rules are those of :mod:`burstenv.cluster.reference`, which is written to be read; this module
must agree with it and is written to be fast. Three ideas carry it:

* A decoding request is touched only when it joins, finishes or is evicted. In between it is a place
  in the finish heap (keyed by the decode step at which it ends) and a count among the phases (decoders
  by the step, modulo the block size, at which they take a block).
* Chunked prefill leaves at most one request in mid-prefill, and it is the last one admitted. So the
  batch is always: all decoders, then that one, then new admissions.
* While nobody can be admitted, n decode iterations take n (a + b S) + b D n (n - 1) / 2 seconds, with
  S the context of the first and D decoders: the time at which anything can change has a closed form.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv.cluster.block_table import reset_blocks
from burstenv.cluster.decoders import (
    blocks_due,
    blocks_taken,
    context_of,
    first_of_phase,
    grow_decoders,
    hold_back,
    last_admission,
    phase_due,
    publish_decoded_blocks,
    start_decoding,
    steps_with_blocks,
    stop_decoding,
)
from burstenv.cluster.general import advance_general
from burstenv.cluster.iteration_time import decode_context_cost_s, decode_fixed_cost_s, iteration_time_s
from burstenv.cluster.kernel import kernel
from burstenv.cluster.outcome import settle_finished
from burstenv.cluster.prefix import (
    cached_blocks,
    give_back_blocks,
    grow_blocks,
    open_table,
    publish_full_blocks,
    revived_blocks,
    stream_of,
)
from burstenv.cluster.queues import (
    blocks_of,
    next_demotion_s,
    queue_head,
    queue_push,
    queue_remove,
    queue_reorder,
    running_append,
    running_remove,
    tokens_to_compute,
)
from burstenv.cluster.state import FAILED, NOBODY, RUNNING

_UNDER_WAY = -1
_LOOP_AT_MOST = 4  # shorter stretches are cheaper to add up than to solve for


@kernel
def _release(replica, pool, request):
    """Free the blocks of a request that leaves the batch."""
    if replica.prefix_caching:
        give_back_blocks(replica, pool, request)
    else:
        replica.free_blocks += blocks_of(request.computed_tokens, replica.block_size)


@kernel
def _finish(environment, replica, pool, requests, request_id, now_s):
    """Settle a request whose last token came out, and free its blocks."""
    request = requests[request_id]
    _release(replica, pool, request)
    running_remove(replica, requests, request_id)
    replica.blocked = 0
    settle_finished(environment, request, now_s)


@kernel
def _finish_decoders(environment, replica, pool, requests, now_s):
    """Finish every decoder whose last token came out, in running order where the order shows."""
    finished = 0
    while replica.finish_heap_size > 0:
        first = pool[replica.finish_base]
        if requests[first].key > replica.decode_step:
            break
        stop_decoding(replica, pool, requests, first)
        if not replica.prefix_caching:
            _finish(environment, replica, pool, requests, first, now_s)
            continue
        place = finished  # the order in which blocks are freed is the order in which they are reused
        while place > 0 and requests[pool[replica.flight_base + place - 1]].admission > requests[first].admission:
            pool[replica.flight_base + place] = pool[replica.flight_base + place - 1]
            place -= 1
        pool[replica.flight_base + place] = first
        finished += 1
    for k in range(finished):
        _finish(environment, replica, pool, requests, pool[replica.flight_base + k], now_s)


@kernel
def _evict_tail(replica, pool, requests):
    """Preempt the last admitted request: its KV is lost, its outputs are kept, it waits again."""
    victim = replica.running_tail
    request = requests[victim]
    if request.decoding:
        stop_decoding(replica, pool, requests, victim)
    else:
        replica.prefill_id = NOBODY
    _release(replica, pool, request)
    request.recomputed_tokens += request.computed_tokens
    request.computed_tokens = 0
    request.preemptions += 1
    replica.preemptions += 1
    running_remove(replica, requests, victim)
    queue_push(replica, pool, requests, victim, True)


@kernel
def see(replica, requests):
    """Publish the present state as what decisions see."""
    replica.seen_waiting = replica.waiting
    replica.seen_running = replica.running
    replica.seen_free_blocks = replica.free_blocks
    replica.seen_waiting_tokens = replica.waiting_tokens
    replica.seen_waiting_blocks = replica.waiting_blocks
    replica.seen_context_tokens = replica.decode_context_tokens
    replica.seen_preemptions = replica.preemptions
    if replica.prefill_id == NOBODY:
        replica.seen_prefill_tokens = 0
    else:
        request = requests[replica.prefill_id]
        replica.seen_prefill_tokens = tokens_to_compute(request) - request.computed_tokens


@kernel
def _hold(replica, pool, request, computed, tokens):
    """Take the blocks for ``tokens`` more tokens behind ``computed`` ones; they are known to be there."""
    if replica.prefix_caching:
        grow_blocks(replica, pool, request, computed + tokens)
        publish_full_blocks(replica, pool, request, computed + tokens)
    else:
        replica.free_blocks -= blocks_of(computed + tokens, replica.block_size) - blocks_of(
            computed, replica.block_size
        )


@kernel
def _grow_first_decoders(replica, pool, requests):
    """Take and publish the blocks of one decode step, evicting the last admitted requests as blocks run out.

    Block by block in running order: what an eviction frees is reused by those behind, not by those before.
    """
    admission = last_admission(replica, requests, min(replica.decoding, replica.token_budget))
    step = replica.decode_step
    request_id = first_of_phase(replica, pool, phase_due(replica))
    while request_id != NOBODY and requests[request_id].admission <= admission:
        request = requests[request_id]
        evicted_itself = False
        while replica.free_blocks == 0 and not evicted_itself:
            evicted_itself = replica.running_tail == request_id
            _evict_tail(replica, pool, requests)
        if evicted_itself:
            break
        grow_blocks(replica, pool, request, request.computed_tokens + step + 1)
        request_id = request.phase_next
    publish_decoded_blocks(replica, pool, requests, step, admission)


@kernel
def _feeds(replica, requests, request, hits):
    """Return whether a running request may publish the next block that a refused one could share."""
    if not replica.prefix_caching or (hits + 1) * replica.block_size >= tokens_to_compute(request):
        return False
    stream = stream_of(replica, request, hits)
    running_id = replica.running_head
    while running_id != NOBODY:
        running = requests[running_id]
        if running.stream == stream or (running.prefix_tokens > 0 and running.prefix_stream == stream):
            return True
        running_id = running.next
    return False


@kernel
def _start_iteration(replica, pool, requests):
    """Schedule one iteration at the clock and put it in flight; return whether there was anything to run."""
    see(replica, requests)
    now_s = replica.clock_s
    block_size = replica.block_size
    preemptions_before = replica.preemptions

    # 1. Decoders, in running order; the last admitted requests give way when blocks run out.
    if replica.prefix_caching:
        _grow_first_decoders(replica, pool, requests)
        decodes = min(replica.decoding, replica.token_budget)
    else:
        decodes = min(replica.decoding, replica.token_budget)
        due = blocks_due(replica, pool, requests, decodes)
        while due > replica.free_blocks:
            _evict_tail(replica, pool, requests)
            decodes = min(replica.decoding, replica.token_budget)
            due = blocks_due(replica, pool, requests, decodes)
        replica.free_blocks -= due
    budget = replica.token_budget - decodes

    prefill_tokens = 0
    prefill_attention = 0
    late_decodes = 0  # a last recomputed token counts as a decode in the iteration's time
    late_context = 0
    sequences = decodes
    replica.flight_first_prefill = NOBODY

    # 2. The request in mid-prefill, which is the tail of the running list.
    if replica.prefill_id != NOBODY and budget > 0:
        request = requests[replica.prefill_id]
        computed = request.computed_tokens
        chunk = min(tokens_to_compute(request) - computed, budget)
        blocks = blocks_of(computed + chunk, block_size) - blocks_of(computed, block_size)
        if blocks > replica.free_blocks:
            _evict_tail(replica, pool, requests)
        else:
            _hold(replica, pool, request, computed, chunk)
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

    # 3. Waiting requests, head first and nobody overtakes; none in a step that preempted.
    replica.blocked = 0
    if replica.preemptions == preemptions_before:
        while replica.waiting > 0 and budget > 0:
            if replica.running >= replica.max_num_seqs:
                replica.blocked = 1
                break
            request_id = queue_head(replica, pool, requests, now_s)
            request = requests[request_id]
            hits = cached_blocks(replica, pool, request)
            cached = hits * block_size
            tokens = tokens_to_compute(request)
            chunk = min(tokens - cached, budget)
            must_fit = tokens if replica.reserve_full_prompt else cached + chunk
            headroom = replica.headroom_blocks if replica.running > 0 else 0
            missing = blocks_of(must_fit, block_size) - hits + revived_blocks(replica, pool, hits)
            if missing + headroom > replica.free_blocks:
                replica.blocked = 0 if _feeds(replica, requests, request, hits) else 1
                break
            queue_remove(replica, pool, requests, request_id)
            running_append(replica, requests, request_id)
            request.status = RUNNING
            open_table(replica, pool, request, hits)
            _hold(replica, pool, request, 0, cached + chunk)
            request.computed_tokens = cached + chunk
            if request.cached_tokens < 0:
                request.cached_tokens = cached
            if math.isnan(request.first_scheduled_s):
                request.first_scheduled_s = now_s
            if replica.flight_first_prefill == NOBODY:
                replica.flight_first_prefill = request_id
            if chunk == 1 and cached >= request.prompt_tokens:
                late_decodes += 1
                late_context += cached + 1
            else:
                prefill_tokens += chunk
                prefill_attention += chunk * cached + chunk * (chunk + 1) // 2
            sequences += 1
            budget -= chunk

    if sequences == 0 and replica.preemptions == preemptions_before:
        return False
    context = context_of(replica, requests, decodes) + late_context
    if decodes < replica.decoding:
        hold_back(replica, pool, requests, decodes)
    duration_s = 0.0  # a step that only preempts takes no time
    if sequences > 0:
        duration_s = iteration_time_s(
            replica, prefill_tokens, prefill_attention, decodes + late_decodes, context, sequences
        )
    replica.flight_decodes = decodes
    replica.iteration_end_s = now_s + duration_s
    replica.busy_s += duration_s
    replica.iterations += 1
    replica.in_flight = 1
    return True


@kernel
def _finish_iteration(environment, replica, pool, requests):
    """Apply what the iteration in flight produced, at its end."""
    now_s = replica.iteration_end_s
    replica.clock_s = now_s
    replica.in_flight = 0
    if replica.decoding > 0:
        # Held-back decoders were set back by one step, so that the common step leaves them where they are.
        replica.decode_step += 1
        replica.decode_context_tokens += replica.decoding
        _finish_decoders(environment, replica, pool, requests, now_s)
    request_id = replica.flight_first_prefill
    replica.prefill_id = NOBODY if request_id != NOBODY else replica.prefill_id
    while request_id != NOBODY:
        request = requests[request_id]
        following = request.next
        if request.computed_tokens < tokens_to_compute(request):
            replica.prefill_id = request_id
        else:
            if math.isnan(request.first_token_s):
                request.first_token_s = now_s
                if now_s - request.arrival_s <= request.ttft_slo_s:
                    environment.first_in_time += 1
            request.produced_tokens += 1
            if request.produced_tokens >= request.target_tokens:
                _finish(environment, replica, pool, requests, request_id, now_s)
            else:
                start_decoding(replica, pool, requests, request_id)
        request_id = following


@kernel
def _skip_decodes(environment, replica, pool, requests, until_s):
    """Commit, in one event, every whole decode iteration that ends by ``until_s`` and changes nothing else.

    Only for a batch of decoders to which nobody can be added. Stops early at the first finish, which
    it applies; leaves the iteration in which blocks run out to :func:`_start_iteration`.

    Returns:
        How many were committed; ``_UNDER_WAY`` when the next one, an ordinary one, ends only after
        ``until_s``: it need not be put in flight as long as nobody intervenes.
    """
    decoding = replica.decoding
    fixed_s = decode_fixed_cost_s(replica, decoding)
    slope_s = decode_context_cost_s(replica, decoding)
    first_s = fixed_s + slope_s * replica.decode_context_tokens  # duration of the next iteration
    clock_s = replica.clock_s
    demotion_s = np.inf
    if replica.waiting > 0:
        demotion_s = next_demotion_s(replica, pool, requests)
    if clock_s + first_s > until_s:
        enough = pool[replica.phase_base + phase_due(replica)] <= replica.free_blocks
        if not enough or demotion_s < clock_s:
            return 0
        replica.iteration_end_s = clock_s + first_s
        return _UNDER_WAY
    until_s = min(until_s, demotion_s)
    to_finish = int(requests[pool[replica.finish_base]].key) - replica.decode_step
    steps = steps_with_blocks(replica, pool, to_finish)
    growth_s = slope_s * decoding  # by which each is longer than the one before

    if steps > _LOOP_AT_MOST:
        whole_s = steps * first_s + growth_s * (0.5 * steps * (steps - 1))
        if clock_s + whole_s > until_s:  # solve n first + growth n (n - 1) / 2 = left for n
            left_s = until_s - clock_s
            linear_s = first_s - 0.5 * growth_s
            root = math.sqrt(linear_s * linear_s + 2.0 * growth_s * left_s)
            steps = min(steps, int(2.0 * left_s / (linear_s + root)) + 1) if left_s > 0.0 else 0
            while steps > 0 and clock_s + steps * first_s + growth_s * (0.5 * steps * (steps - 1)) > until_s:
                steps -= 1
        elapsed_s = steps * first_s + growth_s * (0.5 * steps * (steps - 1))
    else:
        done = 0
        elapsed_s = 0.0
        while done < steps:
            longer_s = elapsed_s + first_s + growth_s * done
            if clock_s + longer_s > until_s:
                break
            elapsed_s = longer_s
            done += 1
        steps = done

    if steps > 0:
        if replica.prefix_caching:
            grow_decoders(replica, pool, requests, steps)
        else:
            replica.free_blocks -= blocks_taken(replica, pool, steps)
        replica.decode_step += steps
        replica.decode_context_tokens += steps * decoding
        replica.clock_s = clock_s + elapsed_s
        replica.busy_s += elapsed_s
        replica.iterations += steps
        if steps == to_finish:
            _finish_decoders(environment, replica, pool, requests, replica.clock_s)
    return steps


@kernel
def advance_replica(environment, replica, pool, requests, until_s):
    """Run the replica up to ``until_s``: iterations ending by then are applied.

    An iteration never *starts* at ``until_s`` itself, so that requests arriving at that very instant
    are in the queue when it is scheduled.
    """
    if replica.general:
        advance_general(environment, replica, pool, requests, until_s)
        return
    replica.under_way = 0
    while True:
        if replica.in_flight:
            if replica.iteration_end_s > until_s:
                return
            _finish_iteration(environment, replica, pool, requests)
        if replica.running == 0 and replica.waiting == 0:
            break
        if replica.clock_s >= until_s:
            break
        if (
            replica.decoding > 0
            and replica.prefill_id == NOBODY
            and (replica.waiting == 0 or replica.blocked)
            and replica.decoding <= replica.token_budget
        ):
            steps = _skip_decodes(environment, replica, pool, requests, until_s)
            if steps == _UNDER_WAY:
                replica.under_way = 1
                break
            if steps > 0:
                continue
        if not _start_iteration(replica, pool, requests):
            break
    see(replica, requests)


@kernel
def start_under_way(replica, pool, requests):
    """Put the decode iteration that is under way in flight, before something changes what comes after it."""
    if replica.under_way:
        replica.under_way = 0
        _start_iteration(replica, pool, requests)


@kernel
def enqueue(environment, replica, pool, requests, request_id, now_s):
    """Hand a request to the replica at ``now_s``, as a server's front end does.

    A prompt that leaves no room for an output within the model length is refused (status ``FAILED``),
    and the output is cut at that length.
    """
    request = requests[request_id]
    request.target_tokens = request.output_tokens
    if replica.validate_requests:
        if request.prompt_tokens >= replica.max_model_len:
            request.status = FAILED
            environment.failed += 1
            return
        request.target_tokens = min(request.output_tokens, replica.max_model_len - request.prompt_tokens)
    start_under_way(replica, pool, requests)
    if not replica.in_flight and replica.clock_s < now_s and replica.running == 0 and replica.waiting == 0:
        replica.clock_s = now_s
    queue_push(replica, pool, requests, request_id, False)
    tokens = tokens_to_compute(request)
    replica.seen_waiting += 1
    replica.seen_waiting_tokens += tokens
    replica.seen_waiting_blocks += blocks_of(tokens, replica.block_size)


@kernel
def set_mode(replica, pool, requests, row, mode):
    """Put batching mode number ``mode``, with limits ``row`` (a MODE), in force from the next iteration on."""
    if replica.mode == mode:
        return
    start_under_way(replica, pool, requests)
    replica.mode = mode
    replica.token_budget = row.token_budget
    replica.max_num_seqs = row.max_num_seqs
    replica.headroom_blocks = row.headroom_blocks
    replica.blocked = 0
    if replica.order != row.order:
        queue_reorder(replica, pool, requests, row.order)


@kernel
def reset_replica(replica, pool):
    """Empty the replica; latency, limits and mode stay."""
    for k in range(replica.block_size):
        pool[replica.phase_base + k] = 0
    replica.clock_s = 0.0
    replica.iteration_end_s = 0.0
    replica.in_flight = 0
    replica.under_way = 0
    replica.blocked = 0
    replica.free_blocks = replica.num_blocks
    replica.running = 0
    replica.decoding = 0
    replica.decode_step = 0
    replica.decode_context_tokens = 0
    replica.running_head = NOBODY
    replica.running_tail = NOBODY
    replica.prefill_id = NOBODY
    replica.finish_heap_size = 0
    replica.flight_decodes = 0
    replica.flight_first_prefill = NOBODY
    replica.waiting = 0
    replica.waiting_head = NOBODY
    replica.waiting_tail = NOBODY
    replica.live_heap_size = 0
    replica.hopeless_heap_size = 0
    replica.waiting_tokens = 0
    replica.waiting_blocks = 0
    replica.iterations = 0
    replica.preemptions = 0
    replica.busy_s = 0.0
    replica.seen_waiting = 0
    replica.seen_running = 0
    replica.seen_free_blocks = replica.num_blocks
    replica.seen_prefill_tokens = 0
    replica.seen_waiting_tokens = 0
    replica.seen_waiting_blocks = 0
    replica.seen_context_tokens = 0
    replica.seen_preemptions = 0
    replica.admissions = 0
    replica.livelocked = 0
    replica.preemptions_without_token = 0
    replica.first_flight = 0
    replica.busy_until_s = 0.0
    if replica.prefix_caching:
        reset_blocks(replica, pool)
        for slot in range(replica.flight_size):
            pool[replica.slot_base + slot] = slot
        replica.free_slots = replica.flight_size


@kernel
def reset_request(request):
    """Forget everything that happened to the request."""
    request.status = 0
    request.replica = NOBODY
    request.first_scheduled_s = np.nan
    request.first_token_s = np.nan
    request.finish_s = np.nan
    request.preemptions = 0
    request.recomputed_tokens = 0
    request.defers = 0
    request.decoding = 0
    request.demoted = 0
    request.target_tokens = request.output_tokens
    request.produced_tokens = 0
    request.computed_tokens = 0
    request.cached_tokens = -1
    request.in_flight_tokens = 0
    request.step_tokens = 0
    request.blocks = 0
