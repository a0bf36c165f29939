"""Fine-tuning in the slack of a replica, compiled; its rules are those of :mod:`burstenv.engine.reference.background`.

Steps that run apart are one event, however many they are: they begin at a time, a unit of work always takes as long,
and they end at the first place where they can be interrupted once the oldest waiting request is due. Another pace, or a
time in which the replica stands still, moves the time at which they would have begun. Iterations that
share work with requests are advanced in decode runs: their number of tokens is the same until a request ends, the job
is done, or the iteration would become longer than its target.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.engine.background_rule import (
    DECODES_ALONE,
    ENDLESS,
    LOOKS_AHEAD,
    QUANTUM_TOKENS,
    WHOLE_STEPS,
)
from burstenv.engine.enums import FCFS, FIRST_SCANNED, NO_REQUEST
from burstenv.engine.records import ENTRY, ENTRY_ID
from burstenv.engine.timing import at_pace_s, iteration_time_s

_ENDLESS = np.int64(ENDLESS)


@kernel
def reset_background(replica):
    """Begin the job of a replica; the rule in force stays."""
    replica.trained_units = 0
    replica.lost_units = 0
    replica.newest_units = 0
    replica.older_units = 0
    replica.halted = 0
    replica.training = 0
    replica.unservable = 0
    replica.training_s = 0.0
    replica.job_done_s = np.inf
    replica.backward_s = 0.0
    replica.least_backward_s = 0.0
    replica.run_shared_tokens = 0


# -- steps apart -------------------------------------------------------------------------------------------------------


@kernel
def _stretch(engine):
    """Return how many times as long the job's work takes at the replica's present pace."""
    return 1.0 + engine.replica.slowdown * engine.spec.step_gpu_share


@kernel
def unit_s(engine):
    """Return the time that a unit takes apart, at the replica's present pace [s]."""
    return engine.spec.unit_s * _stretch(engine)


@kernel
def may_train(engine):
    """Return whether work is left, and steps may run apart while nothing runs."""
    replica, spec = engine.replica, engine.spec
    return (
        spec.background != 0
        and replica.running == 0
        and not replica.halted
        and replica.deferral_bound_s >= 0.0
        and replica.trained_units < spec.job_units
    )


@kernel
def _started_or_arrived_s(request):
    """Return when a waiting request arrived; minus infinity for one that has run before: it is not held."""
    return -np.inf if request.preemptions > 0 else request.arrival_s


