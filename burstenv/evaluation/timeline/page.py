"""The timeline of an episode: one self-contained, zoomable HTML file."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from burstenv import __version__
from burstenv.evaluation.timeline.series import MAX_SEPARATE_REPLICAS, Timeline
from burstenv.files import write_atomic

# After Okabe and Ito, safe for colour-blind eyes: on light paper, on dark paper.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8488a", "#56a0d3", "#b08a00", "#6b7480", "#1b1f24")
_DARK = ("#5db4f0", "#ff9147", "#3ccf9f", "#ea92c4", "#a6d5f5", "#e6c44d", "#9aa4af", "#e6e9ed")


def write_timeline(timeline: Timeline, path: Path) -> None:
    """Write the page, atomically.

    Raises:
        BurstenvError: If the file cannot be written.
    """
    write_atomic(path, timeline_page(timeline))


def timeline_page(timeline: Timeline) -> str:
    """Return the page."""
    here = resources.files("burstenv.evaluation.timeline")
    css = (here / "timeline.css").read_text(encoding="utf-8")
    script = (here / "timeline.js").read_text(encoding="utf-8")
    data = json.dumps(_data(timeline), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    facts = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(str(value))}</dd></div>" for label, value in timeline.facts.items()
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(timeline.title)}</title>
<style>
{css}</style>
</head>
<body>
<main>
<h1>{escape(timeline.title)}</h1>
<dl>{facts}</dl>
<div class="tools">
<span><button id="in" aria-label="zoom in">+</button><button id="out" aria-label="zoom out">&minus;</button>
<button id="all">whole time</button></span>
<span id="shown"></span>
</div>
<div id="panels"></div>
<p class="note">Wheel or pinch to zoom, drag to move, double-click for the whole time; keys: arrows, + and &minus;, 0.
{escape(_note(timeline))} Drawn by burstenv {escape(__version__)}.</p>
<noscript><p>The picture is drawn by a script in this file, which this browser does not run.</p></noscript>
</main>
<script type="application/json" id="data">{data}</script>
<script>
{script}</script>
</body>
</html>
"""


def _note(timeline: Timeline) -> str:
    width_s = float(timeline.edges_s[1] - timeline.edges_s[0])
    return (
        f"Arrivals, rejections and attainment are counted from the requests' records, in bins of {width_s:.3g} s. "
        f"Waiting requests, KV use and preemptions are the published state of the replicas, read at "
        f"{len(timeline.time_s):,} decision epochs; lines run straight from reading to reading."
    )


def _data(timeline: Timeline) -> dict[str, Any]:
    """Return the data of the script, in plain numbers."""
    start_s, width_s = float(timeline.edges_s[0]), float(timeline.edges_s[1] - timeline.edges_s[0])
    bins = {name: values.tolist() for name, values in timeline.counts.items()}
    bins["preempted"] = timeline.preemptions_by_bin().tolist()
    time_s = timeline.time_s - start_s
    digits = max(0, 3 - int(np.floor(np.log10(max(width_s, 1e-9)))))
    return {
        "start": start_s,
        "width": width_s,
        "bins": bins,
        "waiting": _lines(timeline, time_s, timeline.waiting, digits, 0),
        "kv": _lines(timeline, time_s, 100.0 * timeline.kv_used, digits, 1),
        "light": _LIGHT,
        "dark": _DARK,
    }


def _lines(timeline: Timeline, time_s: np.ndarray, values: np.ndarray, digits: int, decimals: int) -> list[Any]:
    """Return the lines of a panel: one per replica, or, for many, their mean, minimum and maximum."""
    start_s = float(timeline.edges_s[0])
    if values.shape[1] <= MAX_SEPARATE_REPLICAS:
        named = [(name, values[:, r], timeline.idle_s[r] - start_s) for r, name in enumerate(timeline.replicas)]
    else:
        idle = _common(timeline.idle_s) - start_s
        named = [
            ("mean of replicas", values.mean(axis=1), idle),
            ("least", values.min(axis=1), idle),
            ("most", values.max(axis=1), idle),
        ]
    lines = []
    for name, line, idle in named:
        times, line = _with_zeros(time_s, line, idle)
        lines.append({"name": name, "t": np.round(times, digits).tolist(), "v": np.round(line, decimals).tolist()})
    return lines


def _with_zeros(time_s: np.ndarray, values: np.ndarray, idle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Insert a zero at the begin and the end of each idle period."""
    times = np.concatenate([time_s, idle.ravel()])
    values = np.concatenate([values, np.zeros(idle.size)])
    order = np.argsort(times, kind="stable")
    return times[order], values[order]


def _common(idle: list[np.ndarray]) -> np.ndarray:
    """Return the periods, (., 2), in which all replicas are idle."""
    common = idle[0]
    for other in idle[1:]:
        low = np.maximum(common[:, None, 0], other[None, :, 0]).ravel()
        high = np.minimum(common[:, None, 1], other[None, :, 1]).ravel()
        common = np.stack([low, high], axis=1)[high > low]
    return common
