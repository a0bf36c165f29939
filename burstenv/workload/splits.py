"""Train, validation and test: whole blocks of time that do not overlap, days where there are enough of them.

A trace with requests on three days or more is split by days. A shorter one, such as the hour or two of most published
files, is cut into equal blocks of its span: 3 to 20 of them, each at least as long as an episode. A block is usable if
it has at least 50 requests of every class; the number of blocks maximises the requests in usable blocks, and is the
largest of equals. Blocks of minutes are not independent like days: reports state their length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.episodes.config import EpisodeConfig
from burstenv.workload.trace import CLASSES, DAY_S, Trace

SPLITS: tuple[str, ...] = ("train", "validation", "test")
DEFAULT_FRACTIONS: tuple[float, float, float] = (0.70, 0.15, 0.15)
MIN_BLOCK_REQUESTS = 50  # fewer requests are too few for many copies of a block
MOST_BLOCKS = 20  # of a trace shorter than three days


@dataclass(frozen=True, order=True)
class DayRange:
    """Whole days ``first_day <= day < last_day`` of a trace's clock, in days since 0; or shorter blocks of a span.

    Attributes:
        first_day: The first day, or block.
        last_day: The first one behind, exclusive.
        block_s: Length of one, a day unless the trace is shorter than three days.
        origin_s: When number 0 begins.
    """

    first_day: int
    last_day: int  # exclusive
    block_s: float = DAY_S
    origin_s: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.first_day < self.last_day:
            raise BurstenvError(
                f"day range {self.first_day}..{self.last_day}: need 0 <= first_day < last_day (exclusive)"
            )

    def __len__(self) -> int:
        return self.last_day - self.first_day

    def __contains__(self, day: object) -> bool:
        return isinstance(day, int | np.integer) and self.first_day <= int(day) < self.last_day

    def __str__(self) -> str:
        if self.block_s == DAY_S:
            return f"days {self.first_day} to {self.last_day - 1}"
        return f"blocks {self.first_day} to {self.last_day - 1}, of {self.block_s:.4g} s each"

    @property
    def start_s(self) -> float:
        """When the range begins, in seconds: the midnight before its first day."""
        return self.begin_s(self.first_day)

    @property
    def end_s(self) -> float:
        """When the range ends, in seconds (exclusive)."""
        return self.begin_s(self.last_day)

    def begin_s(self, day: int) -> float:
        """Return when a day or block begins, in seconds."""
        return self.origin_s + day * self.block_s

    def day_of(self, arrival_s: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the day or block of times within the range, shape ``(n,)``."""
        edges_s = self.origin_s + np.arange(self.first_day, self.last_day) * self.block_s
        found: NDArray[np.int64] = np.searchsorted(edges_s, arrival_s, side="right") + (self.first_day - 1)
        return found


def split_for_episodes(
    trace: Trace, fractions: Sequence[float], skip_ramp_up_days: int, episode: EpisodeConfig
) -> dict[str, DayRange]:
    """Divide a trace into train, validation and test by days, or, where it holds fewer than 3, by blocks of its span.

    Args:
        trace: The trace.
        fractions: Shares of train, validation and test; positive, with sum 1.
        skip_ramp_up_days: Days at the start to leave out, see :func:`split_by_days`.
        episode: The episodes to be drawn: how long they are, of which classes, and how long a request may be.

    Raises:
        BurstenvError: If the shares are wrong, or the trace is too short or too sparse; the message has a remedy.
    """
    if skip_ramp_up_days or len(np.unique(trace.day)) >= len(SPLITS) or len(trace) < 2:
        return split_by_days(trace, fractions, skip_ramp_up_days=skip_ramp_up_days)
    _check_fractions(fractions)
    total = trace.prompt_tokens.astype(np.int64) + trace.output_tokens
    longest = episode.max_total_tokens
    fits = np.full(len(trace), True) if longest is None else total <= longest
    codes = [k for k, name in enumerate(CLASSES) if (episode.mix is None or episode.mix.get(name, 0.0) > 0)]
    arrivals = [trace.arrival_s[fits & (trace.log_type == code)] for code in codes]
    if episode.mix is None:
        arrivals = [times for times in arrivals if len(times)]
    origin_s = float(trace.arrival_s[0])
    period_s = trace.span_s * len(trace) / (len(trace) - 1)  # the last request has a gap behind it, too
    best: tuple[int, int] | None = None  # requests that can be drawn from, blocks
    for count in range(len(SPLITS), min(MOST_BLOCKS, int(period_s / episode.duration_s)) + 1):
        edges_s = origin_s + np.arange(count + 1) * (period_s / count)
        held = np.array([np.histogram(times, edges_s)[0] for times in arrivals]).reshape(-1, count)  # (classes, blocks)
        usable = (held >= MIN_BLOCK_REQUESTS).all(axis=0) & (len(held) > 0)
        parts = np.split(usable, np.cumsum(_shares(count, fractions))[:-1])
        if all(part.any() for part in parts):
            covered = int(held[:, usable].sum())
            best = max(best or (0, 0), (covered, count))
    if best is None:
        raise BurstenvError(
            f"{trace.metadata.get('source', 'trace')}: spans {trace.span_s:g} s on "
            f"{len(np.unique(trace.day))} day(s), a split into train, validation and test needs at least 3 days, or 3 "
            f"blocks of {episode.duration_s:g} s (an episode) with {MIN_BLOCK_REQUESTS} requests of every class each; "
            "shorten episode.duration_s, play the trace whole (burstenv simulate, or the reset option 'trace'), or fit "
            "a generator to it (burstenv trace fit)"
        )
    block_s, first, ranges = period_s / best[1], 0, {}
    for split, share in zip(SPLITS, _shares(best[1], fractions), strict=True):
        ranges[split] = DayRange(first, first + share, block_s, origin_s)
        first += share
    return ranges


def _shares(count: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    """Return the numbers of days or blocks of train, validation and test, each at least one."""
    in_test = min(max(1, round(fractions[2] * count)), count - 2)
    in_validation = min(max(1, round(fractions[1] * count)), count - 1 - in_test)
    return count - in_validation - in_test, in_validation, in_test


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-6:
        raise BurstenvError(f"split fractions must be three positive shares with sum 1, got {list(fractions)}")


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
    _check_fractions(fractions)
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
    _, in_validation, in_test = _shares(count, fractions)
    validation_from = int(days[count - in_test - in_validation])
    test_from = int(days[count - in_test])
    return {
        "train": DayRange(int(days[0]), validation_from),
        "validation": DayRange(validation_from, test_from),
        "test": DayRange(test_from, int(days[-1]) + 1),
    }
