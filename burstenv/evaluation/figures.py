"""The figures of a report, as SVG data URIs: agents in strong colours, heuristics in greys.

Figures are drawn narrow, so that their letters stay readable on a phone, and without pyplot, so that
the caller's backend is left alone. The same result gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burstenv.evaluation.result import EvaluationResult, Row

WIDTH_IN = 4.3
SHOWN = 7  # policies in a figure of lines; the tables hold them all
_AGENTS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7")  # Okabe and Ito, safe for colour-blind eyes
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # where no agent takes part
_GREYS = ("#222222", "#6b6b6b", "#9a9a9a", "#444444", "#b3b3b3", "#7f7f7f", "#c4c4c4")
_DASHES = ("--", "-.", ":", (0, (6, 1.5, 1.5, 1.5, 1.5, 1.5)), (0, (8, 2)), (0, (1, 2.5)), (0, (3, 1)))
_LATENCY_FIGURES = {
    "ttft_s": ("time to first token", ""),
    "tpot_s": (
        "time per output token",
        "Dotted lines: the objectives of the classes. Requests of one output token have no TPOT and count as the "
        "others do. ",
    ),
    "e2e_s": ("end-to-end latency", ""),
}
_MARKERS = ("o", "s", "D", "^")
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a9099",
    "axes.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "svg.hashsalt": "burstenv",
    "svg.fonttype": "path",
}


@dataclass(frozen=True)
class Picture:
    """A figure: title, caption, what to say where it cannot be seen, and its data URI."""

    title: str
    caption: str
    alt: str
    uri: str


def pictures(result: EvaluationResult, training: Sequence[Row] | None = None) -> list[Picture]:
    """Return the figures of a report in their order.

    Args:
        result: The evaluation.
        training: Points of a learning curve, see ``training.learning_curve``; none: no such figure.
    """
    load = result.headline_load
    shown = shown_policies(result)
    of = f"{len(shown)} of {len(result.policies)} policies; the tables hold all." if _some_left(result) else ""
    found = [
        Picture(
            f"Attainment at load {load:g}",
            "Mean over episodes with its 95 % interval by blocks of days. Filled: agents; hollow: heuristics.",
            f"Attainment of every policy at load {load:g} with intervals, highest first",
            _draw(lambda axes: _forest(axes, result, load), height_in=0.62 + 0.31 * len(result.policies)),
        )
    ]
    if len(result.loads) > 1:
        uri = _draw(lambda axes: _over_load(axes, result, shown), legend=len(shown))
        alt = f"Attainment over loads {', '.join(f'{x:g}' for x in result.loads)}"
        found.append(Picture("Attainment over load", f"Bars: 95 % intervals. {of}", alt, uri))
    for name, (title, remark) in _LATENCY_FIGURES.items():
        uri = _draw(lambda axes, name=name: _latency(axes, result, shown, name, load), legend=len(shown))  # type: ignore[misc]
        caption = f"Share of all offered requests that finished with at most this {title}. {remark}{of}"
        found.append(Picture(f"{title.capitalize()} at load {load:g}", caption, f"Distribution of {title}", uri))
    if training:
        runs = len({str(row.get("run", "")) for row in training})
        uri = _draw(lambda axes: _learning(axes, training), legend=min(runs, 8) + 1)
        caption = "Attainment on validation episodes during training."
        found.append(Picture("Learning curve", caption, "Validation attainment over training steps", uri))
    return found


def shown_policies(result: EvaluationResult) -> list[str]:
    """Return the policies in figures of lines: agents, best, reference, fixed parts, then the next best."""
    load = result.headline_load
    ranked = [row["policy"] for row in result.ranking(load)]
    first = [name for name in ranked if result.policy(name)["kind"] == "agent"]
    first += [result.best_at(load)["policy"], result.reference]
    first += [name for name in ranked if result.policy(name)["roles"]]
    return list(dict.fromkeys([*first, *ranked]))[: max(SHOWN, len(result.agents) + 2)]


def _some_left(result: EvaluationResult) -> bool:
    return len(shown_policies(result)) < len(result.policies)


def _draw(plot: Callable[[Any], None], height_in: float = 2.7, legend: int = 0) -> str:
    """Run ``plot`` on new axes and return the figure; ``legend`` is how many lines it needs beneath."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The defaults in place of the user's settings, but for the backend, which a context does not restore.
    defaults = {key: value for key, value in mpl.rcParamsDefault.items() if not key.startswith("backend")}
    with mpl.rc_context({**defaults, **_STYLE}):
        figure = Figure(figsize=(WIDTH_IN, height_in + 0.17 * legend), layout="constrained")
        axes = figure.add_subplot()
        plot(axes)
        if legend:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1, handlelength=3.2)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _looks(result: EvaluationResult, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return how each policy's line is drawn."""
    looks = []
    agents = heuristics = 0
    for name in names:
        if result.policy(name)["kind"] == "agent":
            colour = _AGENTS[agents % len(_AGENTS)]
            marker = _MARKERS[agents % len(_MARKERS)]
            looks.append({"color": colour, "lw": 2.0, "ls": "-", "marker": marker, "mfc": colour, "zorder": 4})
            agents += 1
        else:
            k = heuristics % len(_GREYS)
            marker = _MARKERS[k % len(_MARKERS)]
            looks.append(
                {
                    "color": _GREYS[k],
                    "lw": 1.2,
                    "ls": _DASHES[k],
                    "marker": marker,
                    "mfc": "white",
                    "zorder": 3,
                }
            )
            heuristics += 1
    return looks


def _forest(axes: Any, result: EvaluationResult, load: float) -> None:
    rows = result.ranking(load)
    ordered_agents = [name for name in shown_policies(result) if result.policy(name)["kind"] == "agent"]
    for place, row in enumerate(rows):
        mean, low, high = (
            None if row[key] is None else 100 * row[key] for key in ("attainment", "attainment_low", "attainment_high")
        )
        is_agent = row["policy"] in ordered_agents
        colour = _AGENTS[ordered_agents.index(row["policy"]) % len(_AGENTS)] if is_agent else "#555555"
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=colour, lw=2.4 if is_agent else 1.4, solid_capstyle="butt")
        axes.plot([mean], [place], "o", ms=5.5, color=colour, mfc=colour if is_agent else "white")
        # The name stands above its interval, so that long names take nothing from the plot's width.
        axes.annotate(
            _short(row["policy"], 58), (0.0, place), xycoords=("axes fraction", "data"), xytext=(2, 4),
            textcoords="offset points", fontsize=7.2, color=colour if is_agent else "#333333",
            fontweight="bold" if is_agent else "normal", va="bottom",
        )  # fmt: skip
    axes.set_ylim(len(rows) - 0.4, -0.95)
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("attainment [% of offered requests]")
    axes.margins(x=0.04)


