"""Figures of a trace: PNG files and one HTML page with all of them."""

from __future__ import annotations

from pathlib import Path

from burstenv.errors import BurstenvError
from burstenv.files import write_atomic
from burstenv.pages.page import render
from burstenv.workload.plots.style import Picture, need_matplotlib, plural
from burstenv.workload.trace import DAY_S, Trace

PAGE = "trace.html"


def trace_pictures(trace: Trace) -> list[Picture]:
    """Draw the figures of the BurstGPT paper for a trace, and some more.

    Weekly and daily periodicity, tokens per hour, lengths, responses given prompts, conversations, failures and
    inter-arrival CV by window, each with a caption and its numbers.

    Args:
        trace: The trace, of at least one request.

    Raises:
        BurstenvError: Without matplotlib, or when the trace is empty.
    """
    need_matplotlib()
    if len(trace) == 0:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: holds no requests to draw")
    from burstenv.workload.plots.load import load_pictures
    from burstenv.workload.plots.requests import request_pictures

    weekly, daily, tokens, interarrival, failures = load_pictures(trace)
    return [weekly, daily, tokens, *request_pictures(trace), failures, interarrival]


def trace_page(trace: Trace, pictures: list[Picture], title: str) -> str:
    """Return one self-contained HTML page with the figures in both themes."""
    return render(
        "trace_page.html.j2",
        "burstenv.workload.plots",
        title=title,
        facts=_facts(trace),
        pictures=pictures,
        steps=trace.metadata.get("steps", ()),
    )


def write_trace_plots(trace: Trace, folder: str | Path, title: str) -> dict[str, Path]:
    """Draw a trace into a folder: a PNG for each picture, and ``trace.html`` with all of them.

    Args:
        trace: The trace.
        folder: Output folder; made if missing.
        title: Title of the page.

    Returns:
        The paths by picture, and ``html``.

    Raises:
        BurstenvError: Without matplotlib, when the trace is empty, or where the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise BurstenvError(f"{folder}: cannot be written (not a folder)")
    pictures = trace_pictures(trace)
    page = trace_page(trace, pictures, title)
    paths = {picture.name: folder / f"{picture.name}.png" for picture in pictures}
    for picture in pictures:
        write_atomic(paths[picture.name], picture.png["light"])
    paths["html"] = folder / PAGE
    write_atomic(paths["html"], page)
    return paths


def _facts(trace: Trace) -> str:
    span_s = trace.span_s
    rate = f", {len(trace) / span_s:.4g} requests/s in the mean" if span_s > 0 else ""
    units = ((DAY_S, "days"), (3600.0, "hours"), (60.0, "minutes"))
    size, unit = next(((size, unit) for size, unit in units if span_s > 2 * size), (1.0, "seconds"))
    span = f"{span_s / size:.1f} {unit}"
    return (
        f"{plural(len(trace), 'served request')} and {plural(len(trace.failures), 'failure')} over {span}{rate}; "
        f"read from {Path(str(trace.metadata.get('source', 'columns'))).name}."
    )
