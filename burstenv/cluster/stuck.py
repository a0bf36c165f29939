"""Requests that can never be scheduled, compiled: they fail, with a time, when all else is over."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import FAILED, RUNNING, UNSEEN, UNSENT, WAITING
from burstenv.engine.lifecycle import settle
from burstenv.engine.published import publish_withdrawn
from burstenv.engine.queues import queue_discard


@outlined
def fail_the_rest(environment, replicas, pool, requests):
    """End the episode although requests are left that can never be scheduled: they fail when all else is over."""
    now_s = environment.now_s
    for k in range(environment.num_replicas):
        now_s = max(now_s, replicas[environment.first_replica + k].clock_s)
    environment.now_s = now_s
    for request_id in range(environment.first_request, environment.first_request + environment.num_requests):
        request = requests[request_id]
        if request.status == WAITING:
            replica = replicas[environment.first_replica + request.replica]
            queue_discard(replica, pool, requests, request_id)
            publish_withdrawn(replica, request)
            settle(environment, request, FAILED, now_s)
        elif request.status == RUNNING:  # of a replica in livelock, or past its model length
            settle(environment, request, FAILED, now_s)
        elif request.status == UNSEEN and environment.clients:  # the turn before it was never answered
            request.status = UNSENT
            request.arrival_s = np.nan
            environment.unsent += 1
    environment.done = 1


@kernel
def _may_give_up(environment, pool, requests):
    """Return whether a client that is with a replica has a deadline to come."""
    for place in range(environment.impatient):
        status = requests[pool[environment.patience_base + place]].status
        if status in (WAITING, RUNNING):
            return True
    return False


@kernel
def _is_stuck(environment, replicas, pool, requests):
    """Return whether nothing is to come but ticks: no request, no deadline, no iteration of any replica."""
    sent = environment.next_arrival == environment.first_request + environment.num_requests
    if not sent or environment.deferred > 0 or environment.coming > 0:
        return False
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        replica = replicas[r]
        if replica.in_flight or replica.under_way or replica.stretch_steps > 0:
            return False
        if replica.clock_s >= environment.now_s and replica.waiting + replica.running > 0:
            return False  # an iteration may start at this very instant
    return not _may_give_up(environment, pool, requests)


@kernel
def gives_up(environment, replicas, pool, requests):
    """Return whether the cluster has been stuck for so many ticks that every mode of every replica was tried.

    Only a change of batching mode could help, and only a decision at a tick could make one.
    """
    if not _is_stuck(environment, replicas, pool, requests):
        environment.stuck_ticks = 0
        return False
    environment.stuck_ticks += 1
    return environment.modes == 1 or environment.stuck_ticks > environment.num_replicas * environment.modes
