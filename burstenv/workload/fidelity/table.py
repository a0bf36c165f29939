"""Fidelity: the comparison of a trace with a real one, as a table of figures.

Every group of requests (class, and class by model) is compared in lengths, the relation of response to prompt,
burstiness at several time scales, cycles, conversations and failures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.fidelity.holdout import part_of
from burstenv.workload.fidelity.statistics import GroupStatistics, clock_of, groups_of, ks, measure, on_whole_seconds
from burstenv.workload.generator.fit_lengths import equal_mass_edges
from burstenv.workload.trace import DAY_S, Trace

KS_TARGET = 0.05
RELATIVE_TARGET = 0.10
RELATION_BINS = 10
LEAST_REQUESTS = 20  # of a group in the reference; fewer are left out
FLOOR = "other half"

_NAN = float("nan")


@dataclass(frozen=True)
class Figure:
    """One figure of one group.

    Attributes:
        group: Group of requests, such as ``"api"`` or ``"api GPT-4"``.
        statistic: The compared statistic.
        kind: Kind of the error: ``ks`` (a distance of distributions), ``relative`` (to the reference),
            ``weighted`` (relative, in the mean over bins or hours by their requests) or ``absolute``.
        reference: Value in the reference; None where the statistic is a distance.
        values: Value by candidate; None likewise.
        errors: Error by candidate, NaN where it cannot be measured.
        target: Largest good error; None without a target.
    """

    group: str
    statistic: str
    kind: str
    reference: float | None
    values: dict[str, float | None]
    errors: dict[str, float]
    target: float | None


@dataclass(frozen=True, eq=False)
class Fidelity:
    """A comparison.

    Attributes:
        reference: Name of the reference.
        candidates: Names of the compared traces, in order.
        figures: The figures, group after group.
        statistics: Measured statistics by group name, then by name of the trace.
        left_out: Groups of the reference with too few requests: name and requests.
    """

    reference: str
    candidates: tuple[str, ...]
    figures: tuple[Figure, ...]
    statistics: dict[str, dict[str, GroupStatistics]] = field(repr=False)
    left_out: dict[str, int]

    def figure(self, group: str, statistic: str) -> Figure:
        """Return one figure; raises :class:`BurstenvError` when there is none of these names."""
        for figure in self.figures:
            if (figure.group, figure.statistic) == (group, statistic):
                return figure
        raise BurstenvError(f"fidelity: no figure {statistic!r} of {group!r}")

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as plain values, with None for missing measurements."""

        def plain(value: float | None) -> float | None:
            return None if value is None or not np.isfinite(value) else float(value)

        return {
            "reference": self.reference,
            "candidates": list(self.candidates),
            "left_out": self.left_out,
            "figures": [
                {
                    "group": f.group,
                    "statistic": f.statistic,
                    "kind": f.kind,
                    "reference": plain(f.reference),
                    "values": {name: plain(value) for name, value in f.values.items()},
                    "errors": {name: plain(error) for name, error in f.errors.items()},
                    "target": f.target,
                }
                for f in self.figures
            ],
        }


def compare(
    reference: Trace,
    candidates: Mapping[str, Trace],
    *,
    reference_name: str = "A",
    part: str = "all",
    floor: bool = False,
) -> Fidelity:
    """Compare traces with a reference.

    If one of the traces has whole seconds, all are put on such a clock. Windows of the
    inter-arrival CV are chosen on the reference and used for all.

    Args:
        reference: The real trace.
        candidates: Traces to compare, by name.
        reference_name: Name of the reference.
        part: The part of the reference to use, one of :data:`burstenv.workload.fidelity.holdout.PARTS`: the part held
            out of a fit. Figures distorted by gaps between weeks or days are left out; of alternate rows only the
            lengths remain.
        floor: Also compare the reference's alternate weeks (days, if it has under two weeks) with each other, like a
            fresh sample of the same service.

    Raises:
        BurstenvError: When the reference has no requests, or no group with enough.
    """
    if len(reference) == 0:
        raise BurstenvError("fidelity: the reference has no requests")
    traces = {reference_name: reference, **candidates}
    if len(traces) != len(candidates) + 1:
        raise BurstenvError(f"fidelity: the reference and a candidate are both called {reference_name!r}")
    if any(clock_of(trace) > 0 for trace in traces.values()):
        traces = {name: trace if clock_of(trace) > 0 else on_whole_seconds(trace) for name, trace in traces.items()}
    halves = _halves(reference) if floor else None
    traces[reference_name] = part_of(traces[reference_name], part)
    figures: list[Figure] = []
    left_out: dict[str, int] = {}
    statistics: dict[str, dict[str, GroupStatistics]] = {}
    for group in groups_of(traces[reference_name]):
        first = measure(traces[reference_name], group)
        if first.requests < LEAST_REQUESTS:
            left_out[group.name] = first.requests
            continue
        measured = {
            name: first if name == reference_name else measure(trace, group, cv_window_s=first.cv_window_s)
            for name, trace in traces.items()
        }
        statistics[group.name] = measured
        own = {name: row for name, row in _rows(first, first) if _said_by(part, name)}
        rows = {name: dict(_rows(first, measured[name])) for name in candidates}
        if halves is not None:
            pair = [measure(half, group, cv_window_s=first.cv_window_s) for half in halves]
            rows[FLOOR] = (
                {name: row for name, row in _rows(*pair) if name not in _WHOLE_ONLY} if pair[0].requests else {}
            )
        figures += _figures(group.name, rows, tuple(candidates), own)
    if not figures:
        raise BurstenvError(f"fidelity: no group of the reference has {LEAST_REQUESTS} requests (found: {left_out})")
    return Fidelity(reference_name, tuple(candidates), tuple(figures), statistics, left_out)


