"""Means with intervals: over blocks of days, and over several training seeds.

Two kinds of repetition, two kinds of interval:

* Episodes of one policy share days of the trace, and episodes of a day are correlated. Days are therefore resampled,
  each with all of its episodes (cluster bootstrap; Cameron, Gelbach and Miller, "Bootstrap-based improvements for
  inference with clustered errors", 2008). Statements about differences between policies use ``sign_flips.py``.
* Training runs of one algorithm are summarised by their interquartile mean, with a bootstrap stratified
  by task (Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice",
  NeurIPS 2021, and its library rliable).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burstenv.errors import BurstenvError
from burstenv.evaluation.statistics.sign_flips import LEVEL, Floats, block_totals, flip_interval, least_blocks

Statistic = Callable[..., NDArray[Any]]

RESAMPLES = 10_000
_CHUNK = 2_000_000  # numbers drawn at a time by the stratified bootstrap, to bound memory


@dataclass(frozen=True)
class Estimate:
    """A mean with an interval.

    Attributes:
        mean: Mean over the episodes.
        low: Lower end of the interval; None without an interval.
        high: Upper end of the interval.
        episodes: Number of episodes.
        blocks: Number of distinct blocks (days).
        level: Level of the interval.
    """

    mean: float
    low: float | None
    high: float | None
    episodes: int
    blocks: int
    level: float = LEVEL

    @property
    def has_interval(self) -> bool:
        """Whether there were enough blocks for an interval."""
        return self.low is not None

    @property
    def verdict(self) -> str:
        """The verdict of a difference: ``higher``, ``lower``, ``undecided``, or ``unknown`` without an interval."""
        if self.low is None or self.high is None:
            return "unknown"
        return "higher" if self.low > 0 else "lower" if self.high < 0 else "undecided"

    def stated(self) -> Estimate:
        """Return it in a report's form: without an interval if there are too few blocks for its level."""
        return self if self.blocks >= least_blocks(self.level) else replace(self, low=None, high=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def block_bootstrap(
    values: ArrayLike,
    blocks: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return the mean of ``values`` with a percentile interval that resamples whole blocks.

    Each resample draws as many blocks as there are, with replacement, and takes the mean over all of
    their episodes. With a single block the spread between blocks is unknown: there is no interval. With few, the
    interval is too narrow (``Estimate.stated``).

    Args:
        values: One number for each episode, (n,), finite.
        blocks: The block (day) of each episode, (n,).
        level: Level of the interval, in (0, 1).
        resamples: Bootstrap resamples.
        seed: The same seed and values give the same interval.

    Raises:
        BurstenvError: On no episodes, differing lengths, or a value that is not finite.
    """
    values, blocks = _checked(values, blocks, level, resamples)
    names, code = np.unique(blocks, return_inverse=True)
    # Deviations, here and below: constant values give exactly that constant, for any rounding of sums.
    mean = float(values[0] + (values - values[0]).mean())
    if len(names) < 2:
        return Estimate(mean, None, None, len(values), len(names), level)
    count = np.bincount(code).astype(np.float64)  # (D,) episodes of each block
    total = np.bincount(code, weights=values - values[0])  # (D,)
    drawn = drawn_blocks(len(names), resamples, seed)
    means = values[0] + (drawn @ total) / (drawn @ count)  # (B,)
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Estimate(mean, float(low), float(high), len(values), len(names), level)


@lru_cache(maxsize=8)
def drawn_blocks(blocks: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Return the number of draws of each block in each resample, (B, D), read-only; the same for the same arguments."""
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = random.multinomial(blocks, np.full(blocks, 1.0 / blocks), size=resamples).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def ratio_estimate(
    part: ArrayLike,
    whole: ArrayLike,
    blocks: ArrayLike,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Return sum(part) / sum(whole) over episodes, with an interval by blocks: a share pooled over episodes.

    Resamples with a whole of 0 are left out.

    Args:
        part: One number for each episode, (n,).
        whole: One number for each episode, (n,), not all 0.
        blocks: The block (day) of each episode, (n,).
        level: Level of the interval.
        resamples: Bootstrap resamples.
        seed: Seed of the resampling.

    Raises:
        BurstenvError: As ``block_bootstrap``; also if the whole is 0.
    """
    parts, names = _checked(part, blocks, level, resamples)
    wholes, _ = _checked(whole, blocks, level, resamples)
    if wholes.sum() <= 0:
        raise BurstenvError("a share needs a whole above 0")
    mean = float(parts.sum() / wholes.sum())
    found, code = np.unique(names, return_inverse=True)
    if len(found) < 2:
        return Estimate(mean, None, None, len(parts), len(found), level)
    drawn = drawn_blocks(len(found), resamples, seed)
    above, below = drawn @ np.bincount(code, weights=parts), drawn @ np.bincount(code, weights=wholes)
    low, high = np.quantile(above[below > 0] / below[below > 0], [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Estimate(mean, float(low), float(high), len(parts), len(found), level)


def paired_difference(values: ArrayLike, reference: ArrayLike, blocks: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return the mean per-episode difference ``values - reference`` with an interval by blocks.

    Args:
        values: One number for each episode, (n,), finite.
        reference: The reference policy's, on the same episodes in the same order, (n,).
        blocks: The block (day) of each episode, (n,).
        level: Level of the interval; fewer blocks than ``least_blocks`` give none.

    Raises:
        BurstenvError: If the two do not pair up, on no episodes, or a value that is not finite.
    """
    mine, theirs = np.asarray(values, np.float64), np.asarray(reference, np.float64)
    if mine.shape != theirs.shape:
        raise BurstenvError(f"paired values need one partner each, got {mine.shape} against {theirs.shape}")
    return paired_share(mine - theirs, np.ones(mine.shape), blocks, level=level)


def paired_share(difference: ArrayLike, whole: ArrayLike, blocks: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Return sum(difference) / sum(whole) over episodes, with an interval by blocks.

    Args:
        difference: Of two policies' parts, for each episode, (n,).
        whole: The whole of each episode, (n,), not all 0.
        blocks: The block (day) of each episode, (n,).
        level: Level of the interval.

    Raises:
        BurstenvError: As :func:`paired_difference`; also if the whole is 0.
    """
    parts, names = _checked(difference, blocks, level)
    wholes, _ = _checked(whole, blocks, level)
    if wholes.sum() <= 0:
        raise BurstenvError("a share needs a whole above 0")
    both, _ = block_totals(np.stack([parts, wholes]), names)
    ends = flip_interval(both[:, :1], both[:, 1], level)
    low, high = (None, None) if ends is None else (float(ends[0][0]), float(ends[1][0]))
    mean = math.fsum(parts) / math.fsum(wholes)
    return Estimate(mean, low, high, len(parts), len(both), level)


def interquartile_mean(scores: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Any:
    """Return the mean of the middle half: a quarter of the scores (rounded down) is dropped at each end.

    Source: Agarwal et al. 2021, section 4.3; equals ``scipy.stats.trim_mean(scores, 0.25)``.

    Args:
        scores: Any shape; for runs and tasks pooled, (runs, tasks) with ``axis=None``.
        axis: Axes to average over; None: all.
    """
    values = np.asarray(scores, np.float64)
    if values.size == 0:
        raise BurstenvError("the interquartile mean needs at least one score")
    axes = tuple(range(values.ndim)) if axis is None else (axis,) if isinstance(axis, int) else axis
    moved = np.moveaxis(values, axes, range(-len(axes), 0))
    flat = np.sort(moved.reshape(*moved.shape[: values.ndim - len(axes)], -1), axis=-1)
    dropped = flat.shape[-1] // 4
    result = flat[..., dropped : flat.shape[-1] - dropped].mean(axis=-1)
    return float(result) if np.ndim(result) == 0 else result


def probability_of_improvement(scores: ArrayLike, others: ArrayLike) -> Any:
    """Return the probability that a run of one algorithm beats a run of another on a task drawn at random.

    The mean over tasks of P(X > Y) + P(X = Y) / 2, every run of X against every run of Y
    (Mann-Whitney; Agarwal et al. 2021, section 4.3).

    Args:
        scores: X, (..., runs of X, tasks).
        others: Y, (..., runs of Y, tasks).
    """
    x, y = np.asarray(scores, np.float64), np.asarray(others, np.float64)
    if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-1]:
        raise BurstenvError(f"scores need the shape (runs, tasks) with the same tasks, got {x.shape} and {y.shape}")
    difference = x[..., :, None, :] - y[..., None, :, :]  # (..., runs of X, runs of Y, tasks)
    result = ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-3, -2, -1))
    return float(result) if np.ndim(result) == 0 else result


def stratified_bootstrap(
    statistic: Statistic | None,
    *scores: ArrayLike,
    level: float = LEVEL,
    resamples: int = 2_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return a percentile interval of a statistic over runs, resampling the runs of each task on its own.

    Args:
        statistic: Takes arrays of shape (B, runs, tasks), one for each of ``scores``, and returns (B,);
            None: the interquartile mean. ``probability_of_improvement`` takes two.
        scores: One or more arrays of shape (runs, tasks).
        level: Level of the interval.
        resamples: B in all.
        seed: Seed of the resampling.

    Raises:
        BurstenvError: If an array has another shape, or a single run.
    """
    arrays = [np.asarray(score, np.float64) for score in scores]
    for array in arrays:
        if array.ndim != 2 or array.shape[0] < 2:
            raise BurstenvError(f"a stratified bootstrap needs (runs, tasks) with 2 runs or more, got {array.shape}")
    chosen: Statistic = statistic or (lambda drawn: interquartile_mean(drawn, axis=(-2, -1)))
    random = np.random.Generator(np.random.PCG64(seed))
    at_once = max(1, _CHUNK // max(1, sum(array.size for array in arrays)))
    found = []
    for start in range(0, resamples, at_once):
        count = min(at_once, resamples - start)
        drawn = []
        for array in arrays:
            rows = random.integers(array.shape[0], size=(count, *array.shape))  # (B, runs, tasks)
            drawn.append(np.take_along_axis(array[None], rows, axis=1))
        found.append(np.asarray(chosen(*drawn)))
    low, high = np.quantile(np.concatenate(found), [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


def _checked(
    values: ArrayLike, blocks: ArrayLike, level: float, resamples: int = RESAMPLES
) -> tuple[Floats, NDArray[Any]]:
    """Return values and blocks as arrays, (n,) each, or raise an error."""
    numbers, names = np.asarray(values, np.float64), np.asarray(blocks)
    if numbers.ndim != 1 or len(numbers) == 0:
        raise BurstenvError(f"an estimate needs one value for each of 1 or more episodes, got {numbers.shape}")
    if names.shape != numbers.shape:
        raise BurstenvError(f"each of {len(numbers)} episodes needs its block, got {names.shape}")
    if not np.isfinite(numbers).all():
        raise BurstenvError(f"episode {int(np.argmin(np.isfinite(numbers)))}: value is not finite")
    if not 0.0 < level < 1.0 or resamples < 1:
        raise BurstenvError(f"need 0 < level < 1 and resamples of at least 1, got {level} and {resamples}")
    return numbers, names
