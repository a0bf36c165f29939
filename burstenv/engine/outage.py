"""What a fault does to one replica, compiled: it stands still, goes on, loses its requests, or changes its pace.

A replica that stands still keeps its requests and takes new ones into its queue. Its published state stays that of its
last iteration, plus the requests that are sent to it: a router sees no difference to a long iteration.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.arena_records import CANCELLED
from burstenv.engine.asynchronous import lose_token
from burstenv.engine.background import change_pace, delay_training, lose_step, stop_training
from burstenv.engine.copies import forget_copy, kind_at
from burstenv.engine.decode_run import interrupt_run, rest_if_idle
from burstenv.engine.decoders import stop_decoding
from burstenv.engine.enums import COMPUTES_APART, NO_REQUEST, STANDS_STILL
from burstenv.engine.gateway_log import log_token
from burstenv.engine.iterations import is_set_back
from burstenv.engine.lifecycle import leave_replica
from burstenv.engine.published import publish, publish_general
from burstenv.engine.queues import queue_head, queue_remove, running_remove
from burstenv.engine.reset import empty_engine


@outlined
def freeze(engine, now_s):
    """Stop all progress at ``now_s``, the replica's present time; the iteration in flight does not end."""
    replica = engine.replica
    interrupt_run(engine)
    if engine.spec.background:
        stop_training(engine, now_s)
    replica.frozen = STANDS_STILL
    replica.stopped_s = now_s
    replica.wake_s = np.inf


@outlined
def thaw(engine, now_s):
    """Go on at ``now_s``: what was in flight ends so much later as the replica stood still."""
    replica, spec = engine.replica, engine.spec
    still_s = now_s - replica.stopped_s
    replica.frozen = 0
    if replica.in_flight > 0:
        replica.iteration_end_s += still_s
        replica.flight0_end_s += still_s
        replica.flight1_end_s += still_s
        replica.busy_until_s += still_s
    if spec.background:
        delay_training(engine, still_s, now_s)
    if replica.in_flight < spec.depth:
        replica.clock_s = max(replica.clock_s, now_s)
    replica.wake_s = replica.clock_s


@outlined
def lose_work(engine, now_s):
    """Lose what the replica's job has trained beyond whole steps; before its requests are taken out."""
    interrupt_run(engine)
    if engine.spec.background:
        lose_step(engine, now_s)


@kernel
def compute_apart(engine, now_s):
    """Let the batch stand still from ``now_s`` on, the replica's present time, while the GPU does something else."""
    freeze(engine, now_s)
    engine.replica.frozen = COMPUTES_APART


@kernel
def end_apart(engine, now_s):
    """Let the batch go on at ``now_s``."""
    engine.replica.busy_s += now_s - engine.replica.stopped_s
    thaw(engine, now_s)


@kernel
def _stop_decoding(engine, request_id):
    """Count the tokens of a decoder that are back, whatever the iterations in flight were to bring."""
    request = engine.requests[request_id]
    set_back = is_set_back(engine, request)
    stop_decoding(engine, request_id)
    if engine.spec.depth > 1:
        lose_token(engine, request_id)
    if set_back:
        request.produced_tokens += 1
        log_token(engine, request_id)


@outlined
def drop_cancelled(engine):
    """Forget the cancelled copies in the batch of a replica that is lost."""
    replica, requests = engine.replica, engine.requests
    interrupt_run(engine)
    request_id = replica.running_head
    while request_id != NO_REQUEST:
        following = requests[request_id].next
        if engine.arena[kind_at(engine, request_id)] & CANCELLED:
            if requests[request_id].decoding:
                _stop_decoding(engine, request_id)
            running_remove(engine, request_id)
            forget_copy(engine, request_id)
        request_id = following
    replica.leaving = 0


@outlined
def take_out(engine, now_s, keeps_outputs):
    """Return one of the replica's requests to the gateway, with its outputs or without them; NO_REQUEST: it has none.

    The others are no longer scheduled: call it until none is left, then :func:`clear`.
    """
    replica, requests = engine.replica, engine.requests
    interrupt_run(engine)
    if replica.running > 0:
        request_id = np.int64(replica.running_tail)
        if requests[request_id].decoding:
            _stop_decoding(engine, request_id)
        running_remove(engine, request_id)
    elif replica.waiting > 0:
        request_id = np.int64(queue_head(engine, now_s))
        queue_remove(engine, request_id)
    else:
        return np.int64(NO_REQUEST)
    leave_replica(engine, request_id, now_s, keeps_outputs)
    return request_id


@outlined
def clear(engine):
    """Restart a replica without requests, with an empty KV cache; an iteration that is cut was paid for in full."""
    replica, spec = engine.replica, engine.spec
    interrupt_run(engine)
    replica.ended_iterations += replica.in_flight  # no number is used twice
    empty_engine(engine)
    replica.frozen = 0
    replica.wake_s = np.inf
    if spec.general:
        publish_general(engine)
    else:
        publish(engine)


@outlined
def set_slowdown(engine, slowdown, now_s):
    """Let the GPU take longer by this share, from the next iteration on."""
    interrupt_run(engine)
    rest_if_idle(engine)
    if engine.spec.background and engine.replica.slowdown != slowdown:
        change_pace(engine, slowdown, now_s)
    engine.replica.slowdown = slowdown
