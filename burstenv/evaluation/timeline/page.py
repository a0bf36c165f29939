"""The timeline of an episode: one self-contained, zoomable HTML file."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.arguments import checked
from burstenv.evaluation.timeline.series import ENDS, FLEET, MAX_SEPARATE_REPLICAS, MOVES, Timeline
from burstenv.files import write_atomic
from burstenv.pages.page import render

PACKAGE = "burstenv.evaluation.timeline"
_END = "transfers: "  # before the names of bins that count how they end


@checked()
def write_timeline(timeline: Timeline, path: str | Path) -> None:
    """Write the page, atomically.

    Raises:
        BurstenvError: If the file cannot be written.
    """
    write_atomic(Path(path), timeline_page(timeline))


def timeline_page(timeline: Timeline) -> str:
    """Return the page."""
    here = resources.files(PACKAGE)
    scripts = [(here / name).read_text(encoding="utf-8") for name in ("axes.js", "panels.js", "timeline.js")]
    data = json.dumps(_data(timeline), separators=(",", ":"), allow_nan=False)
    return render(
        "timeline.html.j2",
        PACKAGE,
        title=timeline.title,
        facts={label: str(value) for label, value in timeline.facts.items()},
        note=_note(timeline),
        own_css=(here / "timeline.css").read_text(encoding="utf-8"),
        data=data.replace("</", "<\\/").replace("<!--", "<\\u0021--"),
        own_script="\n".join(scripts),
    )


def _note(timeline: Timeline) -> str:
    width_s = float(timeline.edges_s[1] - timeline.edges_s[0])
    every = timeline.bars["every"]
    bars = "" if every == 1 else f" One in {every} of the finished requests has a bar."
    return (
        f"Arrivals, decisions and attainment are counted from the requests' records, in bins of {width_s:.3g} s. "
        f"Waiting requests, KV use and preemptions are the published state of the replicas, read at "
        f"{timeline.readings:,} decision epochs; after the last arrival, waiting requests and KV use are estimated "
        f"from the records. TTFT and TPOT are those of finished requests.{bars}"
    )


def _data(timeline: Timeline) -> dict[str, Any]:
    """Return the data of the script, in plain numbers."""
    start_s, width_s = float(timeline.edges_s[0]), float(timeline.edges_s[1] - timeline.edges_s[0])
    bins = {name: values.tolist() for name, values in timeline.counts.items()}
    bins["preempted"] = timeline.preemptions_by_bin().tolist()
    ended = {name: counts for name, counts in timeline.ends_by_bin().items() if counts.any()}
    bins |= {_END + name: counts.tolist() for name, counts in ended.items()}
    separate = len(timeline.replicas) <= MAX_SEPARATE_REPLICAS
    if not separate:
        bins["to_0"] = np.sum([bins.pop(name) for name in list(bins) if name.startswith("to_")], axis=0).tolist()
    time_s = timeline.time_s - start_s
    digits = max(0, 3 - int(np.floor(np.log10(max(width_s, 1e-9)))))
    return {
        "classes": timeline.classes,
        "start": start_s,
        "width": width_s,
        "bins": bins,
        "replicas": timeline.replicas,
        "separate": separate,
        "waiting": _lines(timeline, time_s, timeline.waiting, digits, 0),
        "kv": _lines(timeline, time_s, 100.0 * timeline.kv_used, digits, 1),
        "fleet": _fleet(timeline, start_s, digits),
        "moves": _moves(timeline, start_s, digits, slice(0, 2)),
        "aside": _moves(timeline, start_s, digits, slice(2, 4)),
        "ends": [[_END + name, f"c{ENDS.index(name)}", name] for name in ended],
        "trained": _trained(timeline, start_s, digits),
        **{name: _course(points, start_s, digits) for name, points in timeline.course.items()},
        "bars": _bars(timeline.bars, start_s, digits),
    }


def _fleet(timeline: Timeline, start_s: float, digits: int) -> list[Any]:
    """Return the lines of the numbers of replicas; none where all serve for ever."""
    if not len(timeline.fleet):
        return []
    times = np.round(timeline.fleet[:, 0] - start_s, digits).tolist()
    return [
        {"name": name, "t": times, "v": timeline.fleet[:, 1 + k].astype(int).tolist()} for k, name in enumerate(FLEET)
    ]


def _moves(timeline: Timeline, start_s: float, digits: int, which: slice) -> list[Any]:
    """Return the lines of some of MOVES; none where KV blocks stay where they are."""
    if not len(timeline.moves):
        return []
    times = np.round(timeline.moves[:, 0] - start_s, digits).tolist()
    columns = timeline.moves[:, 1:].T[which]
    return [
        {"name": name, "t": times, "v": np.round(values, 2).tolist()}
        for name, values in zip(MOVES[which], columns, strict=True)
    ]


def _trained(timeline: Timeline, start_s: float, digits: int) -> list[Any]:
    """Return the lines of tokens trained per second between two readings; none where replicas have no job."""
    apart = np.flatnonzero(np.diff(timeline.trained[:, 0], prepend=-1.0) > 0.0)  # some readings are of one instant
    if len(apart) < 2:
        return []
    rows = timeline.trained[apart]
    times = np.round(rows[1:, 0] - start_s, digits).tolist()
    per_s = np.diff(rows[:, 1:], axis=0) / np.diff(rows[:, 0])[:, None]
    named = list(zip(timeline.replicas, per_s.T, strict=True))
    if len(named) > MAX_SEPARATE_REPLICAS:
        named = [("mean of replicas", per_s.mean(axis=1))]
    return [{"name": name, "t": times, "v": np.round(values, 1).tolist()} for name, values in named]


def _course(points: list[list[float]], start_s: float, digits: int) -> list[Any]:
    """Return the lines of latencies as shares of their objectives [%]."""
    at, *levels = (np.array(values) for values in points)
    times = np.round(at - start_s, digits).tolist()
    names = ("median", "90th percentile")
    return [
        {"name": name, "t": times, "v": np.round(100.0 * level, 1).tolist()}
        for name, level in zip(names, levels, strict=True)
    ]


def _bars(bars: dict[str, Any], start_s: float, digits: int) -> dict[str, Any]:
    times = ("arrival", "scheduled", "first", "finish")
    found = {
        name: np.round(values - start_s, digits).tolist() if name in times else np.asarray(values).tolist()
        for name, values in bars.items()
    }
    return found


def _lines(timeline: Timeline, time_s: np.ndarray, values: np.ndarray, digits: int, decimals: int) -> list[Any]:
    """Return the lines of a panel: one per replica, or, for many, their mean, minimum and maximum."""
    start_s = float(timeline.edges_s[0])
    if values.shape[1] <= MAX_SEPARATE_REPLICAS:
        named = [(name, values[:, r], timeline.idle_s[r] - start_s) for r, name in enumerate(timeline.replicas)]
    else:
        together = _common(timeline.idle_s) - start_s
        named = [
            ("mean of replicas", values.mean(axis=1), together),
            ("least", values.min(axis=1), together),
            ("most", values.max(axis=1), together),
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
