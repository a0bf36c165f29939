"""Recorded failures as rates: per class, over time, by hour of day and overall."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.trace import CLASSES, Trace

HOUR_S = 3600.0
_Z = 1.959964  # two-sided 95 %


@dataclass(frozen=True, eq=False)
class FailureRates:
    """Shares of submissions without a response; ``submitted`` counts served and failed together.

    Attributes:
        classes: Names of the rows, ``CLASSES``.
        hour_start_s: Start of each hour on the trace's clock, shape ``(hours,)``.
        submitted: Submissions by class and hour, shape ``(classes, hours)``, int64.
        failed: Failures by class and hour, same shape.
        submitted_by_hour: The same by hour of day, shape ``(classes, 24)``.
        failed_by_hour: Same shape.
        rate: Failures / submissions of each class, NaN without submissions, shape ``(classes,)``.
        rate_low: Lower end of its 95 % interval by days, see :func:`failure_rates`.
        rate_high: Upper end.
    """

    classes: tuple[str, ...]
    hour_start_s: NDArray[np.float64]
    submitted: NDArray[np.int64]
    failed: NDArray[np.int64]
    submitted_by_hour: NDArray[np.int64]
    failed_by_hour: NDArray[np.int64]
    rate: NDArray[np.float64]
    rate_low: NDArray[np.float64]
    rate_high: NDArray[np.float64]

    @property
    def hourly(self) -> NDArray[np.float64]:
        """Failures / submissions in each hour, NaN in hours without any, shape ``(classes, hours)``."""
        return _ratio(self.failed, self.submitted)

    @property
    def by_hour_of_day(self) -> NDArray[np.float64]:
        """Failures / submissions by hour of day, NaN without any, shape ``(classes, 24)``."""
        return _ratio(self.failed_by_hour, self.submitted_by_hour)

    def summary(self) -> dict[str, Any]:
        """Return counts and rates of each class with submissions, ready for JSON."""
        found: dict[str, Any] = {}
        for code, name in enumerate(self.classes):
            submitted = int(self.submitted[code].sum())
            if submitted:
                by_hour = self.by_hour_of_day[code]
                found[name] = {
                    "submitted": submitted,
                    "failed": int(self.failed[code].sum()),
                    "rate": float(self.rate[code]),
                    "rate_low": float(self.rate_low[code]),
                    "rate_high": float(self.rate_high[code]),
                    "by_hour_of_day": [None if np.isnan(rate) else float(rate) for rate in by_hour],
                }
        return found


def failure_rates(trace: Trace) -> FailureRates:
    """Count failures and submissions.

    Failures cluster in time, so submissions are not independent trials. The interval of a class's overall rate takes
    days as the independent units: the rate is a ratio of sums over days, its variance that of the linearised ratio,
    ``D / (D - 1) * sum((failed_d - rate * submitted_d)^2) / submitted^2`` (Cochran, Sampling Techniques, 3rd ed.,
    section 6.3). With fewer than two days, or without a failure, it is Wilson's interval for independent trials.

    Args:
        trace: The trace.

    Returns:
        The rates, over the hours from the first to the last submission.
    """
    ends = [values[[0, -1]] for values in (trace.arrival_s, trace.failures.arrival_s) if len(values)]
    first = int(min((end[0] for end in ends), default=0.0) // HOUR_S)
    hours = int(max((end[1] for end in ends), default=-1.0) // HOUR_S) - first + 1
    served = _count(trace.arrival_s, trace.log_type, first, hours)
    failed = _count(trace.failures.arrival_s, trace.failures.log_type, first, hours)
    submitted = served + failed
    hour = first + np.arange(hours)
    day = hour // 24 - first // 24
    rates = np.full((3, len(CLASSES)), np.nan)
    for code in range(len(CLASSES)):
        by_day = [np.bincount(day, weights=counts[code]).astype(np.float64) for counts in (failed, submitted)]
        rates[:, code] = _with_interval(by_day[0], by_day[1])
    return FailureRates(
        classes=CLASSES,
        hour_start_s=(hour * HOUR_S).astype(np.float64),
        submitted=submitted,
        failed=failed,
        submitted_by_hour=_by_hour_of_day(submitted, hour),
        failed_by_hour=_by_hour_of_day(failed, hour),
        rate=rates[0],
        rate_low=rates[1],
        rate_high=rates[2],
    )


def _count(arrival_s: NDArray[np.float64], code: NDArray[np.int8], first: int, hours: int) -> NDArray[np.int64]:
    """Count rows by class and hour, shape ``(classes, hours)``."""
    place = (arrival_s / HOUR_S).astype(np.int64) - first
    place += code.astype(np.int64) * hours
    return np.bincount(place, minlength=len(CLASSES) * hours).reshape(len(CLASSES), hours)


def _by_hour_of_day(counts: NDArray[np.int64], hour: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([np.bincount(hour % 24, weights=row, minlength=24) for row in counts]).astype(np.int64)


def _with_interval(failed: NDArray[np.float64], submitted: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return rate, low and high from counts by day, shape ``(days,)`` each."""
    failed, submitted = failed[submitted > 0], submitted[submitted > 0]
    total, days = submitted.sum(), len(submitted)
    if days == 0:
        return np.nan, np.nan, np.nan
    rate = failed.sum() / total
    if days < 2 or failed.sum() == 0:
        middle = (rate + _Z**2 / (2 * total)) / (1 + _Z**2 / total)
        half = _Z * np.sqrt(rate * (1 - rate) / total + _Z**2 / (4 * total**2)) / (1 + _Z**2 / total)
    else:
        middle = rate
        half = _Z * np.sqrt(days / (days - 1) * ((failed - rate * submitted) ** 2).sum()) / total
    return float(rate), float(max(0.0, middle - half)), float(min(1.0, middle + half))


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)
