"""The capacity of any policy, with its interval: the goodput of the disaggregation literature."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from burstenv.envs.capacity import EPISODES, MOST_PER_S, TARGET_ATTAINMENT, AttainedAt, crossing_per_s
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.statistics.intervals import drawn_blocks
from burstenv.evaluation.statistics.sign_flips import LEVEL, least_blocks
from burstenv.policies import Policy, load_policy

RESAMPLES = 1_000
_STEPS = 6  # halvings for a resample, then linear between the two rates


@dataclass(frozen=True)
class Capacity:
    """The highest rate at which a policy reaches a given attainment.

    Attributes:
        policy: Name of the policy.
        split: Split whose episodes were used.
        share: The share.
        rate_per_s: Capacity [requests/s]; 0 if attainment is lower at every rate; None if it is higher at every rate
            tried.
        low_per_s: Lower end of its interval by blocks of days; None with too few days, or without a capacity.
        high_per_s: Upper end.
        load: Capacity as a share of the scenario's, which is that of join-shortest-queue.
        low: Lower end of the load.
        high: Upper end of the load.
        episodes: Number of episodes at each rate.
        blocks: Number of their days.
    """

    policy: str
    split: str
    share: float
    rate_per_s: float | None
    low_per_s: float | None
    high_per_s: float | None
    load: float | None
    low: float | None
    high: float | None
    episodes: int
    blocks: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def measure_capacity(
    scenario: Scenario,
    policy: str | Policy,
    split: str = "test",
    share: float = TARGET_ATTAINMENT,
    episodes: int = EPISODES,
    level: float = LEVEL,
) -> Capacity:
    """Measure the highest rate at which a policy reaches a given attainment.

    Bisection over compiled episodes of the same seeds at every rate (DistServe, OSDI'24, calls the rate goodput).
    The search assumes that attainment falls as the rate rises; otherwise the result is a rate at which it crosses the
    share. Each resample of days gets its own bisection, over rates that are run once.

    Args:
        scenario: The scenario.
        policy: A policy or its name.
        split: Split whose episodes are used.
        share: Share of the offered requests, in (0, 1).
        episodes: Number of episodes at each rate; the interval needs six days or more (``least_blocks``).
        level: Level of the interval.

    Raises:
        BurstenvError: On an unknown policy, or a number out of range.
    """
    if not 0.0 < share < 1.0:
        raise BurstenvError(f"share must be between 0 and 1, such as 0.9, got {share:g}")
    if episodes < 1:
        raise BurstenvError(f"capacity needs at least 1 episode, got {episodes}")
    played = load_policy(policy) if isinstance(policy, str) else policy
    played.check(scenario.mode_names)
    measured = AttainedAt(scenario, split, played, episodes)
    start_per_s, unit_per_s = 1.0 * len(scenario.specs), scenario.capacity_per_s(split)
    low, high = crossing_per_s(measured.attainment, start_per_s, share)
    days = [scenario.sampler(split).block_of(seed) for seed in range(episodes)]
    blocks = len(set(days))

    def result(rate: float | None, ends: tuple[float, float] | None = None) -> Capacity:
        a, b = ends or (None, None)
        load, low, high = (None if v is None else v / unit_per_s for v in (rate, a, b))
        return Capacity(played.name, split, share, rate, a, b, load, low, high, episodes, blocks)

    if low >= 0.5 * MOST_PER_S:
        return result(None)
    if low == 0.0:
        return result(0.0)
    rate = float(np.round(0.5 * (low + high), 3))
    if blocks < least_blocks(level):
        return result(rate)
    names, code = np.unique(days, return_inverse=True)
    crossings = []
    for drawn in drawn_blocks(len(names), RESAMPLES):
        weight = drawn[code]  # of each episode

        def attainment(at: float, weight: Any = weight) -> float:
            attained, offered = measured.counts(at)
            return float(weight @ attained) / max(1.0, float(weight @ offered))

        a, b = crossing_per_s(attainment, start_per_s, share, _STEPS)
        above, below = (attainment(a) if a > 0 else 1.0), attainment(b)
        crossings.append(a + (b - a) * min(1.0, max(0.0, (above - share) / max(above - below, 1e-12))))
    ends = np.quantile(crossings, [(1.0 - level) / 2.0, (1.0 + level) / 2.0]).tolist()
    return result(rate, (float(np.round(ends[0], 3)), float(np.round(ends[1], 3))))
