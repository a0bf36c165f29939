"""Llumnix whole against its baselines: instances against the slowest prefills, over the thresholds of scaling.

Sun et al., "Llumnix: dynamic scheduling for large language model serving", OSDI'24, figure 15; published points from
the artifact (``65_auto_scaling/plot/plot.py``). Sixteen A10 with LLaMA-7B, 13,616 KV tokens each; 10,000 requests at
2/s with Gamma gaps (coefficient of variation 2), prompts and outputs of the power law "L" with mean 512 (their table
1), at most 6,000 tokens; decisions every 10 s, an instance starts in 5 s.

``python -m burstenv.evaluation.validation.llumnix_scaling`` writes docs/llumnix-scaling.md and its picture.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.evaluation.simulate import simulate
from burstenv.files import write_atomic
from burstenv.pages.figure_files import standalone
from burstenv.pages.svg import Picture, Plot
from burstenv.workload import Trace

PAGE, PICTURE = Path("docs/llumnix-scaling.md"), Path("docs/llumnix-scaling.svg")
REQUESTS, RATE_PER_S, SPREAD, SEEDS = 10_000, 2.0, 2.0, 5
# Quantiles of the lengths "L" [tokens]: a power law of mean 512, cut at 6,000.
SHARES = (0.0, 0.5, 0.8, 0.95, 0.99, 1.0)
TOKENS = (16, 55, 582, 3113, 5166, 6000)
# Instances and P99 prefill [s] as published.
PUBLISHED = {
    "Llumnix": ((10.44, 11.4), (11.39, 4.0), (12.3, 3.7), (13.3, 3.5), (14.06, 3.0)),
    "INFaaS++": ((11.61, 40.1), (12.61, 21.5), (13.33, 14.3), (14.25, 4.6), (15.1, 3.4)),
}
LOW = (5.0, 10.0, 15.0, 20.0, 40.0, 60.0, 85.0)  # blocks for each request; high is 50 more, as in the figure
UP = (0.4, 0.5, 0.6, 0.65, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0)  # share of the KV blocks in use and asked for
DOWN = 0.6  # times that: it goes down, as Dynamo's load planner
AT_S = {"published": (5.0, 10.0), "here": (1.2, 1.5, 2.5, 5.0)}  # P99 prefill at which costs are compared
DRAWN_S = 45.0  # longer ones are in the table only
LLUMNIX, ALONE, INFAAS, COUNTING = "Llumnix", "Llumnix without migration", "INFaaS++", "dispatch by requests"


@dataclass(frozen=True)
class Point:
    """Mean instances, and P99 of prefill [s], at one threshold; means over seeds."""

    threshold: float
    instances: float
    prefill_s: float


def policies() -> dict[str, list[tuple[float, str]]]:
    """Return the thresholds of each system with its policies."""
    freeness = [(low, f"llumnix-scaling(low={low:g},high={low + 50:g})") for low in LOW]
    load = [(up, f"wva-tokens(kv=1,up={up:g},down={DOWN * up:g})") for up in UP]
    return {
        LLUMNIX: [(at, f"always/freeness/vllm/llumnix(low=3,high=3)/{rule}") for at, rule in freeness],
        ALONE: [(at, f"always/freeness/vllm/none/{rule}") for at, rule in freeness],
        INFAAS: [(at, f"always/freeness/vllm/none/{rule}") for at, rule in load],
        COUNTING: [(at, f"always/jsq/vllm/none/{rule}") for at, rule in load],
        "round robin": [(at, f"always/round-robin/vllm/none/{rule}") for at, rule in load],
    }


def lengths(rng: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw lengths of the power law "L", log-linear between its quantiles [tokens]."""
    drawn = np.exp(np.interp(rng.random(count), SHARES, np.log(TOKENS)))
    return np.maximum(1, drawn.round()).astype(np.int64)


def trace(seed: int, count: int = REQUESTS) -> Trace:
    """Return the requests of a seed."""
    rng = np.random.default_rng(seed)
    shape = 1.0 / SPREAD**2
    gaps_s = rng.gamma(shape, 1.0 / (shape * RATE_PER_S), count)
    return Trace.from_columns(np.cumsum(gaps_s), lengths(rng, count), lengths(rng, count))


