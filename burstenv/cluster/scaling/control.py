"""A decision about the number of replicas, compiled; off without ``gateway.scales``."""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached
from burstenv.cluster.advance import catch_up
from burstenv.cluster.events import SCALE, foresee
from burstenv.cluster.faults.draining import note_drained
from burstenv.cluster.scaling.codes import BY_CALLER
from burstenv.cluster.scaling.resize import num_wanted, resize
from burstenv.cluster.scaling.rules import after_delay, asked_by_rule
from burstenv.cluster.scaling.samples import take_sample
from burstenv.cluster.seats import seat
from burstenv.cluster.stuck import is_stuck
from burstenv.cluster.traffic import decay_rates
from burstenv.cluster.world import engine_of, world_type


@detached(lambda state: state.gateway["scales"].any(), lambda state: (world_type(state), types.float64))
def control(world, now_s):
    """Let the rule, or the caller, decide how many replicas are to serve; not if nothing goes on."""
    environment, gateway = world.environment, world.gateway
    environment.now_s = now_s
    decay_rates(world, now_s)
    note_drained(world)
    goes_on = not is_stuck(world)
    if not goes_on and environment.tick_s == np.inf:
        return
    environment.control += 1
    foresee(world, (environment.control + 1) * gateway.control_period_s, SCALE, environment.control + 1)
    for r in range(len(world.replicas)):
        catch_up(engine_of(world, r), now_s)
    take_sample(world, num_wanted(world))
    if not goes_on:
        return
    if world.memory.scaling == BY_CALLER:
        seat(world, 0)
        environment.scaling = 1
        return
    asked = asked_by_rule(world)
    take_sample(world, asked)
    asked = after_delay(world, asked)
    if world.memory.advises:
        world.memory.advice = asked
        seat(world, 0)
        environment.scaling = 1
        return
    resize(world, asked)
