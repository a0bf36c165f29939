"""Prices of machine time, which limit the work to the capacity: the search behind the upper bound.

Work may be placed anywhere in a window of time, on machines of a few kinds; a machine second of each kind and time slot
has a price ``y >= 0``. For any prices, no schedule can earn more than (weak duality of linear programs)

    sum over j of max(0, g_j - cheapest price of serving j) + sum over slots of y x machine seconds,

so the result needs no trusted solver: a subgradient search improves the prices, and the best value found is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Places = NDArray[np.int64]
SLOTS = 64  # at quantiles of the ends of windows
_UNIFORM = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.5)  # first prices, in worth per second of work
_UNTIL = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0)  # up to these quantiles


@dataclass(frozen=True)
class Work:
    """Machine time of n requests on one kind of machine, under one lower bound, (n,) each.

    Attributes:
        first_s: Work in the window up to the first deadline [s].
        second_s: Work in the window up to the second [s].
    """

    first_s: Array
    second_s: Array


class _Ranges:
    """Ranges of slots; a sparse table finds their cheapest slots (Bender and Farach-Colton, 2000)."""

    def __init__(self, low: Places, high: Places):
        self._level = np.floor(np.log2(high - low)).astype(np.int64)
        self._left, self._right = low, high - (1 << self._level)

    def cheapest(self, table: Places, prices: Array) -> Places:
        left, right = table[self._level, self._left], table[self._level, self._right]
        return np.where(prices[left] <= prices[right], left, right)


def _sparse_table(prices: Array) -> Places:
    """Return where the cheapest of 2^k slots from s on is, (levels, S)."""
    count = len(prices)
    levels = [np.arange(count)]
    half = 1
    while 2 * half <= count:
        left, right = levels[-1][:-half][: count - 2 * half + 1], levels[-1][half : count - half + 1]
        levels.append(np.where(prices[left] <= prices[right], left, right))
        half *= 2
    table = np.zeros((len(levels), count), np.int64)
    for level, places in enumerate(levels):
        table[level, : len(places)] = places
    return table


class _Market:
    """Requests with their windows, and machines by kind; each kind's work may have several lower bounds."""

    def __init__(
        self, gains: Array, windows: tuple[Array, Array, Array], work: Sequence[Sequence[Work]],
        possible: Sequence[NDArray[np.bool_]], machines: Sequence[int],
    ):  # fmt: skip
        begin_s, first_s, second_s = windows
        times = np.concatenate(windows)
        self.times = times[np.isfinite(times)]
        grid = np.unique(np.quantile(self.times, np.linspace(0.0, 1.0, SLOTS + 1)))
        if len(grid) == 1:
            grid = np.array([grid[0], grid[0] + 1e-9])
        self.count = len(grid) - 1
        self.width_s, self.middle_s = np.diff(grid), 0.5 * (grid[1:] + grid[:-1])
        low = np.clip(np.searchsorted(grid, begin_s, side="right") - 1, 0, self.count - 1)
        ends = (np.clip(np.searchsorted(grid, at, side="left"), low + 1, self.count) for at in (first_s, second_s))
        self.first, self.second = (_Ranges(low, high) for high in ends)
        self.gains, self.possible, self.machines = gains, possible, machines
        self.views = [(kind, view) for kind, views in enumerate(work) for view in views]

    def value(self, prices: Sequence[Array]) -> tuple[float, list[Array]]:
        """Return the dual value of prices, (views, S), and its subgradients."""
        n = len(self.gains)
        paid = np.zeros((len(self.machines), n))
        places = []
        for (kind, view), price in zip(self.views, prices, strict=True):
            table = _sparse_table(price)
            first, second = self.first.cheapest(table, price), self.second.cheapest(table, price)
            paid[kind] += view.first_s * price[first] + view.second_s * price[second]
            places.append((first, second))
        net, chosen = np.zeros(n), np.full(n, -1)
        for kind, possible in enumerate(self.possible):
            own = self.gains - paid[kind]
            better = possible & (own > net)
            net[better], chosen[better] = own[better], kind
        value, slopes = float(net.sum()), []
        for (kind, view), price, (first, second) in zip(self.views, prices, places, strict=True):
            served = chosen == kind
            there_s = self.machines[kind] * self.width_s
            value += float((price * there_s).sum())
            slopes.append(
                there_s
                - np.bincount(first[served], view.first_s[served], self.count)
                - np.bincount(second[served], view.second_s[served], self.count)
            )
        return value, slopes


def most_earned(
    gains: Array, windows: tuple[Array, Array, Array], work: Sequence[Sequence[Work]],
    possible: Sequence[NDArray[np.bool_]], machines: Sequence[int], steps: int,
) -> float:  # fmt: skip
    """Return an upper bound on the total gain.

    Args:
        gains: Gain of each request, (n,).
        windows: Start of its work, deadline of the first part and deadline of all of it [s], (n,) each.
        work: For each kind of machine, one or more lower bounds of the work; all of them hold at once.
        possible: For each kind, the requests that it can serve at all, (n,).
        machines: Number of machines of each kind.
        steps: Steps of the search; more of them lower the bound.
    """
    market = _Market(gains, windows, work, possible, machines)
    total_s = [max(float((view.first_s + view.second_s).sum()), 1e-9) for _, view in market.views]
    views = [len(views) for views in work]
    best, prices = np.inf, [np.zeros(market.count) for _ in market.views]
    for until_s in np.quantile(market.times, _UNTIL):
        for share in _UNIFORM:
            worth = share * float(gains.sum())
            trial = [
                np.where(market.middle_s <= until_s, worth / (spent_s * views[kind]), 0.0)
                for spent_s, (kind, _) in zip(total_s, market.views, strict=True)
            ]
            value = market.value(trial)[0]
            if value < best:
                best, prices = value, trial
    scale = 0.05 * float(gains.sum()) / float(np.mean(total_s))
    mean, square = (np.zeros((len(prices), market.count)) for _ in range(2))
    for k in range(steps):
        value, slopes = market.value(prices)
        best = min(best, value)
        for v, slope in enumerate(slopes):  # Adam (Kingma and Ba, 2015)
            mean[v] = 0.9 * mean[v] + 0.1 * slope
            square[v] = 0.99 * square[v] + 0.01 * slope**2
            step = (mean[v] / (1 - 0.9 ** (k + 1))) / (np.sqrt(square[v] / (1 - 0.99 ** (k + 1))) + 1e-9)
            prices[v] = np.maximum(0.0, prices[v] - scale * (1.0 - k / steps) * step)
    return best
