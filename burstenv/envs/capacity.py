"""Capacity: the rate at which the reference policy attains 90 %, the unit in which loads are given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from burstenv.envs.kernels import UNLIMITED, rollout
from burstenv.policies import parse_composite

if TYPE_CHECKING:
    from burstenv.envs.scenario import Scenario

REFERENCE_POLICY = "always/jsq"  # with the scenario's first batching mode
TARGET_ATTAINMENT = 0.9
EPISODES = 24
STEPS = 12  # of the bisection: the bracket shrinks to 1/4096


def measure_capacity_per_s(
    scenario: Scenario, split: str, policy: str | None = None, episodes: int = EPISODES
) -> float:
    """Return the arrival rate at which a policy attains 90 % of the offered requests [requests/s].

    Bisection over the rate with the same episode seeds at every rate, as goodput is measured in the
    disaggregation literature (DistServe, OSDI'24).

    Args:
        scenario: The scenario.
        split: The split whose episodes are used.
        policy: A composite; the default is join-shortest-queue with the scenario's first mode.
        episodes: How many episodes to measure on.
    """
    name = policy or f"{REFERENCE_POLICY}/{scenario.mode_names[0]}"
    record = parse_composite(name).record(scenario.mode_names)
    cluster = scenario.make_cluster()

    def attainment(rate_per_s: float) -> float:
        attained = offered = 0
        for seed in range(episodes):
            requests, _ = scenario.episode(split, seed, rate_per_s)
            cluster.load(0, requests, seed)
            rollout(*cluster.state.arrays(), cluster.modes, record, 0, UNLIMITED)
            attained += int(cluster.state.environments[0]["attained"])
            offered += len(requests)
        return attained / max(1, offered)

    low, high = 0.0, 1.0 * len(scenario.specs)
    while attainment(high) > TARGET_ATTAINMENT and high < 1e5:
        low, high = high, 2.0 * high
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        if attainment(middle) > TARGET_ATTAINMENT:
            low = middle
        else:
            high = middle
    return float(np.round(0.5 * (low + high), 3))
