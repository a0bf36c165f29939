"""A fleet's plan as a page: attainment against the number of replicas, with intervals, and the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from burstenv.evaluation.fleet_plan import FleetPlan
from burstenv.pages.listing import Listing, write_listing
from burstenv.pages.svg import Picture, Plot


def write_plan_page(
    plans: Sequence[FleetPlan], answers: Sequence[str], tables: Sequence[Sequence[Sequence[str]]], path: Path
) -> None:
    """Write the page, atomically.

    Args:
        plans: One for each kind of replica.
        answers: Each as a sentence.
        tables: Of each its head, then a row for each size.
        path: The page.
    """
    listed = [Listing(plan.kind, rows[0], rows[1:]) for plan, rows in zip(plans, tables, strict=True)]
    write_listing(path, "How many replicas", ". ".join(answers) + ".", listed, [_draw(plan) for plan in plans])


def _draw(plan: FleetPlan) -> Picture:
    sizes = [size.replicas for size in plan.sizes]
    plot = Plot((0.0, max(sizes) + 1.0), (0.0, 1.0), "replicas", "attainment", percent_y=True)
    plot.line([0.0, max(sizes) + 1.0], [plan.share, plan.share], "other", f"asked for: {100 * plan.share:g} %")
    for size in plan.sizes:
        share = size.attainment
        plot.whisker(size.replicas, share.low, share.high, "s0")
    plot.line(sizes, [size.attainment.mean for size in plan.sizes], "s0", plan.policy, markers=True)
    if plan.replicas is not None:
        plot.rule(plan.replicas, f"{plan.replicas} replicas")
    caption = "Whiskers are intervals by days; the grey line is asked for, the upright one the smallest fleet."
    return Picture(plan.kind, caption, plot.svg(f"Attainment against replicas, {plan.kind}"))
