"""The steps of transfers between two events of the clock, compiled: one call carries out all of them."""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel
from burstenv.cluster.advance import advance_cluster, move_to_ends
from burstenv.cluster.events import PLACE, foresee, next_event_s
from burstenv.cluster.placement import ask_where, decide_by_rule
from burstenv.cluster.telemetry import scrape_until
from burstenv.cluster.transfers import take_step
from burstenv.cluster.world import world_type
from burstenv.engine.enums import TRANSFERRING


@kernel
def _places_at_once(world, until_s):
    """Let the rule decide where the request decodes whose prompt has just ended; return whether it did.

    Otherwise nothing changes: the caller decides, or something else happens at that instant, up to ``until_s``.
    """
    environment, gateway = world.environment, world.gateway
    request_id = np.int64(world.arena[gateway.ended_base])
    request = world.requests[request_id]
    if environment.ended > 1 or request.status != TRANSFERRING or world.memory.placed_by_caller:
        return False
    now_s = world.replicas[request.replica].clock_s
    if now_s >= until_s or gateway.scrape_period_s > 0.0:
        return False
    environment.ended = 0
    advance_cluster(world, now_s, True)
    if environment.ended > 0:
        foresee(world, now_s, PLACE, request_id)
        return True
    environment.now_s = now_s
    ask_where(world, request_id)
    decide_by_rule(world)
    return True


@detached(lambda state: state.gateway["transfers"].any(), lambda state: (world_type(state), types.float64))
def take_steps(world, until_s):
    """Carry out the steps of transfers up to ``until_s`` or the next event in the queue.

    A step brings up its ends and looks at no other replica, unless one is to be turned off. The cluster stops before
    where a turn or a prompt ends, as :func:`move_to_ends` does, unless a rule says where the request decodes.
    """
    environment, gateway = world.environment, world.gateway
    while environment.ended == 0:
        to_s = min(until_s, next_event_s(world), environment.transfer_s)
        if gateway.stops_at_ends:
            move_to_ends(world, to_s)
            if environment.ended > 0:
                if _places_at_once(world, to_s):
                    continue
                break
        if environment.transfer_s > to_s:
            break
        if gateway.scrape_period_s > 0.0:
            scrape_until(world, to_s)
        environment.now_s = to_s
        take_step(world)


@detached(lambda state: state.gateway["transfers"].any(), lambda state: (world_type(state),))
def take_one_step(world):
    """Carry out the next step of the transfers, which is due now, as an event among others."""
    take_step(world)
