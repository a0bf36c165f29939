"""The clock of one cluster, compiled: one loop over the events to come, from decision to decision.

It does what :mod:`burstenv.cluster.reference.cluster` does, with replicas moved as late as they can be. Clients that
only send and wait need the parts in this file alone; the others are compiled where a scenario has them.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, merged, outlined
from burstenv._jit.floats import real_at
from burstenv.cluster.advance import advance_cluster, advance_to_ends
from burstenv.cluster.clients import follows, give_up, go_on_from_ends, send
from burstenv.cluster.events import (
    ARRIVAL,
    DEADLINE,
    FAULT,
    HAND_OVER,
    KIND,
    LAST_OF_CHANGES,
    LOOK,
    MIGRATE,
    PLACE,
    RETURN,
    SCALE,
    SILENCE,
    SUBJECT,
    TICK,
    TRANSFER,
    drop_first,
    entry_at,
    holds,
    next_event_s,
)
from burstenv.cluster.faults.draining import note_drained
from burstenv.cluster.faults.handlers import change
from burstenv.cluster.faults.races import decide_races
from burstenv.cluster.faults.silence import take_back
from burstenv.cluster.flow import counts_outputs, enter_queue, look
from burstenv.cluster.migration import BY_CALLER, migrate_by_rule
from burstenv.cluster.placement import ask_where, look_again, place_by_rule
from burstenv.cluster.scaling.control import control
from burstenv.cluster.seats import seat
from burstenv.cluster.stuck import fail_the_rest, gives_up, is_stuck
from burstenv.cluster.telemetry import scrape_until, unveil, veil
from burstenv.cluster.traffic import count_traffic, decay_rates
from burstenv.cluster.transfer_clock import take_one_step, take_steps
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.gateway_log import gateway_of
from burstenv.engine.lifecycle import arrive, reach_gateway, settled
from burstenv.engine.published import publish

_STALE = -1  # what was foreseen for an instant no longer holds


@kernel
def next_epoch(world, lazily):
    """Advance one cluster to its next decision epoch, or to the end of its episode.

    ``lazily`` is for policies that look at neither KV use nor context: replicas in the middle of a
    decode run are left behind and caught up with when something happens to them. The result is the same.
    """
    unveil(world)
    world.environment.at_gateway = NO_REQUEST
    if world.gateway.transfers:
        world.environment.migrating = 0
        world.environment.placing = 0
    if world.gateway.changes:
        world.environment.scaling = 0
        world.environment.hedging = 0
    _next_epoch(world, lazily)
    veil(world)


@merged
def begin(world, lazily):
    """Advance a freshly reset cluster to its first decision epoch; one that has begun stays where it is."""
    if world.environment.decisions == 0 and world.environment.offered == 0:
        next_epoch(world, lazily)


@merged
def _next_epoch(world, lazily):
    environment, gateway = world.environment, world.gateway
    while True:
        if environment.ended > 0:
            if environment.copies > 0:
                decide_races(world)
            if gateway.stops_at_ends:
                go_on_from_ends(world)
        arrival_s = _next_arrival_s(world)
        until_s = min(arrival_s, next_event_s(world), environment.last_decision_s + environment.tick_s)
        if gateway.transfers:
            until_s = min(until_s, environment.migrate_s)
        if gateway.transfers and not gateway.changes and arrival_s < np.inf:  # the episode goes on, none is turned off
            take_steps(world, until_s)
            until_s = min(until_s, next_event_s(world))
        else:
            if gateway.transfers:
                until_s = min(until_s, environment.transfer_s)
            if gateway.stops_at_ends or environment.copies > 0:
                advance_to_ends(world, until_s)
        if environment.ended > 0:
            continue
        if gateway.scrape_period_s > 0.0:
            scrape_until(world, until_s)
        advance_cluster(world, until_s, (lazily and not counts_outputs(world)) or _is_no_decision(world, until_s))
        if environment.ended > 0:
            continue  # a next turn may be sent at this very instant
        if gateway.changes:
            note_drained(world)
        if arrival_s == np.inf and settled(world) + environment.unsent == environment.num_requests:
            _close(world)
            return
        if until_s == np.inf:  # only requests that can never be scheduled are left
            _give_up_the_rest(world)
            return
        kind, subject = _take_event(world, until_s, arrival_s)
        if kind == _STALE:
            continue
        if kind == DEADLINE:
            give_up(world, subject, until_s)
            continue
        if kind == SILENCE:
            take_back(world, subject, until_s)
            if environment.hedging:
                return
            continue
        if FAULT <= kind <= LAST_OF_CHANGES:
            change(world, kind, subject, until_s)
            continue
        if kind == SCALE:
            control(world, until_s)
            if environment.scaling:
                return
            continue
        environment.now_s = until_s
        if kind == TRANSFER:
            take_one_step(world)
            continue
        if kind == HAND_OVER:
            look_again(world)
            continue
        if kind == PLACE:
            ask_where(world, subject)
            if world.memory.placed_by_caller:
                return
            place_by_rule(world)
            continue
        decay_rates(world, until_s)
        if kind == LOOK:
            look(world)
            if environment.at_gateway != NO_REQUEST:
                return
            continue
        if kind == MIGRATE:
            if _foresee_migration(world):
                if world.memory.migration == BY_CALLER:
                    seat(world, 0)
                    environment.migrating = 1
                    return
                migrate_by_rule(world)
            continue
        if kind == TICK:
            seat(world, 0)
            if gives_up(world):
                _give_up_the_rest(world)
            return
        if kind == RETURN:
            seat(world, gateway_of(world, subject))
            environment.deferred -= 1
            environment.at_gateway = subject
            return
        if gateway.clients:
            send(world, subject, until_s)
        else:
            _arrive(world, subject, until_s)
        if gateway.queues and environment.at_gateway != NO_REQUEST:
            enter_queue(world)
        if environment.at_gateway != NO_REQUEST:
            return


@kernel
def _next_arrival_s(world):
    """Return when the next request is sent of those that are sent when the trace says [s]."""
    environment = world.environment
    if world.gateway.clients:
        while environment.next_arrival < environment.num_requests and follows(world, environment.next_arrival):
            environment.next_arrival += 1
    if environment.next_arrival == environment.num_requests:
        return np.inf
    return world.requests[environment.next_arrival].arrival_s


@kernel
def _is_no_decision(world, now_s):
    """Return whether the first event of an instant looks at no replica but those that it catches up with.

    Decisions, which do, come later. A rule that says where a request decodes catches up with those that it looks at.
    """
    environment, arena = world.environment, world.arena
    if world.gateway.transfers and environment.transfer_s == now_s:
        return True
    at = entry_at(world, 0)
    if environment.events == 0 or real_at(arena, at) != now_s:
        return False
    kind = arena[at + KIND]
    return kind in (DEADLINE, HAND_OVER) or (kind == PLACE and not world.memory.placed_by_caller)


@kernel
def _take_event(world, now_s, arrival_s):
    """Take the first event of an instant; return its kind and subject. All kinds in the queue come before arrivals."""
    environment, arena = world.environment, world.arena
    if world.gateway.transfers and environment.transfer_s == now_s:
        return np.int64(TRANSFER), np.int64(environment.transfer_place)
    if next_event_s(world) == now_s:
        at = entry_at(world, 0)
        kind, subject = np.int64(arena[at + KIND]), np.int64(arena[at + SUBJECT])
        if not holds(world, at):
            kind = np.int64(_STALE)
        drop_first(world)
        return kind, subject
    if arrival_s == now_s:
        environment.next_arrival += 1
        return np.int64(ARRIVAL), np.int64(environment.next_arrival - 1)
    if world.gateway.transfers and environment.migrate_s == now_s:
        return np.int64(MIGRATE), np.int64(environment.migrate_number)
    return np.int64(TICK), np.int64(NO_REQUEST)


@outlined
def _foresee_migration(world):
    """Foresee the next time that a request may migrate; return whether one may now: not if nothing goes on."""
    environment = world.environment
    stuck = is_stuck(world)
    if stuck and environment.tick_s == np.inf:
        environment.migrate_s = np.inf
    else:  # a decision at a tick may let a stuck cluster go on
        environment.migrate_number += 1
        environment.migrate_s = environment.migrate_number * world.gateway.migrate_period_s
    return not stuck


@kernel
def _arrive(world, request_id, now_s):
    """Let a request reach the gateway whose client only sends and waits."""
    request = world.requests[request_id]
    seat(world, gateway_of(world, request_id))
    arrive(world, request, now_s)
    reach_gateway(request)
    count_traffic(world, request)
    world.environment.at_gateway = request_id


@kernel
def _close(world):
    """End the episode, every request of it being settled, at the end of the last iteration."""
    environment = world.environment
    environment.done = 1
    if environment.copies > 0:  # cancelled ones leave
        advance_cluster(world, np.inf, False)
    now_s = environment.now_s
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        now_s = max(now_s, engine.replica.clock_s)
        publish(engine)  # nothing waits and nothing runs, under whichever engine
    environment.now_s = now_s
    decay_rates(world, now_s)


@kernel
def _give_up_the_rest(world):
    """End the episode although requests are left that can never be scheduled."""
    fail_the_rest(world)
    decay_rates(world, world.environment.now_s)
