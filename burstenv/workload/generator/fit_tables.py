"""Quantile tables of measured values: as few points as keep the distribution within a tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.basics import QuantileTable

_MOST_CANDIDATES = 4000  # points looked at; beyond these the sample's quantiles are
_TAIL_TOLERANCE = 0.15  # of log(1 - q), so that rare long requests keep their frequency
_TAIL_ROWS = 20  # a tail of fewer rows is not resolved further


def table_of_counts(values: NDArray[Any], tolerance: float = 0.004) -> QuantileTable:
    """Return the table of whole numbers of at least 1, such that rounding its draws gives their distribution.

    The point of a value v is ``(F(v), v + 1/2)``: draws below it round to at most v. Frequent values therefore keep
    their share.

    Args:
        values: Whole numbers of at least 1, shape ``(n,)``, n at least 1.
        tolerance: Largest error of the distribution function at any value.
    """
    value, count = np.unique(values, return_counts=True)
    below = np.concatenate([[0.0], np.cumsum(count) / len(values)])
    point = np.concatenate([[value[0] - 0.5], value + 0.5])
    point[-1] -= 0.1  # the last point is drawn as it is, and must round to the largest value
    return _thinned(below, point, len(values), tolerance, digits=9)


def table_of_values(values: NDArray[Any], tolerance: float = 0.004) -> QuantileTable:
    """Return the table of positive values, shape ``(n,)``, n at least 1; ``tolerance`` as above."""
    value, count = np.unique(values, return_counts=True)
    if len(value) == 1:
        value, count = np.repeat(value, 2), np.array([1, 1])
    below = np.cumsum(count) / count.sum()
    return _thinned(np.concatenate([[0.0], below[1:]]), value.astype(float), len(values), tolerance, digits=5)


def _thinned(
    below: NDArray[np.float64], point: NDArray[np.float64], rows: int, tolerance: float, digits: int
) -> QuantileTable:
    """Keep the first and last point, and wherever the line between kept points is off by most, one more."""
    below = np.minimum(below, 1.0 - 0.5 / max(rows, 2))
    if len(below) > _MOST_CANDIDATES:
        even = np.linspace(0, 1, _MOST_CANDIDATES // 2)
        tail = 1.0 - np.geomspace(1.0, 0.5 / rows, _MOST_CANDIDATES // 2)
        chosen = np.unique(np.searchsorted(below, np.concatenate([even, tail])).clip(0, len(below) - 1))
        chosen = np.unique(np.concatenate([[0], chosen, [len(below) - 1]]))
        below, point = below[chosen], point[chosen]
    exponential, log = -np.log1p(-below), np.log(point)
    kept, todo = {0, len(below) - 1}, [(0, len(below) - 1)]
    while todo:
        first, last = todo.pop()
        if last - first < 2:
            continue
        inside = slice(first + 1, last)
        share = (log[inside] - log[first]) / max(log[last] - log[first], 1e-300)
        line = exponential[first] + share * (exponential[last] - exponential[first])
        error = np.abs(np.exp(-line) - np.exp(-exponential[inside])) / tolerance
        resolved = (1.0 - below[inside]) * rows >= _TAIL_ROWS
        error = np.maximum(error, np.where(resolved, np.abs(line - exponential[inside]) / _TAIL_TOLERANCE, 0.0))
        worst = int(error.argmax())
        if error[worst] > 1.0:
            middle = first + 1 + worst
            kept.add(middle)
            todo += [(first, middle), (middle, last)]
    index = sorted(kept)
    q = np.round(below[index], 7)
    rising = np.concatenate([[True], np.diff(q) > 0])
    return QuantileTable(
        q=tuple(float(level) for level in q[rising]),
        value=tuple(float(f"{value:.{digits}g}") for value in point[index][rising]),
    )


def normal_scores(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the standard normal scores of values by their rank, ties at the middle of theirs."""
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    middle = (np.cumsum(count) - 0.5 * count) / len(values)  # (distinct,) of (0, 1)
    return inverse_normal(middle)[inverse]


def inverse_normal(q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantile of the standard normal at each ``q`` in (0, 1), interpolated in a grid of 1/400."""
    from burstenv.workload.generator.basics import exponential_of_normal

    grid = np.linspace(-8.0, 8.0, 6401)
    return np.interp(-np.log1p(-q), exponential_of_normal(grid), grid)


def at_quantiles(table: QuantileTable, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of a table at levels ``q``."""
    return table.at_exponential(-np.log1p(-q))
