"""Measured aggregates beside their replays: errors of every point, medians, and which server wins."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.evaluation.validation.distributions import FORMATS
from burstenv.evaluation.validation.served_points import ServedPoint, read_points
from burstenv.evaluation.validation.served_replay import replay_point
from burstenv.evaluation.validation.server import ServerOptions
from burstenv.files import check_ending

FAR_PERCENT = 20.0  # an error beyond it is named one by one
METRICS = ("TPOT", "E2E", "TTFT", "duration", "requests/s", "output tokens/s")
SHOWN = ("TPOT mean", "E2E mean", "TTFT mean", "TPOT p50", "E2E p50", "TTFT p50")


@dataclass(frozen=True)
class PointErrors:
    """One point: what was measured and simulated, by name, in seconds or 1/s."""

    point: ServedPoint
    source: str  # of the iteration times
    measured: Mapping[str, float]
    simulated: Mapping[str, float]

    def error_percent(self, name: str) -> float:
        """Simulated against measured [%]."""
        return 100.0 * (self.simulated[name] / self.measured[name] - 1.0)


@dataclass(frozen=True)
class Agreement:
    """Pairs of servers under the same load of the same number of GPUs: how often the replay orders them as measured."""

    pairs: int
    agreed: int
    groups: int  # loads at which servers can be compared
    winners: int  # of these, loads whose best server is the same

    def lines(self) -> list[str]:
        """Return a sentence, nothing without pairs."""
        if not self.pairs:
            return []
        return [
            f"parallel shapes by TPOT and E2E, GPUs and clients for each GPU equal: {self.agreed} of {self.pairs} "
            f"pairs in the measured order, the right winner in {self.winners} of {self.groups}"
        ]


@dataclass(frozen=True)
class PointsValidation:
    """A CSV of measured points beside its replays."""

    name: str
    points: tuple[PointErrors, ...]
    agreement: Agreement
    notes: tuple[str, ...]
    figure: Path | None = None

    def errors(self, name: str) -> np.ndarray:
        """Return the errors of everything measured whose name begins with ``name``, (n,) [%]."""
        return np.array(
            [p.error_percent(n) for p in self.points for n in p.measured if n == name or n.startswith(f"{name} ")]
        )

    def summary(self) -> str:
        """Return the one line of medians: means where they were measured, else percentiles."""
        parts = []
        for metric in METRICS:
            errors = self.errors(f"{metric} mean") if len(self.errors(f"{metric} mean")) else self.errors(metric)
            if len(errors):
                parts.append(f"{metric} {np.median(np.abs(errors)):.1f} % (largest {np.abs(errors).max():.1f} %)")
        return f"median error of {len(self.points)} points: {', '.join(parts)}"

    def lines(self) -> list[str]:
        """Return the table to show."""
        names = [n for n in SHOWN if any(n in p.measured for p in self.points)]
        names += [n for n in METRICS[3:] if any(n in p.measured for p in self.points)]
        further = [
            n for n in dict.fromkeys(n for p in self.points for n in p.measured) if n not in names
        ]  # percentiles: in the JSON, and in the medians below
        width = max(len(p.point.label) for p in self.points)
        lines = [f"{self.name}: measured -> simulated (error)"]
        lines.append(f"{'':<{width}}" + "".join(f"{n + _unit(n):>30}" for n in names))
        for p in self.points:
            cells = [
                f"{_shown(p.measured[n], n):>10} ->{_shown(p.simulated[n], n):>8} {p.error_percent(n):>+7.1f} %"
                if n in p.measured
                else f"{'-':>30}"
                for n in names
            ]
            lines.append(f"{p.point.label:<{width}}" + "".join(cells))
        medians = [f"{n} {np.median(np.abs(self.errors(n))):.1f} %" for n in further]
        if medians:
            lines.append(f"median errors of the rest: {', '.join(medians)}")
        lines += self.far()
        lines += self.agreement.lines()
        lines += self.notes
        if self.figure is not None:
            lines.append(f"picture: {self.figure}")
        lines.append(self.summary())
        return lines

    def far(self) -> list[str]:
        """Return the means that are more than 20 % off, a line for each metric."""
        lines = []
        for name in ("TPOT mean", "E2E mean", "TTFT mean"):
            far = [p for p in self.points if name in p.measured and abs(p.error_percent(name)) > FAR_PERCENT]
            if far:
                worst = sorted(far, key=lambda p: -abs(p.error_percent(name)))[:3]
                named = ", ".join(f"{p.point.label} {p.error_percent(name):+.1f} %" for p in worst)
                more = f" and {len(far) - 3} more" if len(far) > 3 else ""
                lines.append(f"{name} beyond {FAR_PERCENT:g} % at {len(far)} points: {named}{more}")
        return lines

    def values(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "name": self.name,
            "points": [
                {
                    "label": p.point.label,
                    "latency": p.source,
                    "rows": [
                        {
                            "name": n,
                            "measured": p.measured[n],
                            "simulated": p.simulated[n],
                            "error_percent": p.error_percent(n),
                        }
                        for n in p.measured
                    ],
                }
                for p in self.points
            ],
            "agreement": vars(self.agreement),
            "notes": list(self.notes),
            "summary": self.summary(),
            "figure": str(self.figure) if self.figure else None,
        }


def _unit(name: str) -> str:
    return " [ms]" if name.split()[0] in METRICS[:3] else " [s]" if name == "duration" else ""


def _shown(value: float, name: str) -> str:
    return f"{value * (1e3 if name.split()[0] in METRICS[:3] else 1.0):.4g}"


def validate_points(
    path: Path | str, options: ServerOptions | None = None, out: Path | None = None
) -> PointsValidation:
    """Replay every measured point of a CSV and compare what was measured.

    Args:
        path: The CSV, see :mod:`burstenv.evaluation.validation.served_points`.
        options: What the caller says of the server.
        out: Where to draw measured against simulated (``.png``, ``.svg``, ``.pdf`` or ``.html``); None: nowhere.

    Raises:
        BurstenvError: When the file cannot be read, or a server is not known or not modelled.
    """
    if out is not None:
        check_ending(out, FORMATS, "a picture of points")
    path = Path(path)
    rows: list[PointErrors] = []
    notes: list[str] = []
    sources: dict[str, int] = defaultdict(int)
    for point in read_points(path):
        replayed = replay_point(point, options or ServerOptions())
        measured = {name: value for name, value in point.measured.items() if name in replayed.values}
        rows.append(PointErrors(point, replayed.server.source, measured, replayed.values))
        notes += replayed.notes
        sources[replayed.server.source] += 1
    said = [f"iteration times: {', '.join(f'{name} ({n} points)' for name, n in sources.items())}"]
    result = PointsValidation(path.stem, tuple(rows), _agreement(rows), (*said, *dict.fromkeys(notes)), out)
    if out is not None:
        from burstenv.evaluation.validation.point_pictures import draw_points

        draw_points(result, out)
    return result


def _agreement(points: Iterable[PointErrors]) -> Agreement:
    """Compare shapes of tensor parallelism: as many GPUs, as many clients (or requests a second) for each GPU."""
    groups: dict[tuple[Any, ...], dict[int, PointErrors]] = defaultdict(dict)
    for p in points:
        q = p.point
        if q.tensor_parallel and q.load != "requests_at_once":
            each = round(q.amount / q.tensor_parallel, 6)
            groups[(q.model, q.gpu, q.engine, q.load, each, q.prompt_tokens, q.output_tokens)][q.tensor_parallel] = p
    pairs = agreed = compared = winners = 0
    for members in groups.values():
        for name in ("TPOT mean", "E2E mean"):
            of = [m for m in members.values() if name in m.measured or _can_derive(m, name)]
            if len(of) < 2:
                continue
            measured = [_value(m.measured, m.point, name) for m in of]
            simulated = [_value(m.simulated, m.point, name) for m in of]
            compared += 1
            winners += int(np.argmin(measured) == np.argmin(simulated))
            for a, b in combinations(range(len(of)), 2):
                pairs += 1
                agreed += int((measured[a] < measured[b]) == (simulated[a] < simulated[b]))
    return Agreement(pairs, agreed, compared, winners)


def _can_derive(errors: PointErrors, name: str) -> bool:
    return name == "E2E mean" and {"TTFT mean", "TPOT mean"} <= set(errors.measured)


def _value(values: Mapping[str, float], point: ServedPoint, name: str) -> float:
    """Return a mean; an E2E that was not measured follows from TTFT and TPOT."""
    if name in values:
        return values[name]
    return values["TTFT mean"] + values["TPOT mean"] * (point.output_tokens - 1)
