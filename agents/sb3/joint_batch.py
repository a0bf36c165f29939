"""Batches of several scenarios side by side, stepped as one: for training on more than one task at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.envs.batch import EnvironmentBatch
from burstenv.errors import BurstenvError
from burstenv.policies import Policy

_SHARED = ("actions", "observations", "masks", "components", "totals", "elapsed_s")


class JointBatch:
    """Has the interface of one :class:`EnvironmentBatch` of all environments.

    The parts write into slices of one set of arrays, without copies.

    Args:
        parts: Batches with the same actions and the same observations.

    Raises:
        BurstenvError: When actions or observations differ.

    Attributes:
        parts: The batches.
        scenario: That of the first part.
    """

    def __init__(self, parts: Sequence[EnvironmentBatch]):
        first = parts[0]
        for part in parts[1:]:
            name, own = part.scenario.config.name, first.scenario.config.name
            if part.action_space() != first.action_space() or part.observation_names() != first.observation_names():
                raise BurstenvError(
                    f"scenario {name!r} has other actions or observations than {own!r}; an agent can train on both "
                    "only where replicas, batching modes and observed features are the same in number"
                )
        self.parts = list(parts)
        self.scenario = first.scenario
        self.layout = first.layout
        self.observation_layout = first.observation_layout
        self.num_envs = sum(part.num_envs for part in parts)
        self._starts = np.cumsum([0, *(part.num_envs for part in parts)])
        for name in _SHARED:
            whole = np.concatenate([getattr(part, name) for part in parts])
            setattr(self, name, whole)
            for part, start, end in zip(parts, self._starts, self._starts[1:], strict=False):
                setattr(part, name, whole[start:end])
        self.actions: np.ndarray
        self.observations: np.ndarray
        self.masks: np.ndarray
        self.elapsed_s: np.ndarray

    def _at(self, i: int) -> tuple[EnvironmentBatch, int]:
        k = int(np.searchsorted(self._starts, i, side="right")) - 1
        return self.parts[k], i - int(self._starts[k])

    def action_space(self) -> gym.Space:
        """Return the action space of one environment."""
        return self.parts[0].action_space()

    def observation_space(self) -> gym.Space:
        """Return the observation space of one environment."""
        return self.parts[0].observation_space()

    def shaped(self, flat: np.ndarray) -> Any:
        """Return flat observations, (..., O), in the requested form (a fresh copy)."""
        return self.parts[0].shaped(flat)

    def step(self) -> None:
        """Step all environments with ``self.actions``."""
        for part in self.parts:
            part.step()

    @property
    def rewards(self) -> np.ndarray:
        """Rewards of the last step, (N,) float64."""
        return np.concatenate([part.rewards for part in self.parts])

    @property
    def done(self) -> np.ndarray:
        """Whether each environment's episode is over, (N,) bool."""
        return np.concatenate([part.done for part in self.parts])

    def request_at_gateway(self) -> np.ndarray:
        """Return the index of the request to decide about, (N,) int64, -1 without one."""
        return np.concatenate([part.request_at_gateway() for part in self.parts])

    def num_requests(self, i: int) -> int:
        """Return the number of requests in environment ``i``'s episode."""
        part, k = self._at(i)
        return part.num_requests(k)

    def reset(self, i: int, rng: np.random.Generator, options: dict[str, Any] | None = None) -> None:
        """Start a new episode in environment ``i``."""
        part, k = self._at(i)
        part.reset(k, rng, options)

    def fast_forward(self, i: int, policy: Policy, decisions: int) -> None:
        """Run environment ``i`` under a policy for some decisions."""
        part, k = self._at(i)
        part.fast_forward(k, policy, decisions)

    def episode_metrics(self, i: int) -> dict[str, Any]:
        """Return the metrics of the finished episode of environment ``i``."""
        part, k = self._at(i)
        return part.episode_metrics(k)

    def counts(self, i: int) -> dict[str, int]:
        """Return the outcome counts of environment ``i`` so far."""
        part, k = self._at(i)
        return part.counts(k)