@kernel
def _next_waiting(engine, place, before):
    """Return the id of the waiting request at a place among them; ``before`` is that at the place before it."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    order = engine.limits.order
    if order == FCFS or order >= FIRST_SCANNED:
        return np.int64(replica.waiting_head) if place == 0 else np.int64(engine.requests[before].next)
    if place < replica.live_heap_size:
        return np.int64(arena[spec.live_base + ENTRY * place + ENTRY_ID])
    return np.int64(arena[spec.hopeless_base - ENTRY * (place - replica.live_heap_size) + ENTRY_ID])


@outlined
def find_oldest(engine):
    """Note when the oldest waiting request arrived."""
    replica, requests = engine.replica, engine.requests
    oldest_s, request_id = np.inf, np.int64(NO_REQUEST)
    for place in range(replica.waiting):
        request_id = _next_waiting(engine, place, request_id)
        oldest_s = min(oldest_s, _started_or_arrived_s(requests[request_id]))
    replica.oldest_s = oldest_s


@kernel
def note_waiting(engine, request):
    """Note a request that came while steps run apart."""
    replica = engine.replica
    replica.oldest_s = min(replica.oldest_s, _started_or_arrived_s(request))


@kernel
def _due_s(engine):
    """Return when inference is to go on with what waits [s]."""
    replica, spec = engine.replica, engine.spec
    if replica.oldest_s == -np.inf or replica.running > 0:
        return -np.inf
    due_s = replica.oldest_s + replica.deferral_bound_s
    if replica.background_flags & LOOKS_AHEAD:
        tokens = min(np.int64(replica.waiting_tokens), np.int64(replica.token_budget))
        soon_s = iteration_time_s(engine, tokens, tokens * (tokens + 1) // 2, 0, 0, 1)
        due_s += soon_s - spec.step_work_tokens * spec.unit_s
    return due_s


@kernel
def waits_for_step(replica):
    """Return whether requests wait while steps run apart, or have joined from another replica."""
    return replica.waiting + replica.running > 0


@outlined
def _end_of_training(engine):
    """Return when steps apart end, if nothing changes, and the units done by then; infinity: they do not [s]."""
    replica, spec = engine.replica, engine.spec
    begun, job_units = np.int64(replica.trained_units), np.int64(spec.job_units)
    stops = replica.deferral_bound_s < 0.0 or replica.halted != 0
    if not stops and (not waits_for_step(replica) or replica.unservable):
        return np.inf, begun
    due_s = -np.inf if stops else _due_s(engine)
    due_s = max(due_s, replica.training_changed_s)
    if due_s == np.inf:
        units = job_units
    else:
        size = np.int64(spec.step_work_tokens)
        needed = max(0.0, (due_s - replica.training_from_s) / unit_s(engine))
        units = job_units
        if needed < job_units - begun:
            units = (begun + np.int64(needed)) // size * size
            while units <= begun or replica.training_from_s + (units - begun) * unit_s(engine) < due_s:
                units += size
            units = min(units, job_units)
    if units == _ENDLESS:
        return np.inf, begun
    return replica.training_from_s + (units - begun) * unit_s(engine), units


@kernel
def end_of_training_s(engine):
    """Return when the steps that run apart end, if nothing changes; infinity: they do not [s]."""
    return _end_of_training(engine)[0]


@kernel
def _end_training(engine, end_s, units):
    """Count the work of steps apart that have ended."""
    replica, spec = engine.replica, engine.spec
    replica.training_s += (units - replica.trained_units) * unit_s(engine)
    replica.trained_units = units
    if units == spec.job_units:
        replica.job_done_s = end_s
    replica.training = 0
    replica.unservable = 0


@outlined
def note_change(engine, now_s):
    """Note a change at ``now_s`` while steps run apart: they go on at least to the next place after it.

    Where they were paused, and nothing waited, they may have ended before.
    """
    replica = engine.replica
    replica.unservable = 0
    if replica.frozen:
        return  # what is under way goes on when the replica does
    end_s, units = _end_of_training(engine)
    if not waits_for_step(replica) and end_s <= now_s:
        _end_training(engine, end_s, units)
        replica.clock_s = now_s
    replica.training_changed_s = now_s
    replica.wake_s = replica.clock_s


@outlined
def train(engine, until_s):
    """Run steps apart from the clock on, up to ``until_s``; return whether they have ended, or there are none.

    Inference can go on at the clock then. Otherwise writes into ``wake_s`` when they end.
    """
    replica, spec = engine.replica, engine.spec
    if not replica.training:
        find_oldest(engine)
        if replica.waiting > 0 and not replica.unservable and replica.clock_s >= _due_s(engine):
            return True
        replica.training = 1
        if spec.general:  # iterations without work are over
            replica.ended_iterations += replica.in_flight
            replica.first_flight = (replica.first_flight + replica.in_flight) % 2
        replica.in_flight = 0
        replica.training_from_s = replica.clock_s
        replica.training_changed_s = replica.clock_s
    end_s, units = _end_of_training(engine)
    if not waits_for_step(replica):  # nothing goes on before something changes
        replica.wake_s = np.inf
        return False
    if end_s >= until_s:
        replica.wake_s = end_s
        return False
    _end_training(engine, end_s, units)
    replica.clock_s = max(end_s, replica.training_changed_s)
    return True


@kernel
def units_apart(engine, now_s):
    """Return the units of whole steps, or layers, done at ``now_s`` by those that run apart."""
    replica, spec = engine.replica, engine.spec
    if not replica.training:
        return np.int64(0)
    begun, size = np.int64(replica.trained_units), np.int64(spec.step_work_tokens)
    end_s, units = _end_of_training(engine)
    if replica.frozen:
        now_s = min(now_s, replica.stopped_s)
    if now_s >= end_s:
        return units - begun
    most = np.int64(spec.job_units) - begun
    done = max(0.0, (now_s - replica.training_from_s) / unit_s(engine))
    if done >= most:
        return most
    return max(np.int64(0), (begun + np.int64(done)) // size * size - begun)


@kernel
def next_step_s(engine, now_s):
    """Return when the step, or layer, that is under way at ``now_s`` ends, of those that run apart [s]."""
    replica, spec = engine.replica, engine.spec
    begun, size = np.int64(replica.trained_units), np.int64(spec.step_work_tokens)
    units = ((begun + units_apart(engine, now_s)) // size + 1) * size
    return replica.training_from_s + (min(units, np.int64(spec.job_units)) - begun) * unit_s(engine)


# -- another pace, and losses ------------------------------------------------------------------------------------------


@kernel
def _count_apart(engine, now_s):
    """Count the steps and layers that have ended by ``now_s`` of those that run apart, and end them if all have."""
    replica, spec = engine.replica, engine.spec
    end_s, units = _end_of_training(engine)
    done = units_apart(engine, now_s)
    if replica.trained_units + done == spec.job_units:
        units = np.int64(spec.job_units)
        end_s = replica.training_from_s + done * unit_s(engine)
    if end_s <= now_s:
        _end_training(engine, end_s, units)
        replica.clock_s = now_s
        return
    replica.training_s += done * unit_s(engine)
    replica.training_from_s += done * unit_s(engine)
    replica.trained_units += done


@kernel
def _present_s(replica, now_s):
    return replica.stopped_s if replica.frozen else now_s


@outlined
def stop_training(engine, now_s):
    """Count what was done apart when the replica stands still from ``now_s`` on."""
    if engine.replica.training:
        _count_apart(engine, now_s)


@outlined
def delay_training(engine, still_s, now_s):
    """Go on at ``now_s`` after ``still_s`` without progress."""
    replica = engine.replica
    replica.unservable = 0
    if replica.training:
        replica.training_from_s += still_s
        replica.training_changed_s = now_s


@outlined
def change_pace(engine, slowdown, now_s):
    """Let the replica have another pace from ``now_s`` on, which stretches the rest of a step apart."""
    replica = engine.replica
    at_s, before = _present_s(replica, now_s), _stretch(engine)
    if replica.training:
        _count_apart(engine, at_s)
    replica.slowdown = slowdown
    if replica.training:
        part_s = at_s - replica.training_from_s
        stretched_s = part_s * _stretch(engine) / before
        replica.training_from_s = at_s - stretched_s
        replica.training_s += part_s - stretched_s  # the whole step will be counted as if it ran at the present pace
        replica.training_changed_s = at_s


@outlined
def lose_step(engine, now_s):
    """Lose what is not a whole step, and the work of iterations in flight, as the replica is lost or off."""
    replica, spec = engine.replica, engine.spec
    at_s = _present_s(replica, now_s)
    if replica.training:
        _count_apart(engine, at_s)
    if replica.training:
        replica.training_s += at_s - replica.training_from_s
        replica.training = 0
    done = np.int64(replica.trained_units)
    kept = done
    if replica.in_flight > 0:
        kept -= replica.newest_units
    if replica.in_flight > 1:
        kept -= replica.older_units
    if kept < spec.job_units:
        kept -= kept % (np.int64(spec.step_work_tokens) * np.int64(spec.step_pieces))
        replica.job_done_s = np.inf
    replica.trained_units = kept
    replica.lost_units += done - kept
    replica.unservable = 0


# -- shared iterations -------------------------------------------------------------------------------------------------


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
        request_id = _next_waiting(engine, place, request_id)
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
    return spec.step_backward_s * _stretch(engine) if replica.background_flags & WHOLE_STEPS else 0.0


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


@kernel
def units_done(engine, now_s):
    """Return the units done by ``now_s``: shared ones as their iterations begin, apart as steps or layers end."""
    replica = engine.replica
    units = np.int64(replica.trained_units) + units_apart(engine, now_s)
    if replica.under_way and replica.run_shared_tokens > 0:
        units += units_of_shared(engine, np.int64(replica.run_shared_tokens))
    return min(units, np.int64(engine.spec.job_units))


@kernel
def tokens_lost(engine):
    """Return the tokens that were trained and lost with the replica."""
    spec = engine.spec
    return engine.replica.lost_units * (spec.step_tokens / (float(spec.step_work_tokens) * spec.step_pieces))


@kernel
def job_done_s(engine, now_s):
    """Return when the job was done; infinity: it is not [s]."""
    replica, spec = engine.replica, engine.spec
    if replica.training and replica.trained_units + units_apart(engine, now_s) == spec.job_units:
        return replica.training_from_s + (spec.job_units - replica.trained_units) * unit_s(engine)
    return replica.job_done_s


@kernel
def tokens_trained(engine, now_s):
    """Return the tokens trained by ``now_s``."""
    spec = engine.spec
    return units_done(engine, now_s) * (spec.step_tokens / (float(spec.step_work_tokens) * spec.step_pieces))


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


@kernel
def set_background_rule(replica, bound_s, tokens, target_s, allowance_s, flags):
    """Write when a replica works on its job."""
    replica.deferral_bound_s = bound_s
    replica.background_tokens = tokens
    replica.background_target_s = target_s
    replica.background_allowance_s = allowance_s
    replica.background_flags = flags