def _halves(trace: Trace) -> tuple[Trace, Trace] | None:
    unit = "weeks" if trace.span_s >= 14 * DAY_S else "days"
    try:
        return part_of(trace, f"even-{unit}"), part_of(trace, f"odd-{unit}")
    except BurstenvError:
        return None


@dataclass(frozen=True)
class _Row:
    kind: str
    reference: float | None
    value: float | None
    error: float
    target: float | None = None


# Figures of alternate weeks that say nothing: the gaps between the weeks are in them.
_WHOLE_ONLY = frozenset(
    ["requests per day", *(f"Fano factor, {name}" for name in ("1 s", "1 min", "1 h"))]
    + [f"hourly autocorrelation, {lag} h" for lag in (1, 2, 6, 12, 24, 168)]
)


def _said_by(part: str, statistic: str) -> bool:
    """Return whether a statistic is meaningful for a part of a trace."""
    if part.endswith("rows"):
        return statistic.startswith(("prompt", "response"))
    return part == "all" or statistic not in _WHOLE_ONLY


def _figures(
    group: str, rows: dict[str, dict[str, _Row]], candidates: tuple[str, ...], own: dict[str, _Row]
) -> Iterator[Figure]:
    for statistic, self_row in own.items():
        found = {name: of[statistic] for name, of in rows.items() if statistic in of}
        yield Figure(
            group=group,
            statistic=statistic,
            kind=self_row.kind,
            reference=self_row.reference,
            values={name: found[name].value if name in found else None for name in candidates},
            errors={name: row.error for name, row in found.items()},
            target=self_row.target,
        )


def _rows(a: GroupStatistics, b: GroupStatistics) -> Iterator[tuple[str, _Row]]:
    """Yield every statistic of a candidate ``b`` beside a reference ``a``."""
    yield "requests per day", _relative(a.requests / a.days, b.requests / b.days)
    for name, x, y in (("prompt", a.prompt_tokens, b.prompt_tokens), ("response", a.output_tokens, b.output_tokens)):
        yield f"{name} tokens, distribution", _Row("ks", None, None, ks(x, y), KS_TARGET)
        yield f"{name} tokens, mean", _relative(_mean(x), _mean(y))
        for level in (50, 90, 99):
            yield f"{name} tokens, p{level}", _relative(_quantile(x, level), _quantile(y, level))
    yield from _relation(a, b)
    window = f"{a.cv_window_s / 60:g} min"
    for level in (10, 50, 90):
        row = _relative(_quantile(a.cv, level), _quantile(b.cv, level), RELATIVE_TARGET)
        yield f"inter-arrival CV in {window}, p{level}", row
    for name in a.fano:
        yield f"Fano factor, {name}", _relative(a.fano[name], b.fano[name])
    for lag, value in a.hourly_acf.items():
        other = b.hourly_acf.get(lag, _NAN)
        yield f"hourly autocorrelation, {lag} h", _Row("absolute", value, other, abs(other - value))
    if a.days > 1:
        yield "hour of day", _hour_of_day(a, b)
    if len(a.turns):
        yield "turns, distribution", _Row("ks", None, None, ks(a.turns, b.turns), KS_TARGET)
        yield "turns, mean", _relative(_mean(a.turns), _mean(b.turns), RELATIVE_TARGET)
        single = [float((s.turns == 1).mean()) if len(s.turns) else _NAN for s in (a, b)]
        yield "turns, share of 1", _relative(single[0], single[1], RELATIVE_TARGET)
        for level in (50, 75, 90, 99):
            yield f"turns, p{level}", _relative(_quantile(a.turns, level), _quantile(b.turns, level), RELATIVE_TARGET)
    if len(a.think_s):
        for level in (10, 25, 50, 75, 90, 99):
            row = _relative(_quantile(a.think_s, level), _quantile(b.think_s, level), RELATIVE_TARGET)
            yield f"think time s, p{level}", row
    yield "failed share", _relative(a.failure_share, b.failure_share)
    if a.failures:
        yield "failures per hour, Fano factor", _relative(_mean_crowding(a), _mean_crowding(b))


