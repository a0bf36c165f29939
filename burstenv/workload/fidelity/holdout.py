"""Parts of a trace that are held out of a fit: alternate weeks, days or rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload.trace import DAY_S, Trace

# Alternate weeks keep days of the week balanced and share the drift of months; alternate days are for traces
# of a few weeks; alternate rows say something about lengths only.
PARTS: tuple[str, ...] = ("all", "even-weeks", "odd-weeks", "even-days", "odd-days", "even-rows", "odd-rows")


def part_of(trace: Trace, part: str) -> Trace:
    """Return one part of a trace, requests and failures, times unchanged.

    Weeks and days are counted from midnight of day 0 of the trace's clock, rows from 0; failures go with the
    week, the day, or, for rows, with their own numbers.

    Args:
        trace: The trace.
        part: One of :data:`PARTS`.

    Raises:
        BurstenvError: For an unknown part, or one without a request.
    """
    if part not in PARTS:
        raise unknown_name("part", part, PARTS)
    if part == "all":
        return trace
    parity, unit = part.split("-")
    wanted = 0 if parity == "even" else 1

    def mask(arrival_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        if unit == "rows":
            return np.arange(len(arrival_s)) % 2 == wanted
        width_s = DAY_S if unit == "days" else 7 * DAY_S
        return np.asarray((arrival_s // width_s).astype(np.int64) % 2 == wanted)

    kept = trace.where(mask(trace.arrival_s))
    if len(kept) == 0:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: part {part!r} has no request")
    failures = trace.failures.select(mask(trace.failures.arrival_s))
    return replace(kept, failures=failures, metadata={**kept.metadata, "failures": len(failures)})


def days_of_part(trace: Trace, part: str) -> NDArray[np.int64] | None:
    """Return the days that a part covers, from the trace's first to its last; None for all of them.

    Args:
        trace: The whole trace.
        part: One of :data:`PARTS`.
    """
    if part == "all" or part.endswith("rows"):
        return None
    wanted = 0 if part.startswith("even") else 1
    days = np.arange(int(trace.arrival_s[0] // DAY_S), int(trace.arrival_s[-1] // DAY_S) + 1)
    return days[(days if part.endswith("days") else days // 7) % 2 == wanted]


def other_part(part: str) -> str:
    """Return the part that remains if ``part`` is held out; of all it is all."""
    if part.startswith("even"):
        return part.replace("even", "odd")
    return part.replace("odd", "even")
