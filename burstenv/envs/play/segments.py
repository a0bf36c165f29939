"""Segments of episodes under a sampling network, recorded for training by gradients. Compiled.

Environments step as in :mod:`burstenv.envs.step`; the network's logits, its samples and the critic's value are computed
in the same call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import long_entry
from burstenv.cluster.world import Arrays, world_of
from burstenv.envs.exchange import Outputs, exchange_of
from burstenv.envs.reward import COMPONENTS
from burstenv.envs.step import step_one
from burstenv.policies.network.inference import choose, forward, log_probability


class Segments(NamedTuple):
    """What is recorded of T decisions in each of N environments.

    Attributes:
        observations: (T, N, O) float32.
        masks: (T, N, A) int8, the legal choices.
        actions: (T, N, C) int64.
        log_probabilities: (T, N) float32.
        values: (T, N) float32, the critic's.
        components: (T, N, 7) float64, the rewards by component.
        elapsed_s: (T, N) float64, time of the step in the cluster.
        requests: (T, N) int64, index of the request decided about, -1 at a tick.
        ends: (T, N) bool, whether the step ended its episode.
    """

    observations: Any
    masks: Any
    actions: Any
    log_probabilities: Any
    values: Any
    components: Any
    elapsed_s: Any
    requests: Any
    ends: Any

    @classmethod
    def of(cls, steps: int, count: int, observation: int, choices: int, parts: int) -> Segments:
        """Return empty segments of T steps of N environments, for sizes O, A and C."""
        shape = (steps, count)
        return cls(
            np.zeros((*shape, observation), np.float32), np.zeros((*shape, choices), np.int8),
            np.zeros((*shape, parts), np.int64), np.zeros(shape, np.float32), np.zeros(shape, np.float32),
            np.zeros((*shape, len(COMPONENTS))), np.zeros(shape), np.zeros(shape, np.int64), np.zeros(shape, np.bool_),
        )  # fmt: skip


@long_entry
def record_segments(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    settings, links, actions, observations, masks, rewards, totals, elapsed_s,
    seen, legal, chosen, log_probabilities, critic, components, took_s, decided, ends,
    numbers, weights, values, sizes, masked, everything, reached, offset, first, last,
):  # fmt: skip
    """Run environments ``first`` to ``last`` - 1, each until its segment is full or its episode over.

    The first arguments are those of ``step_batch`` and the fields of ``Segments``; then:

    numbers: int64, see ``Network.packed``.
    weights: float32, of a network ``with_critic``.
    values: (A,...) float32, scratch.
    sizes: (C,) int64, choices of each component.
    masked: Whether illegal choices are never sampled.
    everything: (A,) int8, of ones.
    reached: (N,) int64, steps recorded so far, updated.
    offset: Column of environment 0 in the segments.
    """
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    outputs = Outputs(settings, links, actions, observations, masks, rewards, totals)
    for i in range(first, last):
        world, exchange = world_of(arrays, i), exchange_of(outputs, i)
        t, n = reached[i], offset + i
        while t < len(seen) and not world.environment.done:
            mask = exchange.mask if masked else everything
            value = forward(numbers, weights, values, exchange.observation, len(world.replicas), len(mask))
            choose(values, mask, sizes, False, True, world.memory, exchange.action)
            critic[t, n] = value
            log_probabilities[t, n] = log_probability(values, mask, sizes, exchange.action)
            for k in range(len(exchange.observation)):
                seen[t, n, k] = exchange.observation[k]
            for k in range(len(exchange.mask)):
                legal[t, n, k] = exchange.mask[k]
            for k in range(len(exchange.action)):
                chosen[t, n, k] = exchange.action[k]
            decided[t, n] = world.environment.at_gateway
            took_s[t, n] = elapsed_s[i] = step_one(world, exchange)
            for k in range(len(exchange.rewards)):
                components[t, n, k] = exchange.rewards[k]
            ends[t, n] = world.environment.done != 0
            t += 1
        reached[i] = t
