"""The figures of a report, as inline SVG; colours stand in the style sheet, policies keep theirs on the whole page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from burstenv.evaluation.metrics import LOSSES
from burstenv.evaluation.report.looks import OTHER, looks, series_looks, shown_policies
from burstenv.evaluation.report.text import percent, shortened
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.statistics.training_seeds import THRESHOLDS
from burstenv.evaluation.summary import BURSTINESS_BUCKETS
from burstenv.pages.svg import WIDTH, Picture, Plot, number, picture, ticks

LOSS_TITLES = {
    "rejected": "rejected",
    "failed": "could never be served",
    "preempted": "late after a preemption",
    "late_first_token": "late first token",
    "slow_tokens": "slow tokens",
}
_LATENCIES = {
    "ttft_s": ("Time to first token", ""),
    "tpot_s": (
        "Time per output token",
        "Dotted: the objectives of the classes. A request of one output token has none and counts as the others do. ",
    ),
    "e2e_s": ("End-to-end latency", ""),
}


def figures(result: EvaluationResult) -> dict[str, list[Picture]]:
    """Return the figures of a report by section."""
    found = {"scores": [_forest(result)], "latency": [_latency(result, name) for name in _LATENCIES]}
    if len(result.loads) > 1:
        found["scores"] = [_over_load(result, "goodput_per_s"), _over_load(result, "score"), _forest(result)]
    found["scores"].append(_losses(result))
    found["groups"] = [_burstiness(result)]
    found["timelines"] = [_course(result, row) for row in result.timelines]
    return found


def learning_figures(result: EvaluationResult, training: Sequence[Row]) -> list[Picture]:
    """Return the learning curves of training logs, see ``report.learning_curve``."""
    if not training:
        return []
    runs: dict[str, list[Row]] = {}
    for row in training:
        runs.setdefault(str(row.get("run", "")), []).append(row)
    values = [row["validation_score"] for row in training]
    references = {row["reference_score"] for row in training if row.get("reference_score") is not None}
    low, high = _around([*values, *references])
    longest = max(float(row["steps"]) for row in training) / 1e6
    plot = Plot((0.0, longest or 1.0), (low, high), "environment steps [million]", "score", percent_y=True)
    styles = series_looks(result, list(runs), {})
    for run, rows in runs.items():
        rows = sorted(rows, key=lambda row: float(row["steps"]))
        plot.line([r["steps"] / 1e6 for r in rows], [r["validation_score"] for r in rows], styles[run], run, True)
    legend = [(styles[run], run or "agent") for run in runs]
    for reference in sorted(references):
        plot.line([0.0, longest or 1.0], [reference, reference], "reference", "reference")
    if references:
        legend.append(("reference", "reference policy"))
    caption = "Score on validation episodes during training."
    return [Picture("Learning curve", caption, plot.svg("Validation score over steps"), tuple(legend))]


def profile_figure(result: EvaluationResult) -> Picture | None:
    """Return the performance profiles of the groups of training seeds."""
    rows = [row for row in result.seeds if row["load"] == result.headline_load]
    if not rows:
        return None
    styles = series_looks(result, [row["group"] for row in rows], {row["group"]: row["members"] for row in rows})
    plot = Plot((0.0, 1.0), (0.0, 1.0), "score", "runs and days above it", percent_y=True)
    for row in rows:
        plot.line(THRESHOLDS, row["profile"], styles[row["group"]], row["group"])
    caption = "Share of training runs and days whose score is above each level; higher is better everywhere."
    legend = tuple((styles[row["group"]], f"{row['group']} ({len(row['members'])} runs)") for row in rows)
    return Picture("Performance profiles", caption, plot.svg("Performance profiles of training runs"), legend)


def _around(values: Sequence[float], least: float = 0.0, most: float = 1.0) -> tuple[float, float]:
    """Return ends of an axis that hold all values with some room."""
    low, high = min(values), max(values)
    room = 0.06 * max(high - low, 0.02)
    return max(least, low - room), min(most, high + room)


def _share_axis(result: EvaluationResult) -> tuple[float, float]:
    """Return the axis that the figures of scores and of attainment share."""
    names, keys = shown_policies(result), ("score", "score_low", "score_high")
    found = [result.summary_of(name, load)[key] for name in names for load in result.loads for key in keys]
    buckets = [result.group(name, result.headline_load, bucket) for name in names for bucket in BURSTINESS_BUCKETS]
    found += [row[key] for row in buckets if row["offered"] for key in ("attainment", "low", "high")]
    return _around([value for value in found if value is not None])


def _legend(result: EvaluationResult) -> tuple[tuple[str, str], ...]:
    return tuple((style, name) for name, style in looks(result).items())


def _of(result: EvaluationResult) -> str:
    shown, count = len(shown_policies(result)), len(result.policies)
    return f" {shown} of {count} policies; the tables hold all." if shown < count else ""


def _forest(result: EvaluationResult) -> Picture:
    load = result.headline_load
    rows = result.ranking(load)
    keys = ("score", "score_low", "score_high")
    low, high = _around([row[key] for row in rows for key in keys if row[key] is not None])
    step, left, right = 34.0, 14.0, WIDTH - 14.0  # names stand above their intervals, which have the whole width
    bottom = step * len(rows)
    parts = []

    def place(value: float) -> str:
        return number(left + (right - left) * (value - low) / (high - low))

    for k in range(len(rows)):
        parts.append(f'<rect class="band" x="0" y="{number(step * k + 1)}" width="{WIDTH:g}" height="{step - 4:g}"/>')
    for value in ticks(low, high):
        at = place(value)
        parts.append(f'<path class="grid" d="M{at} 0V{bottom:g}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 13:g}" text-anchor="middle">{100 * value:g} %</text>')
    style_of = looks(result)
    for k, row in enumerate(rows):
        y = step * k
        policy = result.policy(row["policy"])
        style = style_of.get(row["policy"], OTHER)
        kind = f"{policy['kind']}{' privileged' if policy['privileged'] else ''}"
        name = escape(shortened(row["policy"], 60))
        parts.append(f'<text class="name {escape(kind)} {style}" x="6" y="{number(y + 13)}">{name}</text>')
        if row["score_low"] is not None:
            ends = f"M{place(row['score_low'])} {number(y + 22)}H{place(row['score_high'])}"
            parts.append(f'<path class="interval {style}" d="{ends}"/>')
        told = f"{row['policy']}: {percent(row['score'])}; {percent(row['attainment'])} by count"
        parts.append(
            f'<circle class="dot {style}" cx="{place(row["score"])}" cy="{number(y + 22)}" r="4.5">'
            f"<title>{escape(told)}</title></circle>"
        )
    parts.append(
        f'<text class="label" x="{WIDTH / 2:g}" y="{bottom + 30:g}" text-anchor="middle">attained share of the offered '
        "worth</text>"
    )
    caption = "Mean over episodes with its 95 % interval by blocks of days; colours as in the other figures."
    alt = f"Score of every policy at load {load:g}"
    return Picture(f"Scores at load {load:g}", caption, picture(parts, bottom + 36.0, alt))


def _over_load(result: EvaluationResult, metric: str) -> Picture:
    loads = sorted(result.loads)
    goodput = metric == "goodput_per_s"
    values = {name: [result.summary_of(name, load) for load in loads] for name in shown_policies(result)}
    unit_per_s = result.provenance["capacity_per_s"]
    found = [
        row[key] for rows in values.values() for row in rows for key in (metric, f"{metric}_low", f"{metric}_high")
    ]
    seen = [v for v in found if v is not None]
    if goodput:
        seen += [loads[-1] * unit_per_s, 0.0]
    low, high = _around(seen, most=np.inf) if goodput else _share_axis(result)
    margin = 0.03 * (loads[-1] - loads[0])
    plot = Plot(
        (loads[0] - margin, loads[-1] + margin), (low, high), "load [share of capacity]",
        "attained requests per second" if goodput else "score", x_ticks=loads, percent_y=not goodput,
    )  # fmt: skip
    if goodput:
        plot.line(loads, [load * unit_per_s for load in loads], "reference", "offered")
    for name, style in looks(result).items():
        for load, row in zip(loads, values[name], strict=True):
            plot.whisker(load, row[f"{metric}_low"], row[f"{metric}_high"], style)
        plot.line(loads, [row[metric] for row in values[name]], style, name, markers=True)
    title = "Goodput against load" if goodput else "Score against load"
    caption = f"Bars: 95 % intervals.{' Dashed: what was offered.' if goodput else ''}{_of(result)}"
    return Picture(title, caption, plot.svg(title), _legend(result))


def _losses(result: EvaluationResult) -> Picture:
    load = result.headline_load
    rows = result.ranking(load)
    step, top = 30.0, 4.0
    parts = []
    for k, row in enumerate(rows):
        y, at = top + step * k, 0.0
        name = escape(shortened(row["policy"], 62))
        parts.append(f'<text class="name" x="0" y="{number(y + 10)}">{name}</text>')
        for part in ("attained", *LOSSES):
            count = row["attained"] if part == "attained" else row[f"lost_{part}"]
            width = (WIDTH - 1) * count / row["offered"]
            told = f"{row['policy']}: {LOSS_TITLES.get(part, part)} {percent(count / row['offered'])}"
            if width > 0:
                parts.append(
                    f'<rect class="loss {part}" x="{number(at)}" y="{number(y + 14)}" width="{number(width)}" '
                    f'height="10"><title>{escape(told)}</title></rect>'
                )
            at += width
    legend = [("box attained", "attained"), *((f"box {why}", LOSS_TITLES[why]) for why in LOSSES)]
    caption = (
        "All offered requests of each policy, by what became of them; each is counted once, by the first that holds."
    )
    alt = f"Outcomes of the offered requests at load {load:g}"
    return Picture(
        f"Where requests were lost at load {load:g}",
        caption,
        picture(parts, top + step * len(rows), alt),
        tuple(legend),
    )


def _burstiness(result: EvaluationResult) -> Picture:
    load = result.headline_load
    names = shown_policies(result)
    rows = {name: [result.group(name, load, bucket) for bucket in BURSTINESS_BUCKETS] for name in names}
    held = [k for k in range(len(BURSTINESS_BUCKETS)) if rows[names[0]][k]["offered"]]
    plot = Plot((-0.45, 2.45), _share_axis(result), "episodes by burstiness of their arrivals", "attainment",
                x_ticks=[], percent_y=True)  # fmt: skip
    for k in held:
        edge = rows[names[0]][k]
        text = f"{BURSTINESS_BUCKETS[k]} ({edge['from']:.2g} to {edge['to']:.2g})"
        at = number(plot.to_x(k))
        plot.parts.append(f'<text x="{at}" y="{plot.height - 24:g}" text-anchor="middle">{text}</text>')
    for place, (name, style) in enumerate(looks(result).items()):
        shift = 0.05 * (place - (len(names) - 1) / 2)
        for k in held:
            plot.whisker(k + shift, rows[name][k]["low"], rows[name][k]["high"], style)
        plot.line([k + shift for k in held], [rows[name][k]["attainment"] for k in held], style, name, markers=True)
    caption = (
        "Thirds of the episodes; in brackets the index of dispersion of their arrivals per second, which is 1 for a "
        "Poisson process."
    )
    alt = "Attainment in calm, middling and bursty episodes"
    return Picture(f"Attainment by burstiness at load {load:g}", caption, plot.svg(alt), _legend(result))


def _latency(result: EvaluationResult, name: str) -> Picture:
    title, remark = _LATENCIES[name]
    load = result.headline_load
    levels = np.array(result.quantile_levels)
    tokens = name == "tpot_s"
    scale = 1000.0 if tokens else 1.0
    rows = {policy: result.distribution_of(policy, load) for policy in shown_policies(result)}
    held = [scale * np.array(row[name]) for row in rows.values() if row[name]]
    objectives = sorted({1000 * v["tpot_s"] for v in result.provenance["scenario"]["slo"].values()}) if tokens else []
    upper = max([float(np.interp(0.99, levels, values)) for values in held] + objectives, default=1.0)
    lower = min([float(np.interp(0.01, levels, values)) for values in held], default=0.1)
    axis = (0.0, 1.08 * upper) if tokens else (max(1e-4, 0.8 * lower), 1.3 * max(upper, 2e-4))
    plot = Plot(
        axis, (0.0, 1.0), f"{title.lower()} [{'ms' if tokens else 's'}]", "offered requests", log_x=not tokens,
        percent_y=True,
    )  # fmt: skip
    for objective in objectives:
        plot.rule(objective, f"objective {objective:g} ms")
    for policy, style in looks(result).items():
        row = rows[policy]
        if not row[name]:
            continue
        values = scale * np.array(row[name])
        share = levels * row["finished"] / row["offered"]
        inside = values <= axis[1]
        # Nothing more finishes: the curve stays level to the edge.
        xs = [*values[inside].tolist(), axis[1]]
        ys = [*share[inside].tolist(), float(share[inside][-1]) if inside.any() else 0.0]
        plot.line(xs, ys, style, policy)
    caption = f"Share of all offered requests that finished with at most this latency. {remark}{_of(result).strip()}"
    return Picture(f"{title} at load {load:g}", caption, plot.svg(f"Distribution of {title.lower()}"), _legend(result))


def _course(result: EvaluationResult, row: Row) -> Picture:
    bin_s = row["bin_s"]
    parts = ("attained", "late", "lost")
    counts = {part: np.array(row[part], float) / bin_s for part in parts}
    all_ = result.timelines  # one scale for all of them
    top = max(float(np.sum([other[part] for part in parts], axis=0).max()) / other["bin_s"] for other in all_)
    most = max(max(other["in_system"]) for other in all_)
    xs = [(k + 0.5) * bin_s for k in range(len(row["attained"]))]
    plot = Plot((0.0, len(xs) * bin_s), (0.0, max(top, 1.0)), "seconds", "requests per second", height=210.0)
    base = np.zeros(len(xs))
    for part in parts:
        plot.area(xs, base.tolist(), (base + counts[part]).tolist(), part)
        base = base + counts[part]
    scale = max(top, 1.0) / max(most, 1)
    plot.line(xs, [scale * v for v in row["in_system"]], "insystem", f"in the system, at most {max(row['in_system'])}")
    legend = (
        ("box attained", "attained arrivals"), ("box late", "late"), ("box lost", "rejected or failed"),
        ("insystem", f"requests in the system (the top is {round(most):,})"),
    )  # fmt: skip
    title = f"A {row['episode']} episode (seed {row['seed']}): {row['policy']}"
    caption = (
        f"Score {percent(row['score'])}, attainment {percent(row['attainment'])}; at most {max(row['in_system']):,} "
        "requests in the system."
    )
    return Picture(title, caption, plot.svg(title), legend)
