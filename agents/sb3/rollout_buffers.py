"""Rollout buffers with their own advantages: discounting by elapsed time, and baselines from common arrivals.

Discounting by time: between two decisions pass ``dt`` seconds, so the future is worth ``gamma^(dt / unit)``
(a semi-Markov decision process, Bradtke and Duff 1994). The trace parameter lambda stays one per decision.

Common arrivals: environments of a group play the same requests. The return of the other members from the same request
on measures the worth of the arrivals for any policy. It does not depend on the own choice, so it can be subtracted as a
baseline (Mao et al., "Variance reduction for reinforcement learning in input-driven environments", ICLR 2019). If no
other member met the request in the same rollout, the critic alone is the baseline.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from stable_baselines3.common.buffers import RolloutBuffer

from burstenv.agents.config import AgentConfig
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.play.segments import Segments


class _Timed:
    """Stores the duration and the request of each step, and computes advantages from them."""

    def attach(self: Any, venv: SB3VecEnv, config: AgentConfig) -> None:
        """Set the source of the steps and their valuation."""
        self._venv = venv
        self._unit_s = config.discount_unit_s
        self._common = config.common_arrivals
        self._clear()

    def _clear(self: Any) -> None:
        shape = (self.buffer_size, self.n_envs)
        self.elapsed_s = np.zeros(shape)  # (T, N)
        self.requests = np.full(shape, -1, np.int64)  # (T, N) index in the episode, -1 at a tick
        self.ordinals = np.zeros(shape, np.int64)  # (T, N) number of the episode in its environment

    def reset(self: Any) -> None:
        super().reset()  # type: ignore[misc]
        self._clear()

    def add(self: Any, *args: Any, **kwargs: Any) -> None:
        self.elapsed_s[self.pos] = self._venv.elapsed_s
        self.requests[self.pos] = self._venv.decided_request
        self.ordinals[self.pos] = self._venv.decided_ordinal
        super().add(*args, **kwargs)  # type: ignore[misc]

    def fill(self: Any, segments: Segments, rewards: np.ndarray, starts: np.ndarray, ordinals: np.ndarray) -> None:
        """Take a whole rollout at once, as compiled code has recorded it.

        Args:
            segments: Of T steps of N environments.
            rewards: (T, N), scaled.
            starts: (T, N) bool, whether the step is the first of its episode.
            ordinals: (T, N) number of the episode in its environment.
        """
        self.observations[:] = segments.observations
        self.actions[:] = segments.actions.reshape(self.actions.shape)
        self.rewards[:] = rewards
        self.episode_starts[:] = starts
        self.values[:] = segments.values
        self.log_probs[:] = segments.log_probabilities
        if hasattr(self, "action_masks"):
            self.action_masks[:] = segments.masks
        self.elapsed_s[:], self.requests[:], self.ordinals[:] = segments.elapsed_s, segments.requests, ordinals
        self.pos, self.full = self.buffer_size, True

    def compute_returns_and_advantage(self: Any, last_values: torch.Tensor, dones: np.ndarray) -> None:
        last = last_values.detach().cpu().numpy().ravel()
        discounts = self.gamma if self._unit_s is None else self.gamma ** (self.elapsed_s / self._unit_s)
        discounts = np.broadcast_to(np.asarray(discounts, np.float32), self.rewards.shape)
        ends = np.concatenate([self.episode_starts[1:], dones[None].astype(np.float32)])
        self.advantages = advantages_of(self.rewards, self.values, last, ends, discounts, self.gae_lambda)
        self.returns = self.advantages + self.values
        if self._common is not None:
            groups = np.arange(self.n_envs) // self._common.group
            if self._common.baseline == "return":
                others, known = mean_of_others(self.returns, self.requests, self.ordinals, groups)
                self.advantages = np.where(known, self.returns - others, self.advantages)
            else:
                others, known = mean_of_others(self.advantages, self.requests, self.ordinals, groups)
                self.advantages = self.advantages - np.where(known, others, 0.0).astype(np.float32)


class TimedRolloutBuffer(_Timed, RolloutBuffer):
    """Of PPO and A2C."""


class TimedMaskableRolloutBuffer(_Timed, MaskableRolloutBuffer):
    """Of MaskablePPO."""


class TimedRecurrentRolloutBuffer(_Timed, RecurrentRolloutBuffer):
    """Of RecurrentPPO."""


def advantages_of(
    rewards: np.ndarray,
    values: np.ndarray,
    last_values: np.ndarray,
    ends: np.ndarray,
    discounts: np.ndarray,
    gae_lambda: float,
) -> np.ndarray:
    """Return generalised advantages (Schulman et al. 2016) with a discount for each step, (T, N) float32.

    Args:
        rewards: (T, N).
        values: (T, N) critic's, of the states decided in.
        last_values: (N,) critic's, of the state after the last step.
        ends: (T, N) 1 where the step ended its episode.
        discounts: (T, N) worth of the future after each step.
        gae_lambda: Trace parameter, per decision.
    """
    advantages = np.zeros_like(rewards)
    later, following = np.zeros_like(last_values), last_values
    for t in reversed(range(len(rewards))):
        worth = discounts[t] * (1.0 - ends[t])
        later = rewards[t] + worth * following - values[t] + gae_lambda * worth * later
        advantages[t] = later
        following = values[t]
    return advantages


def mean_of_others(
    values: np.ndarray, requests: np.ndarray, ordinals: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the other environments of a group that met the same request, and whether any did.

    Args:
        values: (T, N) to average.
        requests: (T, N) index of the request in its episode; below 0: none.
        ordinals: (T, N) number of the episode in its environment.
        groups: (N,) group of each environment.

    Returns:
        Means, (T, N), and whether any other environment met the request, (T, N) bool.
    """
    steps, count = values.shape
    members = np.broadcast_to(np.arange(count), (steps, count)).ravel()
    # One number for group, episode and request: fewer than 2^20 requests an episode, 2^24 episodes a run.
    meets = ((np.broadcast_to(groups, (steps, count)) << 24) + ordinals << 20) + requests + 1
    _, met = np.unique(meets.ravel(), return_inverse=True)
    # A request may come to the gateway of one environment more than once: all own visits are left out.
    _, own = np.unique(met * count + members, return_inverse=True)
    flat = values.ravel().astype(np.float64)
    total, number = np.bincount(met, flat)[met], np.bincount(met)[met]
    own_total, own_number = np.bincount(own, flat)[own], np.bincount(own)[own]
    others = number - own_number
    known = (others > 0) & (requests.ravel() >= 0)
    means = np.where(known, (total - own_total) / np.maximum(1, others), 0.0)
    return means.reshape(values.shape).astype(np.float32), known.reshape(values.shape)
