"""Requests that can never be scheduled, compiled: they fail, with a time, when all else is over."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.events import any_to_come
from burstenv.cluster.faults.races import lose_copy
from burstenv.cluster.world import engine_of
from burstenv.engine.background import end_of_training_s, may_train, waits_for_step
from burstenv.engine.copies import copy_of, is_hedged
from burstenv.engine.enums import FAILED, RUNNING, TRANSFERRING, UNSEEN, WAITING
from burstenv.engine.gateway_log import log_cancelled
from burstenv.engine.lifecycle import leave_flight, never_send, settle
from burstenv.engine.published import publish_withdrawn
from burstenv.engine.queues import queue_discard


@outlined
def fail_the_rest(world):
    """End the episode although requests are left that can never be scheduled: they fail when all else is over."""
    environment, gateway, replicas, requests = world.environment, world.gateway, world.replicas, world.requests
    now_s = environment.now_s
    for r in range(len(replicas)):
        now_s = max(now_s, replicas[r].clock_s)
    environment.now_s = now_s
    for request_id in range(environment.num_requests):
        request = requests[request_id]
        if environment.copies > 0 and is_hedged(world, request_id):
            copy = copy_of(world, request_id)
            log_cancelled(engine_of(world, requests[copy].replica), copy)
            lose_copy(world, copy)
        if request.status == WAITING:
            engine = engine_of(world, request.replica)
            queue_discard(engine, request_id)
            publish_withdrawn(engine, request)
            leave_flight(engine, request_id)
            settle(world, request_id, FAILED, now_s)
        elif request.status in (
            RUNNING,
            TRANSFERRING,
        ):  # in livelock, past its model length, or down for ever
            leave_flight(engine_of(world, request.replica), request_id)
            settle(world, request_id, FAILED, now_s)
        elif request.status == UNSEEN and gateway.clients:  # the turn before it was never answered
            never_send(world, request)
    environment.ended = 0
    environment.done = 1


@kernel
def is_stuck(world):
    """Return whether nothing is to come but ticks: no arrival, no other event, no iteration of any replica."""
    environment = world.environment
    if environment.next_arrival < environment.num_requests or any_to_come(world):
        return False
    if world.gateway.transfers and environment.transfer_s < np.inf:
        return False
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        if replica.frozen:
            continue  # its iteration does not end; the end of the outage, if it has one, is an event
        if replica.training:
            if waits_for_step(replica) and end_of_training_s(engine_of(world, r)) < np.inf:
                return False
            continue  # what waits is held until the job is done, and it is never done
        if replica.in_flight or replica.under_way or replica.run_steps > 0:
            return False
        if replica.clock_s >= environment.now_s and (waits_for_step(replica) or may_train(engine_of(world, r))):
            return False  # an iteration, or a step, may start at this very instant
    return True


@kernel
def gives_up(world):
    """Return whether the cluster has been stuck for so many ticks that every mode of every replica was tried.

    Only a change of batching mode could help, and only a decision at a tick could make one.
    """
    environment = world.environment
    if not is_stuck(world):
        environment.stuck_ticks = 0
        return False
    environment.stuck_ticks += 1
    count, modes = world.modes.shape
    return modes == 1 or environment.stuck_ticks > count * modes
