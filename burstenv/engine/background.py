"""Fine-tuning in the slack of a replica, compiled; its rules are those of :mod:`burstenv.engine.reference.background`.

Steps that run apart are one event, however many they are: they begin at a time, a unit of work always takes as long,
and they end at the first place where they can be interrupted once the oldest waiting request is due. Another pace, or a
time in which the replica stands still, moves the time at which they would have begun.
:mod:`burstenv.engine.shared_iterations` has the work that iterations of inference share.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.background_rule import (
    ENDLESS,
    LOOKS_AHEAD,
)
from burstenv.engine.enums import FCFS, FIRST_SCANNED, NO_REQUEST
from burstenv.engine.records import ENTRY, ENTRY_ID
from burstenv.engine.timing import iteration_time_s

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


@kernel
def set_background_rule(replica, bound_s, tokens, target_s, allowance_s, flags):
    """Write when a replica works on its job."""
    replica.deferral_bound_s = bound_s
    replica.background_tokens = tokens
    replica.background_target_s = target_s
    replica.background_allowance_s = allowance_s
    replica.background_flags = flags


# -- steps apart -------------------------------------------------------------------------------------------------------


@kernel
def stretch(engine):
    """Return how many times as long the job's work takes at the replica's present pace."""
    return 1.0 + engine.replica.slowdown * engine.spec.step_gpu_share


@kernel
def unit_s(engine):
    """Return the time that a unit takes apart, at the replica's present pace [s]."""
    return engine.spec.unit_s * stretch(engine)


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
def next_waiting(engine, place, before):
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
        request_id = next_waiting(engine, place, request_id)
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
    at_s, before = _present_s(replica, now_s), stretch(engine)
    if replica.training:
        _count_apart(engine, at_s)
    replica.slowdown = slowdown
    if replica.training:
        part_s = at_s - replica.training_from_s
        stretched_s = part_s * stretch(engine) / before
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
