"""Latency distributions of any number of requests as small, exactly additive sketches.

A sketch counts values in bins whose edges grow by a constant factor, as DDSketch does (Masson, Rim and Lee, "DDSketch:
a fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019). Counts are whole numbers, so the
sum of sketches does not depend on the order of episodes, as a resumed evaluation requires.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

RELATIVE_ERROR = 0.005  # of a quantile
_GROWTH = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR)  # of bin edges
_SMALLEST_S = 1e-6  # shorter ones count as this


@dataclass
class Sketch:
    """Counts of values by bin, with their sum.

    Attributes:
        first: Number of the first bin held.
        counts: Values in each bin from there on, (bins,) int64.
        total: Sum of the values [s].
        least: Smallest value [s]; infinity without values.
        greatest: Largest value [s]; minus infinity without values.
    """

    first: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    total: float = 0.0
    least: float = math.inf
    greatest: float = -math.inf

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Sketch:
        """Return the sketch of values [s], (n,), none of them negative."""
        if len(values) == 0:
            return cls()
        bins = np.ceil(np.log(np.maximum(values, _SMALLEST_S)) / math.log(_GROWTH)).astype(np.int64)
        first = int(bins.min())
        return cls(first, np.bincount(bins - first), math.fsum(values), float(values.min()), float(values.max()))

    @classmethod
    def sum(cls, parts: Iterable[Sketch]) -> Sketch:
        """Return the sketch of all values of several sketches."""
        held = [part for part in parts if len(part.counts)]
        if not held:
            return cls()
        first = min(part.first for part in held)
        counts = np.zeros(max(part.first + len(part.counts) for part in held) - first, np.int64)
        for part in held:
            counts[part.first - first : part.first - first + len(part.counts)] += part.counts
        total = math.fsum(part.total for part in held)  # exact, so the same in any order
        return cls(first, counts, total, min(p.least for p in held), max(p.greatest for p in held))

    @property
    def count(self) -> int:
        """Number of values."""
        return int(self.counts.sum())

    @property
    def mean(self) -> float | None:
        """Mean of the values [s]; None without values."""
        return self.total / self.count if self.count else None

    def quantiles(self, levels: Sequence[float]) -> list[float]:
        """Return quantiles [s], each within ``RELATIVE_ERROR`` of a value of that rank; empty without values."""
        if not self.count:
            return []
        cumulative = np.cumsum(self.counts)
        ranks = np.floor(np.asarray(levels) * (self.count - 1))  # of the requested value, from 0
        bins = self.first + np.searchsorted(cumulative, ranks, side="right")
        middle = 2.0 * np.power(_GROWTH, bins.astype(np.float64)) / (_GROWTH + 1.0)
        return [round(v, 9) for v in np.clip(middle, self.least, self.greatest).tolist()]

    def to_list(self) -> list[Any]:
        """Return plain values that :meth:`from_list` reads."""
        if not len(self.counts):
            return []
        return [self.first, self.counts.tolist(), self.total, self.least, self.greatest]

    @classmethod
    def from_list(cls, values: Sequence[Any]) -> Sketch:
        """Return the sketch of a list from :meth:`to_list`."""
        if not values:
            return cls()
        return cls(int(values[0]), np.array(values[1], np.int64), *(float(v) for v in values[2:]))
