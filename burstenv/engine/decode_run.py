"""Decode runs, compiled: many decode iterations, one event.

While a replica only decodes and can admit no request, its k-th iteration from now takes first + k growth seconds:
iteration time is affine in the context that is read, and the context grows by one token for each decoder. Hence n
iterations take n first + growth n (n - 1) / 2, and the end of the run is known at its beginning: a decoder finishes,
or the blocks run out. All times within are computed from the beginning of the run, never summed up: reading a replica
during a run changes no bit of later results.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.background_rule import WHOLE_STEPS
from burstenv.engine.counters import count_busy
from burstenv.engine.decoders import blocks_taken, phase_due, steps_with_blocks
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.finish_heap import next_finish_step
from burstenv.engine.iterations import next_iteration
from burstenv.engine.kv_cache import ENDED, take_blocks
from burstenv.engine.queues import next_demotion_s, phase_of
from burstenv.engine.shared_iterations import (
    allowance_left_s,
    backward_pass_s,
    count_shared,
    shared_time_s,
    tokens_to_share,
    units_of_shared,
)
from burstenv.engine.timing import (
    at_pace_s,
    decode_context_cost_s,
    decode_fixed_cost_s,
    mixed_context_cost_s,
    mixed_steps_alike,
)

# The state of a decode run after an advance.
UNDER_WAY = 0  # it continues: the iteration that has begun is an ordinary one
OVER = 1  # all its iterations are done
CUT = 2  # the next iteration must be scheduled in full: the head of the queue changes


@kernel
def run_elapsed_s(engine, steps):
    """Return the duration of the first ``steps`` iterations of the open run [s]."""
    replica = engine.replica
    return steps * replica.run_first_s + replica.run_growth_s * (0.5 * steps * (steps - 1))


@kernel
def run_boundary_s(engine, steps):
    """Return when the iteration after ``steps`` iterations of the open run is scheduled [s]; ``steps`` is at least 1.

    This is the end of the last of them, or, under asynchronous scheduling, its start.
    """
    replica, spec = engine.replica, engine.spec
    return replica.run_from_s + run_elapsed_s(engine, steps + 1 - spec.depth)


@kernel
def may_open_run(engine):
    """Return whether the next iterations hold all decoders and no other request."""
    replica = engine.replica
    return (
        replica.decoding > 0
        and replica.awaited == 0
        and replica.contested == 0
        and replica.prefill_id == NO_REQUEST
        and (replica.waiting == 0 or replica.blocked)
        and replica.decoding <= replica.token_budget
    )


@outlined
def share_run(engine, steps):
    """Let the iterations of the run that is being opened share the job's work; return how many it has then.

    All share as many tokens. They do while the job has so many left, an iteration is no longer than its target, and its
    time grows with the context as at first.
    """
    replica, spec = engine.replica, engine.spec
    decoding, context = np.int64(replica.decoding), np.int64(replica.decode_context_tokens)
    tokens = tokens_to_share(engine, decoding, 0, 0, decoding, context, decoding)
    replica.run_shared_tokens = tokens
    if tokens == 0:
        return steps
    left = np.int64(spec.job_units) - np.int64(replica.trained_units)
    steps = min(steps, left // units_of_shared(engine, tokens))
    if steps == 0:  # less is left than one of them takes
        return steps
    slope_s = mixed_context_cost_s(engine, decoding, context)
    slope_s += replica.slowdown * slope_s
    first_s = shared_time_s(engine, tokens, 0, 0, decoding, context, decoding)
    growth_s = slope_s * decoding
    steps = min(steps, mixed_steps_alike(engine, decoding, context))
    backward_s = backward_pass_s(engine)
    if backward_s > 0.0 and replica.background_allowance_s < np.inf:
        steps = min(steps, np.int64(math.ceil(allowance_left_s(engine) / backward_s)))
    if not replica.background_flags & WHOLE_STEPS and replica.background_target_s < np.inf and growth_s > 0.0:
        steps = min(steps, 1 + np.int64(min((replica.background_target_s - first_s) / growth_s, 1e9)))
    replica.run_first_s = first_s + backward_s
    replica.run_growth_s = growth_s
    return steps


@kernel
def open_run(engine):
    """Begin a decode run at the clock; return False if its first iteration is not an ordinary one."""
    replica, spec = engine.replica, engine.spec
    limits = engine.limits
    steps = steps_with_blocks(engine, next_finish_step(engine) - replica.decode_step)
    if steps == 0:
        return False
    demotion_s = np.inf
    if replica.waiting > 0:
        demotion_s = next_demotion_s(engine)
        if demotion_s < replica.clock_s or (limits.drops_hopeless and replica.hopeless_heap_size > 0):
            return False
    decoding = replica.decoding
    slope_s = decode_context_cost_s(engine, decoding)
    slope_s += replica.slowdown * slope_s
    fixed_s = at_pace_s(engine, decode_fixed_cost_s(engine, decoding), decoding)
    replica.run_first_s = fixed_s + slope_s * replica.decode_context_tokens
    replica.run_growth_s = slope_s * decoding
    if spec.background:
        steps = share_run(engine, steps)
        if steps == 0:
            return False
    replica.run_from_s = replica.clock_s if spec.depth == 1 else replica.busy_until_s
    replica.run_done = 0
    replica.run_steps = steps
    replica.run_end_s = run_boundary_s(engine, steps)
    replica.run_demotion_s = demotion_s
    replica.run_free_blocks = replica.free_blocks
    return True


@kernel
def close_run(engine):
    """End the run at its present iteration."""
    replica, spec = engine.replica, engine.spec
    elapsed_s = run_elapsed_s(engine, replica.run_done)
    count_busy(engine, elapsed_s, replica.run_free_blocks)
    replica.run_steps = 0
    if spec.depth > 1:
        replica.busy_until_s = replica.run_from_s + elapsed_s


@kernel
def _steps_by(engine, limit_s):
    """Return the number of the run's iterations, fewer than all, with their boundary by ``limit_s``."""
    replica, spec = engine.replica, engine.spec
    lag = spec.depth - 1
    if run_boundary_s(engine, replica.run_done + 1) > limit_s:
        return replica.run_done
    done = max(replica.run_done - lag, 0)
    from_s = replica.run_from_s
    first_s = replica.run_first_s
    left_s = limit_s - from_s
    growth_s = replica.run_growth_s  # solve n first + growth n (n - 1) / 2 = left for n
    linear_s = first_s - 0.5 * growth_s
    root = math.sqrt(linear_s * linear_s + 2.0 * growth_s * left_s)
    most = replica.run_steps - 1 - lag
    steps = max(done, int(min(2.0 * left_s / (linear_s + root), float(most))))
    while steps > done and from_s + run_elapsed_s(engine, steps) > limit_s:  # rounding
        steps -= 1
    while steps < most and from_s + run_elapsed_s(engine, steps + 1) <= limit_s:
        steps += 1
    return steps + lag