def scene(drain: str = "wait") -> Scenario:
    """Return the cluster of the evaluation, as vLLM was then: no prefix cache, synchronous scheduling.

    Args:
        drain: ``migrate``: requests of an instance that is to stop move away; ``wait``: they end there.
    """
    replicas = [{"model": "llama-2-7b", "hardware": "a10", "count": 16, "kv_tokens": 13_616}]
    objectives = {"ttft_base_s": 10.0, "ttft_per_token_s": 0.001, "tpot_s": 0.1}
    return load_scenario(
        {
            "name": "llumnix-scaling",
            "cluster": {
                "name": "llumnix", "prefix_caching": False, "asynchronous": False, "replicas": replicas,
                "transfers": {"link": "tcp-25g"},
            },
            "workload": "burstgpt-default",
            "episode": {"duration_s": 100.0, "oversize": "drop"},
            "capacity_per_s": dict.fromkeys(("train", "validation", "test"), 1.0),
            "slo": {"conversation": objectives, "api": objectives},
            "modes": ["vllm"],
            "migration": {"rule": "none", "period_s": 0.1},
            "scaling": {
                "initial": 4, "cold_start": 5.0, "control_period_s": 10.0, "drain_s": 1e6, "recovery": {"drain": drain},
            },
        }
    )  # fmt: skip


def sweep(seeds: int = SEEDS, count: int = REQUESTS) -> dict[str, list[Point]]:
    """Play every threshold of every system.

    Args:
        seeds: Traces of each threshold.
        count: Their requests.

    Returns:
        The points of each system in order of the thresholds.
    """
    traces = [trace(seed, count) for seed in range(seeds)]
    found: dict[str, list[Point]] = {}
    for name, thresholds in policies().items():
        scenario = scene("migrate" if name == LLUMNIX else "wait")
        for threshold, policy in thresholds:
            metrics = [simulate(one, None, policy, scenario, seed=k).metrics for k, one in enumerate(traces)]
            instances = float(np.mean([m["replica_s"] / m["end_s"] for m in metrics]))
            prefill_s = float(np.mean([m["ttft_s_p99"] for m in metrics]))
            found.setdefault(name, []).append(Point(threshold, instances, prefill_s))
    return found


def instances_at(points: Sequence[tuple[float, float]], prefill_s: float) -> float | None:
    """Return the fewest instances at a P99 of prefill, on the line through (instances, P99); None beyond its ends."""
    ordered = sorted(points)
    times = np.minimum.accumulate([np.log(y) for _, y in ordered])[::-1]
    if not times[0] <= np.log(prefill_s) <= times[-1]:
        return None
    return float(np.interp(np.log(prefill_s), times, [x for x, _ in ordered][::-1]))


def _plot(title: str, caption: str, series: dict[str, Sequence[tuple[float, float]]]) -> Picture:
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    plot = Plot((0.0, 1.05 * max(ys)), (min(xs) - 0.5, max(xs) + 0.5), "99th percentile of prefill [s]", "instances")
    legend = []
    for k, (name, points) in enumerate(series.items()):
        ordered = sorted(points, key=lambda point: point[1])
        plot.line([y for _, y in ordered], [x for x, _ in ordered], f"s{k}", name, markers=True)
        legend.append((f"s{k}", name))
    return Picture(title, caption, plot.svg(title), tuple(legend))


def _side_by_side(left: str, right: str) -> str:
    """Return two standalone SVGs as one, 900 wide."""
    parts = [one.replace("<svg ", f'<svg x="{x}" ', 1) for x, one in ((0, left), (455, right))]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 330" width="900">{"".join(parts)}</svg>\n'


def _drawn(points: Sequence[Point]) -> list[tuple[float, float]]:
    return [(p.instances, p.prefill_s) for p in points if p.prefill_s <= DRAWN_S]


def _compared(found: dict[str, list[Point]]) -> list[str]:
    """Return the rows of the table at equal P99 of prefill: instances, and how many fewer than each baseline."""
    ours: dict[str, Sequence[tuple[float, float]]] = {
        name: [(p.instances, p.prefill_s) for p in points] for name, points in found.items()
    }
    rows = []
    for where, series in (("published", dict(PUBLISHED)), ("here", ours)):
        for at_s in AT_S[where]:
            at = {name: instances_at(points, at_s) for name, points in series.items()}
            cells = [f"{at[name]:.2f}" if at.get(name) else "-" for name in (LLUMNIX, ALONE, INFAAS, COUNTING)]
            for name in (INFAAS, COUNTING):
                ends = at[LLUMNIX], at.get(name)
                cells.append(f"{100 * (ends[0] / ends[1] - 1):+.0f} %" if ends[0] and ends[1] else "-")
            rows.append(f"| {where} | {at_s:g} s | {' | '.join(cells)} |")
    return rows


