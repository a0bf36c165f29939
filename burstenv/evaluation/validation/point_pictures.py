"""The figure of measured points: simulated against measured, each metric on its own axes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.pages.page import render
from burstenv.pages.svg import Picture, Plot

if TYPE_CHECKING:
    from burstenv.evaluation.validation.aggregates import PointsValidation

METRICS = ("TPOT", "E2E", "TTFT")
STATISTICS = {"mean": ("s0", "#1f4e79"), "p50": ("s1", "#548235"), "p99": ("s2", "#c55a11")}
BAND = 1.1  # either way


def draw_points(result: PointsValidation, path: Path) -> None:
    """Draw simulated against measured times into a file.

    Args:
        result: The points and their replays.
        path: A .png, .svg, .pdf or .html file (HTML includes the table); written atomically.

    Raises:
        BurstenvError: If matplotlib is not installed (HTML needs none).
    """
    metrics = [metric for metric in METRICS if len(result.errors(metric))]
    if path.suffix == ".html":
        write_atomic(path, _page(result, metrics))
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BurstenvError("drawing needs matplotlib: pip install 'burstenv[report]'") from None
    figure: Any = Figure(figsize=(4.0 * max(len(metrics), 1), 4.0), layout="constrained")
    for axis, metric in zip(np.atleast_1d(figure.subplots(1, max(len(metrics), 1))), metrics, strict=False):
        for statistic, (_, colour) in STATISTICS.items():
            pairs = _pairs(result, f"{metric} {statistic}")
            if pairs:
                measured, simulated = zip(*((m, s) for _, m, s in pairs), strict=True)
                axis.loglog(measured, simulated, "o", ms=4, alpha=0.7, color=colour, label=statistic)
        ends = axis.get_xlim()
        axis.plot(ends, ends, color="black", linewidth=0.8)
        axis.fill_between(ends, [e / BAND for e in ends], [e * BAND for e in ends], color="grey", alpha=0.15)
        axis.set_xlabel(f"{metric} measured [ms]")
        axis.set_ylabel("simulated [ms]")
        axis.legend()
    figure.suptitle(f"{result.name}: the band is 10 % either way")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomic(path, buffer.getvalue())


def _pairs(result: PointsValidation, name: str) -> list[tuple[str, float, float]]:
    """Return label, measured and simulated time [ms] of the points that have a statistic."""
    return [
        (p.point.label, 1e3 * p.measured[name], 1e3 * p.simulated[name]) for p in result.points if name in p.measured
    ]


def _page(result: PointsValidation, metrics: list[str]) -> str:
    rows = [
        (
            f"{p.point.label}: {name}", f"{p.measured[name]:.4g}", f"{p.simulated[name]:.4g}",
            f"{p.error_percent(name):+.1f}",
        )
        for p in result.points
        for name in p.measured
    ]  # fmt: skip
    return render(
        "validation.html.j2",
        "burstenv.evaluation.validation",
        title=f"Validation: {result.name}",
        facts=result.summary(),
        pictures=[_picture(result, metric) for metric in metrics],
        legend=[(style, statistic) for statistic, (style, _) in STATISTICS.items()],
        columns=("measured [s, 1/s]", "simulated [s, 1/s]", "error [%]"),
        rows=rows,
        notes=result.notes,
    )


def _picture(result: PointsValidation, metric: str) -> Picture:
    found = {statistic: _pairs(result, f"{metric} {statistic}") for statistic in STATISTICS}
    longest = 1.05 * max(max(m, s) for pairs in found.values() for _, m, s in pairs) if any(found.values()) else 1.0
    plot = Plot((0.0, longest), (0.0, longest), f"{metric} measured [ms]", "simulated [ms]")
    plot.area([0.0, longest], [0.0, longest / BAND], [0.0, longest * BAND], "s0")
    for statistic, pairs in found.items():
        for label, measured, simulated in pairs:
            plot.line([measured], [simulated], STATISTICS[statistic][0], f"{label}, {statistic}", markers=True)
    return Picture(metric, "the band is 10 % either way", plot.svg(f"{metric}, simulated against measured"))
