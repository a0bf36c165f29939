"""The units of an evaluation, one policy on one episode, and their execution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster import Cluster
from burstenv.envs.acting import acting_batch
from burstenv.envs.given_actions import read_actions
from burstenv.envs.interval.batch import IntervalBatch
from burstenv.envs.observation.settings import Sight
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.episodes import Episode, EpisodeStore
from burstenv.evaluation.journal import Unit
from burstenv.evaluation.metrics import latencies_s, metrics_of
from burstenv.evaluation.policy import Agent, RememberingAgent, fallback_share, is_privileged, runs_alone
from burstenv.evaluation.statistics.latency_sketch import Sketch
from burstenv.evaluation.time_course import course
from burstenv.policies import Heuristic, NetworkPolicy

Policy = Heuristic | Agent
Outcome = tuple[Episode, NDArray[Any], dict[str, float | int | None]]

AT_ONCE = 32  # episodes of a task; an agent's are stepped together, always in the same groups


@dataclass(frozen=True)
class Task:
    """Some episodes of one load under one policy, run together.

    Attributes:
        policy: Index into the line-up.
        load: Share of capacity.
        seeds: Episodes to run.
    """

    policy: int
    load: float
    seeds: tuple[int, ...]


class Arena:
    """A line-up of policies and their common episodes.

    Args:
        store: The episodes.
        policies: The line-up.
    """

    def __init__(self, store: EpisodeStore, policies: Sequence[Policy]):
        self.store, self.policies = store, list(policies)
        self._cluster: Cluster | None = None

    @property
    def cluster(self) -> Cluster:
        """The cluster of the heuristics, made at its first use."""
        if self._cluster is None:
            self._cluster = self.store.scenario.make_cluster()
        return self._cluster

    def tasks(self, loads: Sequence[float], seeds: Sequence[int], done: set[tuple[str, float, int]]) -> list[Task]:
        """Return the remaining tasks: by load and episodes first, so policies share drawn episodes.

        The episodes of an uncompiled agent are stepped together, and the last bits of a network's outputs may depend on
        their number; if some are missing, the whole task runs again.
        """
        found = []
        for load in loads:
            for first in range(0, len(seeds), AT_ONCE):
                some = tuple(seeds[first : first + AT_ONCE])
                for k, policy in enumerate(self.policies):
                    missing = tuple(seed for seed in some if (policy.name, load, seed) not in done)
                    if missing:
                        found.append(Task(k, load, missing if runs_alone(policy) else some))
        return found

    def run(self, task: Task) -> list[Unit]:
        """Run a task; returns its units: policy, load, seed, metrics, course and sketches of the latencies."""
        name = self.policies[task.policy].name
        units = [
            {
                "policy": name,
                "load": task.load,
                "seed": episode.seed,
                "metrics": {
                    "day": episode.day,
                    "rate_per_s": episode.rate_per_s,
                    **metrics,
                },
                "course": course(records, episode.duration_s),
                "latencies": {key: Sketch.of(values).to_list() for key, values in latencies_s(records).items()},
            }
            for episode, records, metrics in self.outcomes(task)
        ]
        return sorted(units, key=lambda unit: int(unit["seed"]))

    def outcomes(self, task: Task) -> Iterator[Outcome]:
        """Yield each episode of a task with its records, (n,) REQUEST, and metrics; in any order."""
        policy = self.policies[task.policy]
        episodes = [self.store.get(task.load, seed) for seed in task.seeds]
        if runs_alone(policy):
            yield from run_alone(self.cluster, policy, episodes, self.store.scenario.sight)
        else:
            yield from _run_agent(self.store.scenario, self.store.split, policy, episodes)


def load_episode(cluster: Cluster, policy: Heuristic | NetworkPolicy, episode: Episode) -> None:
    """Load an episode into the first of a batch of clusters; a privileged network is told the true output lengths."""
    foresees = isinstance(policy, NetworkPolicy) and is_privileged(policy)
    requests = episode.foreseen if foresees else episode.requests
    cluster.load(0, requests, episode.seed, episode.clients, faults=episode.faults, tenant=episode.tenant)


def run_alone(
    cluster: Cluster, policy: Heuristic | NetworkPolicy, episodes: Sequence[Episode], sight: Sight | None = None
) -> Iterator[Outcome]:
    """Yield episodes under a heuristic or an exported agent, one by one, with their records and metrics."""
    for episode in episodes:
        load_episode(cluster, policy, episode)
        player = player_of(policy, cluster, 0, sight)
        decisions = player.run()
        records = cluster.records(0)
        metrics = metrics_of(cluster, 0, records, episode.duration_s, model=episode.model)
        yield episode, records, metrics | fallback_share(policy, player, decisions)


def _run_agent(scenario: Scenario, split: str, agent: Agent, episodes: Sequence[Episode]) -> Iterator[Outcome]:
    environment = {**agent.environment, "reward": "worth"}
    batch = acting_batch(len(episodes), environment, scenario=scenario, split=split)
    for i, episode in enumerate(episodes):
        requests = episode.foreseen if is_privileged(agent) else episode.requests
        description = {"split": split, "seed": episode.seed, "load": episode.load}
        batch.start(i, requests, episode.seed, description, episode.clients, episode.faults, episode.tenant)
    returns = np.zeros(batch.num_envs)  # (N,)
    running = np.flatnonzero(~batch.done)  # indices of the unfinished episodes
    if isinstance(agent, RememberingAgent):
        agent.begin(len(running))
    while len(running):
        actions = agent.act(batch.shaped(batch.observations[running]), batch.masks[running].astype(bool))
        shape = len(running), batch.actions.shape[1]
        batch.actions[running] = read_actions(
            actions, shape, isinstance(batch, IntervalBatch), f"agent {agent.name!r}: its action"
        )
        batch.step()  # does not touch environments with a finished episode
        returns += batch.rewards
        over = batch.done[running]
        for i in running[over].tolist():
            records = batch.cluster.records(i)
            episode = episodes[i]
            yield (
                episode,
                records,
                metrics_of(batch.cluster, i, records, episode.duration_s, float(returns[i]), episode.model),
            )
        if isinstance(agent, RememberingAgent) and over.any():
            agent.keep(np.flatnonzero(~over))
        running = running[~over]
