"""Comparing many policies at once: pairs, ranks with ties, and significance that survives the number of comparisons.

All of it resamples whole blocks of days, as :mod:`burstenv.evaluation.statistics.intervals` does, with the same draws
for every policy, so that what is common to all of them cancels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burstenv.errors import BurstenvError
from burstenv.evaluation.statistics.intervals import LEVEL, RESAMPLES, Floats, drawn_blocks


@dataclass(frozen=True)
class Pairs:
    """Every pair of K policies.

    Attributes:
        mean: Mean difference of the row's policy minus the column's, (K, K).
        low: Lower ends of the intervals, (K, K); NaN without any.
        high: Upper ends, (K, K).
    """

    mean: Floats
    low: Floats
    high: Floats

    @property
    def better(self) -> NDArray[np.bool_]:
        """Whether the row's policy was shown to be better than the column's, (K, K)."""
        return np.nan_to_num(self.low, nan=-1.0) > 0


def resampled_means(
    values: ArrayLike, blocks: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[Floats, Floats | None]:
    """Return the means of K series over the same episodes, and their bootstrap by blocks.

    Args:
        values: One row for each series, (K, n), finite.
        blocks: The block (day) of each episode, (n,).
        resamples: B.
        seed: Seed of the resampling.

    Returns:
        Means, (K,), and resampled means, (B, K); None in its place with a single block.
    """
    numbers = np.asarray(values, np.float64)
    names, code = np.unique(np.asarray(blocks), return_inverse=True)
    if numbers.ndim != 2 or numbers.shape[1] != len(code) or numbers.size == 0 or not np.isfinite(numbers).all():
        raise BurstenvError(f"need finite values of shape (series, {len(code)} episodes), got {numbers.shape}")
    first = numbers[:, :1]  # deviations: a constant series gives exactly that constant
    means = first[:, 0] + (numbers - first).mean(axis=1)
    if len(names) < 2:
        return means, None
    totals = np.stack([np.bincount(code, weights=row) for row in numbers - first], axis=1)  # (D, K)
    drawn = drawn_blocks(len(names), resamples, seed)
    count = drawn @ np.bincount(code).astype(np.float64)  # (B,)
    return means, first[:, 0] + (drawn @ totals) / count[:, None]


def pairwise(values: ArrayLike, blocks: ArrayLike, level: float = LEVEL) -> Pairs:
    """Return the paired difference of every pair of policies, with intervals by blocks.

    Args:
        values: One row for each policy, (K, n).
        blocks: The block (day) of each episode, (n,).
        level: Level of the intervals.
    """
    means, drawn = resampled_means(values, blocks)
    difference = means[:, None] - means[None, :]
    if drawn is None:
        nothing = np.full_like(difference, np.nan)
        return Pairs(difference, nothing, nothing)
    low, high = np.zeros_like(difference), np.zeros_like(difference)
    for k in range(len(means)):
        ends = np.quantile(drawn[:, k : k + 1] - drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0], axis=0)
        low[k], high[k] = ends
    return Pairs(difference, low, high)


def ranks(pairs: Pairs) -> list[tuple[int, int]]:
    """Return the ranks that each of K policies may hold, best and worst, from 1.

    A policy's best rank is 1 + how many were shown to be better than it, its worst K - how many it was shown to be
    better than: policies whose paired interval holds 0 share ranks. Without intervals all share all ranks.
    """
    better = pairs.better
    count = len(better)
    return [(1 + int(better[:, k].sum()), count - int(better[k].sum())) for k in range(count)]


def adjusted_p_values(differences: ArrayLike, blocks: ArrayLike) -> list[float | None]:
    """Return two-sided p-values of K mean differences, corrected for their number by step-down resampling.

    Romano and Wolf, "Exact and approximate stepdown methods for multiple hypothesis testing", JASA 2005 (p-values as in
    their 2016 note, Statistics and Probability Letters 113): studentised differences are compared, largest first, with
    the largest among those left in resamples centred at no difference. It controls the chance of even one false claim
    (family-wise), as Holm's method does, and uses that policies which meet the same days err together.

    Args:
        differences: One row for each comparison, (K, n) per-episode differences.
        blocks: The block (day) of each episode, (n,).

    Returns:
        One p-value for each comparison; 1 where there is no difference in any episode; None with a single block.
    """
    means, drawn = resampled_means(differences, blocks)
    if drawn is None:
        return [None] * len(means)
    deviation = drawn - means
    error = deviation.std(axis=0)
    at_least = max(float(error.max()) * 1e-9, 1e-300)
    moved = np.abs(means) > 1e-15
    observed = np.where(moved, np.abs(means) / np.maximum(error, at_least), 0.0)  # (K,)
    centred = np.abs(deviation) / np.maximum(error, at_least)  # (B, K)
    order = np.argsort(-observed, kind="stable")
    largest = np.maximum.accumulate(centred[:, order[::-1]], axis=1)[:, ::-1]  # among those left at each step
    exceed = (largest >= observed[order]).sum(axis=0)
    p = np.maximum.accumulate((1.0 + exceed) / (1.0 + len(drawn)))
    result = np.empty(len(means))
    result[order] = np.minimum(p, 1.0)
    return [float(v) if m else 1.0 for v, m in zip(result, moved, strict=True)]


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