def _relation(a: GroupStatistics, b: GroupStatistics) -> Iterator[tuple[str, _Row]]:
    """Yield the agreement of the response given the prompt, in ten bins of the reference's prompts."""
    edges = equal_mass_edges(a.pairs[0], RELATION_BINS)
    errors: dict[str, list[float]] = {"mean": [], "median": []}
    weight, inside, own_inside = [], [], []
    of_a, of_b = (np.searchsorted(edges, s.pairs[0], side="right") for s in (a, b))
    for number in range(len(edges) + 1):
        x, y = a.pairs[1][of_a == number], b.pairs[1][of_b == number]
        if len(x) == 0 or len(y) == 0:
            continue
        weight.append(len(x))
        errors["mean"].append(abs(y.mean() / x.mean() - 1))
        errors["median"].append(abs(np.median(y) / np.median(x) - 1))
        low, high = np.percentile(x, [5, 95])
        inside.append(float(((y >= low) & (y <= high)).mean()))
        own_inside.append(float(((x >= low) & (x <= high)).mean()))
    for name, values in errors.items():
        error = float(np.average(values, weights=weight)) if weight else _NAN
        yield f"response given prompt, {name}", _Row("weighted", None, None, error)
    if weight:
        band, own = float(np.average(inside, weights=weight)), float(np.average(own_inside, weights=weight))
        yield "response given prompt, in 90 % band", _Row("absolute", own, band, abs(band - own))


def _hour_of_day(a: GroupStatistics, b: GroupStatistics) -> _Row:
    """Compare profiles: the relative error of the hourly shares, averaged over requests."""
    peaks = [float(s.hour_of_day.max() * 24) if s.requests else _NAN for s in (a, b)]
    error = float(np.abs(a.hour_of_day - b.hour_of_day).sum()) if b.requests else _NAN
    return _Row("weighted", peaks[0], peaks[1], error, RELATIVE_TARGET)


def _mean_crowding(s: GroupStatistics) -> float:
    mean = float(s.failures_hourly.mean())
    return float(s.failures_hourly.var()) / mean if mean else _NAN


def _relative(reference: float, value: float, target: float | None = None) -> _Row:
    error = abs(value / reference - 1) if reference else (0.0 if value == reference else _NAN)
    return _Row("relative", reference, value, error, target)


def _mean(values: NDArray[Any]) -> float:
    return float(values.mean()) if len(values) else _NAN


def _quantile(values: NDArray[Any], level: float) -> float:
    return float(np.percentile(values, level)) if len(values) else _NAN


def fidelity_lines(result: Fidelity) -> list[str]:
    """Return the comparison as a table of text; ``!`` marks an error above its target."""
    floor = any(FLOOR in figure.errors for figure in result.figures)
    columns = [result.reference] + [part for name in result.candidates for part in (name, "error")]
    header = ["", *columns, *([FLOOR] if floor else []), "target"]
    body: list[list[str]] = []
    for group in dict.fromkeys(figure.group for figure in result.figures):
        body.append([f"{group}:"])
        for f in (f for f in result.figures if f.group == group):
            cells = [f"  {f.statistic}", number(f.reference)]
            for name in result.candidates:
                cells += [number(f.values[name]), error_text(f, name)]
            cells += [error_text(f, FLOOR)] if floor else []
            body.append([*cells, "" if f.target is None else error_number(f.kind, f.target)])
    widths = [max(len(row[k]) for row in [header, *body] if len(row) > k and len(row) > 1) for k in range(len(header))]
    lines = []
    for row in [header, *body]:
        if len(row) == 1:
            lines.append(row[0])
        else:
            cells = [
                cell.ljust(w) if k == 0 else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
    lines += [
        f"left out: {name}, {requests} requests in {result.reference} (fewer than {LEAST_REQUESTS})"
        for name, requests in result.left_out.items()
    ]
    return lines


def number(value: float | None) -> str:
    """Return a value in about four digits; nothing for a distance, n/a where it cannot be measured."""
    if value is None:
        return ""
    return "n/a" if not np.isfinite(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def error_number(kind: str, error: float) -> str:
    """Return an error as text: a distance or difference as a number, a relative one in percent."""
    return f"{error:.3f}" if kind in ("ks", "absolute") else f"{100 * error:.1f} %"


def error_text(figure: Figure, name: str) -> str:
    """Return a candidate's error, with ``!`` where it is above the target."""
    error = figure.errors.get(name)
    if error is None:
        return ""
    if not np.isfinite(error):
        return "n/a"
    return error_number(figure.kind, error) + (" !" if figure.target is not None and error > figure.target else "")
