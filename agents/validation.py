"""Judging an agent while it trains: the same validation episodes every time, all of them in parallel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from burstenv.agents.config import AgentConfig
from burstenv.envs.core import EnvironmentBatch
from burstenv.envs.kernels import UNLIMITED, rollout
from burstenv.envs.scenario import Scenario
from burstenv.policies import parse_composite

Act = Callable[[np.ndarray, np.ndarray], np.ndarray]  # observations (N, O), masks (N, A) -> actions (N, C)


class Validator:
    """Plays the first episodes of the validation split at every load.

    Args:
        config: The agent's; says what it decides, how many episodes and which loads.
        scenario: Where it acts.

    Attributes:
        loads: Shares of capacity.
    """

    def __init__(self, config: AgentConfig, scenario: Scenario):
        self.loads = tuple(config.validation.loads or scenario.config.train_loads)
        self._episodes = config.validation.episodes
        count = self._episodes * len(self.loads)
        self._batch = EnvironmentBatch(count, scenario, split="validation", **config.environment())

    def _reset(self) -> None:
        random = np.random.default_rng(0)  # of no effect: episode and load are given
        for i in range(self._batch.num_envs):
            load, episode = divmod(i, self._episodes)
            self._batch.reset(i, random, {"episode": episode, "load": self.loads[load]})

    def _attainment(self) -> dict[float, float]:
        """Return the mean attainment over episodes, by load."""
        e = self._batch.cluster.state.environments
        share = (e["attained"] / np.maximum(1, e["offered"])).reshape(len(self.loads), self._episodes)
        return dict(zip(self.loads, share.mean(1).tolist(), strict=True))

    def judge(self, act: Act) -> dict[float, float]:
        """Return an agent's mean attainment by load."""
        batch = self._batch
        self._reset()
        active = np.flatnonzero(~batch.done)
        while len(active):
            batch.actions[active] = act(batch.observations[active], batch.masks[active].astype(bool))
            batch.step()
            active = np.flatnonzero(~batch.done)
        return self._attainment()

    def judge_composite(self, policy: str) -> dict[float, float]:
        """Return a composite's mean attainment by load, on the same episodes."""
        batch = self._batch
        record = parse_composite(policy).record(batch.scenario.mode_names)
        self._reset()
        for i in range(batch.num_envs):
            rollout(*batch.cluster.state.arrays(), batch.cluster.modes, record, i, UNLIMITED)
        return self._attainment()
