"""Cutting episodes out of a split: a drawn day, scaled to a load, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.conversations import link_turns, think_after
from burstenv.workload.episodes.config import EpisodeConfig
from burstenv.workload.episodes.day_table import DayTable, Integers, day_table
from burstenv.workload.episodes.requests import EpisodeRequests, names_of
from burstenv.workload.failures.upstream import FailureTable, GatheredFailures, failure_table
from burstenv.workload.shaping.detie import detied
from burstenv.workload.shaping.scaling import keep_drifting, keep_sessions, lay_over, squeezed
from burstenv.workload.splits import MIN_BLOCK_REQUESTS, DayRange
from burstenv.workload.trace import CLASSES, NAMED, Trace

__all__ = ["EpisodeConfig", "EpisodeRequests", "EpisodeSampler"]

MOST_REQUESTS = 20_000_000  # of an episode: some gigabytes
_CYCLES_KEPT = 64
# Separate random streams for the day and for the draw.
_DAY_STREAM, _DRAW_STREAM = 0x646179, 0x64726177


class EpisodeSampler:
    """Draws episodes from the days of one split.

    Episodes come in blocks: every episode belongs to one day, and ``k`` consecutive seeds cover the ``k``
    eligible days once each, in an order drawn anew for every such cycle. So an evaluation can treat days,
    not overlapping episodes, as its independent units.

    Args:
        trace: The trace.
        days: The days of the split.
        config: Length, scaling and composition of the episodes.
        split: Name of the split, for metadata and messages.

    Attributes:
        days: Eligible days, ascending, shape ``(k,)``.
        mix: Share of the requests by class.
        metadata: ``split``, ``days``, ``block_s`` (a day, or the length of the blocks of a shorter trace),
            ``ineligible_days`` (day -> reason), ``ineligible_requests``, ``dropped_oversize``, ``mix``, ``requests``.

    Raises:
        BurstenvError: When the trace is shorter than an episode, a request is longer than allowed, or no
            day has enough requests of every class in the mix.
    """

    def __init__(self, trace: Trace, days: DayRange, config: EpisodeConfig, *, split: str = "") -> None:
        self.config = config
        source = trace.metadata.get("source", "trace")
        where = f"{source}: {split or 'split'} ({days})"
        if trace.span_s < config.duration_s:
            raise BurstenvError(
                f"{source}: spans {trace.span_s:g} s, an episode needs at least {config.duration_s:g} s"
            )
        trace = detied(trace)
        low, high = np.searchsorted(trace.arrival_s, [days.start_s, days.end_s])
        rows = np.arange(low, high)
        rows, dropped = _without_oversize(trace, rows, config, str(source))
        if len(rows) == 0:
            raise BurstenvError(f"{where} holds no requests")
        self._trace = trace
        self._rows = rows
        # Columns that most traces leave empty.
        self._further: tuple[str, ...] = ("priority",) if trace.priority.any() else ()
        if trace.prefix_tokens.any():
            self._further += ("prefix_id", "prefix_tokens")
        self._further += tuple(name for name in NAMED if (getattr(trace, name) >= 0).any())
        self._elapsed_recorded = not np.isnan(trace.elapsed_s[low:high]).all()
        self.mix = _mix(trace, rows, config, where)
        self._range = days
        self._day_of_row = days.day_of(trace.arrival_s[rows])
        self._tables: dict[int, list[DayTable]] = {}  # by day, one table per class, made when first drawn
        self._failure_tables: dict[int, list[FailureTable]] = {}
        lacking = {day: self._lacking(day) for day in range(days.first_day, days.last_day)}
        ineligible = {day: reason for day, reason in lacking.items() if reason}
        self.days: NDArray[np.int64] = np.array([day for day, reason in lacking.items() if not reason])
        if len(self.days) == 0:
            raise BurstenvError(
                f"{where}: no day has at least {MIN_BLOCK_REQUESTS} requests of every class in the mix "
                f"({', '.join(self.mix)}); day {days.first_day} has {ineligible[days.first_day]}"
            )
        self._streams: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}  # by class
        self._permutations: dict[int, NDArray[np.int64]] = {}  # by cycle
        self.metadata: dict[str, Any] = {
            "split": split,
            "days": self.days.tolist(),
            "block_s": days.block_s,
            "ineligible_days": ineligible,
            "ineligible_requests": int(np.isin(self._day_of_row, list(ineligible)).sum()),
            "dropped_oversize": dropped,
            "mix": dict(self.mix),
            "requests": len(rows),
        }

    def block_of(self, seed: int) -> int:
        """Return the day that the episode of ``seed`` is drawn from."""
        if seed < 0:
            raise BurstenvError(f"episode seed must be at least 0, got {seed}")
        cycle, place = divmod(int(seed), len(self.days))
        return int(self.days[self._permutation_of(cycle)[place]])

    def sample(self, seed: int, rate_per_s: float) -> EpisodeRequests:
        """Draw the episode of a seed at a load.

        Args:
            seed: At least 0; the same seed and rate give the same bytes.
            rate_per_s: Mean arrival rate to reach, requests per second. Superposing and thinning reach it in
                the mean over episodes (a count per episode varies, as load does); compressing reaches it
                exactly. Recorded failures come on top.

        Raises:
            BurstenvError: When the seed or rate is out of range, a compressed split has too few requests, or
                thinning is to reach more than the day carries.
        """
        if not 0 < rate_per_s < np.inf:
            raise BurstenvError(f"rate_per_s must be above 0 and finite, got {rate_per_s}")
        if rate_per_s * self.config.duration_s > MOST_REQUESTS:
            raise BurstenvError(
                f"an episode of {self.config.duration_s:g} s at {rate_per_s:g} requests/s has more than "
                f"{MOST_REQUESTS:,} requests; lower duration_s, the load or the rate"
            )
        day = self.block_of(seed)
        random = np.random.Generator(np.random.PCG64([_DRAW_STREAM, int(seed)]))
        if self.config.scaling == "compress":
            return self._compress(day, seed, rate_per_s, random)
        return self._superpose(day, seed, rate_per_s, random)

    def _superpose(self, day: int, seed: int, rate_per_s: float, random: np.random.Generator) -> EpisodeRequests:
        from burstenv.workload.episodes.cutting import (
            cut_copies,  # brings in the compiler, which a trace alone does not need
        )

        drift = self.config.mix_at_end
        begin_per_s = rate_per_s if drift is None else 2.0 * rate_per_s / (1.0 + sum(drift.values()))
        times, rows, threads = [], [], []
        failed = GatheredFailures(seed) if self.config.upstream_failures == "recorded" else None
        copies: dict[str, float] = {}
        targets: dict[str, float] = {}
        next_thread = 0
        for k, ((name, share), table) in enumerate(zip(self.mix.items(), self._tables_of(day), strict=True)):
            later = share if drift is None else drift[name]
            target = share * begin_per_s
            wanted = max(target, later * begin_per_s) / table.rate_per_s
            if wanted > 1 and self.config.scaling == "thin":
                raise BurstenvError(
                    f"day {day} carries {table.rate_per_s:.4g} {name} requests/s, thinning cannot raise it to "
                    f"{target:.4g}; lower the load or set scaling to superpose"
                )
            count = 1 if wanted < 1 else int(wanted) + int(random.random() < wanted % 1.0)
            offset = random.random(count) * self._range.block_s  # (copies,) where in the day each copy's window begins
            time, row, thread = cut_copies(table, offset, self.config.duration_s, next_thread)
            if wanted < 1:  # less than one copy: thin it by whole conversations
                kept = keep_sessions(thread, wanted, random)
                time, row, thread = time[kept], row[kept], thread[kept]
            if later != share:
                kept = keep_drifting(time, thread, (share, later), self.config.duration_s, random)
                time, row, thread = time[kept], row[kept], thread[kept]
                target = 0.5 * (share + later) * begin_per_s
            next_thread += count * table.threads
            times.append(time)
            rows.append(row)
            threads.append(thread)
            if failed is not None:  # the same copies of the day's failures
                failures = self._failures_of(day)[k]
                when, which, _ = lay_over(failures.time_s, offset, self.config.duration_s)
                failed.add(when, which, failures, table.row, min(wanted, 1.0))
            copies[name] = float(count) if wanted >= 1 else wanted
            targets[name] = target
        return self._episode(
            np.concatenate(times),
            np.concatenate(rows),
            np.concatenate(threads),
            failed,
            {"day": day, "seed": int(seed), "rate_per_s": rate_per_s},
            {"copies": copies, "target_rate_per_s": targets},
        )

    def _compress(self, day: int, seed: int, rate_per_s: float, random: np.random.Generator) -> EpisodeRequests:
        total = max(1, round(rate_per_s * self.config.duration_s))
        if self.config.mix is None:
            wanted = {"": total}
        else:  # the last class takes the rounding error, for an exact total
            wanted = {name: round(total * share) for name, share in self.mix.items()}
            last = list(wanted)[-1]
            wanted[last] += total - sum(wanted.values())
        stretches = {name: self._stretch(name, day, count, random) for name, count in wanted.items() if count > 0}
        rows = np.concatenate([stretch.rows for stretch in stretches.values()])
        failed = GatheredFailures(seed) if self.config.upstream_failures == "recorded" else None
        if failed is not None:
            for name, stretch in stretches.items():
                for of in [name] if name else self.mix:
                    donors, served_s = self._stream(of)
                    failures = failure_table(self._trace, served_s, stretch.from_s, stretch.to_s, CLASSES.index(of))
                    when = squeezed(failures.time_s, 0.0, stretch.factor)
                    failed.add(when, np.arange(len(failures)), failures, donors)
        return self._episode(
            np.concatenate([stretch.time_s for stretch in stretches.values()]),
            rows,
            self._trace.session[rows].astype(np.int64),
            failed,
            {"day": day, "seed": int(seed), "rate_per_s": rate_per_s},
            {
                "compression": max(stretch.factor for stretch in stretches.values()),
                "target_rate_per_s": {name: share * rate_per_s for name, share in self.mix.items()},
            },
            clock=np.concatenate([np.full(len(stretch.rows), stretch.factor) for stretch in stretches.values()]),
        )

    def _stretch(self, name: str, day: int, wanted: int, random: np.random.Generator) -> _Stretch:
        """Compress ``wanted`` consecutive requests of a class, starting on ``day``, into the episode.

        Args:
            name: The class; empty for all requests together.
            day: Start of the requests; they may continue into later days.
            wanted: Number of requests.
            random: Source of randomness.
        """
        rows, arrival = self._stream(name)
        if wanted >= len(rows):  # one more request is needed, to end the last gap
            raise BurstenvError(
                f"the split holds {len(rows)} {name + ' ' if name else ''}requests, an episode compressed to "
                f"this rate needs {wanted + 1}"
            )
        low, high = np.searchsorted(arrival, [self._range.begin_s(day), self._range.begin_s(day + 1)])
        start = min(int(random.integers(low, max(high, low + 1))), len(rows) - wanted - 1)
        from_s, to_s = arrival[start], arrival[start + wanted]
        if to_s <= from_s:
            raise BurstenvError(f"requests {start + 1} to {start + wanted + 1} of the split arrive at one instant")
        factor = float((to_s - from_s) / self.config.duration_s)
        time = squeezed(arrival[start : start + wanted], from_s, factor)
        last = np.nextafter(self.config.duration_s, 0.0)  # rounding must not reach the end
        return _Stretch(np.minimum(time, last), rows[start : start + wanted], factor, float(from_s), float(to_s))

    def _stream(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rows and arrivals of a class over the whole split, or of all for an empty name."""
        stream = self._streams.get(name)
        if stream is None:
            rows = self._rows
            if name:
                rows = rows[self._trace.log_type[rows] == CLASSES.index(name)]
            stream = self._streams[name] = rows, self._trace.arrival_s[rows]
        return stream

    def _episode(
        self,
        arrival_s: NDArray[np.float64],
        rows: Integers,
        thread: Integers,
        failed: GatheredFailures | None,
        drawn: dict[str, Any],
        scaled: dict[str, Any],
        clock: NDArray[np.float64] | None = None,
    ) -> EpisodeRequests:
        """Sort the drawn requests by arrival, link their conversations and add the recorded failures.

        ``clock`` is the speed of each request's clock relative to the trace's, by default 1.
        """
        trace = self._trace
        served = len(arrival_s)
        if failed is not None:
            arrival_s = np.concatenate([arrival_s, *failed.times])
            rows = np.concatenate([rows, *failed.rows])
            thread = np.concatenate([thread, np.full(len(rows) - served, -1, thread.dtype)])
            clock = clock if clock is None else np.concatenate([clock, np.ones(len(rows) - served)])
            scaled = {**scaled, "upstream_failed": len(rows) - served}
        order = _in_order(arrival_s)
        arrival_s, rows = arrival_s[order], rows[order]
        session, previous = link_turns(thread[order])
        model, turn, output_tokens = trace.model[rows], trace.turn[rows], trace.output_tokens[rows]
        elapsed_s = trace.elapsed_s[rows] if self._elapsed_recorded else None
        clock = clock if clock is None else clock[order]
        think_s = think_after(arrival_s, previous, model, output_tokens, elapsed_s, clock)
        upstream_failed = np.zeros(len(rows), np.bool_)
        if failed is not None:
            upstream_failed = order >= served
            model[upstream_failed] = np.concatenate([np.empty(0, np.int8), *failed.models])[
                order[upstream_failed] - served
            ]
            turn[upstream_failed] = 0
        return EpisodeRequests(
            arrival_s=arrival_s,
            prompt_tokens=trace.prompt_tokens[rows],
            output_tokens=output_tokens,
            class_code=trace.log_type[rows],
            model=model,
            session=session,
            turn=turn,
            previous=previous,
            think_s=think_s,
            upstream_failed=upstream_failed,
            metadata={
                "split": self.metadata["split"],
                **drawn,
                "scaling": self.config.scaling,
                "duration_s": self.config.duration_s,
                "requests": len(rows),
                **scaled,
                "dropped_oversize": self.metadata["dropped_oversize"],
            },
            **{name: getattr(trace, name)[rows] for name in self._further},
            names=names_of(trace),
        )

    def _rows_of_day(self, day: int) -> NDArray[np.int64]:
        low, high = np.searchsorted(self._day_of_row, [day, day + 1])
        return self._rows[low:high]

    def _lacking(self, day: int) -> str:
        """Return the reason why a day is not eligible, or an empty string."""
        counts = np.bincount(self._trace.log_type[self._rows_of_day(day)], minlength=len(CLASSES))
        for name in self.mix:
            count = int(counts[CLASSES.index(name)])
            if count < MIN_BLOCK_REQUESTS:
                return f"{count} {name} requests"
        return ""

    def _tables_of(self, day: int) -> list[DayTable]:
        """Return the day's table of each class of the mix."""
        tables = self._tables.get(day)
        if tables is None:
            rows = self._rows_of_day(day)
            log_type = self._trace.log_type[rows]
            tables = [
                day_table(
                    self._trace, rows[log_type == CLASSES.index(name)], self._range.begin_s(day), self._range.block_s
                )
                for name in self.mix
            ]
            self._tables[day] = tables
        return tables

    def _failures_of(self, day: int) -> list[FailureTable]:
        """Return the day's recorded failures of each class of the mix, laid out twice as the day's requests are."""
        tables = self._failure_tables.get(day)
        if tables is None:
            tables = []
            for name, table in zip(self.mix, self._tables_of(day), strict=True):
                served_s = self._trace.arrival_s[table.row[: len(table.row) // 2]]
                code, from_s, day_s = CLASSES.index(name), self._range.begin_s(day), self._range.block_s
                tables.append(failure_table(self._trace, served_s, from_s, from_s + day_s, code).twice(day_s))
            self._failure_tables[day] = tables
        return tables

    def _permutation_of(self, cycle: int) -> NDArray[np.int64]:
        """Return the order in which a cycle of seeds visits the days."""
        permutation = self._permutations.get(cycle)
        if permutation is None:
            if len(self._permutations) >= _CYCLES_KEPT:
                self._permutations.clear()
            random = np.random.Generator(np.random.PCG64([_DAY_STREAM, cycle]))
            permutation = self._permutations[cycle] = random.permutation(len(self.days))
        return permutation


@dataclass(frozen=True, eq=False)
class _Stretch:
    """Consecutive requests compressed into an episode: times in it, rows, the factor, and their span on the clock."""

    time_s: NDArray[np.float64]
    rows: NDArray[np.int64]
    factor: float
    from_s: float
    to_s: float


def _in_order(time_s: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the stable order of times; ties are rare, and without them the vectorised sort finds it sooner."""
    order = np.argsort(time_s)
    ordered = time_s[order]
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(time_s, kind="stable")
    return order


def _mix(trace: Trace, rows: NDArray[np.int64], config: EpisodeConfig, where: str) -> dict[str, float]:
    """Return the classes with a share above 0, in the order of ``CLASSES``."""
    counts = np.bincount(trace.log_type[rows], minlength=len(CLASSES))
    if config.mix is None:
        shares = {name: float(counts[code] / len(rows)) for code, name in enumerate(CLASSES)}
    else:
        shares = {name: config.mix.get(name, 0.0) for name in CLASSES}
        for code, name in enumerate(CLASSES):
            if shares[name] > 0 and counts[code] == 0:
                raise BurstenvError(f"{where} holds no {name} requests, the mix asks for {shares[name]:g}")
    return {name: share for name, share in shares.items() if share > 0}


def _without_oversize(
    trace: Trace, rows: NDArray[np.int64], config: EpisodeConfig, source: str
) -> tuple[NDArray[np.int64], int]:
    """Apply the length limit; return the remaining rows and the number of the others."""
    if config.max_total_tokens is None:
        return rows, 0
    total = trace.prompt_tokens[rows].astype(np.int64) + trace.output_tokens[rows]
    fits = total <= config.max_total_tokens
    if config.oversize == "error" and not fits.all():
        worst = int(np.argmin(fits))
        raise BurstenvError(
            f"{source}: request {int(rows[worst]) + 1} (arrival {trace.arrival_s[rows[worst]]:g} s) has "
            f"{int(total[worst]):,} prompt and output tokens, more than max_total_tokens "
            f"{config.max_total_tokens:,}; raise it or set oversize to 'drop'"
        )
    return rows[fits], int(np.count_nonzero(~fits))
