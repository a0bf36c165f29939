"""Moving the replicas of a cluster through time, compiled: each as late as it can, and as far as it may."""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, merged, outlined
from burstenv.cluster.telemetry import scrape_until, unveil, veil
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.iterations import runs_beyond
from burstenv.engine.replica import advance_replica
from burstenv.engine.transfer_ends import hands_out


@kernel
def _is_due(replica, until_s):
    """Return whether anything may happen on a replica by ``until_s``; nothing starts at that instant itself."""
    if replica.wake_s > until_s:
        return False
    return replica.clock_s < until_s or replica.in_flight > 0 or replica.run_steps > 0


@merged
def advance_cluster(world, until_s, lazily):
    """Run every replica up to ``until_s``; ``lazily``, leave those alone of which only KV use and context change."""
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        engine = engine_of(world, r)
        if _is_due(replica, until_s) if lazily else not runs_beyond(engine, until_s):
            advance_replica(engine, until_s, False)


@merged
def catch_up(engine, until_s):
    """Bring a replica that was left alone up to ``until_s``."""
    replica = engine.replica
    if replica.run_steps > 0 and not runs_beyond(engine, until_s):
        advance_replica(engine, until_s, False)


@merged
def bring_up(engine, until_s):
    """Bring a replica up to ``until_s`` that was left behind, whatever has happened on it since."""
    replica = engine.replica
    if _is_due(replica, until_s) or (replica.run_steps > 0 and not runs_beyond(engine, until_s)):
        advance_replica(engine, until_s, False)


@merged
def catch_up_all(world):
    """Bring every replica that was left alone up to the present."""
    unveil(world)
    for r in range(len(world.replicas)):
        catch_up(engine_of(world, r), world.environment.now_s)
    veil(world)


@kernel
def _makes_ends(world, r):
    """Return whether anything may happen at once when a request ends on a replica, or a prompt."""
    gateway = world.gateway
    return gateway.closed_loop or world.environment.copies > 0 or gateway.switches_roles or hands_out(world.replicas[r])


@outlined
def _advance_together(world, now_s):
    """Apply what ends at an instant on all replicas, then start what starts, unless a session goes on at that instant.

    It does where a replica's start rejects a turn as hopeless, too: the replicas that follow start later.
    """
    gateway, replicas = world.gateway, world.replicas
    for r in range(gateway.ends_from, gateway.ends_before):
        if _is_due(replicas[r], now_s) and _makes_ends(world, r):
            advance_replica(engine_of(world, r), now_s, True)
    after_s = np.nextafter(now_s, np.inf)
    for r in range(gateway.ends_from, gateway.ends_before):
        if world.environment.ended == 0 and replicas[r].wake_s <= now_s and _makes_ends(world, r):
            advance_replica(engine_of(world, r), after_s, True)


@outlined
def move_to_ends(world, until_s):
    """Run the replicas up to the first end of a turn that has a next one, or of a prompt, if before ``until_s``.

    Or up to the first token of a request that has two copies.

    The next turn may be sent, and the prefilled request placed, before anything else happens, so no replica may be
    moved past that instant. Replicas do not affect each other before, and without a closed loop those that compute no
    prompts for others affect none at all: they are left alone here. So the one with the earliest ``wake_s``, before
    which nothing ends on it, is moved alone: up to the ``wake_s`` of the one that follows, or to such an end.
    """
    environment, gateway, replicas = world.environment, world.gateway, world.replicas
    while environment.ended == 0:
        first, first_s, second_s = 0, np.inf, until_s
        for r in range(gateway.ends_from, gateway.ends_before):
            wake_s = replicas[r].wake_s
            if wake_s < second_s and _makes_ends(world, r):
                if wake_s < first_s:
                    first, first_s, second_s = r, wake_s, min(first_s, second_s)
                else:
                    second_s = wake_s
        if first_s >= until_s:
            break
        if gateway.scrape_period_s > 0.0:
            scrape_until(world, first_s)
            if environment.ended > 0:
                break
            second_s = min(second_s, (environment.scrape + 1) * gateway.scrape_period_s)
        if first_s < second_s:
            before_s = np.nextafter(second_s, -np.inf)
            if environment.copies > 0 and first_s < before_s:  # of two first tokens at one instant the first replica's
                second_s = before_s
            advance_replica(engine_of(world, first), second_s, True)
        else:
            _advance_together(world, first_s)


@detached(
    lambda state: state.gateway["stops_at_ends"].any() or state.gateway["changes"].any(),
    lambda state: (world_type(state), types.float64),
)
def advance_to_ends(world, until_s):
    """Do the same as :func:`move_to_ends`, as a call of its own between two events."""
    move_to_ends(world, until_s)
