"""One replica, compiled: the vLLM V1 scheduler with decode runs advanced as one event.

The rules are those of :mod:`burstenv.engine.reference.engine`, which is written for readers; this module
must agree with it and is written for speed. It has three ideas:

* A decoding request is touched only when it joins, finishes or is evicted. In between it is an entry
  in the finish heap (keyed by the decode step at which it ends) and a count among the phases (decoders
  by the step, modulo the block size, at which they take a block).
* Chunked prefill leaves at most one request in mid-prefill, and it is the last one admitted. So the
  batch is always: all decoders, then that one, then new admissions.
* While no request can be admitted, n decode iterations take n (a + b S) + b D n (n - 1) / 2 seconds, with
  S the context of the first and D decoders: the time of the next change has a closed form.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv.engine.background import find_oldest, may_train, note_change, note_waiting, set_background_rule, train
from burstenv.engine.cancelling import forget_tokens, lift
from burstenv.engine.decode_run import CUT, UNDER_WAY, follow_run, interrupt_run, may_open_run, open_run
from burstenv.engine.enums import FAILED, RUNNING, WAITING
from burstenv.engine.full_engine import advance_general, finish_general, oldest_end_s, start_general
from burstenv.engine.gateway_log import log_cancelled
from burstenv.engine.lifecycle import enter_flight, leave_flight, settle
from burstenv.engine.published import publish, publish_general, publish_handed_over, publish_withdrawn
from burstenv.engine.queues import (
    drop_hopeless,
    is_queue_head,
    queue_discard,
    queue_push,
    queue_reorder,
    tokens_to_compute,
)
from burstenv.engine.scheduler import finish_decoders, finish_iteration, start_iteration
from burstenv.engine.shared_iterations import note_backward_before
from burstenv.engine.world import engine_type, in_mode


@kernel
def _trains(engine):
    """Return whether steps of the job run apart, or may begin to: nothing runs, and nothing is on its way."""
    replica = engine.replica
    return replica.training != 0 or (may_train(engine) and (replica.in_flight == 0 or replica.flight_sequences == 0))


@outlined
def _is_over(engine, until_s):
    """Return whether an iteration has ended whose requests were all cancelled; if not, the replica wakes at its end."""
    replica = engine.replica
    if replica.busy_until_s > until_s:
        replica.wake_s = replica.busy_until_s
        return False
    replica.clock_s = replica.busy_until_s
    replica.ended_iterations += 1
    replica.flight_sequences = 0
    return True


@detached(lambda state: True, lambda state: (engine_type(state), types.float64, types.boolean))
def advance_replica(engine, until_s, turns_stop):
    """Run the replica up to ``until_s``: iterations ending by then are applied.

    An iteration never *starts* at ``until_s`` itself: requests that arrive at that instant are in the queue when it
    is scheduled. With ``turns_stop`` the replica stops at the end of a turn that has a next one, and starts none there.
    Writes into ``wake_s`` the time until which only ordinary iterations of a decode run take place.
    """
    replica, spec = engine.replica, engine.spec
    limits = engine.limits
    if replica.frozen:
        replica.wake_s = np.inf
        return
    if spec.general:
        advance_general(engine, until_s, turns_stop)
        return
    environment = engine.environment
    known, answered = environment.ended, False
    replica.under_way = 0
    while True:
        if replica.in_flight == spec.depth:
            goes_on = turns_stop and environment.ended > known  # after a turn that was rejected as this one started
            if replica.iteration_end_s > until_s or (goes_on and replica.iteration_end_s > replica.clock_s):
                replica.wake_s = replica.iteration_end_s
                return
            before = environment.ended
            finish_iteration(engine)
            answered = environment.ended > before
        trains = False
        if replica.running == 0:
            trains = spec.background != 0 and _trains(engine)
            if replica.waiting == 0 and not trains:
                if replica.in_flight > 0 and replica.flight_sequences > 0 and not _is_over(engine, until_s):
                    break
                replica.in_flight = 0  # asynchronous scheduling leaves one without work
                replica.wake_s = np.inf
                break
        elif spec.background:
            trains = replica.training != 0  # a request has joined
        if replica.clock_s >= until_s or (turns_stop and answered):
            replica.wake_s = replica.clock_s
            break
        if trains:
            if not train(engine, until_s):
                break
            if replica.waiting == 0 or replica.clock_s >= until_s:
                continue
        if replica.run_steps > 0 or (may_open_run(engine) and open_run(engine)):
            became = follow_run(engine, until_s)
            if became == UNDER_WAY:
                replica.under_way = replica.clock_s < until_s  # the one that would start at `until_s` has not
                replica.wake_s = min(replica.run_end_s, max(replica.run_demotion_s, replica.iteration_end_s))
                break
            if became != CUT:
                before = environment.ended
                finish_decoders(engine, replica.clock_s)
                answered = environment.ended > before
                continue
        if limits.drops_hopeless:
            drop_hopeless(engine)
        if not start_iteration(engine):
            replica.in_flight = 0
            if may_train(engine):
                replica.unservable = 1
                continue
            replica.wake_s = np.inf  # until something changes
            break
    publish(engine)


@outlined
def start_replica(engine):
    """Put the iteration that is scheduled at the clock in flight and leave it there for inspection.

    Moving time would skip an iteration that takes none: one that only preempts.
    """
    replica, spec = engine.replica, engine.spec
    limits = engine.limits
    if spec.general:
        if replica.in_flight < spec.depth and start_general(engine, -np.inf):
            replica.iteration_end_s = oldest_end_s(engine)
        return
    interrupt_run(engine)
    if replica.in_flight < spec.depth:
        if limits.drops_hopeless:
            drop_hopeless(engine)
        start_iteration(engine)


@outlined
def finish_replica(engine):
    """Apply the oldest iteration in flight, at its end, and schedule none."""
    replica, spec = engine.replica, engine.spec
    if spec.general:
        if replica.in_flight > 0:
            finish_general(engine)
        return
    interrupt_run(engine)
    if replica.in_flight < spec.depth:
        replica.iteration_end_s = replica.busy_until_s
    if replica.in_flight:
        finish_iteration(engine)


@kernel
def _wake(engine, now_s):
    """Apply a change at ``now_s``, the replica's present time: the next iteration is scheduled again.

    A replica that is idle, or had nothing to schedule beside its iteration in flight, schedules it now and not at its
    clock.
    """
    replica, spec = engine.replica, engine.spec
    interrupt_run(engine)
    if spec.background and replica.training:
        note_change(engine, now_s)
    elif replica.in_flight < spec.depth:
        replica.clock_s = max(replica.clock_s, now_s)


@kernel
def enqueue(engine, request_id, now_s):
    """Send a request to the replica at ``now_s``, as a server's front end does.

    A prompt that leaves no room for an output within the model length fails at once (status ``FAILED``), and the
    output is cut at that length (status ``LENGTH_CAPPED`` at its end). Outputs that another replica produced count as
    a part of the prompt.
    """
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    request = requests[request_id]
    request.target_tokens = request.output_tokens
    if spec.validate_requests:
        if tokens_to_compute(request) >= spec.max_model_len:
            settle(engine, request_id, FAILED, now_s)
            return
        request.target_tokens = min(request.output_tokens, spec.max_model_len - request.prompt_tokens)
    _wake(engine, now_s)
    enter_flight(engine, request_id, now_s)
    queue_push(engine, request_id, False)
    if spec.background:
        note_backward_before(engine, request_id)
        if replica.training:
            note_waiting(engine, request)
    publish_handed_over(engine, request)


@kernel
def _leave_queue(engine, request_id, now_s):
    """Remove a waiting request; the others keep their order, and the next iteration finds the queue without it."""
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    request = requests[request_id]
    if is_queue_head(engine, request_id):  # the next one may fit
        interrupt_run(engine)
        replica.blocked = 0
    queue_discard(engine, request_id)
    if spec.background and replica.training:
        note_change(engine, now_s)
        find_oldest(engine)
    elif not replica.under_way and replica.in_flight < spec.depth:
        replica.clock_s = max(replica.clock_s, now_s)
        replica.wake_s = min(replica.wake_s, replica.clock_s)  # the head of the queue may change with time
    publish_withdrawn(engine, request)


@outlined
def withdraw(engine, request_id, now_s):
    """Remove a waiting request from the replica at ``now_s``, the replica's present time."""
    leave_flight(engine, request_id)
    _leave_queue(engine, request_id, now_s)


