"""Intervals and p-values of paired differences over blocks of days, from one exact test.

Without a difference between two policies, each block's total difference is equally likely to have either sign. The
observed total is therefore compared with those of all sign flips of the blocks, 2^D of D blocks (Fisher's randomisation
test; Pesarin and Salmaso, "Permutation tests for complex data", 2010, chapter 1). With two blocks no p-value is below
1/2, with five none is below 1/16.

The interval inverts that test: it contains each difference that the test does not reject. A flip of the blocks in A
makes the total less extreme exactly if the mean over A lies on the other side of the tested difference, so the ends are
order statistics of the means over all sets of blocks (Hartigan, "Using subsample values as typical values", JASA 1969).
An interval at 95 % excludes 0 exactly if p is at most 0.05. Fewer than six blocks give none.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burstenv.errors import BurstenvError

Floats = NDArray[np.float64]

LEVEL = 0.95
_EXACT = 13  # blocks up to which all sets are taken
_DRAWN = 4_096  # sets drawn beyond, each with its complement
_NOISE = 1e-12  # smaller totals are rounding errors of 0
_GRID = 2.0**40  # block totals are rounded to whole numbers, which makes sums and ties exact


def least_blocks(level: float = LEVEL) -> int:
    """Return the least number of blocks for a statement at a level: 6 at 95 %.

    D blocks have 2^D sign flips; if all blocks agree on the sign, p is 2 / 2^D.
    """
    return 1 + math.ceil(-math.log2(1.0 - level) - 1e-9)


@lru_cache(maxsize=8)
def _sets(blocks: int) -> Floats:
    """Return sets of blocks as rows of 0 and 1, (N, D), read-only: the empty one first, the whole one last."""
    if blocks <= _EXACT:
        numbers = np.arange(2**blocks)
        rows = (numbers[:, None] >> np.arange(blocks)) & 1
    else:
        drawn = np.random.Generator(np.random.PCG64(0)).integers(0, 2, (_DRAWN - 1, blocks))
        half = np.concatenate([np.zeros((1, blocks), np.int64), drawn])
        rows = np.concatenate([half, 1 - half[::-1]])
    found = rows.astype(np.float64)
    found.setflags(write=False)
    return found


def _sums(totals: Floats) -> tuple[Floats, Floats]:
    """Return the total of each set of blocks, (N, K), in whole numbers of the scale beside it, (K,); ties are exact.

    Args:
        totals: (D, K).
    """
    totals = np.where(np.abs(totals) < _NOISE, 0.0, totals)
    scale: Floats = np.abs(totals).sum(axis=0) / _GRID
    scale[scale == 0.0] = 1.0
    whole: Floats = np.rint(totals / scale)
    return _sets(len(totals)) @ whole, scale


def flip_interval(totals: Floats, counts: Floats, level: float = LEVEL) -> tuple[Floats, Floats] | None:
    """Return the intervals of K ratios of sums, (K,) each; None with too few blocks for the level.

    Args:
        totals: Sum of each block for each series, (D, K).
        counts: The whole of each block, (D,); blocks with 0 are left out.
        level: Level of the intervals.
    """
    held = counts > 0
    totals, counts = totals[held], counts[held]
    if len(counts) < least_blocks(level):
        return None
    found, scale = _sums(totals)
    sums, whole = found[1:], (_sets(len(counts)) @ counts)[1:]
    beyond = math.floor((1.0 - level) / 2.0 * (len(sums) + 1) + 1e-9)
    means = np.where(whole[:, None] > 0, sums / np.maximum(whole, 1e-300)[:, None], sums[-1] / whole[-1])
    ordered = np.partition(means, [beyond - 1, len(means) - beyond], axis=0)
    low: Floats = ordered[beyond - 1] * scale
    high: Floats = ordered[len(means) - beyond] * scale
    return low, high


def flip_p_values(totals: Floats) -> Floats:
    """Return for each sign flip of the blocks, (N, K), the share of flips that are at least as extreme.

    The first row is that of no flip: the two-sided p-values of the K series.

    Args:
        totals: Sum of each block for each series, (D, K).
    """
    sums, _ = _sums(totals)
    extreme = np.abs(sums[-1] - 2.0 * sums)
    found = np.empty_like(extreme)
    for k, column in enumerate(extreme.T):
        found[:, k] = 1.0 - np.searchsorted(np.sort(column), column, side="left") / len(column)
    return found


def block_totals(values: Floats, blocks: ArrayLike) -> tuple[Floats, Floats]:
    """Return sums, (D, K), and numbers of episodes, (D,), of each block of K series, (K, n)."""
    names, code = np.unique(np.asarray(blocks), return_inverse=True)
    if values.ndim != 2 or values.shape[1] != len(code) or values.size == 0 or not np.isfinite(values).all():
        raise BurstenvError(f"need finite values of shape (series, {len(code)} episodes), got {values.shape}")
    totals: Floats = np.stack([np.bincount(code, weights=row, minlength=len(names)) for row in values], axis=1)
    counts: Floats = np.bincount(code).astype(np.float64)
    return totals, counts
