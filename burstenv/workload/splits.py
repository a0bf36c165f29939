"""Train, validation and test: whole days that do not overlap in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.workload.trace import DAY_S, Trace

SPLITS: tuple[str, ...] = ("train", "validation", "test")
DEFAULT_FRACTIONS: tuple[float, float, float] = (0.70, 0.15, 0.15)


@dataclass(frozen=True, order=True)
class DayRange:
    """Whole days ``first_day <= day < last_day`` of a trace's clock, in days since 0."""

    first_day: int
    last_day: int  # exclusive

    def __post_init__(self) -> None:
        if not 0 <= self.first_day < self.last_day:
            raise BurstenvError(
                f"day range {self.first_day}..{self.last_day}: need 0 <= first_day < last_day (exclusive)"
            )

    def __len__(self) -> int:
        return self.last_day - self.first_day

    def __contains__(self, day: object) -> bool:
        return isinstance(day, int | np.integer) and self.first_day <= int(day) < self.last_day

    @property
    def start_s(self) -> float:
        """Midnight at which the range begins, in seconds."""
        return self.first_day * DAY_S

    @property
    def end_s(self) -> float:
        """Midnight at which the range ends, in seconds (exclusive)."""
        return self.last_day * DAY_S


def split_by_days(
    trace: Trace, fractions: Sequence[float] = DEFAULT_FRACTIONS, *, skip_ramp_up_days: int = 0
) -> dict[str, DayRange]:
    """Divide a trace into train, validation and test by whole days, in this order of time.

    The shares are of the days that hold requests; a day without any stays with the split before it, so the
    three ranges follow each other without a gap.

    Args:
        trace: The trace.
        fractions: Shares of train, validation and test; positive, with sum 1.
        skip_ramp_up_days: Days at the start to leave out of all three: the first days of BurstGPT_1 carry
            a ninetieth of its later rate (HPMLL/BurstGPT issue 11).

    Returns:
        A :class:`DayRange` for each name of :data:`SPLITS`; each has at least one day with requests.

    Raises:
        BurstenvError: When the shares are wrong or fewer than 3 days hold requests.
    """
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise BurstenvError(f"split fractions must be three positive shares with sum 1, got {list(fractions)}")
    if skip_ramp_up_days < 0:
        raise BurstenvError(f"skip_ramp_up_days must be at least 0, got {skip_ramp_up_days}")
    days = np.unique(trace.day)  # days that hold requests
    if len(days):
        days = days[days >= days[0] + skip_ramp_up_days]
    count = len(days)
    if count < 3:
        skipped = f" after skipping {skip_ramp_up_days} ramp-up days" if skip_ramp_up_days else ""
        source = trace.metadata.get("source", "trace")
        raise BurstenvError(
            f"{source}: {count} distinct days with requests{skipped}, a split into train, validation "
            "and test needs at least 3"
        )
    in_test = min(max(1, round(fractions[2] * count)), count - 2)
    in_validation = min(max(1, round(fractions[1] * count)), count - 1 - in_test)
    validation_from = int(days[count - in_test - in_validation])
    test_from = int(days[count - in_test])
    return {
        "train": DayRange(int(days[0]), validation_from),
        "validation": DayRange(validation_from, test_from),
        "test": DayRange(test_from, int(days[-1]) + 1),
    }
