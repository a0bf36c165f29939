"""The figure of a validation: distributions of a measured run and of its replay."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.files import check_ending, write_atomic

if TYPE_CHECKING:
    from burstenv.evaluation.validation.measured_run import RunValidation

FORMATS = (".png", ".svg", ".pdf", ".html")


def draw_distributions(validation: RunValidation, path: Path) -> None:
    """Draw the cumulative distributions of TTFT, TPOT and E2E, measured and simulated, into a file.

    Args:
        validation: The run and its replay.
        path: A .png, .svg, .pdf or .html file (HTML includes the figure and the table); written atomically.

    Raises:
        BurstenvError: If matplotlib is not installed or the file name has another ending.
    """
    check_ending(path, FORMATS, "a picture of distributions")
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
    figure.savefig(buffer, format=path.suffix[1:] if path.suffix in FORMATS[:3] else "png", dpi=130)
    data = buffer.getvalue()
    write_atomic(path, _page(validation, data) if path.suffix == ".html" else data)


def _page(validation: RunValidation, png: bytes) -> bytes:
    picture = base64.b64encode(png).decode()
    table = escape("\n".join(validation.lines()))
    return (
        f"<!doctype html><meta charset='utf-8'><title>{escape(validation.run)}</title>"
        f"<img alt='Distributions, measured and simulated' src='data:image/png;base64,{picture}'><pre>{table}</pre>\n"
    ).encode()
