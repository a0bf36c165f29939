"""Validation during training: the same validation episodes every time, all in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import make_batch
from burstenv.agents.play.groups import GroupCounts
from burstenv.agents.play.ray_stage import make_stage
from burstenv.agents.play.stage import judged_score, price_of
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.episode_lists import changed_seeds
from burstenv.evaluation.episodes import Episode
from burstenv.evaluation.statistics.intervals import Estimate, paired_difference
from burstenv.policies import NetworkPolicy, parse_composite


class Acts(Protocol):
    """A policy that can be validated."""

    def begin(self, count: int) -> None:
        """Begin episodes in ``count`` environments."""

    def keep(self, rows: np.ndarray) -> None:
        """Continue with some environments of the last call, by index into them."""

    def act(self, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Return actions, (N, C), for observations, (N, O), and masks, (N, A) bool."""


@dataclass(frozen=True)
class Score:
    """Scores on the validation episodes, as :func:`burstenv.agents.play.stage.judged_score` has them.

    Attributes:
        loads: Shares of capacity.
        scores: (L, E) by load and episode.
        blocks: (L, E) the day of each episode.
        groups: Requests by load and prompt length, (L, B).
    """

    loads: tuple[float, ...]
    scores: np.ndarray
    blocks: np.ndarray
    groups: GroupCounts

    @property
    def mean(self) -> float:
        """Mean over loads and episodes."""
        return float(self.scores.mean())

    def by_load(self) -> dict[float, float]:
        """Return the mean of each load."""
        return dict(zip(self.loads, self.scores.mean(1).tolist(), strict=True))

    def ahead_of(self, other: Score) -> dict[float, Estimate]:
        """Return the mean paired difference to another's at each load, with an interval by days."""
        return {
            load: paired_difference(self.scores[k], other.scores[k], self.blocks[k])
            for k, load in enumerate(self.loads)
        }

    def groups_ahead_of(self, other: Score) -> np.ndarray:
        """Return the difference of the attained shares to another's by load and prompt length, (L, B)."""
        return self.groups.ahead_of(other.groups)

    def ahead_overall(self, other: Score) -> Estimate:
        """Return the mean paired difference over all loads, with an interval by days."""
        return paired_difference(self.scores.ravel(), other.scores.ravel(), self.blocks.ravel())


class Validator:
    """Plays the first episodes of the validation split at every load.

    Args:
        config: The agent's; it has the decisions, the number of episodes and the loads.
        scenario: The scenario to act in.
        ray: Address of a Ray cluster that plays the episodes of exported agents; None: this machine does.

    Attributes:
        loads: Shares of capacity.
    """

    def __init__(self, config: AgentConfig, scenario: Scenario, ray: str | None = None):
        trained = scenario.config.train_loads if config.load is None else [config.load]
        self.loads = tuple(float(load) for load in config.validation.loads or trained)
        self._scenario = scenario
        self._episodes = config.validation.episodes
        self._scales = config.scales
        changed_seeds(scenario, "validation", range(self._episodes))
        self._stage = make_stage(scenario, config.num_threads, True, ray)
        self._drawn: list[Episode] = []  # for exported agents
        self._batch = make_batch(config, scenario, self._episodes * len(self.loads), "validation")

    def _reset(self, batch: EnvironmentBatch) -> None:
        random = np.random.default_rng(0)  # no effect: episode and load are given
        for i in range(batch.num_envs):
            load, episode = divmod(i, self._episodes)
            batch.reset(i, random, {"episode": episode, "load": self.loads[load]})

    def _score(self, batch: EnvironmentBatch) -> Score:
        days = np.array([episode.get("day", episode["seed"]) for episode in batch.episodes])
        price = price_of(self._scenario, self._scales)
        share = np.array([judged_score(batch.cluster, i, price) for i in range(batch.num_envs)])
        groups = GroupCounts.stacked([GroupCounts.of(batch.cluster.records(i)) for i in range(batch.num_envs)])
        return self._of(share, days, groups)

    def _of(self, scores: np.ndarray, days: np.ndarray, groups: GroupCounts) -> Score:
        """Return the scores of episodes in order of load and seed, (L * E,)."""
        shape = (len(self.loads), self._episodes)
        by_load = GroupCounts(*(counts.reshape(*shape, -1) for counts in groups)).summed(1)
        return Score(self.loads, scores.reshape(shape), days.reshape(shape), by_load)

    def judge(self, agent: Acts | NetworkPolicy) -> Score:
        """Return an agent's scores; those of an exported one are played in compiled code."""
        if isinstance(agent, NetworkPolicy):
            return self._judge_compiled(agent)
        batch = self._batch
        self._reset(batch)
        active = np.flatnonzero(~batch.done)
        agent.begin(len(active))
        while len(active):
            batch.actions[active] = agent.act(batch.observations[active], batch.masks[active].astype(bool))
            batch.step()
            going_on = ~batch.done[active]
            if not going_on.all():
                agent.keep(np.flatnonzero(going_on))
                active = active[going_on]
        return self._score(batch)

    def _judge_compiled(self, policy: NetworkPolicy) -> Score:
        if not self._drawn:
            pairs = [(load, seed) for load in self.loads for seed in range(self._episodes)]
            self._drawn = [self._stage.draw("validation", load, seed) for load, seed in pairs]
        outcomes = self._stage.play([(policy, episode) for episode in self._drawn])
        groups = GroupCounts.stacked([played.groups for played in outcomes if played.groups is not None])
        return self._of(np.array([played.score for played in outcomes]), np.array([e.day for e in self._drawn]), groups)

    def judge_composites(self, policies: Mapping[float, str]) -> Score:
        """Return the scores of one composite for each load, on the same episodes."""
        batch = EnvironmentBatch(self._batch.num_envs, self._scenario, split="validation")
        self._reset(batch)
        for i in range(batch.num_envs):
            player_of(parse_composite(policies[self.loads[i // self._episodes]]), batch.cluster, i).run()
        return self._score(batch)


def described(estimate: Estimate) -> dict[str, Any]:
    """Return a difference in the log's form: ``mean``, ``low``, ``high``, in points."""
    ends = (None if end is None else 100.0 * end for end in (estimate.low, estimate.high))
    return dict(zip(("mean", "low", "high"), (100.0 * estimate.mean, *ends), strict=True))
