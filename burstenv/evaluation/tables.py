"""The tables of a report, as columns and cells; HTML and Markdown are two ways to write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from burstenv.evaluation.metrics import PROMPT_EDGES_TOKENS, groups
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.text import (
    ABSENT,
    milliseconds,
    number,
    percent,
    percent_interval,
    points,
    seconds,
)
from burstenv.workload import CLASSES
from burstenv.workload.trace import MODELS


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and in heat tables its background and ink as CSS colours."""

    text: str
    background: str = ""
    ink: str = ""


@dataclass(frozen=True)
class Line:
    """A row: the policy, what it is, and its cells."""

    policy: str
    kind: str  # "agent" or "heuristic"
    tags: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """A table: title, what it shows, the columns after the first (the policy), and rows."""

    title: str
    caption: str
    columns: list[str]
    lines: list[Line] = field(default_factory=list)


def tags(result: EvaluationResult, policy: Row) -> list[str]:
    """Return what a reader must know of a policy: reference, best, fixed part of whom, privileged."""
    found = []
    for role in policy["roles"]:
        found.append(f"fixed part of {role['of']}" if role["of"] else role["role"])
    best = result.best_at(result.headline_load)
    if best["policy"] == policy["name"] and not best["beforehand"] and best["candidates"] > 1:
        found.append("best heuristic")
    if policy["privileged"]:
        found.append("privileged")
    return found


def tables(result: EvaluationResult) -> list[Table]:
    """Return the tables of a report in their order."""
    load = result.headline_load
    found = [_attainment(result, load)]
    if len(result.loads) > 1:
        found.append(_over_load(result))
    return [*found, _by_group(result, load), _outcomes(result, load), _latency(result, load)]


def _lines(result: EvaluationResult, load: float, cells_of: Callable[[Row], list[Cell]]) -> list[Line]:
    lines = []
    for row in result.ranking(load):
        policy = result.policy(row["policy"])
        lines.append(Line(row["policy"], policy["kind"], tags(result, policy), cells_of(row)))
    return lines


def _attainment(result: EvaluationResult, load: float) -> Table:
    best = result.best_at(load)

    def against(row: Row, which: str, other: str) -> Cell:
        if row["policy"] == other:
            return Cell("itself")
        difference = result.difference(row["policy"], load, which)
        return Cell(points(difference["mean"], difference["low"], difference["high"]).replace(" points", ""))

    def cells(row: Row) -> list[Cell]:
        return [
            Cell(percent(row["attainment"])),
            Cell(percent_interval(row["attainment_low"], row["attainment_high"])),
            against(row, "reference", result.reference),
            against(row, "best", best["policy"]),
            Cell(percent(row["token_weighted_attainment"])),
            Cell(number(row["goodput_per_s"])),
        ]

    return Table(
        f"Attainment at load {load:g}",
        f"Differences are paired, in percentage points, against the reference, `{result.reference}`, and the "
        f"{'chosen' if best['beforehand'] else 'best'} heuristic, `{best['policy']}`.",
        [
            "attainment",
            "95 % interval",
            "minus reference",
            "minus best heuristic",
            "by tokens",
            "goodput [req/s]",
        ],
        _lines(result, load, cells),
    )


def _over_load(result: EvaluationResult) -> Table:
    def cells(row: Row) -> list[Cell]:
        found = []
        for load in result.loads:
            at = result.summary_of(row["policy"], load)
            interval = percent_interval(at["attainment_low"], at["attainment_high"])
            found.append(Cell(f"{percent(at['attainment'])} {interval}"))
        return found

    columns = [f"load {load:g}" for load in result.loads]
    caption = "Share of capacity offered, and attainment with its 95 % interval."
    return Table("Attainment over load", caption, columns, _lines(result, result.headline_load, cells))


def _by_group(result: EvaluationResult, load: float) -> Table:
    first = result.ranking(load)[0]  # every policy is offered the same requests
    names = [*CLASSES, *MODELS, *_bucket_titles()]
    shown = [(title, group) for title, group in zip(names, groups(), strict=True) if first[f"{group}_offered"]]
    columns = [f"{title} ({percent(first[f'{group}_offered'] / first['offered'])})" for title, group in shown]

    def cells(row: Row) -> list[Cell]:
        return [_heat(row[f"{group}_attainment"]) for _, group in shown]

    caption = "Attainment of each group of requests; in brackets, the group's share of the offered requests."
    return Table(f"By class, model and prompt tokens at load {load:g}", caption, columns, _lines(result, load, cells))


def _bucket_titles() -> list[str]:
    edges = [0, *PROMPT_EDGES_TOKENS]
    between = [f"{low}-{high}" for low, high in pairwise(edges)]
    return [*between, f">{edges[-1]}"]


def _outcomes(result: EvaluationResult, load: float) -> Table:
    def cells(row: Row) -> list[Cell]:
        return [
            Cell(percent(row["late"] / row["offered"])),
            Cell(percent(row["rejected"] / row["offered"])),
            Cell(percent(row["failed"] / row["offered"])),
            Cell(number(row["preemptions_per_finished"], 3)),
            Cell(percent(row["kv_use_mean"])),
            Cell(percent(row["kv_use_max"])),
            Cell(percent(row["max_replica_share"])),
        ]

    columns = [
        "late",
        "rejected",
        "failed",
        "preemptions per finished",
        "KV use, mean",
        "KV use, max",
        "busiest replica",
    ]
    caption = (
        "Late, rejected and failed as shares of the offered requests; KV use as a share of the cluster's "
        "blocks; the "
        "busiest replica's share of the finished requests."
    )
    return Table(f"Outcomes at load {load:g}", caption, columns, _lines(result, load, cells))


def _latency(result: EvaluationResult, load: float) -> Table:
    def cells(row: Row) -> list[Cell]:
        return [
            *(Cell(seconds(row[f"ttft_s_{p}"])) for p in ("mean", "p50", "p90", "p99")),
            *(Cell(milliseconds(row[f"tpot_s_{p}"])) for p in ("mean", "p50", "p90", "p99")),
            *(Cell(seconds(row[f"e2e_s_{p}"])) for p in ("mean", "p50", "p90", "p99")),
        ]

    columns = [
        f"{name} {p}{unit}"
        for name, unit in (("TTFT", " [s]"), ("TPOT", " [ms]"), ("E2E", " [s]"))
        for p in ("mean", "p50", "p90", "p99")
    ]
    caption = "Over finished requests of all episodes: a policy that refuses requests can look fast here."
    return Table(f"Latency at load {load:g}", caption, columns, _lines(result, load, cells))


_PALE, _DEEP = (247, 251, 255), (8, 81, 156)  # ends of ColorBrewer's sequential blues, safe for all eyes


def _heat(share: float | None) -> Cell:
    if share is None:
        return Cell(ABSENT)
    depth = share**2  # attainments crowd near 1, where differences matter
    rgb = tuple(round(a + (b - a) * depth) for a, b in zip(_PALE, _DEEP, strict=True))
    return Cell(percent(share), f"rgb{rgb}".replace(" ", ""), "#fff" if depth > 0.7 else "#1b1f24")
