"""Moving the replicas of a cluster through time, compiled: each as late as it can, and as far as it may."""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, merged
from burstenv.cluster.telemetry import scrape_until, unveil, veil
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.replica import advance_replica


@merged
def advance_cluster(world, until_s, lazily):
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
            advance_replica(engine_of(world, r), until_s, False)


@merged
def catch_up(engine, until_s):
    """Bring a replica that was left alone up to ``until_s``."""
    replica = engine.replica
    if replica.run_steps > 0 and not (replica.under_way and replica.iteration_end_s > until_s):
        advance_replica(engine, until_s, False)


@merged
def catch_up_all(world):
    """Bring every replica that was left alone up to the present."""
    unveil(world)
    for r in range(len(world.replicas)):
        catch_up(engine_of(world, r), world.environment.now_s)
    veil(world)


@merged
def _next_end_s(world, replica):
    """Return before when no request can end on a replica [s]."""
    if replica.wake_s > world.environment.advanced_s:
        return replica.wake_s
    if replica.in_flight or replica.under_way:  # the last iteration of a decode run that is cut
        return replica.iteration_end_s
    return np.inf  # it has nothing to do, or can start nothing


@detached(lambda state: state.gateway["closed_loop"].any(), lambda state: (world_type(state), types.float64))
def advance_to_ends(world, until_s):
    """With a closed loop: run the replicas up to the next end of a turn whose session may go on, if before ``until_s``.

    Its next turn may be sent before anything else happens, so no replica may be moved past that instant. Replicas do
    not affect each other before: the one whose next end comes first is moved there and goes on, until it is another's
    turn. Where two ends fall together, neither goes on before both are known.
    """
    environment, replicas = world.environment, world.replicas
    while environment.advanced_s < until_s and environment.ended == 0:
        after_s = np.nextafter(environment.advanced_s, np.inf)
        for r in range(len(replicas)):  # iterations that start now
            if replicas[r].wake_s < after_s:
                advance_replica(engine_of(world, r), after_s, True)
        while environment.ended == 0:
            first, first_s, second_s = 0, np.inf, np.inf
            for r in range(len(replicas)):
                end_s = _next_end_s(world, replicas[r])
                if end_s < first_s:
                    first, first_s, second_s = r, end_s, first_s
                elif end_s < second_s:
                    second_s = end_s
            if first_s >= until_s:
                environment.advanced_s = until_s
                break
            if world.gateway.scrape_period_s > 0.0:
                scrape_until(world, first_s)
                if environment.ended > 0:
                    environment.advanced_s = first_s
                    break
            if first_s == second_s or world.specs[first].general:
                for r in range(len(replicas)):
                    if _next_end_s(world, replicas[r]) == first_s:
                        advance_replica(engine_of(world, r), first_s, True)
                environment.advanced_s = first_s
                break
            advance_replica(engine_of(world, first), np.nextafter(first_s, np.inf), True)
            environment.advanced_s = first_s
