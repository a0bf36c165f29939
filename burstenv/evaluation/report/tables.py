"""The tables of a report, as columns and cells; HTML and Markdown are two ways to write them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from burstenv.cluster.transfer_config import AbortCause
from burstenv.evaluation.metrics import group_title, groups
from burstenv.evaluation.report.looks import OTHER, looks
from burstenv.evaluation.report.text import (
    ABSENT,
    beside,
    milliseconds,
    number,
    percent,
    percent_interval,
    points,
    seconds,
)
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.statistics.sign_flips import least_blocks
from burstenv.evaluation.summary import BURSTINESS_BUCKETS
from burstenv.workload import CLASSES


@dataclass(frozen=True)
class Cell:
    """A cell: its text, and in heat tables its depth, from -1 to 1."""

    text: str
    heat: float | None = None
    best: bool = False  # of its column, set in bold


@dataclass(frozen=True)
class Line:
    """A row: the policy, its kind, and its cells."""

    policy: str
    kind: str  # "agent", "heuristic", or "apart" for one that sees true lengths
    tags: list[str]
    cells: list[Cell]
    lead: str = ""  # precedes the name
    look: str = ""  # style class of its colour, if it has one


@dataclass(frozen=True)
class Table:
    """A table: title, caption, the columns after the first (the policy), and rows."""

    title: str
    caption: str
    columns: list[str]
    lines: list[Line] = field(default_factory=list)
    first: str = "policy"  # heading of the first column
    tagged: bool = False  # whether tags are shown
    matrix: bool = False  # whether cells are small
    opened: bool = False  # whether a page shows it at once, where there is room


def tags(result: EvaluationResult, policy: Row) -> list[str]:
    """Return the tags of a policy: reference, best, fixed part of an agent, privileged."""
    found = []
    best = result.best_at(result.headline_load)
    for role in policy["roles"]:
        if role["role"].startswith("best") and policy["name"] != best["policy"]:
            continue  # chosen for another load
        found.append(f"fixed part of {role['of']}" if role["of"] else role["role"])
    if best["policy"] == policy["name"] and not best["beforehand"] and best["candidates"] > 1:
        found.append("best heuristic")
    if policy["privileged"]:
        found.append("privileged")
    return found


def tables(result: EvaluationResult) -> dict[str, list[Table]]:
    """Return the tables of a report by section."""
    load = result.headline_load
    found = {"scores": [_scores(result, load)]}
    if len(result.loads) > 1:
        found["scores"].append(_over_load(result))
    found["scores"].append(_outcomes(result, load))
    if "migrations" in result.ranking(load)[0]:
        found["scores"].append(_given_up(result, load))
    found["groups"] = [_by_group(result, load), _group_differences(result, load)]
    if "jain_index" in result.ranking(load)[0] or tuple(result.provenance["scenario"]["slo"]) != CLASSES:
        found["groups"].append(_fairness(result, load))
    found["latency"] = [_latency(result, load)]
    found["pairs"] = [_pairs(result, load)]
    if result.seeds:
        found["seeds"] = [_seeds(result)]
    if result.tuning:
        found["tuning"] = [_tuning(row) for row in result.tuning]
    return found


def _lines(result: EvaluationResult, load: float, cells_of: Callable[[Row], list[Cell]]) -> list[Line]:
    lines = []
    styles = looks(result)
    for row in result.ranking(load):
        policy = result.policy(row["policy"])
        kind = "apart" if policy["privileged"] else policy["kind"]
        look = styles.get(row["policy"], OTHER)
        lines.append(Line(row["policy"], kind, tags(result, policy), cells_of(row), look=look))
    best = result.best_at(load)
    first = best["policy"] if best["beforehand"] else ""
    # What agents are compared with comes first, oracles come separately at the end.
    return sorted(lines, key=lambda line: (line.kind == "apart", line.policy != first))


def _scores(result: EvaluationResult, load: float) -> Table:
    best = result.best_at(load)

    days = result.ranking(load)[0]["blocks"]
    few = ""
    if days < least_blocks():
        few = f" There are no ranks and intervals: {days} {'day' if days == 1 else 'days'} of traffic are too few."

    def against(row: Row, which: str, other: str) -> Cell:
        if row["policy"] == other:
            return Cell("itself")
        difference = result.difference(row["policy"], load, which)
        return Cell(points(difference["mean"], difference["low"], difference["high"]).replace(" points", ""))

    def cells(row: Row) -> list[Cell]:
        against_best = result.difference(row["policy"], load, "best")
        return [
            Cell(_rank(result.rank_of(row["policy"], load)) if row["blocks"] >= least_blocks() else ABSENT),
            Cell(percent(row["score"])),
            Cell(percent_interval(row["score_low"], row["score_high"])),
            against(row, "best", best["policy"]),
            Cell("" if row["policy"] == best["policy"] else p_value(against_best["p_adjusted"])),
            against(row, "reference", result.reference),
            Cell(percent(row["attainment"])),
            Cell(percent(row["token_weighted_attainment"])),
            Cell(number(row["goodput_per_s"])),
        ]

    return Table(
        f"Ranks and paired differences at load {load:g}",
        "The score is by worth. Differences are paired, in percentage points of it, against the "
        f"{'chosen' if best['beforehand'] else 'best'} "
        f"heuristic, `{best['policy']}`, and the reference, `{result.reference}`. Policies share a rank where the "
        "interval of their difference holds 0. p is corrected for the number of policies (Westfall and Young)." + few,
        [
            "rank", "score", "95 % interval", "minus best heuristic", "p", "minus reference", "attainment",
            "by tokens", "goodput [req/s]",
        ],
        _lines(result, load, cells),
        tagged=True,
        opened=True,
    )  # fmt: skip


def _rank(row: Row | None) -> str:
    if row is None:
        return ABSENT
    return str(row["rank"]) if row["rank"] == row["rank_to"] else f"{row['rank']} to {row['rank_to']}"


def p_value(p: float | None) -> str:
    """Return a p-value with two figures."""
    return ABSENT if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def _over_load(result: EvaluationResult) -> Table:
    def cells(row: Row) -> list[Cell]:
        found = []
        for load in result.loads:
            at = result.summary_of(row["policy"], load)
            interval = percent_interval(at["score_low"], at["score_high"])
            found.append(Cell(f"{percent(at['score'])} {interval} ({beside(at)})"))
        return found

    columns = [f"load {load:g}" for load in result.loads]
    caption = "Share of capacity offered, and score with its 95 % interval; in brackets attainment, then by tokens."
    return Table("Score over load", caption, columns, _lines(result, result.headline_load, cells))


def _by_group(result: EvaluationResult, load: float) -> Table:
    first = result.ranking(load)[0]  # every policy is offered the same requests
    shown = [(group_title(group), group) for group in groups(first) if first[f"{group}_offered"]]
    columns = [f"{title} ({percent(first[f'{group}_offered'] / first['offered'])})" for title, group in shown]

    def cells(row: Row) -> list[Cell]:
        return [_heat(row[f"{group}_attainment"]) for _, group in shown]

    caption = "Attainment of each group of requests; in brackets, the group's share of the offered requests."
    return Table(f"By class, model and prompt tokens at load {load:g}", caption, columns, _lines(result, load, cells))


def _fairness(result: EvaluationResult, load: float) -> Table:
    first = result.ranking(load)[0]
    waits = [key for key in first if key.endswith("_longest_wait_s")]
    waits = [key for key in waits if first.get(f"{key.removesuffix('_longest_wait_s')}_offered")]
    tenants = "jain_index" in first

    def cells(row: Row) -> list[Cell]:
        found = [Cell(seconds(row.get(key))) for key in waits]
        return found + ([Cell(number(row.get(key), digits)) for key, digits in _OF_TENANTS] if tenants else [])

    columns = [f"{group_title(key.removesuffix('_longest_wait_s'))} [s]" for key in waits]
    columns += ["service gap [tokens]", "Jain index"] if tenants else []
    caption = "The longest wait of any request of each class and tenant, from its arrival until it was first scheduled."
    if tenants:
        caption += (
            " The service gap is how far one tenant got ahead of another while both had requests waiting, in prompt "
            "tokens + 2 x output tokens over weight; Jain's index of the tenants' scores is 1 if all are equal."
        )
    return Table(f"Longest waits and fairness at load {load:g}", caption, columns, _lines(result, load, cells))


_OF_TENANTS = (("service_gap", 0), ("jain_index", 3))
_Columns = dict[str, tuple[str, Callable[[Any, Row], str]]]  # heading and text by count
_CLIENT_COLUMNS: _Columns = {
    "abandoned": ("abandoned", lambda count, row: percent(count / row["offered"])),
    "attempts": ("attempts per request", lambda count, row: number(count / row["offered"], 3)),
    "refusals": ("refusals per request", lambda count, row: number(count / row["offered"], 3)),
    "upstream_failed": ("failed upstream", lambda count, row: percent(count / row["offered"])),
    "unsent": ("unsent turns", lambda count, row: f"{count:,}"),
}
_FAULT_COLUMNS: _Columns = {
    "faults": ("faults", lambda count, row: f"{count:,}"),
    "availability": ("available", lambda count, row: percent(count)),
    "failed_injected": ("ended by a fault", lambda count, row: percent(count / row["offered"])),
    "failovers": ("came back", lambda count, row: percent(count / row["offered"])),
    "resends": ("taken back", lambda count, row: percent(count / row["offered"])),
    "hedges": ("sent twice", lambda count, row: percent(count / row["offered"])),
}
_TRANSFER_COLUMNS: _Columns = {
    "migrations": ("migrations", lambda count, row: f"{count:,}"),
    "handed_over": ("handed over", lambda count, row: percent(count / row["offered"])),
    "stayed": ("stayed", lambda count, row: percent(count / row["offered"])),
    "moved_gb": ("moved [GB]", lambda count, row: number(count, 1)),
}
_BACKGROUND_COLUMNS: _Columns = {
    "net": ("net", lambda count, row: percent(count)),
    "background_tokens_per_s": ("trained [tokens/s]", lambda count, row: number(count, 1)),
    "background_tokens_per_gpu_h": ("trained [tokens/GPU-h]", lambda count, row: number(count, 0)),
    "background_apart_share": ("in steps apart", lambda count, row: percent(count)),
    "background_progress": ("of the job", lambda count, row: percent(count)),
    "background_deadline_met": ("in time", lambda count, row: percent(count)),
}
_FALLBACK_COLUMNS: _Columns = {"fallback_share": ("falls back", lambda count, row: percent(count))}


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
            *(Cell(show(row[name], row) if name in row else ABSENT) for name, (_, show) in further.items()),
        ]

    ranking = result.ranking(load)
    counted, ensembles = ranking[0], any("fallback_share" in row for row in ranking)
    clients, faults = "attempts" in counted, "faults" in counted
    further = {
        **(_CLIENT_COLUMNS if clients else {}), **(_FAULT_COLUMNS if faults else {}),
        **(_TRANSFER_COLUMNS if "migrations" in counted else {}),
        **{name: shown for name, shown in _BACKGROUND_COLUMNS.items() if counted.get(name) is not None},
        **(_FALLBACK_COLUMNS if ensembles else {}),
    }  # fmt: skip
    columns = [
        "late",
        "rejected",
        "failed",
        "preemptions per finished",
        "KV use, mean",
        "KV use, max",
        "busiest replica",
        *(title for title, _ in further.values()),
    ]
    caption = (
        "Late, rejected and failed as shares of the offered requests; KV use as a share of the cluster's "
        "blocks; the "
        "busiest replica's share of the finished requests."
    )
    if clients:
        caption += (
            " Late includes abandoned, failed includes final upstream failures, and rejected counts final "
            "rejections only; unsent turns, of ended sessions, are not offered."
        )
    if faults:
        caption += " Available is the share of the time that costs; a request came back each time its replica was lost."
    if "background_tokens" in counted:
        caption += " Net is the score with the worth of the tokens that replicas trained in the slack of inference."
    if ensembles:
        caption += " An ensemble falls back where its members disagree: the share of its decisions that rules made."
    return Table(f"Outcomes at load {load:g}", caption, columns, _lines(result, load, cells))


def _given_up(result: EvaluationResult, load: float) -> Table:
    """Return how many transfers were given up, and why."""

    def cells(row: Row) -> list[Cell]:
        numbers = [int(row[cause.counted_as]) for cause in AbortCause]
        return [Cell(f"{number:,}") for number in (row["migrations"], sum(numbers), *numbers)]

    columns = ["migrations", "given up", *(cause.text for cause in AbortCause)]
    caption = (
        "Transfers of KV blocks between replicas that were given up, by cause: the request finished or was preempted "
        "at its source; its destination had no free blocks, or a full batch; it grew faster than it was copied; the "
        "copy took too long; one of the two replicas was lost. Beside them the migrations that were done."
    )
    return Table(f"Transfers given up at load {load:g}", caption, columns, _lines(result, load, cells))


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
    caption = "Over finished requests of all episodes: a policy that rejects requests can look fast here."
    return Table(f"Latency at load {load:g}", caption, columns, _lines(result, load, cells))


def _group_differences(result: EvaluationResult, load: float) -> Table:
    best = result.best_at(load)["policy"]
    first = result.ranking(load)[0]["policy"]
    row = result.ranking(load)[0]
    titles = {group: group_title(group) for group in groups(row)}
    shown = [(f"{name} episodes", name) for name in BURSTINESS_BUCKETS]
    shown += [(title, group) for group, title in titles.items() if not group.startswith("prompt_")]
    shown = [(title, group) for title, group in shown if result.group(first, load, group)["offered"]]

    def cells(row: Row) -> list[Cell]:
        found = []
        for _, group in shown:
            entry = result.group(row["policy"], load, group)
            text = points(entry["difference"], entry["difference_low"], entry["difference_high"]).replace(" points", "")
            found.append(Cell("itself" if row["policy"] == best else text))
        return found

    return Table(
        f"Minus the best heuristic, by burstiness, class and model, at load {load:g}",
        f"Paired differences from `{best}` in percentage points of the group's requests, with 95 % intervals by blocks "
        "of days.",
        [title for title, _ in shown],
        _lines(result, load, cells),
    )


def _pairs(result: EvaluationResult, load: float) -> Table:
    found = next(row for row in result.pairs if row["load"] == load)
    names = found["policies"]
    lines, styles = [], looks(result)
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            mean, low, high = (found[key][i][j] for key in ("mean", "low", "high"))
            if i == j:
                cells.append(Cell(""))
                continue
            sure = low is not None and (low > 0 or high < 0)
            depth = max(-1.0, min(1.0, mean / 0.15)) * 0.6
            cells.append(Cell(f"{100 * mean:+.1f}" + ("" if sure else " ~"), depth if sure else None))
        look = styles.get(name, OTHER)
        lines.append(Line(name, result.policy(name)["kind"], [], cells, lead=f"{i + 1}. ", look=look))
    return Table(
        f"Every pair at load {load:g}",
        "The row's score minus the column's, in percentage points, paired by episode; coloured where the 95 % "
        "interval excludes 0, marked ~ where it does not.",
        [str(k + 1) for k in range(len(names))],
        lines,
        matrix=True,
    )


def _seeds(result: EvaluationResult) -> Table:
    lines = []
    for row in result.seeds:
        cells = [
            Cell(f"{row['load']:g}"),
            Cell(str(len(row["members"]))),
            Cell(percent(row["iqm"])),
            Cell(percent_interval(row["iqm_low"], row["iqm_high"])),
            Cell(points(row["mean"], row["low"], row["high"]).replace(" points", "")),
            Cell(percent(row["improvement"])),
            Cell(percent_interval(row["improvement_low"], row["improvement_high"])),
        ]
        lines.append(Line(row["group"], "agent", [], cells))
    return Table(
        "Training seeds",
        "Interquartile mean of the score over training runs and days, its interval by stratified bootstrap over "
        "runs; the mean over runs minus the best heuristic, by blocks of days; and the probability that a run beats "
        "the best heuristic on a day.",
        ["load", "runs", "IQM", "95 % interval", "minus best heuristic", "improves", "95 % interval"],
        lines,
        first="algorithm",
        opened=True,
    )


def _tuning(row: Row) -> Table:
    lines = [
        Line(
            entry["policy"],
            "heuristic",
            [],
            [
                Cell(f"{entry['load']:g}"), Cell(percent(entry["score"])), Cell(percent(entry["default_score"])),
                Cell(percent(entry["attainment"])), Cell(percent(entry["token_weighted_attainment"])),
                Cell(str(entry["candidates"])),
            ],
        )
        for entry in row["policies"]
    ]  # fmt: skip
    how = "a search of Optuna's TPE" if row["method"] == "optuna" else "the whole grid"
    return Table(
        "Tuned heuristics",
        f"The best of {row['template']} at each load on {len(row['seeds'])} {row['split']} episodes, found by {how}; "
        "with its shares there, which are too high.",
        ["load", f"score on {row['split']}", "always/jsq there", "attainment", "by tokens", "tried"],
        lines,
        opened=True,
    )


def _heat(share: float | None) -> Cell:
    # Attainments are close to 1, where differences matter.
    return Cell(ABSENT) if share is None else Cell(percent(share), 0.6 * share**2)
