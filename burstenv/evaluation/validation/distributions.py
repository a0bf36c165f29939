"""The picture of a validation: distributions of a measured run and of its replay, one over the other."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.evaluation.validation.measured_run import RunValidation

FORMATS = (".png", ".svg", ".pdf", ".html")


def draw_distributions(validation: RunValidation, path: Path) -> None:
    """Draw the cumulative distributions of TTFT, TPOT and E2E, measured and simulated, into a file.

    Args:
        validation: The run beside its replay.
        path: A .png, .svg, .pdf or .html file (HTML has the picture and the table in it); written atomically.

    Raises:
        BurstenvError: When matplotlib is not installed or the file name ends in something else.
    """
    if path.suffix not in FORMATS:
        raise BurstenvError(f"{path}: a picture of distributions ends in {', '.join(FORMATS)}")
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
    figure.savefig(buffer, format="png" if path.suffix == ".html" else path.suffix[1:], dpi=130)
    data = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_bytes(_page(validation, data) if path.suffix == ".html" else data)
    os.replace(unfinished, path)


def _page(validation: RunValidation, png: bytes) -> bytes:
    picture = base64.b64encode(png).decode()
    table = escape("\n".join(validation.lines()))
    return (
        f"<!doctype html><meta charset='utf-8'><title>{escape(validation.run)}</title>"
        f"<img alt='Distributions, measured and simulated' src='data:image/png;base64,{picture}'><pre>{table}</pre>\n"
    ).encode()
