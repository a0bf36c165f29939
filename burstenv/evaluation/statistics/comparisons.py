"""Comparisons of many policies: pairs, ranks with ties, and significance corrected for their number.

All of it flips the signs of whole blocks of days (``sign_flips.py``), the same ones for every policy, because policies
on the same days have correlated errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burstenv.evaluation.statistics.sign_flips import LEVEL, Floats, block_totals, flip_interval, flip_p_values


@dataclass(frozen=True)
class Pairs:
    """Every pair of K policies.

    Attributes:
        mean: Mean difference of the row's policy minus the column's, (K, K).
        low: Lower ends of the intervals, (K, K); NaN with too few blocks for any.
        high: Upper ends, (K, K).
    """

    mean: Floats
    low: Floats
    high: Floats

    @property
    def better(self) -> NDArray[np.bool_]:
        """Whether the row's policy is significantly better than the column's, (K, K)."""
        return np.nan_to_num(self.low, nan=-1.0) > 0


def pairwise(values: ArrayLike, blocks: ArrayLike, level: float = LEVEL) -> Pairs:
    """Return the paired difference of every pair of policies, with intervals by blocks.

    Args:
        values: One row for each policy, (K, n).
        blocks: The block (day) of each episode, (n,).
        level: Level of the intervals.
    """
    numbers = np.asarray(values, np.float64)
    totals, counts = block_totals(numbers, blocks)
    means = numbers[:, 0] + (numbers - numbers[:, :1]).mean(axis=1)
    difference = means[:, None] - means[None, :]
    low, high = np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    for k in range(len(means)):
        ends = flip_interval(totals[:, k : k + 1] - totals, counts, level)
        if ends is not None:
            low[k], high[k] = ends
    return Pairs(difference, low, high)


def ranks(pairs: Pairs) -> list[tuple[int, int]]:
    """Return the best and the worst possible rank of each of K policies, from 1.

    A policy's best rank is 1 + the number of significantly better policies, its worst K - the number of significantly
    worse ones: policies whose paired interval contains 0 share ranks. Without intervals all share all ranks.
    """
    better = pairs.better
    count = len(better)
    return [(1 + int(better[:, k].sum()), count - int(better[k].sum())) for k in range(count)]


def adjusted_p_values(differences: ArrayLike, blocks: ArrayLike) -> list[float | None]:
    """Return two-sided p-values of K mean differences, corrected for their number by step-down sign flips.

    Westfall and Young, "Resampling-based multiple testing", 1993, algorithm 2.8 (step-down minP): from the smallest
    p-value up, each is compared with the smallest among those left under each sign flip of the blocks. It controls the
    family-wise error, as Holm's method does, and uses the correlation of policies on the same days. Uncorrected, the
    p-values are those inverted by the intervals of ``paired_difference``: none is below 0.05 if such an interval
    contains 0, and none below 2^(1 - D) with D blocks.

    Args:
        differences: One row for each comparison, (K, n) per-episode differences.
        blocks: The block (day) of each episode, (n,).

    Returns:
        One p-value for each comparison; 1 without a difference in any block; None with a single block.
    """
    totals, _ = block_totals(np.asarray(differences, np.float64), blocks)
    if len(totals) < 2:
        return [None] * totals.shape[1]
    under_flips = flip_p_values(totals)  # (N, K)
    order = np.argsort(under_flips[0], kind="stable")
    smallest = np.minimum.accumulate(under_flips[:, order[::-1]], axis=1)[:, ::-1]  # among those left at each step
    p = np.maximum.accumulate((smallest <= under_flips[0, order]).mean(axis=0))
    result = np.empty(len(order))
    result[order] = p
    return [float(v) for v in result]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down method (Scandinavian J. of Statistics, 1979)."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    result = np.empty(len(p))
    result[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return [float(v) for v in result]


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> list[float]:
    """Return the share of scores above each threshold (score distribution; Agarwal et al., NeurIPS 2021, section 4.2).

    Args:
        scores: Any shape: runs and tasks pooled.
        thresholds: (T,).
    """
    ordered = np.sort(np.asarray(scores, np.float64), axis=None)
    above = len(ordered) - np.searchsorted(ordered, np.asarray(thresholds, np.float64), side="right")
    return [float(v) for v in above / max(1, len(ordered))]
