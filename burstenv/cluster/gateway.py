"""The front door of one cluster, compiled: decision epochs, and what a decision does.

A decision is a triple (admission, replica, mode). Nothing here chooses; policies and agents do. Clients that do
more than send and wait are in :mod:`burstenv.cluster.clients`; their epochs are found here, by a loop of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, merged, outlined
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
from burstenv.cluster.records import reset_memory
from burstenv.cluster.stuck import fail_the_rest, gives_up
from burstenv.cluster.telemetry import note_sent, scrape_until, unveil, veil
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import ABANDONED, AT_DOOR, FAILED, NOBODY, REJECTED, WAITING
from burstenv.engine.lifecycle import arrive, reach_gateway, settle, settled
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
def _advance_cluster(world, until_s, lazily):
    """Run every replica up to ``until_s``; ``lazily``, leave those alone of which only KV use and context change."""
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        # The general engine may have one iteration in flight and another to schedule.
        if lazily:
            advance = replica.wake_s <= until_s
        else:
            runs_on = (replica.in_flight or replica.under_way) and replica.iteration_end_s > until_s
            advance = world.specs[r].general or not runs_on
        if advance:
            advance_replica(engine_of(world, r), until_s)


@merged
def catch_up(engine, until_s):
    """Bring a replica that was left alone up to ``until_s``."""
    replica = engine.replica
    if replica.stretch_steps > 0 and not (replica.under_way and replica.iteration_end_s > until_s):
        advance_replica(engine, until_s)


@merged
def catch_up_all(world):
    """Bring every replica that was left alone up to the present."""
    unveil(world)
    for r in range(len(world.replicas)):
        catch_up(engine_of(world, r), world.environment.now_s)
    veil(world)


@kernel
def _decay_rates(world, now_s):
    environment = world.environment
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
def _count_traffic(world, request):
    """Count a request that comes to the front door, for the first time or again, in the recent traffic."""
    environment = world.environment
    environment.rate_fast_per_s += 1.0 / FAST_WINDOW_S
    environment.token_rate_per_s += request.prompt_tokens / FAST_WINDOW_S
    environment.rate_slow_per_s += 1.0 / SLOW_WINDOW_S
    environment.api_share += 0.05 * (request.class_code - environment.api_share)


@kernel
def _close_episode(world):
    """End the episode, every request of it being settled, at the end of the last iteration."""
    environment = world.environment
    environment.done = 1
    now_s = environment.now_s
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        now_s = max(now_s, engine.replica.clock_s)
        publish(engine)  # nothing waits and nothing runs, under whichever engine
    environment.now_s = now_s
    _decay_rates(world, now_s)


@kernel
def _return_of_deferred(world):
    """Bring the deferred request that is due first back to the front door."""
    environment, gateway, arena = world.environment, world.gateway, world.arena
    request_id = heap_first(arena, gateway.door_base)
    heap_remove(arena, gateway.door_base, ENTRY, environment.deferred, request_id)
    environment.deferred -= 1
    environment.at_door = request_id


@kernel
def _next_wake_s(world):
    """Return when the next replica has to be looked at: nothing finishes before, on any of them [s]."""
    environment, replicas = world.environment, world.replicas
    wake_s = np.inf
    for r in range(len(replicas)):
        replica = replicas[r]
        if replica.wake_s > environment.advanced_s:
            wake_s = min(wake_s, replica.wake_s)
        elif replica.in_flight or replica.under_way:  # the last iteration of a stretch that is cut
            wake_s = min(wake_s, replica.iteration_end_s)
    return wake_s


@outlined
def _give_up(world, now_s):
    """Let the client whose deadline comes first go, at that instant, if it is kept waiting."""
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    request_id = deadline_passed(world)
    request = requests[request_id]
    if request.status == AT_DOOR:  # deferred
        heap_remove(arena, gateway.door_base, ENTRY, environment.deferred, request_id)
        environment.deferred -= 1
    elif request.status == WAITING and math.isnan(request.first_token_s) and request.in_flight_tokens == 0:
        engine = engine_of(world, request.replica)
        catch_up(engine, now_s)
        withdraw(engine, request_id, now_s)
    else:
        return  # it is being computed, or was answered or refused before
    environment.now_s = now_s
    _decay_rates(world, now_s)
    unserved(world, request_id, now_s, AFTER_ABANDONMENT, ABANDONED)


@detached(lambda state: state.gateway["clients"].any(), lambda state: (world_type(state), types.boolean))
def _next_epoch_among_clients(world, lazily):
    """Advance one cluster to its next decision epoch, its clients giving up, coming again and going on meanwhile.

    With a closed loop nobody is moved past an instant at which a request may finish, because the next turn of its
    session may be sent before anything else happens: all replicas go from one such instant (``wake_s``) to the next.
    """
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    environment.at_door = NOBODY
    end = environment.num_requests
    begun = False  # with a closed loop: iterations that begin at ``advanced_s`` are in flight
    while True:
        while environment.next_arrival < end and follows(world, environment.next_arrival):
            environment.next_arrival += 1
        arrival_s = np.inf
        if environment.next_arrival < end:
            arrival_s = requests[environment.next_arrival].arrival_s
        due_s = np.inf
        if environment.deferred > 0:
            due_s = heap_first_key(arena, gateway.door_base)
        leave_s = next_to_give_up(world)
        tick_s = environment.last_decision_s + environment.tick_s
        epoch_s = min(arrival_s, due_s, next_to_come(world), tick_s)
        until_s = min(epoch_s, leave_s)
        if gateway.closed_loop and until_s > environment.advanced_s:
            if not begun:
                begin_s = np.nextafter(environment.advanced_s, np.inf)
                _advance_cluster(world, begin_s, True)
                begun = True
                continue
            until_s = min(until_s, _next_wake_s(world))
        if gateway.scrape_period_s > 0.0:
            scrape_until(world, until_s)
        _advance_cluster(world, until_s, lazily or until_s < epoch_s)
        environment.advanced_s = max(environment.advanced_s, until_s)
        begun = False
        over = settled(world) + environment.unsent == environment.num_requests
        if over and environment.coming == 0:
            _close_episode(world)
            return
        if until_s == np.inf:  # only requests that can never be scheduled are left
            fail_the_rest(world)
            _decay_rates(world, environment.now_s)
            return
        if leave_s == until_s:
            _give_up(world, until_s)
            continue
        if until_s < epoch_s:
            continue
        environment.now_s = epoch_s
        _decay_rates(world, epoch_s)
        if due_s == epoch_s:
            _return_of_deferred(world)
            return
        if next_to_come(world) == epoch_s:
            request_id = heap_first(arena, gateway.coming_base)
            heap_remove(arena, gateway.coming_base, ENTRY, environment.coming, request_id)
            environment.coming -= 1
        elif arrival_s == epoch_s:
            request_id = environment.next_arrival
            environment.next_arrival += 1
        else:  # a tick
            if gives_up(world):
                fail_the_rest(world)
                _decay_rates(world, environment.now_s)
            return
        if send(world, request_id, epoch_s):
            _count_traffic(world, requests[request_id])
            environment.at_door = request_id
            return


@kernel
def next_epoch(world, lazily):
    """Advance one cluster to its next decision epoch.

    The epoch is the earliest of: an arrival, the return of a deferred request, ``tick_s`` without a
    decision. When nobody can come to the front door any more and there are no ticks, the cluster
    drains and the episode is done.

    ``lazily`` is for those who decide without a look at KV use or context: replicas in the middle of a
    stretch are left behind and caught up with when something happens to them. What happens is the same.
    """
    unveil(world)
    _next_epoch(world, lazily)
    veil(world)


@merged
def begin(world, lazily):
    """Advance a freshly reset cluster to its first decision epoch; one that has begun stays where it is."""
    if world.environment.decisions == 0 and world.environment.offered == 0:
        next_epoch(world, lazily)


@merged
def _next_epoch(world, lazily):
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    if gateway.clients:
        _next_epoch_among_clients(world, lazily)
        return
    arrival_s = np.inf
    if environment.next_arrival < environment.num_requests:
        arrival_s = requests[environment.next_arrival].arrival_s
    due_s = np.inf
    if environment.deferred > 0:
        due_s = heap_first_key(arena, gateway.door_base)
    tick_s = environment.last_decision_s + environment.tick_s
    epoch_s = min(arrival_s, due_s, tick_s)
    if gateway.scrape_period_s > 0.0:
        scrape_until(world, epoch_s)
    _advance_cluster(world, epoch_s, lazily)
    environment.at_door = NOBODY
    if arrival_s == np.inf and due_s == np.inf and settled(world) == environment.num_requests:
        _close_episode(world)
        return
    if epoch_s == np.inf:  # only requests that can never be scheduled are left
        fail_the_rest(world)
        _decay_rates(world, environment.now_s)
        return
    environment.now_s = epoch_s
    _decay_rates(world, epoch_s)
    if due_s <= arrival_s and due_s == epoch_s:
        _return_of_deferred(world)
    elif arrival_s == epoch_s:
        request_id = environment.next_arrival
        environment.next_arrival += 1
        arrive(world, requests[request_id], arrival_s)
        reach_gateway(requests[request_id])
        _count_traffic(world, requests[request_id])
        environment.at_door = request_id
    elif gives_up(world):  # a tick
        fail_the_rest(world)
        _decay_rates(world, environment.now_s)


@kernel
def may_defer(world, request):
    """Return whether the scenario lets this request be deferred once more."""
    gateway = world.gateway
    return request.defers < gateway.max_defers


@kernel
def apply_decision(world, admission, replica_index, mode):
    """Carry out one decision for the request at the front door (or for nobody, at a tick).

    The chosen replica's batching mode is set in either case, unless it was set less than
    ``batching_period_s`` ago. A deferral beyond the scenario's limit is a rejection: the client has
    been kept waiting long enough.
    """
    environment, gateway, arena, requests = world.environment, world.gateway, world.arena, world.requests
    unveil(world)
    engine = engine_of(world, replica_index)
    replica = engine.replica
    catch_up(engine, environment.now_s)
    if mode != replica.mode and environment.now_s >= replica.mode_since_s + gateway.batching_period_s:
        set_mode(engine, mode, world.modes[replica_index, mode], environment.now_s)
        engine = engine_of(world, replica_index)
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
        enqueue(engine, request_id, environment.now_s)
        if gateway.count_sent and request.status != FAILED:
            note_sent(engine, request)
        if gateway.closed_loop and request.status == FAILED:
            turn_ended(world, request_id, environment.now_s, False)
    elif admission == DEFER and may_defer(world, request):
        request.defers += 1
        due_s = environment.now_s + gateway.defer_s
        heap_push(arena, gateway.door_base, ENTRY, environment.deferred, due_s, request_id)
        environment.deferred += 1
    elif gateway.clients:
        refused(world, request_id, environment.now_s)
    else:
        settle(world, request, REJECTED, environment.now_s)


@outlined
def reset_cluster(world, num_requests, seed):
    """Empty the cluster and rewind its episode of ``num_requests`` requests to the first arrival."""
    environment = world.environment
    for r in range(len(world.replicas)):
        world.replicas[r].mode = 0
        reset_replica(engine_of(world, r))
    for k in range(num_requests):
        reset_request(world.requests[k])
    if world.gateway.clients:
        reset_clients(world, num_requests, seed)
    environment.now_s = 0.0
    environment.num_requests = num_requests
    environment.next_arrival = 0
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
    environment.rate_fast_per_s = 0.0
    environment.rate_slow_per_s = 0.0
    environment.token_rate_per_s = 0.0
    environment.api_share = 0.0
    environment.rate_s = 0.0
    reset_accounts(world)
    reset_memory(world.memory, seed)
