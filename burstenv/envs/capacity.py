"""Capacity: the rate at which a policy attains 90 %. That of the reference policy is the unit of load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from burstenv.envs.play.policy import player_of
from burstenv.policies import Policy, load_policy

if TYPE_CHECKING:
    from burstenv.envs.scenario import Scenario

REFERENCE_POLICY = "always/jsq"  # with the scenario's first batching mode
TARGET_ATTAINMENT = 0.9
EPISODES = 24
STEPS = 12  # of the bisection: the bracket shrinks to 1/4096
MOST_PER_S = 1e5  # rates beyond are not tried


class AttainedAt:
    """How many requests of each episode a policy attains, by rate; every rate is run once.

    Args:
        scenario: The scenario.
        split: The split whose episodes are used.
        policy: The policy.
        episodes: E, how many episodes: those of seeds 0 to E - 1, the same at every rate.
    """

    def __init__(self, scenario: Scenario, split: str, policy: Policy, episodes: int):
        self._scenario, self._split, self._policy, self._episodes = scenario, split, policy, episodes
        self._cluster = scenario.make_cluster()
        self._found: dict[float, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def counts(self, rate_per_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the attained and the offered requests of every episode at a rate, (E,) each."""
        if rate_per_s not in self._found:
            attained, offered = np.zeros((2, self._episodes), np.int64)
            for seed in range(self._episodes):
                requests, drawn = self._scenario.episode(self._split, seed, rate_per_s)
                self._cluster.load(0, requests, seed, self._scenario.clients_of(requests, drawn, seed))
                player_of(self._policy, self._cluster, 0, self._scenario.sight).run()
                attained[seed] = self._cluster.state.environments[0]["attained"]
                offered[seed] = self._cluster.state.environments[0]["offered"]
            self._found[rate_per_s] = (attained, offered)
        return self._found[rate_per_s]

    def attainment(self, rate_per_s: float) -> float:
        """Return the share of all offered requests that attain."""
        attained, offered = self.counts(rate_per_s)
        return int(attained.sum()) / max(1, int(offered.sum()))


def crossing_per_s(
    attainment: Callable[[float], float], start_per_s: float, share: float = TARGET_ATTAINMENT, steps: int = STEPS
) -> tuple[float, float]:
    """Bracket the rate at which an attainment falls to a share, by doubling and then bisection [requests/s].

    Args:
        attainment: Of a rate.
        start_per_s: First rate tried.
        share: What the attainment has to be above.
        steps: Halvings of the bracket.

    Returns:
        The highest rate found to attain more than the share, 0 where none did, and the lowest found not to.
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
    """Return the arrival rate at which a policy attains 90 % of the offered requests [requests/s].

    Bisection over the rate with the same episode seeds at every rate, as goodput is measured in the
    disaggregation literature (DistServe, OSDI'24).

    Args:
        scenario: The scenario.
        split: The split whose episodes are used.
        policy: A policy's name; the default is join-shortest-queue with the scenario's first mode.
        episodes: How many episodes to measure on.
    """
    name = policy or f"{REFERENCE_POLICY}/{scenario.mode_names[0]}"
    measured = AttainedAt(scenario, split, load_policy(name), episodes)
    low, high = crossing_per_s(measured.attainment, 1.0 * len(scenario.specs))
    return float(np.round(0.5 * (low + high), 3))
