"""The front door of one cluster, compiled: decision epochs, and what a decision does.

A decision is a triple (admission, replica, mode). Nothing here chooses; policies and agents do. Clients that do
more than send and wait are in :mod:`burstenv.cluster.clients`; their epochs are found here, by a loop of its own.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, merged, outlined, types_of
from burstenv._jit.heap import heap_first, heap_first_key, heap_push, heap_remove
from burstenv.cluster.clients import (
    AFTER_ABANDONMENT,
    deadline_passed,
    follows,
    next_to_come,
    next_to_give_up,
    refused,
    reset_clients,
    send,
    turn_ended,
    unserved,
)
from burstenv.cluster.stuck import fail_the_rest, gives_up
from burstenv.cluster.telemetry import note_sent, scrape_until, unveil, veil
from burstenv.engine.enums import ABANDONED, AT_DOOR, FAILED, NOBODY, REJECTED, WAITING
from burstenv.engine.lifecycle import settle, settled
from burstenv.engine.published import publish
from burstenv.engine.records import ENTRY
from burstenv.engine.replica import advance_replica, enqueue, set_mode, withdraw
from burstenv.engine.reset import reset_accounts, reset_replica, reset_request

REJECT = 0
ADMIT = 1
DEFER = 2
ADMISSION_NAMES = ("reject", "admit", "defer")

FAST_WINDOW_S = 5.0  # averaging windows of the recent-traffic features
SLOW_WINDOW_S = 12.0 * FAST_WINDOW_S


@merged
def _advance_cluster(environment, replicas, pool, requests, until_s, lazily):
    """Run every replica up to ``until_s``; ``lazily``, leave those alone of which only KV use and context change."""
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        replica = replicas[r]
        # The general engine may have one iteration in flight and another to schedule.
        if lazily:
            advance = replica.wake_s <= until_s
        else:
            runs_on = (replica.in_flight or replica.under_way) and replica.iteration_end_s > until_s
            advance = replica.general or not runs_on
        if advance:
            advance_replica(environment, replica, pool, requests, until_s)


@merged
def catch_up(environment, replica, pool, requests, until_s):
    """Bring a replica that was left alone up to ``until_s``."""
    if replica.stretch_steps > 0 and not (replica.under_way and replica.iteration_end_s > until_s):
        advance_replica(environment, replica, pool, requests, until_s)


@kernel
def _decay_rates(environment, now_s):
    elapsed_s = now_s - environment.rate_s
    if elapsed_s > 0.0:
        slow = math.exp(-elapsed_s / SLOW_WINDOW_S)
        square = slow * slow
        fast = square * square * square  # the fast window is a twelfth of the slow one
        fast *= fast
        environment.rate_fast_per_s *= fast
        environment.token_rate_per_s *= fast
        environment.rate_slow_per_s *= slow
        environment.rate_s = now_s


@kernel
def _count_traffic(environment, request):
    """Count a request that comes to the front door, for the first time or again, in the recent traffic."""
    environment.rate_fast_per_s += 1.0 / FAST_WINDOW_S
    environment.token_rate_per_s += request.prompt_tokens / FAST_WINDOW_S
    environment.rate_slow_per_s += 1.0 / SLOW_WINDOW_S
    environment.api_share += 0.05 * (request.class_code - environment.api_share)


@kernel
def _close_episode(environment, replicas, requests):
    """End the episode, every request of it being settled, at the end of the last iteration."""
    environment.done = 1
    now_s = environment.now_s
    for k in range(environment.num_replicas):
        replica = replicas[environment.first_replica + k]
        now_s = max(now_s, replica.clock_s)
        publish(replica, requests)  # nothing waits and nothing runs, under whichever engine
    environment.now_s = now_s
    _decay_rates(environment, now_s)


@kernel
def _return_of_deferred(environment, pool, requests):
    """Bring the deferred request that is due first back to the front door."""
    request_id = heap_first(pool, environment.door_base)
    heap_remove(pool, environment.door_base, ENTRY, environment.deferred, request_id)
    environment.deferred -= 1
    environment.at_door = request_id


@kernel
def _next_wake_s(environment, replicas):
    """Return when the next replica has to be looked at: nothing finishes before, on any of them [s]."""
    wake_s = np.inf
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        replica = replicas[r]
        if replica.wake_s > environment.advanced_s:
            wake_s = min(wake_s, replica.wake_s)
        elif replica.in_flight or replica.under_way:  # the last iteration of a stretch that is cut
            wake_s = min(wake_s, replica.iteration_end_s)
    return wake_s


@outlined
def _give_up(environment, replicas, pool, requests, now_s):
    """Let the client whose deadline comes first go, at that instant, if it is kept waiting."""
    request_id = deadline_passed(environment, pool)
    request = requests[request_id]
    if request.status == AT_DOOR:  # deferred
        heap_remove(pool, environment.door_base, ENTRY, environment.deferred, request_id)
        environment.deferred -= 1
    elif request.status == WAITING and math.isnan(request.first_token_s) and request.in_flight_tokens == 0:
        replica = replicas[environment.first_replica + request.replica]
        catch_up(environment, replica, pool, requests, now_s)
        withdraw(replica, pool, requests, request_id, now_s)
    else:
        return  # it is being computed, or was answered or refused before
    environment.now_s = now_s
    _decay_rates(environment, now_s)
    unserved(environment, pool, requests, request_id, now_s, AFTER_ABANDONMENT, ABANDONED)


@detached(
    lambda state: state.environments["clients"].any(),
    lambda state: (types_of(state)[0], numba.typeof(state.replicas.reshape(-1)), *types_of(state)[2:], types.boolean),
)
def _next_epoch_among_clients(environment, replicas, pool, requests, lazily):
    """Advance one cluster to its next decision epoch, its clients giving up, coming again and going on meanwhile.

    With a closed loop nobody is moved past an instant at which a request may finish, because the next turn of its
    session may be sent before anything else happens: all replicas go from one such instant (``wake_s``) to the next.
    """
    environment.at_door = NOBODY
    end = environment.first_request + environment.num_requests
    begun = False  # with a closed loop: iterations that begin at ``advanced_s`` are in flight
    while True:
        while environment.next_arrival < end and follows(environment, pool, environment.next_arrival):
            environment.next_arrival += 1
        arrival_s = np.inf
        if environment.next_arrival < end:
            arrival_s = requests[environment.next_arrival].arrival_s
        due_s = np.inf
        if environment.deferred > 0:
            due_s = heap_first_key(pool, environment.door_base)
        leave_s = next_to_give_up(environment, pool)
        tick_s = environment.last_decision_s + environment.tick_s
        epoch_s = min(arrival_s, due_s, next_to_come(environment, pool), tick_s)
        until_s = min(epoch_s, leave_s)
        if environment.closed_loop and until_s > environment.advanced_s:
            if not begun:
                begin_s = np.nextafter(environment.advanced_s, np.inf)
                _advance_cluster(environment, replicas, pool, requests, begin_s, True)
                begun = True
                continue
            until_s = min(until_s, _next_wake_s(environment, replicas))
        if environment.scrape_period_s > 0.0:
            scrape_until(environment, replicas, pool, requests, until_s)
        _advance_cluster(environment, replicas, pool, requests, until_s, lazily or until_s < epoch_s)
        environment.advanced_s = max(environment.advanced_s, until_s)
        begun = False
        over = settled(environment) + environment.unsent == environment.num_requests
        if over and environment.coming == 0:
            _close_episode(environment, replicas, requests)
            return
        if until_s == np.inf:  # only requests that can never be scheduled are left
            fail_the_rest(environment, replicas, pool, requests)
            _decay_rates(environment, environment.now_s)
            return
        if leave_s == until_s:
            _give_up(environment, replicas, pool, requests, until_s)
            continue
        if until_s < epoch_s:
            continue
        environment.now_s = epoch_s
        _decay_rates(environment, epoch_s)
        if due_s == epoch_s:
            _return_of_deferred(environment, pool, requests)
            return
        if next_to_come(environment, pool) == epoch_s:
            request_id = heap_first(pool, environment.coming_base)
            heap_remove(pool, environment.coming_base, ENTRY, environment.coming, request_id)
            environment.coming -= 1
        elif arrival_s == epoch_s:
            request_id = environment.next_arrival
            environment.next_arrival += 1
        else:  # a tick
            if gives_up(environment, replicas, pool, requests):
                fail_the_rest(environment, replicas, pool, requests)
                _decay_rates(environment, environment.now_s)
            return
        if send(environment, pool, requests, request_id, epoch_s):
            _count_traffic(environment, requests[request_id])
            environment.at_door = request_id
            return


@kernel
def next_epoch(environment, replicas, pool, requests, lazily):
    """Advance one cluster to its next decision epoch.

    The epoch is the earliest of: an arrival, the return of a deferred request, ``tick_s`` without a
    decision. When nobody can come to the front door any more and there are no ticks, the cluster
    drains and the episode is done.

    ``lazily`` is for those who decide without a look at KV use or context: replicas in the middle of a
    stretch are left behind and caught up with when something happens to them. What happens is the same.
    """
    unveil(environment, replicas)
    _next_epoch(environment, replicas, pool, requests, lazily)
    veil(environment, replicas)


@merged
def _next_epoch(environment, replicas, pool, requests, lazily):
    if environment.clients:
        _next_epoch_among_clients(environment, replicas, pool, requests, lazily)
        return
    arrival_s = np.inf
    if environment.next_arrival < environment.first_request + environment.num_requests:
        arrival_s = requests[environment.next_arrival].arrival_s
    due_s = np.inf
    if environment.deferred > 0:
        due_s = heap_first_key(pool, environment.door_base)
    tick_s = environment.last_decision_s + environment.tick_s
    epoch_s = min(arrival_s, due_s, tick_s)
    if environment.scrape_period_s > 0.0:
        scrape_until(environment, replicas, pool, requests, epoch_s)
    _advance_cluster(environment, replicas, pool, requests, epoch_s, lazily)
    environment.at_door = NOBODY
    if arrival_s == np.inf and due_s == np.inf and settled(environment) == environment.num_requests:
        _close_episode(environment, replicas, requests)
        return
    if epoch_s == np.inf:  # only requests that can never be scheduled are left
        fail_the_rest(environment, replicas, pool, requests)
        _decay_rates(environment, environment.now_s)
        return
    environment.now_s = epoch_s
    _decay_rates(environment, epoch_s)
    if due_s <= arrival_s and due_s == epoch_s:
        _return_of_deferred(environment, pool, requests)
    elif arrival_s == epoch_s:
        request_id = environment.next_arrival
        environment.next_arrival += 1
        requests[request_id].status = AT_DOOR
        environment.offered += 1
        environment.offered_weight += requests[request_id].weight
        environment.arrived_s += requests[request_id].arrival_s
        _count_traffic(environment, requests[request_id])
        environment.at_door = request_id
    elif gives_up(environment, replicas, pool, requests):  # a tick
        fail_the_rest(environment, replicas, pool, requests)
        _decay_rates(environment, environment.now_s)


@kernel
def may_defer(environment, request):
    """Return whether the scenario lets this request be deferred once more."""
    return request.defers < environment.max_defers


@kernel
def apply_decision(environment, replicas, pool, requests, modes, admission, replica_index, mode):
    """Carry out one decision for the request at the front door (or for nobody, at a tick).

    The chosen replica's batching mode is set in either case, unless it was set less than
    ``batching_period_s`` ago. A deferral beyond the scenario's limit is a rejection: the client has
    been kept waiting long enough.
    """
    unveil(environment, replicas)
    replica = replicas[environment.first_replica + replica_index]
    catch_up(environment, replica, pool, requests, environment.now_s)
    if mode != replica.mode and environment.now_s >= replica.mode_since_s + environment.batching_period_s:
        set_mode(replica, pool, requests, modes[replica_index, mode], mode, environment.now_s)
        replica.mode_since_s = environment.now_s
    environment.last_decision_s = environment.now_s
    environment.decisions += 1
    request_id = environment.at_door
    if request_id == NOBODY:
        return
    environment.at_door = NOBODY
    request = requests[request_id]
    if admission == ADMIT:
        request.replica = replica_index
        enqueue(environment, replica, pool, requests, request_id, environment.now_s)
        if environment.count_sent and request.status != FAILED:
            note_sent(replica, request)
        if environment.closed_loop and request.status == FAILED:
            turn_ended(environment, pool, requests, request_id, environment.now_s, False)
    elif admission == DEFER and may_defer(environment, request):
        request.defers += 1
        due_s = environment.now_s + environment.defer_s
        heap_push(pool, environment.door_base, ENTRY, environment.deferred, due_s, request_id)
        environment.deferred += 1
    elif environment.clients:
        refused(environment, pool, requests, request_id, environment.now_s)
    else:
        settle(environment, request, REJECTED, environment.now_s)


@outlined
def reset_cluster(environment, replicas, pool, requests, modes, num_requests, seed):
    """Empty the cluster and rewind its episode of ``num_requests`` requests to the first arrival."""
    for r in range(environment.num_replicas):
        replica = replicas[environment.first_replica + r]
        reset_replica(replica, pool)
        replica.order = 0
        replica.mode = -1
        set_mode(replica, pool, requests, modes[r, 0], 0, 0.0)
        replica.mode_since_s = -np.inf
    for k in range(num_requests):
        reset_request(requests[environment.first_request + k])
    if environment.clients:
        reset_clients(environment, pool, num_requests, seed)
    environment.now_s = 0.0
    environment.num_requests = num_requests
    environment.next_arrival = environment.first_request
    environment.at_door = NOBODY
    environment.deferred = 0
    environment.done = 0
    environment.last_decision_s = 0.0
    environment.offered = 0
    environment.attained = 0
    environment.late = 0
    environment.rejected = 0
    environment.failed = 0
    environment.first_tokens = 0
    environment.first_in_time = 0
    environment.first_in_time_lost = 0
    environment.length_capped = 0
    environment.abandoned = 0
    environment.stuck_ticks = 0
    environment.attained_weight = 0.0
    environment.offered_weight = 0.0
    environment.decisions = 0
    environment.rng = seed
    environment.round_robin = 0
    environment.bucket_tokens = -1.0
    environment.bucket_s = 0.0
    environment.concurrency_limit = -1.0
    environment.window_s = 0.0
    environment.window_first_tokens = 0
    environment.window_in_time = 0
    environment.rate_fast_per_s = 0.0
    environment.rate_slow_per_s = 0.0
    environment.token_rate_per_s = 0.0
    environment.api_share = 0.0
    environment.rate_s = 0.0
    reset_accounts(environment)
