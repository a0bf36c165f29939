"""The figure of a validation: distributions of a measured run and of its replay."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.files import check_ending, write_atomic
from burstenv.pages.page import render
from burstenv.pages.svg import Picture, Plot

if TYPE_CHECKING:
    from burstenv.evaluation.validation.measured_run import RunValidation

FORMATS = (".png", ".svg", ".pdf", ".html")
LEGEND = (("s0", "measured"), ("s1", "simulated"))
POINTS = 200  # of a curve


def draw_distributions(validation: RunValidation, path: Path) -> None:
    """Draw the cumulative distributions of TTFT, TPOT and E2E, measured and simulated, into a file.

    Args:
        validation: The run and its replay.
        path: A .png, .svg, .pdf or .html file (HTML includes the figure and the table); written atomically.

    Raises:
        BurstenvError: If the file name has another ending, or if matplotlib is not installed (HTML needs none).
    """
    check_ending(path, FORMATS, "a picture of distributions")
    if path.suffix == ".html":
        write_atomic(path, _page(validation))
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BurstenvError("drawing needs matplotlib: pip install 'burstenv[report]'") from None
    figure: Any = Figure(figsize=(11.0, 3.6), layout="constrained")
    axes = figure.subplots(1, len(validation.measured), sharey=True)
    for axis, metric in zip(axes, validation.measured, strict=True):
        for label, values, style in (
            ("measured", validation.measured[metric], {"color": "#1f4e79", "linewidth": 2.0}),
            ("simulated", validation.simulated[metric], {"color": "#c55a11", "linewidth": 1.5, "linestyle": "--"}),
        ):
            axis.plot(np.sort(values), np.arange(1, len(values) + 1) / len(values), label=label, **style)
        axis.set_xlabel(f"{metric} [s]")
        axis.set_xlim(left=0.0)
        axis.set_ylim(0.0, 1.0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of requests")
    axes[0].legend(loc="lower right")
    figure.suptitle(f"{validation.run}: {validation.requests} requests, latency {Path(validation.latency).name}")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:], dpi=130)
    write_atomic(path, buffer.getvalue())


def _page(validation: RunValidation) -> str:
    facts = (
        f"{validation.requests:,} requests replayed with latency {Path(validation.latency).name}: "
        f"{validation.iterations:,} iterations, {validation.preemptions:,} preemptions in the replay."
    )
    columns = ("measured [s]", "simulated [s]", "error [%]")
    rows = [
        (
            f"{row.metric} {row.statistic}",
            f"{row.measured_s:.4g}",
            f"{row.simulated_s:.4g}",
            f"{row.error_percent:+.1f}",
        )
        for row in validation.rows
    ]
    return render(
        "validation.html.j2",
        "burstenv.evaluation.validation",
        title=f"Validation: {validation.run}",
        facts=facts,
        pictures=[_distribution(validation, metric) for metric in validation.measured],
        legend=LEGEND,
        columns=columns,
        rows=rows,
        notes=validation.notes,
    )


def _distribution(validation: RunValidation, metric: str) -> Picture:
    """Draw the cumulative distribution of one metric, measured and simulated."""
    sides = {"s0": validation.measured[metric], "s1": validation.simulated[metric]}
    longest = max((float(values.max()) for values in sides.values() if len(values)), default=1.0)
    plot = Plot((0.0, 1.02 * longest), (0.0, 1.0), f"{metric} [s]", "share of requests", percent_y=True)
    levels = np.linspace(0.0, 1.0, POINTS)
    for (style, values), (_, name) in zip(sides.items(), LEGEND, strict=True):
        if len(values):
            plot.line(np.quantile(values, levels).tolist(), levels.tolist(), style, name)
    return Picture(metric, "", plot.svg(f"Distribution of {metric}, measured and simulated"))