def page(found: dict[str, list[Point]]) -> tuple[str, str]:
    """Return the page and its picture, (Markdown, SVG)."""
    theirs = _plot("Published", "", dict(PUBLISHED))
    here = _plot("Here", "", {name: drawn for name, points in found.items() if len(drawn := _drawn(points)) > 1})
    rows = [
        f"| {name} | {p.threshold:g} | {p.instances:.2f} | {p.prefill_s:.1f} |"
        for name, points in found.items() for p in points
    ]  # fmt: skip
    text = _TEXT.format(compared="\n".join(_compared(found)), rows="\n".join(rows), seeds=SEEDS)
    return text, _side_by_side(standalone(theirs), standalone(here))


_TEXT = """\
<!-- Made by python -m burstenv.evaluation.validation.llumnix_scaling; edit that. -->
# Llumnix whole, and its scaling sweep

Llumnix (OSDI'24, figure 15) scales by the *pooled freeness* of its instances, (free blocks - blocks of the queues) /
requests, moves requests to new instances and away from those that stop, and compares that with INFaaS++, which
dispatches and scales by load and moves none. Each point of the figure is one threshold: the mean number of instances,
and the 99th percentile of prefill. The setting is theirs: sixteen A10 with LLaMA-7B and 13,616 KV tokens, 10,000
requests at 2/s with Gamma gaps of coefficient of variation 2, power-law prompts and outputs with mean 512 each,
decisions every 10 s, instances that start in 5 s, KV blocks over TCP at 2.5 GB/s. Left their published points, right
ours, means over {seeds} traces.

![instances against the 99th percentile of prefill, published and simulated](llumnix-scaling.svg)

| system | dispatch | migration | scaling | an instance that stops |
|---|---|---|---|---|
| Llumnix | `freeness` | `llumnix(low=3,high=3)` | `llumnix-scaling(low=T,high=T+50)` | its requests move away |
| Llumnix without migration | `freeness` | none | the same | its requests end there |
| INFaaS++ | `freeness` | none | `wva-tokens(kv=1,up=T,down=0.6 T)` | likewise |
| dispatch by requests | `jsq` | none | the same | likewise |
| round robin | `round-robin` | none | the same | likewise |

*Load* is the share of the KV blocks in use and asked for by the queues. INFaaS++ dispatches by load with the queue, so
`freeness` stands for it. Instances at equal P99 of prefill, by interpolation:

| | P99 prefill | Llumnix | without migration | INFaaS++ | by requests | minus INFaaS++ | minus by requests |
|---|---|---:|---:|---:|---:|---:|---:|
{compared}

The direction is theirs: at an equal P99 of prefill Llumnix needs the fewest instances. Migration makes most of the
gain: pooled freeness alone needs 1 to 3 % fewer instances than INFaaS++, with migration 4 to 9 %, and the longer the
prefills that one accepts, the more. It fills a new instance with running requests at once, and one that stops is off
as soon as its requests are elsewhere. Published is a fifth. Two reasons are known. The dispatch of INFaaS++ is
stronger here than theirs: it sees the load of every instance, the queue included, as it is at that instant. With a
weaker one, the number of requests, Llumnix needs 29 to 33 % fewer; what is published lies between the two. And with
the roofline of an A10 about eight instances carry this load, where theirs needed ten: the knee is steeper, and beyond
it all systems only add idle instances. Round robin keeps its P99 above 60 s at any threshold, with up to 15 instances.

| system | threshold | instances | P99 prefill [s] |
|---|---:|---:|---:|
{rows}

Differences from the figure: the iteration times are a roofline of the A10, not a measurement; INFaaS++ is read as
"load with the queue", for its own thresholds are not published; the lengths are interpolated between the published
quantiles.
"""


def main() -> int:
    """Write the page and its picture."""
    text, svg = page(sweep())
    write_atomic(PAGE, text)
    write_atomic(PICTURE, svg)
    print(f"{PAGE}\n{PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