@kernel
def _take_blocks_of(engine, steps):
    """Take the blocks of the next ``steps`` iterations of the run, which are then committed."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    last = 0
    if spec.prefix_caching and spec.depth > 1:  # the last of them is under way
        last = arena[spec.phase_base + phase_of(-(replica.decode_step + steps - 1), spec.block_size)]
    take_blocks(engine, blocks_taken(engine, steps) - last, ENDED)
    if last > 0:
        take_blocks(engine, last, next_iteration(engine) + steps - 1)


@kernel
def follow_run(engine, until_s):
    """Commit every iteration of the open run with its boundary by ``until_s``; return the run's state.

    A run that is not ``UNDER_WAY`` is closed.
    """
    replica, spec = engine.replica, engine.spec
    limit_s = min(until_s, replica.run_demotion_s)
    over = replica.run_end_s <= limit_s
    upto = replica.run_steps if over else _steps_by(engine, limit_s)
    steps = upto - replica.run_done
    if steps > 0:
        _take_blocks_of(engine, steps)
        replica.decode_step += steps
        replica.decode_context_tokens += steps * replica.decoding
        replica.iterations += steps
        replica.run_done = upto
        replica.clock_s = run_boundary_s(engine, upto)
        if spec.background:
            count_shared(engine, replica.run_shared_tokens, steps)
        if spec.depth > 1:
            replica.ended_iterations += steps
            replica.coming_tokens = replica.decoding
            replica.flight_sequences = replica.decoding
            replica.ahead = 0
    if over:
        close_run(engine)
        return OVER
    end_s = run_boundary_s(engine, upto + 1)
    if end_s <= until_s:  # it begins in time but may not belong to the run
        close_run(engine)
        return CUT
    replica.iteration_end_s = end_s
    return UNDER_WAY


@kernel
def run_schedule_s(engine, now_s):
    """Return when an open run, which goes on beyond ``now_s``, schedules an iteration next: now, or later [s].

    The run is not moved.
    """
    replica = engine.replica
    upto = _steps_by(engine, min(now_s, replica.run_demotion_s))
    scheduled_s = replica.clock_s if upto == replica.run_done else run_boundary_s(engine, upto)
    return now_s if scheduled_s >= now_s else run_boundary_s(engine, upto + 1)


@kernel
def interrupt_run(engine):
    """Close the run before a change of later iterations; an iteration that has begun is put in flight."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    if replica.run_steps > 0:
        close_run(engine)
    if replica.under_way:
        replica.under_way = 0
        take_blocks(engine, arena[spec.phase_base + phase_due(engine)], next_iteration(engine))
        replica.iterations += 1
        if spec.background:
            count_shared(engine, replica.run_shared_tokens, 1)
        replica.flight_first_prefill = NO_REQUEST
        duration_s = replica.iteration_end_s - replica.clock_s
        if spec.depth > 1:
            replica.busy_until_s = run_boundary_s(engine, replica.run_done + 2)
            duration_s = replica.busy_until_s - replica.iteration_end_s
            replica.coming_tokens = replica.decoding
            replica.flight_sequences = replica.decoding
        count_busy(engine, duration_s, replica.free_blocks)
        replica.in_flight += 1
    replica.wake_s = replica.clock_s
    if replica.in_flight == spec.depth and not spec.general:  # what is in flight changes no more
        replica.wake_s = replica.iteration_end_s


@kernel
def rest_if_idle(engine):
    """Note that nothing happens on a replica without requests, after a change of something else."""
    replica, spec = engine.replica, engine.spec
    idle = replica.running + replica.waiting + replica.in_flight == 0
    if idle and not spec.general and not spec.background:
        replica.wake_s = np.inf
