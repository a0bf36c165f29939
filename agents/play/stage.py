"""Whole episodes in compiled code, under exported networks and composites: what evolution and validation play."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from burstenv.agents.play.groups import GroupCounts
from burstenv.cluster import Cluster
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.episodes import Episode, draw_episode
from burstenv.evaluation.tasks import load_episode
from burstenv.policies import Composite, NetworkPolicy


class Played(NamedTuple):
    """One episode's outcome: its score as it is judged, the number of decisions, and its prompt lengths if asked."""

    score: float
    decisions: int
    groups: GroupCounts | None = None


def judged_score(cluster: Cluster, i: int, price_per_gpu_h: float = 0.0) -> float:
    """Return the score of the episode in cluster ``i``: the attained share of its worth, less the price of GPU-hours.

    Where replicas fine-tune in the slack, with the worth of the tokens trained.

    Args:
        cluster: The clusters.
        i: Index of the cluster.
        price_per_gpu_h: In requests; 0 for agents that do not decide about replicas.
    """
    environment = cluster.state.environments[i]
    worth, offered = float(environment["attained_worth"]), max(1e-9, float(environment["offered_worth"]))
    trained = cluster.background_counts(i)
    if trained is not None:
        worth += trained["background_worth"] or 0.0
    counted = cluster.fault_counts(i) if price_per_gpu_h else None
    gpu_hours = 0.0 if counted is None else counted["gpu_s"] / 3600.0
    return (worth - price_per_gpu_h * gpu_hours) / offered


def price_of(scenario: Scenario, scales: bool) -> float:
    """Return the price of a GPU-hour in an agent's score [requests]: 0 unless it decides about replicas."""
    return scenario.scaling.price_per_gpu_h if scales and scenario.scaling is not None else 0.0


class Stage(ABC):
    """A scenario in which policies play whole episodes.

    Args:
        scenario: The scenario.
        counts_groups: Whether to count requests by prompt length.
    """

    def __init__(self, scenario: Scenario, counts_groups: bool = False):
        self._scenario = scenario
        self._counts_groups = counts_groups

    def draw(self, split: str, load: float, seed: int) -> Episode:
        """Draw an episode at a share of capacity."""
        return draw_episode(self._scenario, split, load, seed, load * self._scenario.capacity_per_s(split))

    @abstractmethod
    def play(self, tasks: Sequence[tuple[Composite | NetworkPolicy, Episode]]) -> list[Played]:
        """Play episodes, each under a policy, and return their outcomes in the same order."""


class LocalStage(Stage):
    """Plays in clusters of this machine, one for each thread.

    Args:
        scenario: The scenario.
        num_threads: Episodes at a time; the results do not depend on it.
        counts_groups: Whether to count requests by prompt length.
    """

    def __init__(self, scenario: Scenario, num_threads: int = 1, counts_groups: bool = False):
        super().__init__(scenario, counts_groups)
        self._clusters = [scenario.make_cluster() for _ in range(num_threads)]
        self._pool = ThreadPoolExecutor(num_threads) if num_threads > 1 else None

    def play(self, tasks: Sequence[tuple[Composite | NetworkPolicy, Episode]]) -> list[Played]:
        """Play episodes, each under a policy, and return their outcomes in the same order."""
        if self._pool is None:
            return [self._one(self._clusters[0], *task) for task in tasks]
        count = len(self._clusters)

        def part(k: int) -> list[Played]:
            return [self._one(self._clusters[k], *task) for task in tasks[k::count]]

        outcomes: list[Any] = [None] * len(tasks)
        for k, played in enumerate(self._pool.map(part, range(count))):
            outcomes[k::count] = played
        return outcomes

    def _one(self, cluster: Cluster, policy: Composite | NetworkPolicy, episode: Episode) -> Played:
        scales = isinstance(policy, NetworkPolicy) and policy.scales
        load_episode(cluster, policy, episode)
        decisions = player_of(policy, cluster, 0, self._scenario.sight).run()
        groups = GroupCounts.of(cluster.records(0)) if self._counts_groups else None
        return Played(judged_score(cluster, 0, price_of(self._scenario, scales)), decisions, groups)


def mean_scores(outcomes: Sequence[Played], count: int) -> np.ndarray:
    """Return the mean score of each of ``count`` policies that played equally many episodes in a row, (count,)."""
    return np.array([played.score for played in outcomes]).reshape(count, -1).mean(1)
