"""One step of a batch of environments, and whole episodes under a composite, compiled.

The scalar environment, the vector environment and the evaluation of heuristics all call these functions; there is no
second implementation.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, merged, threaded_entry
from burstenv.cluster.advance import catch_up_all
from burstenv.cluster.clock import begin, next_epoch
from burstenv.cluster.gateway import apply_decision
from burstenv.cluster.world import Arrays, world_of
from burstenv.envs.action import decide_with, write_mask
from burstenv.envs.exchange import Outputs, exchange_of
from burstenv.envs.observation.encoder import observe
from burstenv.envs.prefetch import bring_near
from burstenv.envs.reward import pay
from burstenv.policies.decide import decide


@merged
def _publish(world, exchange, elapsed_s):
    observe(world, exchange, elapsed_s)
    write_mask(world, exchange)
    pay(world, exchange)


@merged
def step_one(world, exchange):
    """Step one environment; return the elapsed time [s]."""
    environment = world.environment
    before_s = environment.now_s
    if not environment.done:
        admission, replica, mode = decide_with(world, exchange)
        apply_decision(world, admission, replica, mode)
        next_epoch(world, False)
    took_s = environment.now_s - before_s
    _publish(world, exchange, took_s)
    return took_s


@entry
def step_batch(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment once.

    The arguments are those of ``Arrays`` and ``Outputs``, in this order, and ``elapsed_s``, (N,) float64: the
    step's time in the cluster [s], written.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    for i in range(len(environments)):
        bring_near(arrays, i)
        elapsed_s[i] = step_one(world_of(arrays, i), exchange_of(outputs, i))


@threaded_entry
def step_batch_threads(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment once, environments spread over threads; same results as ``step_batch``."""
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    for i in numba.prange(len(environments)):
        elapsed_s[i] = step_one(world_of(arrays, i), exchange_of(outputs, i))


@entry
def publish(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s, i, opens,
):  # fmt: skip
    """Write an environment's present observation and mask, and its rewards since the last call.

    ``opens`` first advances a freshly reset environment to its first decision epoch.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    if opens:
        next_epoch(world, False)
    elapsed_s[i] = 0.0
    _publish(world, exchange_of(outputs, i), 0.0)


@entry
def rollout(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy, i, max_decisions
):  # fmt: skip
    """Run one cluster under a composite until its episode is done, or for ``max_decisions``.

    Starts from a reset cluster or from a decision epoch; returns the number of decisions.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    lazily = not policy[0].sees_cache
    decisions = 0
    begin(world, lazily)
    while not world.environment.done and decisions < max_decisions:
        admission, replica, mode = decide(policy[0], world)
        apply_decision(world, admission, replica, mode)
        next_epoch(world, lazily)
        decisions += 1
    catch_up_all(world)
    return decisions


UNLIMITED = np.int64(2**62)
