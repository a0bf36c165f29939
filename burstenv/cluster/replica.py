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

from burstenv.cluster.decoders import (
    blocks_taken,
    grow_decoders,
    phase_due,
    steps_with_blocks,
)
from burstenv.cluster.general import advance_general
from burstenv.cluster.iteration import finish_decoders, finish_iteration, see, start_iteration
from burstenv.cluster.iteration_time import decode_context_cost_s, decode_fixed_cost_s
from burstenv.cluster.kernel import kernel
from burstenv.cluster.queues import (
    blocks_of,
    next_demotion_s,
    queue_push,
    queue_reorder,
    tokens_to_compute,
)
from burstenv.cluster.state import FAILED, NOBODY

_UNDER_WAY = -1
_LOOP_AT_MOST = 4  # shorter stretches are cheaper to add up than to solve for


@kernel
def _skip_decodes(environment, replica, pool, requests, until_s):
    """Commit, in one event, every whole decode iteration that ends by ``until_s`` and changes nothing else.

    Only for a batch of decoders to which nobody can be added. Stops early at the first finish, which
    it applies; leaves the iteration in which blocks run out to :func:`start_iteration`.

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
            finish_decoders(environment, replica, pool, requests, replica.clock_s)
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
            finish_iteration(environment, replica, pool, requests)
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
        if not start_iteration(replica, pool, requests):
            break
    see(replica, requests)


@kernel
def start_under_way(replica, pool, requests):
    """Put the decode iteration that is under way in flight, before something changes what comes after it."""
    if replica.under_way:
        replica.under_way = 0
        start_iteration(replica, pool, requests)


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
