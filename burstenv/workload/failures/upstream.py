"""Recorded failures as demand: extra arrivals in an episode that the upstream service does not answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.trace import Trace

HOUR_S = 3600.0
_FAILURE_STREAM = 0x6661696C  # the served part of an episode has its own random streams


@dataclass(frozen=True, eq=False)
class FailureTable:
    """Recorded failures and the candidates for their lengths; all arrays of one length.

    Attributes:
        time_s: Times, sorted, float64.
        low: First candidate, as a place among the served requests given; up to ``high``, those of the same hour.
        high: End of the candidates, exclusive.
        model: Codes into ``MODELS``, as recorded.
    """

    time_s: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    model: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.time_s)

    def twice(self, day_s: float) -> FailureTable:
        """Return the table of one day (or block) of that length laid out twice in a row, as a ``DayTable`` is."""
        return FailureTable(
            np.concatenate([self.time_s, self.time_s + day_s]),
            np.concatenate([self.low, self.low]),
            np.concatenate([self.high, self.high]),
            np.concatenate([self.model, self.model]),
        )

    def donors(self, place: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        """Draw a served request for each failure at ``place``, whose lengths it takes; places among the rows given."""
        low, high = self.low[place], self.high[place]
        return low + (random.random(len(place)) * (high - low)).astype(np.int64)


def failure_table(trace: Trace, served_s: NDArray[np.float64], from_s: float, to_s: float, code: int) -> FailureTable:
    """Return the failures of a class within ``from_s <= time < to_s``, times counted from ``from_s``.

    Args:
        trace: The trace.
        served_s: Times of the served requests of that class to draw lengths from, sorted, at least one, shape ``(n,)``.
        from_s: Start on the trace's clock.
        to_s: End on the trace's clock.
        code: The class, a code into ``CLASSES``.
    """
    failed = trace.failures
    first, last = np.searchsorted(failed.arrival_s, [from_s, to_s])
    mine = np.flatnonzero(failed.log_type[first:last] == code) + first
    time = failed.arrival_s[mine]
    hour = np.floor(time / HOUR_S)
    low = np.searchsorted(served_s, hour * HOUR_S)
    high = np.searchsorted(served_s, (hour + 1) * HOUR_S)
    unserved = low == high  # no request was served in that hour: any request is a candidate
    low, high = np.where(unserved, 0, low), np.where(unserved, len(served_s), high)
    return FailureTable(time - from_s, low, high, failed.model[mine])


class GatheredFailures:
    """The recorded failures of one episode, gathered class by class."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.Generator(np.random.PCG64([_FAILURE_STREAM, int(seed)]))
        self.times: list[NDArray[np.float64]] = []
        self.rows: list[NDArray[np.integer[Any]]] = []  # of the trace: whose lengths they take
        self.models: list[NDArray[np.int8]] = []

    def add(
        self,
        time_s: NDArray[np.float64],
        place: NDArray[np.int64],
        table: FailureTable,
        rows: NDArray[np.integer[Any]],
        share: float = 1.0,
    ) -> None:
        """Add failures of one class.

        Args:
            time_s: Their times in the episode, shape ``(f,)``.
            place: Their places in the table, shape ``(f,)``.
            table: The table.
            rows: Rows of the trace of the served requests that the table's candidates are places among.
            share: Keep each with this probability.
        """
        stays = self._random.random(len(place)) < share
        place = place[stays]
        self.times.append(time_s[stays])
        self.rows.append(rows[table.donors(place, self._random)])
        self.models.append(table.model[place])
