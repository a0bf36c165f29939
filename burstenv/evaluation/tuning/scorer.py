"""Fast scores of many policies on the same few episodes: drawn once, rewound, never copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burstenv.engine.enums import ATTAINED, UNSENT
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.episodes import draw_episode
from burstenv.policies import Policy

METRICS = ("score", "attainment", "token_weighted_attainment")
OF_COST = ("net", "gpu_hours", "background_tokens_per_s")  # further ones, where replicas scale or fine-tune


@dataclass(frozen=True)
class Scores:
    """The result of a policy on E episodes.

    Attributes:
        attained: Attained requests, (E,).
        rejected: Rejected requests, (E,).
        score: Attained share of the offered worth, (E,).
        attainment: Attained share of the requests, (E,).
        token_weighted_attainment: Attained share of their tokens, (E,).
        gpu_hours: GPU-hours that cost, (E,); None where replicas do not scale.
        net: Score less the scenario's price of the GPU-hours, and with the worth of the tokens trained, as a share of
            the offered worth, (E,): the return of the environment / offered worth; None where replicas do neither.
        background_tokens_per_s: Tokens trained in the slack, (E,); None where replicas have no job.
    """

    attained: NDArray[np.int64]
    rejected: NDArray[np.int64]
    score: NDArray[np.float64]
    attainment: NDArray[np.float64]
    token_weighted_attainment: NDArray[np.float64]
    gpu_hours: NDArray[np.float64] | None = None
    net: NDArray[np.float64] | None = None
    background_tokens_per_s: NDArray[np.float64] | None = None

    def value(self, metric: str) -> float:
        """Return the mean over episodes of one of ``METRICS``, or of ``OF_COST``, as in reports."""
        return float(getattr(self, metric).mean())

    def means(self) -> dict[str, float]:
        """Return all of ``METRICS``, and those of ``OF_COST`` that there are."""
        there = [metric for metric in OF_COST if getattr(self, metric) is not None]
        return {metric: self.value(metric) for metric in (*METRICS, *there)}


def headline(scenario: Scenario) -> str:
    """Return the metric that policies are tuned for.

    The score, less the price of the GPU-hours if replicas scale; if they fine-tune, with the worth of the tokens.
    """
    return "score" if scenario.scaling is None and scenario.background is None else "net"


class Scorer:
    """Episodes of one load, loaded once and played by many policies in turn.

    Args:
        scenario: The scenario.
        split: Split whose episodes are used.
        load: Share of the split's capacity.
        seeds: Seeds of the episodes, E of them.

    Attributes:
        days: Day of each episode, (E,): the blocks of the bootstrap.
        offered: Requests of each episode, (E,), turns that clients may never send included.
    """

    def __init__(self, scenario: Scenario, split: str, load: float, seeds: Sequence[int]):
        rate_per_s = load * scenario.capacity_per_s(split)
        episodes = [draw_episode(scenario, split, load, seed, rate_per_s) for seed in seeds]
        self.load, self.seeds = load, list(seeds)
        self._sight = scenario.sight
        self._price = None if scenario.scaling is None else scenario.scaling.price_per_gpu_h
        self.days = [episode.day for episode in episodes]
        self.offered = np.array([len(episode.requests) for episode in episodes])
        self.cluster = scenario.make_cluster(len(episodes), int(self.offered.max()))
        self._tokens = []
        for i, episode in enumerate(episodes):
            self.cluster.load(
                i, episode.requests, episode.seed, episode.clients, faults=episode.faults, tenant=episode.tenant
            )
            tokens = episode.requests["prompt_tokens"].astype(np.float64) + episode.requests["output_tokens"]
            self._tokens.append(tokens / tokens.sum())

    def score(self, policy: Policy) -> Scores:
        """Run a policy on every episode."""
        cluster, count = self.cluster, len(self.seeds)
        attained, rejected, offered = np.zeros((3, count), np.int64)
        score, token_share, gpu_hours, net, trained = np.zeros((5, count))
        for i, (seed, drawn) in enumerate(zip(self.seeds, self.offered.tolist(), strict=True)):
            cluster.rewind(i, drawn, seed)
            player_of(policy, cluster, i, self._sight).run()
            environment = cluster.state.environments[i]
            attained[i], rejected[i], offered[i] = (environment[name] for name in ("attained", "rejected", "offered"))
            score[i] = environment["attained_worth"] / environment["offered_worth"]
            status = cluster.state.requests[i, :drawn]["status"]
            token_share[i] = float(self._tokens[i] @ (status == ATTAINED))
            if offered[i] < drawn:  # turns of ended sessions
                token_share[i] /= float(self._tokens[i] @ (status != UNSENT))
            net[i] = score[i]
            if self._price is not None:
                counted = cluster.fault_counts(i)
                assert counted is not None
                gpu_hours[i] = counted["gpu_s"] / 3600.0
                net[i] -= self._price * gpu_hours[i] / environment["offered_worth"]
            background = cluster.background_counts(i)
            if background is not None:
                trained[i] = background["background_tokens_per_s"]
                net[i] += (background["background_worth"] or 0.0) / environment["offered_worth"]
        scales, tunes = self._price is not None, cluster.background is not None
        return Scores(
            attained, rejected, score, attained / offered, token_share, gpu_hours if scales else None,
            net if scales or tunes else None, trained if tunes else None,
        )  # fmt: skip
