"""Scaling rules at equal cost as a page, and as docs/scalers.md.

``python -m burstenv.evaluation.scaler_front_page [POLICY ...]`` makes the page of ``diurnal`` and its picture; further
policies, such as agents, stand beside the shipped scalers.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from burstenv.envs.scenario import load_scenario
from burstenv.evaluation.scaler_front import ScalerFront, scaler_front, shipped_scalers
from burstenv.evaluation.statistics.intervals import Estimate
from burstenv.files import write_atomic
from burstenv.pages.figure_files import standalone
from burstenv.pages.listing import Listing, write_listing
from burstenv.pages.palette import series
from burstenv.pages.svg import Picture, Plot

EPISODES = 9  # of the page, as headroom is measured
PAGE, PICTURE, SCENARIO = Path("docs/scalers.md"), Path("docs/scalers.svg"), "diurnal"
HEAD = ["rule", "GPU-hours", "score", "score at equal cost [points]", "GPU-hours at equal score"]


def rows(front: ScalerFront) -> list[list[str]]:
    """Return a row for each rule: its range, and its differences to the reference with intervals."""
    found = []
    for curve in front.curves:
        costs, scores = [p.cost for p in curve.points], [p.mean_score for p in curve.points]
        found.append(
            [
                curve.rule + (" (knows the arrivals)" if curve.oracle else ""),
                f"{min(costs):.2f} to {max(costs):.2f}", f"{100 * min(scores):.1f} to {100 * max(scores):.1f} %",
                _shown(front.at_equal_cost.get(curve.rule), 100.0, 1), _shown(front.at_equal_score.get(curve.rule)),
            ]
        )  # fmt: skip
    return found


def facts(front: ScalerFront) -> str:
    """Return what was played, as a sentence."""
    return (
        f"{front.episodes} {front.split} episodes of {front.scenario} at load {front.load:g}; each curve is one rule "
        f"over its knob. Differences are to {front.reference}, which scores {100 * front.score:.1f} % for "
        f"{front.cost:.2f} GPU-hours an episode, paired, with 95 % intervals by days."
    )


def said(front: ScalerFront) -> str:
    """Return how far the reference is from the rule next to it, and from one that knows the arrivals, as a sentence."""
    first = front.curves[0].rule
    others = {c.rule: c.oracle for c in front.curves if c.rule != first and c.rule in front.at_equal_score}
    text = f"At the score of `{first}`"
    for oracle, what in ((False, "the next rule"), (True, "one that knows the arrivals to come")):
        names = [name for name, knows in others.items() if knows == oracle]
        if names:
            near = min(names, key=lambda name: front.at_equal_score[name].mean)
            text += f", {what}, `{near}`, costs {_shown(front.at_equal_score[near])} GPU-hours"
    return text + f" beside {front.cost:.2f}."


def write_front_page(front: ScalerFront, path: Path) -> None:
    """Write the page as HTML, atomically."""
    picture = draw(front)
    points = [
        [p.policy, f"{p.cost:.3f}", f"{100 * p.mean_score:.2f} %"] for curve in front.curves for p in curve.points
    ]
    tables = [Listing("Rules", HEAD, rows(front)), Listing("Points", ["policy", "GPU-hours", "score"], points)]
    write_listing(path, "Scaling rules at equal cost", facts(front), tables, [picture], picture.legend)


def draw(front: ScalerFront) -> Picture:
    """Draw score against GPU-hours, a curve for each rule."""
    xs = [p.cost for curve in front.curves for p in curve.points]
    ys = [p.mean_score for curve in front.curves for p in curve.points]
    low = max(0.0, min(ys) - 0.02)
    plot = Plot((0.9 * min(xs), 1.05 * max(xs)), (low, 1.0), "GPU-hours", "score", percent_y=True)
    legend = []
    for k, curve in enumerate(front.curves):
        style = "reference" if curve.oracle else series(k)
        name = f"{curve.rule} (knows the arrivals)" if curve.oracle else curve.rule
        plot.line([p.cost for p in curve.points], [p.mean_score for p in curve.points], style, name, markers=True)
        legend.append((style, name))
    title = "Score against GPU-hours"
    return Picture(title, "Further up and left is better.", plot.svg(title), tuple(legend))


def _shown(estimate: Estimate | None, scale: float = 1.0, digits: int = 2) -> str:
    if estimate is None:
        return "not reached"
    ends = ""
    if estimate.low is not None and estimate.high is not None:
        ends = f" [{scale * estimate.low:+.{digits}f}, {scale * estimate.high:+.{digits}f}]"
    return f"{scale * estimate.mean:+.{digits}f}{ends}"


def page(front: ScalerFront) -> str:
    """Return the page in Markdown."""
    lines = [
        "<!-- Made by python -m burstenv.evaluation.scaler_front_page; edit that. -->",
        "# Scaling rules at equal cost",
        "",
        "A scaler is no better for a higher score alone, nor for fewer GPU-hours alone. So each rule is played over",
        "its knob, the parameter that says how much load a replica bears, with all else as tuned, and rules are",
        "compared at equal cost and at equal score.",
        "",
        "```bash",
        f"burstenv plan --scenario {front.scenario} --scalers --episodes {front.episodes} --out front.html",
        "```",
        "",
        facts(front).replace(front.reference, f"`{front.reference}`"),
        "",
        f"![score against GPU-hours for each scaling rule]({PICTURE.name})",
        "",
        f"| {' | '.join(HEAD)} |",
        f"|{'---|' * len(HEAD)}",
        *(f"| {' | '.join(row)} |" for row in rows(front)),
        "",
        said(front),
        "",
        "Between two settings of a rule, episodes are mixed linearly; *not reached*: its curve does not come to that",
        "cost or score. How many replicas serve beside the load over time is drawn by `burstenv simulate --timeline`",
        "([scaling](scaling.md)).",
    ]
    return "\n".join(lines) + "\n"


def main(policies: Sequence[str]) -> int:
    """Write the page and its picture."""
    scenario = load_scenario(SCENARIO)
    front = scaler_front(scenario, [*shipped_scalers(scenario), *policies], episodes=EPISODES)
    write_atomic(PAGE, page(front))
    write_atomic(PICTURE, standalone(draw(front)))
    print(f"{PAGE}\n{PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