def _over_load(axes: Any, result: EvaluationResult, names: Sequence[str]) -> None:
    loads = sorted(result.loads)
    for name, look in zip(names, _looks(result, names), strict=True):
        rows = [result.summary_of(name, load) for load in loads]
        mean = 100 * np.array([row["attainment"] for row in rows])
        if all(row["attainment_low"] is not None for row in rows):
            ends = 100 * np.array([[row["attainment_low"], row["attainment_high"]] for row in rows]).T
            for x, low, high in zip(loads, *ends, strict=True):
                axes.plot([x, x], [low, high], color=look["color"], lw=1.0, alpha=0.7, zorder=look["zorder"])
        axes.plot(loads, mean, ms=4.5, label=_short(name, 54), **look)
    axes.set_xticks(loads, [f"{load:g}" for load in loads])
    axes.set_xlabel("load [share of capacity]")
    axes.set_ylabel("attainment [%]")


def _latency(axes: Any, result: EvaluationResult, names: Sequence[str], metric: str, load: float) -> None:
    levels = np.array(result.quantile_levels)
    scale = 1000.0 if metric == "tpot_s" else 1.0
    upper, lower = 0.0, np.inf
    drawn = []
    for name, look in zip(names, _looks(result, names), strict=True):
        row = result.distribution_of(name, load)
        values = scale * np.array(row[metric])
        look = {**look, "marker": ""}
        if len(values) == 0:
            axes.plot([], [], label=f"{_short(name, 54)} (nothing finished)", **look)
            continue
        upper = max(upper, float(np.interp(0.99, levels, values)))
        lower = min(lower, float(np.interp(0.01, levels, values)))
        share = 100 * levels * row["finished"] / row["offered"]
        (line,) = axes.plot(values, share, label=_short(name, 54), **look)
        drawn.append((line, values, share))
    short = metric.split("_")[0].upper()
    if metric == "tpot_s":
        objectives = result.provenance.get("scenario", {}).get("slo", {})
        for slo in sorted({1000 * values["tpot_s"] for values in objectives.values()}):
            axes.axvline(slo, color="#8a9099", lw=1.0, ls=":", zorder=1)
        axes.set_xlim(0, 1.15 * max([upper, *(1000 * v["tpot_s"] for v in objectives.values())]) or 1.0)
        axes.set_xlabel(f"{short} [ms]")
    else:
        axes.set_xscale("log")
        if 0 < lower < upper:
            axes.set_xlim(0.8 * lower, 1.3 * upper)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(f"{short} [s]")
    for line, values, share in drawn:  # nothing more finishes: the curve stays level to the edge
        line.set_data([*values, max(axes.get_xlim()[1], values[-1])], [*share, share[-1]])
    axes.set_ylim(0, 102)
    axes.set_ylabel("offered requests [%]")


def _learning(axes: Any, training: Sequence[Row]) -> None:
    runs: dict[str, list[Row]] = {}
    for row in training:
        runs.setdefault(str(row.get("run", "")), []).append(row)
    for k, (run, rows) in enumerate(runs.items()):
        rows = sorted(rows, key=lambda row: row["steps"])
        steps = [row["steps"] for row in rows]
        values = [100 * row["validation_attainment"] for row in rows]
        label = ("agent" + (f", {_short(run, 40)}" if run else "")) if k < 8 else None
        axes.plot(steps, values, color=_AGENTS[k % len(_AGENTS)], marker="o", ms=3, lw=1.6, label=label)
    references = sorted(
        {row["reference_attainment"] for row in training if row.get("reference_attainment") is not None}
    )
    for place, reference in enumerate(references):
        label = "reference" if place == 0 else None
        axes.axhline(100 * reference, color="#222222", lw=1.2, ls="--", label=label)
    axes.xaxis.set_major_formatter(
        lambda value, _: f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value else "0"
    )
    axes.set_xlabel("environment steps")
    axes.set_ylabel("validation attainment [%]")


def _short(name: str, length: int) -> str:
    """Shorten a name in its middle: composites differ at both ends."""
    return name if len(name) <= length else f"{name[: length - 27]}...{name[-24:]}"
