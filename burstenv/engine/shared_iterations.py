"""Iterations of inference that share the work of a fine-tuning job, and the job's progress, compiled.

The rules are those of :mod:`burstenv.engine.reference.background`. Such iterations are advanced in decode runs: their
number of tokens of the job is the same until a request ends, the job is done, or the iteration would become longer than
its target.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.engine.background import next_waiting, stretch, unit_s, units_apart
from burstenv.engine.background_rule import DECODES_ALONE, QUANTUM_TOKENS, WHOLE_STEPS
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.timing import at_pace_s, iteration_time_s


@kernel
def _backward_before_s(engine, request_id):
    return real_at(engine.arena, engine.gateway.backward_base + 2 * request_id)


@kernel
def note_backward_before(engine, request_id):
    """Note, of a request that comes to the replica, which backward passes do not delay it."""
    put_real(engine.arena, engine.gateway.backward_base + 2 * request_id, engine.replica.backward_s)


@outlined
def _find_most_delayed(engine):
    """Note which of the replica's requests backward passes have delayed most."""
    replica, requests = engine.replica, engine.requests
    least_s, request_id = replica.backward_s, np.int64(NO_REQUEST)
    for place in range(replica.waiting):
        request_id = next_waiting(engine, place, request_id)
        least_s = min(least_s, _backward_before_s(engine, request_id))
    request_id = np.int64(replica.running_head)
    while request_id != NO_REQUEST:
        least_s = min(least_s, _backward_before_s(engine, request_id))
        request_id = np.int64(requests[request_id].next)
    replica.least_backward_s = least_s


@kernel
def allowance_left_s(engine):
    """Return how long backward passes may still delay the request of the replica that they have delayed most [s]."""
    replica = engine.replica
    if replica.backward_s - replica.least_backward_s >= replica.background_allowance_s:
        _find_most_delayed(engine)
    return replica.background_allowance_s - (replica.backward_s - replica.least_backward_s)


@kernel
def shared_time_s(engine, tokens, prefill_tokens, prefill_attention, decodes, context, sequences):
    """Return the time of an iteration that shares so many ``tokens`` of the job, without a backward pass [s]."""
    attention = prefill_attention + tokens * np.int64(engine.spec.job_pairs)
    sequences += tokens > 0
    time_s = iteration_time_s(engine, prefill_tokens + tokens, attention, decodes, context, sequences)
    return at_pace_s(engine, time_s, sequences)


@kernel
def backward_pass_s(engine):
    """Return the time of the backward pass that follows a shared iteration [s]."""
    replica, spec = engine.replica, engine.spec
    return spec.step_backward_s * stretch(engine) if replica.background_flags & WHOLE_STEPS else 0.0


@outlined
def tokens_to_share(engine, used_tokens, prefill_tokens, prefill_attention, decodes, context, sequences):
    """Return how many prefill tokens of the job an iteration shares with what is scheduled."""
    replica, spec = engine.replica, engine.spec
    flags, pieces = replica.background_flags, np.int64(spec.step_pieces)
    left = np.int64(spec.job_units) - np.int64(replica.trained_units)
    room = np.int64(replica.token_budget) - used_tokens
    if left <= 0 or replica.halted or (flags & DECODES_ALONE and prefill_tokens > 0):
        return np.int64(0)
    if flags & WHOLE_STEPS:
        whole = left >= np.int64(spec.step_work_tokens) * pieces and room >= spec.step_tokens
        return np.int64(spec.step_tokens) if whole and allowance_left_s(engine) > 0.0 else np.int64(0)
    most = max(np.int64(0), min(np.int64(replica.background_tokens), min(room, (left + pieces - 1) // pieces)))
    if replica.background_target_s == np.inf:
        return most
    low, high = np.int64(0), most // QUANTUM_TOKENS
    while low < high:
        middle = (low + high + 1) // 2
        time_s = shared_time_s(
            engine, middle * QUANTUM_TOKENS, prefill_tokens, prefill_attention, decodes, context, sequences
        )
        if time_s <= replica.background_target_s:
            low = middle
        else:
            high = middle - 1
    return low * QUANTUM_TOKENS


@kernel
def units_of_shared(engine, tokens):
    """Return the units of the work of one iteration that shares so many ``tokens``."""
    replica, spec = engine.replica, engine.spec
    if replica.background_flags & WHOLE_STEPS:
        return np.int64(spec.step_work_tokens) * np.int64(spec.step_pieces)
    return tokens * np.int64(spec.step_pieces)


@kernel
def count_shared(engine, tokens, iterations):
    """Count the work of so many iterations that share ``tokens`` each, and note that of the newest two."""
    replica, spec = engine.replica, engine.spec
    before, units = np.int64(replica.trained_units), np.int64(0)
    if tokens > 0:
        units = units_of_shared(engine, np.int64(tokens))
        replica.trained_units = min(np.int64(spec.job_units), before + units * iterations)
        replica.backward_s += iterations * backward_pass_s(engine)
        if replica.trained_units == spec.job_units:
            replica.job_done_s = replica.clock_s
    if iterations == 1:
        units = np.int64(replica.trained_units) - before
    replica.older_units = replica.newest_units if iterations == 1 else units
    replica.newest_units = units


@outlined
def share_iteration(
    engine, duration_s, used_tokens, prefill_tokens, prefill_attention, decodes, context, sequences
):  # fmt: skip
    """Let an iteration of ``duration_s`` share the job's work; return how long it takes then [s]."""
    tokens = np.int64(0)
    if sequences > 0:
        tokens = tokens_to_share(engine, used_tokens, prefill_tokens, prefill_attention, decodes, context, sequences)
    count_shared(engine, tokens, 1)
    if tokens == 0:
        return duration_s
    return backward_pass_s(engine) + shared_time_s(
        engine, tokens, prefill_tokens, prefill_attention, decodes, context, sequences
    )


# -- the job's progress ------------------------------------------------------------------------------------------------


@kernel
def units_done(engine, now_s):
    """Return the units done by ``now_s``: shared ones as their iterations begin, apart as steps or layers end."""
    replica = engine.replica
    units = np.int64(replica.trained_units) + units_apart(engine, now_s)
    if replica.under_way and replica.run_shared_tokens > 0:
        units += units_of_shared(engine, np.int64(replica.run_shared_tokens))
    return min(units, np.int64(engine.spec.job_units))


@kernel
def unit_tokens(spec):
    """Return the tokens of the job in a unit of its work."""
    return spec.step_tokens / (float(spec.step_work_tokens) * spec.step_pieces)


@kernel
def tokens_trained(engine, now_s):
    """Return the tokens trained by ``now_s``."""
    return units_done(engine, now_s) * unit_tokens(engine.spec)


@kernel
def tokens_lost(engine):
    """Return the tokens that were trained and lost with the replica."""
    return engine.replica.lost_units * unit_tokens(engine.spec)


@kernel
def job_done_s(engine, now_s):
    """Return when the job was done; infinity: it is not [s]."""
    replica, spec = engine.replica, engine.spec
    if replica.training and replica.trained_units + units_apart(engine, now_s) == spec.job_units:
        return replica.training_from_s + (spec.job_units - replica.trained_units) * unit_s(engine)
    return replica.job_done_s
