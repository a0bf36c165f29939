"""One class on one day, or block of a shorter trace: shifted copies of it are cut in a few array operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.trace import DAY_S, Trace

Integers = NDArray[np.integer[Any]]  # row numbers and conversation numbers of either width


@dataclass(frozen=True, eq=False)
class DayTable:
    """The requests of one class on one day, repeated once: a window may run past midnight.

    Attributes:
        time_s: Times from the day's midnight (the block's begin), then the same a day (block) later, shape ``(2n,)``.
        row: Rows of the trace, shape ``(2n,)``, int32 to halve what a split takes.
        thread: Conversation number from 0 (the second day has its own), -1 for none, shape ``(2n,)``, int32.
        threads: Number of conversations.
        rate_per_s: Mean rate over the day.
    """

    time_s: NDArray[np.float64]
    row: NDArray[np.int32]
    thread: NDArray[np.int32]
    threads: int
    rate_per_s: float


def day_table(trace: Trace, rows: NDArray[np.int64], from_s: float, day_s: float = DAY_S) -> DayTable:
    """Lay out the requests in ``rows``, all of one class and of the day (or block) from ``from_s``, for superposing."""
    time = trace.arrival_s[rows] - from_s
    session = trace.session[rows]
    names, thread = np.unique(session, return_inverse=True)
    if len(names) and names[0] < 0:
        thread = thread - 1  # rows without a session become -1
    count = int(thread.max()) + 1
    again = np.where(thread >= 0, thread + count, -1)
    return DayTable(
        time_s=np.concatenate([time, time + day_s]),
        row=np.concatenate([rows, rows]).astype(np.int32),
        thread=np.concatenate([thread, again]).astype(np.int32),
        threads=2 * count,
        rate_per_s=len(rows) / day_s,
    )
