"""One step of a batch of environments, and whole episodes under a composite, compiled.

The scalar environment, the vector environment and the evaluation of heuristics all run through the
functions here; there is no second implementation of anything.
"""

from __future__ import annotations

import numba
import numpy as np

from burstenv._jit.decorators import entry, merged, threaded_entry
from burstenv.cluster.gateway import apply_decision, catch_up, next_epoch
from burstenv.cluster.telemetry import unveil, veil
from burstenv.envs.action import decide_with, write_mask
from burstenv.envs.observation.encoder import observe
from burstenv.envs.prefetch import bring_near
from burstenv.envs.reward import pay
from burstenv.policies.decide import decide


@merged
def _publish(
    environments, replicas, pool, requests,
    flags, shape, links, capacity_per_s, observations, masks, rewards, totals, elapsed_s, before_s, i,
):  # fmt: skip
    environment = environments[i]
    elapsed_s[i] = environment.now_s - before_s
    observe(observations, i, environment, replicas, pool, requests, links, shape, capacity_per_s, elapsed_s[i])
    write_mask(masks, i, flags, environment, replicas, requests, shape[3])
    pay(rewards, totals, i, environment, replicas)


@merged
def _step(
    environments, replicas, pool, requests, modes,
    policy, flags, shape, links, capacity_per_s, actions, observations, masks, rewards, totals, elapsed_s, i,
):  # fmt: skip
    environment = environments[i]
    before_s = environment.now_s
    if not environment.done:
        admission, replica, mode = decide_with(
            flags, actions, i, policy[0], environment, replicas, pool, requests, modes.shape[1]
        )
        apply_decision(environment, replicas, pool, requests, modes, admission, replica, mode)
        next_epoch(environment, replicas, pool, requests, False)
    _publish(
        environments, replicas, pool, requests,
        flags, shape, links, capacity_per_s, observations, masks, rewards, totals, elapsed_s, before_s, i,
    )  # fmt: skip


@entry
def step_batch(
    environments, replicas, pool, requests, modes,
    policy, flags, shape, links, capacity_per_s, actions, observations, masks, rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment once.

    Args:
        environments: (N,) ENVIRONMENT; this and the next three are the cluster state of ``cluster/state.py``.
        replicas: (N R,) REPLICA.
        pool: int32, what varies in size.
        requests: (N E,) REQUEST.
        modes: (R, M) MODE.
        policy: (1,) POLICY, decides the components that the agent does not.
        flags: (4,) int64, see ``ActionLayout.flags``.
        shape: (4,) int64, see ``ObservationLayout.flags``.
        links: (N E, 2) int32, see ``sessions.turn_links``.
        capacity_per_s: Scale of the traffic features.
        actions: (N, C) int64.
        observations: (N, O) float32, written.
        masks: (N, A) int8, written.
        rewards: (N, 8) float64, the components of ``rewards.py``, written.
        totals: (N, 8) float64, the accounts that they are taken from, written.
        elapsed_s: (N,) float64, time the step took in the cluster, written.
    """
    for i in range(environments.shape[0]):
        bring_near(environments, replicas, pool, requests, i)
        _step(
            environments, replicas, pool, requests, modes,
            policy, flags, shape, links, capacity_per_s, actions, observations, masks, rewards, totals, elapsed_s, i,
        )  # fmt: skip


@threaded_entry
def step_batch_threads(
    environments, replicas, pool, requests, modes,
    policy, flags, shape, links, capacity_per_s, actions, observations, masks, rewards, totals, elapsed_s,
):  # fmt: skip
    """Step every environment once, environments spread over threads; same results as ``step_batch``."""
    for i in numba.prange(environments.shape[0]):
        _step(
            environments, replicas, pool, requests, modes,
            policy, flags, shape, links, capacity_per_s, actions, observations, masks, rewards, totals, elapsed_s, i,
        )  # fmt: skip


@entry
def publish(
    environments, replicas, pool, requests, modes,
    flags, shape, links, capacity_per_s, observations, masks, rewards, totals, elapsed_s, i, opens,
):  # fmt: skip
    """Write the observation and mask of an environment as it stands, and what it has earned since the last time.

    ``opens`` advances a freshly reset environment to its first decision epoch before.
    """
    if opens:
        next_epoch(environments[i], replicas, pool, requests, False)
    _publish(
        environments, replicas, pool, requests, flags, shape, links, capacity_per_s,
        observations, masks, rewards, totals, elapsed_s, environments[i].now_s, i,
    )  # fmt: skip


@entry
def policy_decision(environments, replicas, pool, requests, policy, i, out):
    """Write a composite's (admission, replica, mode) for the request at the door into ``out``, (3,) int64.

    Draws on the environment's own stream and counters, as a decision does: ask once for each decision.
    """
    admission, replica, mode = decide(policy[0], environments[i], replicas, pool, requests)
    out[0] = admission
    out[1] = replica
    out[2] = mode


@entry
def rollout(
    environments, replicas, pool, requests, modes, policy, i, max_decisions
):  # fmt: skip
    """Run one cluster under a composite until its episode is done, or for ``max_decisions``.

    Starts from a reset cluster or from a decision epoch; returns the number of decisions.
    """
    environment = environments[i]
    lazily = not policy[0].sees_cache
    decisions = 0
    if environment.decisions == 0 and environment.offered == 0:
        next_epoch(environment, replicas, pool, requests, lazily)
    while not environment.done and decisions < max_decisions:
        admission, replica, mode = decide(policy[0], environment, replicas, pool, requests)
        apply_decision(environment, replicas, pool, requests, modes, admission, replica, mode)
        next_epoch(environment, replicas, pool, requests, lazily)
        decisions += 1
    unveil(environment, replicas)
    for r in range(environment.num_replicas):
        catch_up(environment, replicas[environment.first_replica + r], pool, requests, environment.now_s)
    veil(environment, replicas)
    return decisions


UNLIMITED = np.int64(2**62)
