"""Several policies on one replay as a page: score against the latency of the slowest, and against cost, with fronts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burstenv.errors import BurstenvError
from burstenv.pages.listing import Listing, write_listing
from burstenv.pages.palette import series
from burstenv.pages.svg import Picture, Plot

if TYPE_CHECKING:
    from burstenv.evaluation.simulate import Simulation

Points = dict[str, tuple[float, float]]  # by policy: what is to be low, and the score
LATENCY, COST = "ttft_s_p99", "gpu_hours"


def write_pareto_page(results: Sequence[Simulation], rows: Sequence[Sequence[str]], path: Path) -> None:
    """Write the page, atomically.

    Args:
        results: Replays of the same requests.
        rows: A table of them: its head, then a row for each.
        path: The page.

    Raises:
        BurstenvError: If no replay finished a request.
    """
    drawn = _points(results, LATENCY)
    if not drawn:
        raise BurstenvError("no policy finished a request, so there is nothing to draw")
    looks = {one.policy: series(k) for k, one in enumerate(results)}
    pictures = [_draw(drawn, looks, "Score against latency", "99th percentile of TTFT [s]")]
    facts = (
        f"{results[0].metrics['offered']:,} requests on cluster {results[0].cluster} under {len(results)} policies; "
        f"on the front, where none is better in both: {_named(front(drawn))}."
    )
    if results[0].scenario is not None and results[0].scenario.scaling is not None:
        costs = _points(results, COST)
        pictures.insert(0, _draw(costs, looks, "Score against cost", "GPU-hours"))
        facts += f" On that of score and GPU-hours: {_named(front(costs))}."
    table = Listing("Policies", list(rows[0]), [list(row) for row in rows[1:]])
    legend = [*((f"box {look}", name) for name, look in looks.items()), ("reference", "the front")]
    write_listing(path, "Score and latency", facts, [table], pictures, legend)


def _points(results: Sequence[Simulation], name: str) -> Points:
    """Return a metric and the score of each replay that has both."""
    points = {one.policy: (one.metrics[name], one.metrics["score"]) for one in results}
    return {name: (x, y) for name, (x, y) in points.items() if x is not None and y is not None}


def _named(policies: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in policies)


def front(points: dict[str, tuple[Any, Any]]) -> list[str]:
    """Return the names that no other beats in both, by the first: less of the first, more of the second."""
    found, most = [], -1.0
    for name, (_, score) in sorted(points.items(), key=lambda point: (point[1][0], -point[1][1])):
        if score > most:
            found.append(name)
            most = score
    return found


def _draw(points: Points, looks: dict[str, str], title: str, label: str) -> Picture:
    best = front(points)
    xs, ys = [x for x, _ in points.values()], [y for _, y in points.values()]
    edge = 0.05 * max(max(ys) - min(ys), 0.02)
    plot = Plot(
        (max(0.7 * min(xs), 1e-4), 1.4 * max(xs)), (max(0.0, min(ys) - edge), min(1.0, max(ys) + edge)),
        label, "score", log_x=True, percent_y=True,
    )  # fmt: skip
    plot.line([points[name][0] for name in best], [points[name][1] for name in best], "reference")
    for name, (x, y) in points.items():
        plot.line([x], [y], looks[name], name, markers=True)
    return Picture(title, "Further up and left is better.", plot.svg(title))
