"""Capacity: the rate at which a policy reaches 90 % attainment. That of the reference policy is the unit of load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from burstenv.envs.play.policy import player_of
from burstenv.errors import BurstenvError
from burstenv.policies import Policy, load_policy

if TYPE_CHECKING:
    from burstenv.envs.scenario import Scenario

REFERENCE_POLICY = "always/jsq"  # with the scenario's first batching mode
TARGET_ATTAINMENT = 0.9
EPISODES = 24
STEPS = 12  # of the bisection: the bracket shrinks to 1/4096
BURST_S = 5.0  # over which a message counts arrivals
MOST_PER_S = 1e5  # rates beyond are not tried


class AttainedAt:
    """Attained requests of a policy on each episode, by rate; every rate is run once.

    Args:
        scenario: The scenario.
        split: The split whose episodes are used.
        policy: The policy.
        episodes: E, number of episodes: those of seeds 0 to E - 1, the same at every rate.
        scales: Whether the number of replicas changes as the scenario says; otherwise all of them serve.
    """

    def __init__(self, scenario: Scenario, split: str, policy: Policy, episodes: int, scales: bool = True):
        self._scenario, self._split, self._policy, self._episodes = scenario, split, policy, episodes
        self._cluster = scenario.make_cluster(scales=scales)
        self._found: dict[float, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def counts(self, rate_per_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the attained and the offered requests of every episode at a rate, (E,) each."""
        if rate_per_s not in self._found:
            attained, offered = np.zeros((2, self._episodes), np.int64)
            for seed in range(self._episodes):
                requests, drawn = self._scenario.episode(self._split, seed, rate_per_s)
                clients, tenant = self._scenario.clients_of(requests, drawn, seed), self._scenario.tenants_of(drawn)
                self._cluster.load(0, requests, seed, clients, tenant=tenant)
                player_of(self._policy, self._cluster, 0, self._scenario.sight).run()
                attained[seed] = self._cluster.state.environments[0]["attained"]
                offered[seed] = self._cluster.state.environments[0]["offered"]
            self._found[rate_per_s] = (attained, offered)
        return self._found[rate_per_s]

    def attainment(self, rate_per_s: float) -> float:
        """Return the attainment over all episodes."""
        attained, offered = self.counts(rate_per_s)
        return int(attained.sum()) / max(1, int(offered.sum()))

    def why_none(self, share: float) -> str:
        """Return the reason why no tried rate reaches an attainment."""
        shown = f"no rate reaches {100 * share:g} % attainment on the {self._split} split"
        too_slow = _too_slow(self._scenario, self._episode(0, max(self._found))["class_code"])
        if too_slow:
            return f"{shown}: {too_slow}"
        tried = [rate for rate, (_, offered) in self._found.items() if offered.any()]
        if not tried:
            return f"{shown}: no episode of any tried rate holds a request"
        best = max(tried, key=lambda rate: (self.attainment(rate), -rate))
        dense = max(_most_within(self._episode(seed, best)["arrival_s"], BURST_S) for seed in range(self._episodes))
        return (
            f"{shown}: {self._policy.name} reaches at most {100 * self.attainment(best):.1f} %, at {best:.4g} "
            f"requests/s, where up to {dense:,} requests arrive within {BURST_S:g} s; give looser objectives, a larger "
            "cluster or other traffic"
        )

    def _episode(self, seed: int, rate_per_s: float) -> NDArray[Any]:
        requests: NDArray[Any] = self._scenario.episode(self._split, seed, rate_per_s)[0]
        return requests


def _too_slow(scenario: Scenario, class_code: NDArray[Any]) -> str:
    """Return the class with an objective that the fastest replica misses on a lone request; or an empty string."""
    shortest_s, fastest = min(
        (spec.latency.iteration_s(0, 0, 1, 1, 1), f"{spec.model} on {spec.hardware}") for spec in scenario.specs
    )
    for code in np.unique(class_code).tolist():
        name = scenario.config.class_names[code]
        tpot_s = scenario.config.slo[name].tpot_s
        if tpot_s < shortest_s:
            return (
                f"the shortest iteration of {fastest} is {1000 * shortest_s:.3g} ms, the TPOT objective of "
                f"{name} {1000 * tpot_s:.3g} ms"
            )
    return ""


def _most_within(arrival_s: NDArray[Any], window_s: float) -> int:
    """Return the largest number of arrivals within a window."""
    if not len(arrival_s):
        return 0
    return int((np.searchsorted(arrival_s, arrival_s + window_s, side="right") - np.arange(len(arrival_s))).max())


def crossing_per_s(
    attainment: Callable[[float], float], start_per_s: float, share: float = TARGET_ATTAINMENT, steps: int = STEPS
) -> tuple[float, float]:
    """Bracket the rate at which an attainment falls to a share, by doubling and then bisection [requests/s].

    Args:
        attainment: Function from a rate to its attainment.
        start_per_s: First rate tried.
        share: Attainment to exceed.
        steps: Halvings of the bracket.

    Returns:
        The highest rate found above the share, 0 without one, and the lowest rate found not above it.
    """
    low, high = 0.0, start_per_s
    while attainment(high) > share:
        low, high = high, 2.0 * high
        if high >= MOST_PER_S:
            break
    for _ in range(steps):
        middle = 0.5 * (low + high)
        if attainment(middle) > share:
            low = middle
        else:
            high = middle
    return low, high


def measure_capacity_per_s(
    scenario: Scenario, split: str, policy: str | None = None, episodes: int = EPISODES
) -> float:
    """Return the arrival rate at which a policy reaches 90 % attainment, with all replicas serving [requests/s].

    Bisection over the rate with the same episode seeds at every rate, as goodput is measured in the
    disaggregation literature (DistServe, OSDI'24).

    Args:
        scenario: The scenario.
        split: The split whose episodes are used.
        policy: A policy's name; the default is join-shortest-queue with the scenario's first mode.
        episodes: Number of episodes to measure on.

    Raises:
        BurstenvError: If no rate reaches 90 % attainment; the message has the reason.
    """
    name = policy or f"{REFERENCE_POLICY}/{scenario.mode_names[0]}"
    measured = AttainedAt(scenario, split, load_policy(name), episodes, scales=False)
    low, high = crossing_per_s(measured.attainment, 1.0 * len(scenario.specs))
    rate_per_s = float(np.round(0.5 * (low + high), 3))
    if low == 0.0 or rate_per_s == 0.0:
        raise BurstenvError(measured.why_none(TARGET_ATTAINMENT))
    return rate_per_s
