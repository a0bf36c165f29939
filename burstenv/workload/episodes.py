"""Cutting episodes out of a split: a drawn day, scaled to a load, the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.day_table import DayTable, Integers, day_table, renumber, thin
from burstenv.workload.episode_config import EpisodeConfig
from burstenv.workload.splits import DayRange
from burstenv.workload.trace import CLASSES, DAY_S, Trace

__all__ = ["EpisodeConfig", "EpisodeRequests", "EpisodeSampler"]

MIN_DAY_REQUESTS = 50  # fewer say too little about a day's shape to be copied many times
_CYCLES_KEPT = 64
_DAY_STREAM, _DRAW_STREAM = 0x646179, 0x64726177  # separate random streams for the day and for the draw


@dataclass(frozen=True, eq=False)
class EpisodeRequests:
    """The requests of one episode, sorted by arrival, all arrays of one length ``n``.

    Attributes:
        arrival_s: Times from the start of the episode, in ``[0, duration_s)``, seconds, float64.
        prompt_tokens: Prompt lengths, int32.
        output_tokens: Response lengths, int32.
        class_code: Codes into ``CLASSES``, int8.
        model: Codes into ``MODELS``, int8.
        session: Conversation number within the episode, counted from 0, -1 for none; copies of the same
            day never share one, int32.
        turn: Turn within the conversation *of the trace*: an episode may open in the middle of one, int32.
        metadata: ``split``, ``day``, ``seed``, ``scaling``, ``duration_s``, ``rate_per_s`` (asked for),
            ``requests`` and, by class, ``copies`` and ``target_rate_per_s``.
    """

    arrival_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    class_code: NDArray[np.int8]
    model: NDArray[np.int8]
    session: NDArray[np.int32]
    turn: NDArray[np.int32]
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.arrival_s)


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
        metadata: ``split``, ``days``, ``ineligible_days`` (day -> reason), ``dropped_oversize``, ``mix``,
            ``requests``.

    Raises:
        BurstenvError: When the trace is shorter than an episode, a request is longer than allowed, or no
            day has enough requests of every class in the mix.
    """

    def __init__(self, trace: Trace, days: DayRange, config: EpisodeConfig, *, split: str = "") -> None:
        self.config = config
        source = trace.metadata.get("source", "trace")
        where = f"{source}: {split or 'split'} (days {days.first_day} to {days.last_day - 1})"
        if trace.span_s < config.duration_s:
            raise BurstenvError(
                f"{source}: spans {trace.span_s:g} s, an episode needs at least {config.duration_s:g} s"
            )
        low, high = np.searchsorted(trace.arrival_s, [days.start_s, days.end_s])
        rows = np.arange(low, high)
        rows, dropped = _without_oversize(trace, rows, config, str(source))
        if len(rows) == 0:
            raise BurstenvError(f"{where} holds no requests")
        self._trace = trace
        self._rows = rows
        self.mix = _mix(trace, rows, config, where)
        self._day_of_row = trace.day[rows]
        self._tables: dict[int, list[DayTable]] = {}  # by day, one table per class, made when first drawn
        lacking = {day: self._lacking(day) for day in range(days.first_day, days.last_day)}
        ineligible = {day: reason for day, reason in lacking.items() if reason}
        self.days: NDArray[np.int64] = np.array([day for day, reason in lacking.items() if not reason])
        if len(self.days) == 0:
            raise BurstenvError(
                f"{where}: no day has at least {MIN_DAY_REQUESTS} requests of every class in the mix "
                f"({', '.join(self.mix)}); day {days.first_day} has {ineligible[days.first_day]}"
            )
        self._streams: dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}  # by class
        self._permutations: dict[int, NDArray[np.int64]] = {}  # by cycle
        self.metadata: dict[str, Any] = {
            "split": split,
            "days": self.days.tolist(),
            "ineligible_days": ineligible,
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
            rate_per_s: Mean arrival rate to reach, requests per second. Superposing reaches it in the mean
                over episodes (a count per episode varies, as load does); compressing reaches it exactly.

        Raises:
            BurstenvError: When the seed or rate is out of range, or a compressed split has too few requests.
        """
        if not 0 < rate_per_s < np.inf:
            raise BurstenvError(f"rate_per_s must be above 0 and finite, got {rate_per_s}")
        day = self.block_of(seed)
        random = np.random.Generator(np.random.PCG64([_DRAW_STREAM, int(seed)]))
        if self.config.scaling == "superpose":
            return self._superpose(day, seed, rate_per_s, random)
        return self._compress(day, seed, rate_per_s, random)

    def _superpose(self, day: int, seed: int, rate_per_s: float, random: np.random.Generator) -> EpisodeRequests:
        duration_s = self.config.duration_s
        times, rows, threads = [], [], []
        copies: dict[str, float] = {}
        targets: dict[str, float] = {}
        next_thread = 0
        for (name, share), table in zip(self.mix.items(), self._tables_of(day), strict=True):
            target = share * rate_per_s
            wanted = target / table.rate_per_s
            count = 1 if wanted < 1 else int(wanted) + int(random.random() < wanted % 1.0)
            offset = random.random(count) * DAY_S  # (copies,) where in the day each copy's window begins
            first = table.time_s.searchsorted(offset)
            last = table.time_s.searchsorted(offset + duration_s)
            inside = last - first  # (copies,) requests of each copy inside the window
            total = int(inside.sum())
            # Positions in the table of all requests, copy after copy.
            step = np.repeat(first - (np.cumsum(inside) - inside), inside)
            place = step + np.arange(total)
            copy_of = np.repeat(np.arange(count), inside)
            time = table.time_s[place] - offset[copy_of]
            thread = table.thread[place]
            thread = np.where(thread >= 0, thread + copy_of * table.threads + next_thread, -1)
            if wanted < 1:  # one copy is too much: thin it, whole conversations at a time
                kept = thin(thread, wanted, random)
                time, place, thread = time[kept], place[kept], thread[kept]
            next_thread += count * table.threads
            times.append(time)
            rows.append(table.row[place])
            threads.append(thread)
            copies[name] = float(count) if wanted >= 1 else wanted
            targets[name] = target
        arrival = np.concatenate(times)
        order = np.argsort(arrival, kind="stable")
        return self._episode(
            arrival[order],
            np.concatenate(rows)[order],
            np.concatenate(threads)[order],
            {"day": day, "seed": int(seed), "rate_per_s": rate_per_s},
            {"copies": copies, "target_rate_per_s": targets},
        )

    def _compress(self, day: int, seed: int, rate_per_s: float, random: np.random.Generator) -> EpisodeRequests:
        total = max(1, round(rate_per_s * self.config.duration_s))
        if self.config.mix is None:
            wanted = {"": total}
        else:  # the last class takes what rounding leaves, so that the total is exact
            wanted = {name: round(total * share) for name, share in self.mix.items()}
            last = list(wanted)[-1]
            wanted[last] += total - sum(wanted.values())
        stretches = [self._stretch(name, day, count, random) for name, count in wanted.items() if count > 0]
        arrival = np.concatenate([time for time, _, _ in stretches])
        rows = np.concatenate([row for _, row, _ in stretches])
        order = np.argsort(arrival, kind="stable")
        session = self._trace.session[rows[order]].astype(np.int64)
        targets = {name: share * rate_per_s for name, share in self.mix.items()}
        factor = max(compression for _, _, compression in stretches)
        return self._episode(
            arrival[order],
            rows[order],
            session,
            {"day": day, "seed": int(seed), "rate_per_s": rate_per_s},
            {"compression": factor, "target_rate_per_s": targets},
        )

    def _stretch(
        self, name: str, day: int, wanted: int, random: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64], float]:
        """Squeeze ``wanted`` consecutive requests of a class, starting on ``day``, into the episode.

        Args:
            name: The class; empty for all requests together.
            day: Where the stretch starts; it may run on into the days after.
            wanted: Number of requests.
            random: Source of randomness.

        Returns:
            Times in the episode, rows of the trace, and the factor by which time was compressed.
        """
        rows, arrival = self._stream(name)
        if wanted >= len(rows):  # one more request is needed, to end the last gap
            raise BurstenvError(
                f"the split holds {len(rows)} {name + ' ' if name else ''}requests, an episode compressed to "
                f"this rate needs {wanted + 1}"
            )
        low, high = np.searchsorted(arrival, [day * DAY_S, (day + 1) * DAY_S])
        start = min(int(random.integers(low, max(high, low + 1))), len(rows) - wanted - 1)
        from_s, to_s = arrival[start], arrival[start + wanted]
        if to_s <= from_s:
            raise BurstenvError(f"requests {start + 1} to {start + wanted + 1} of the split arrive at one instant")
        factor = float((to_s - from_s) / self.config.duration_s)
        time = (arrival[start : start + wanted] - from_s) / factor
        last = np.nextafter(self.config.duration_s, 0.0)  # rounding must not reach the end
        return np.minimum(time, last), rows[start : start + wanted], factor

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
        drawn: dict[str, Any],
        scaled: dict[str, Any],
    ) -> EpisodeRequests:
        trace = self._trace
        return EpisodeRequests(
            arrival_s=arrival_s,
            prompt_tokens=trace.prompt_tokens[rows],
            output_tokens=trace.output_tokens[rows],
            class_code=trace.log_type[rows],
            model=trace.model[rows],
            session=renumber(thread),
            turn=trace.turn[rows],
            metadata={
                "split": self.metadata["split"],
                **drawn,
                "scaling": self.config.scaling,
                "duration_s": self.config.duration_s,
                "requests": len(rows),
                **scaled,
                "dropped_oversize": self.metadata["dropped_oversize"],
            },
        )

    def _rows_of_day(self, day: int) -> NDArray[np.int64]:
        low, high = np.searchsorted(self._day_of_row, [day, day + 1])
        return self._rows[low:high]

    def _lacking(self, day: int) -> str:
        """Return what a day lacks to be eligible, or an empty string."""
        counts = np.bincount(self._trace.log_type[self._rows_of_day(day)], minlength=len(CLASSES))
        for name in self.mix:
            count = int(counts[CLASSES.index(name)])
            if count < MIN_DAY_REQUESTS:
                return f"{count} {name} requests"
        return ""

    def _tables_of(self, day: int) -> list[DayTable]:
        """Return the day's table of each class of the mix."""
        tables = self._tables.get(day)
        if tables is None:
            rows = self._rows_of_day(day)
            log_type = self._trace.log_type[rows]
            tables = [day_table(self._trace, rows[log_type == CLASSES.index(name)], day) for name in self.mix]
            self._tables[day] = tables
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
    """Apply the length limit; return the rows kept and how many were dropped."""
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