@outlined
def cancel_copy(engine, request_id, now_s):
    """Remove one of two copies at ``now_s``, the replica's present time, which has brought no token that counts.

    Returns:
        Whether it is in the batch until the oldest iteration in flight ends.
    """
    replica, spec, request = engine.replica, engine.spec, engine.requests[request_id]
    log_cancelled(engine, request_id)
    if request.status == WAITING:
        _leave_queue(engine, request_id, now_s)
        forget_tokens(engine, request_id)
    elif request.status == RUNNING:
        interrupt_run(engine)
        if replica.in_flight == spec.depth:
            return True
        lift(engine, request_id)
        replica.clock_s = max(replica.clock_s, now_s)
        if not spec.general:
            publish(engine)
        elif not replica.ahead:
            publish_general(engine)
    return False


@outlined
def set_mode(engine, mode, limits, now_s):
    """Set batching mode ``mode``, with its ``limits`` (a MODE), from the next iteration on.

    The replica's present time is ``now_s``; requests that the new mode frees from a stuck queue start then.
    """
    replica = engine.replica
    if replica.mode == mode:
        return
    _wake(engine, now_s)
    replica.token_budget = limits.token_budget
    replica.blocked = 0
    if engine.limits.order != limits.order or limits.drops_hopeless:  # requests sorted last are rejected
        queue_reorder(in_mode(engine, limits), engine.limits.order)
    replica.mode = mode


@outlined
def set_token_budget(engine, token_budget, now_s):
    """Change the token budget at ``now_s``, from the next iteration on; the rest of the batching mode stays."""
    replica = engine.replica
    if replica.token_budget == token_budget:
        return
    _wake(engine, now_s)
    replica.token_budget = token_budget
    replica.blocked = 0


@outlined
def set_background(engine, bound_s, tokens, target_s, allowance_s, flags, now_s):
    """Change at ``now_s`` when the replica works on its job: between two steps, and from the next iteration on."""
    _wake(engine, now_s)
    set_background_rule(engine.replica, bound_s, tokens, target_s, allowance_s, flags)


@outlined
def let_train(engine, active, now_s):
    """Let the job, if there is one, go on at ``now_s``, or halt: no further step begins."""
    replica = engine.replica
    if engine.spec.background and replica.halted == active:
        _wake(engine, now_s)
        replica.halted = not active
