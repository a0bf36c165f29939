"""A leaderboard over many results: ranks by scenario, flips, and the lead of the best over the defaults."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.arguments import an, checked, each
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.report.tables import Cell, Line, Table
from burstenv.evaluation.report.text import ABSENT, beside, percent, percent_interval, points
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.statistics.intervals import paired_difference
from burstenv.evaluation.statistics.sign_flips import least_blocks
from burstenv.evaluation.summary import COMPARED as METRICS
from burstenv.files import write_atomic

DEFAULTS = ("always/round-robin/vllm",)  # the usual start of a deployment
SHOWN = 40  # policies in the table of ranks


@dataclass(frozen=True)
class Leaderboard:
    """The combined results, in plain values.

    Attributes:
        boards: For each result ``board`` (scenario and load), ``scenario``, ``split``, ``load``, ``episodes``,
            ``blocks``, ``best`` (deployable policy), its ``score`` with ``low`` and ``high``, its
            ``attainment`` and ``token_weighted_attainment``, ``defaults`` (name) with ``defaults_score``, ``gain``
            (paired difference of the two scores, with ``gain_low`` and ``gain_high``), and ``oracle`` with
            ``oracle_score``, the best that sees true lengths, or None.
        policies: For each policy ``policy``, ``kind``, ``privileged``, ``boards`` it was judged on, ``mean_rank`` (mean
            over boards of the middle of its ranks, as a share of the policies there: 0 is first), and ``by_board``:
            score, attainment, token_weighted_attainment, rank and rank_to of each board.
        flips: Pairs of policies, each significantly better on one board: ``first``, ``second``,
            ``first_wins_on``, ``by``, ``second_wins_on``, ``by_there``; largest first.
    """

    boards: list[Row]
    policies: list[Row]
    flips: list[Row]


def leaderboard(
    results: Sequence[EvaluationResult], defaults: str | None = None, files: Sequence[str | Path] = ()
) -> Leaderboard:
    """Combine results, each at its headline load.

    Args:
        results: Results of ``evaluate``, on different scenarios or loads.
        defaults: The baseline of the gains; None: round robin with vLLM's defaults.
        files: Source of each, for messages.

    Raises:
        BurstenvError: On no results, or two with the same scenario, split and load.
    """
    if not results:
        raise BurstenvError("a leaderboard needs at least one result")
    by_board: dict[str, EvaluationResult] = {}
    origins = [str(path) for path in files] or [f"result {k + 1}" for k in range(len(results))]
    origin_of: dict[str, str] = {}
    for result, origin in zip(results, origins, strict=True):
        name = f"{result.scenario}, load {result.headline_load:g}"
        if result.split != "test":
            name += f" ({result.split})"
        if name in by_board:
            raise BurstenvError(f"two results are of {name}: {origin_of[name]} and {origin}; give one of them")
        origin_of[name] = origin
        by_board[name] = result
    took_part = {policy["name"] for result in results for policy in result.policies}
    if defaults is not None and defaults not in took_part:
        raise unknown_name("policy for defaults", defaults, took_part)
    base = DEFAULTS[0] if defaults is None else defaults
    boards = [_board(name, result, base) for name, result in by_board.items()]
    entries: dict[str, Row] = {}
    for board, result in by_board.items():
        count = len([row for row in result.ranks if row["load"] == result.headline_load])
        for row in result.ranking(result.headline_load):
            policy = result.policy(row["policy"])
            entry = entries.setdefault(
                row["policy"],
                {"policy": row["policy"], "kind": policy["kind"], "privileged": policy["privileged"], "by_board": {}},
            )
            rank = result.rank_of(row["policy"], result.headline_load) if row["blocks"] >= least_blocks() else None
            entry["by_board"][board] = {
                **{metric: row[metric] for metric in METRICS},
                "rank": None if rank is None else rank["rank"],
                "rank_to": None if rank is None else rank["rank_to"],
                "place": None if rank is None else (0.5 * (rank["rank"] + rank["rank_to"]) - 1) / max(1, count - 1),
            }
    for entry in entries.values():
        places = [at["place"] for at in entry["by_board"].values() if at["place"] is not None]
        entry["boards"] = len(entry["by_board"])
        entry["mean_rank"] = float(np.mean(places)) if places else None
    ordered = sorted(
        entries.values(),
        key=lambda e: (e["privileged"], -e["boards"], 2.0 if e["mean_rank"] is None else e["mean_rank"], e["policy"]),
    )
    return Leaderboard(boards, ordered, _flips(by_board))


def _board(name: str, result: EvaluationResult, defaults: str) -> Row:
    load = result.headline_load
    ranked = result.ranking(load)
    open_rows = [row for row in ranked if not result.policy(row["policy"])["privileged"]]
    oracles = [row for row in ranked if result.policy(row["policy"])["privileged"]]
    best = open_rows[0]
    row: Row = {
        "board": name, "scenario": result.scenario, "split": result.split, "load": load,
        "episodes": best["episodes"], "blocks": best["blocks"], "best": best["policy"],
        **{metric: best[metric] for metric in METRICS}, "low": best["score_low"], "high": best["score_high"],
        "defaults": None, "defaults_score": None, "gain": None, "gain_low": None, "gain_high": None,
        "oracle": oracles[0]["policy"] if oracles else None,
        "oracle_score": oracles[0]["score"] if oracles else None,
    }  # fmt: skip
    if any(entry["policy"] == defaults for entry in ranked):
        values, days = _values(result, [best["policy"], defaults])
        gain = paired_difference(values[0], values[1], days)
        row.update(defaults=defaults, defaults_score=float(values[1].mean()))
        row.update(gain=gain.mean, gain_low=gain.low, gain_high=gain.high)
    return row


def _values(result: EvaluationResult, names: Sequence[str]) -> tuple[Any, list[int]]:
    load = result.headline_load
    found: dict[str, list[Row]] = {name: [] for name in names}
    for row in result.episodes:
        if row["load"] == load and row["policy"] in found:
            found[row["policy"]].append(row)
    days = [row["day"] for row in found[names[0]]]
    return np.array([[row["score"] for row in found[name]] for name in names]), days


def _flips(by_board: dict[str, EvaluationResult]) -> list[Row]:
    """Return the pairs of policies, each significantly better on one board, with the largest differences."""
    shown: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for board, result in by_board.items():
        pairs = next(row for row in result.pairs if row["load"] == result.headline_load)
        for i, first in enumerate(pairs["policies"]):
            for j, second in enumerate(pairs["policies"]):
                low = pairs["low"][i][j]
                if low is not None and low > 0:
                    shown.setdefault((first, second), []).append((board, pairs["mean"][i][j]))
    flips = []
    for (first, second), wins in shown.items():
        losses = shown.get((second, first))
        if first < second and losses:
            here, there = max(wins, key=lambda w: w[1]), max(losses, key=lambda w: w[1])
            flips.append(
                {
                    "first": first, "second": second, "first_wins_on": here[0], "by": here[1],
                    "second_wins_on": there[0], "by_there": there[1],
                }
            )  # fmt: skip
    return sorted(flips, key=lambda row: -min(row["by"], row["by_there"]))


def leaderboard_tables(board: Leaderboard) -> list[Table]:
    """Return the tables of the page."""
    names = [row["board"] for row in board.boards]
    lines = []
    for row in board.boards:
        gain = ABSENT if row["gain"] is None else points(row["gain"], row["gain_low"], row["gain_high"])
        oracle = ABSENT if row["oracle"] is None else f"{percent(row['oracle_score'])} ({row['oracle']})"
        cells = [
            Cell(row["board"]), Cell(f"{percent(row['score'])} {percent_interval(row['low'], row['high'])}"),
            Cell(percent(row["attainment"])), Cell(percent(row["token_weighted_attainment"])),
            Cell(percent(row["defaults_score"])), Cell(gain.replace(" points", "")), Cell(oracle),
        ]  # fmt: skip
        lines.append(Line(row["best"], "heuristic", [], cells))
    found = [
        Table(
            "The best on each board",
            "The best deployable policy, and its paired gain in score, in percentage points, over the defaults "
            f"(`{next((r['defaults'] for r in board.boards if r['defaults']), DEFAULTS[0])}`); last, the best of the "
            "policies that see true output lengths, which take no rank.",
            ["board", "score", "attainment", "by tokens", "defaults", "gain", "with true lengths"],
            lines,
        )
    ]
    lines = []
    for entry in board.policies[:SHOWN]:
        cells = [Cell(ABSENT if entry["mean_rank"] is None else f"{entry['mean_rank']:.2f}")]
        for name in names:
            at = entry["by_board"].get(name)
            if at is None:
                cells.append(Cell(ABSENT))
                continue
            rank = "apart" if entry["privileged"] else ABSENT
            if at["rank"] is not None:
                rank = f"{at['rank']}" if at["rank"] == at["rank_to"] else f"{at['rank']} to {at['rank_to']}"
            depth = None if at["place"] is None else 0.6 * (1.0 - at["place"]) ** 2
            cells.append(Cell(f"{rank} ({percent(at['score'])}; {beside(at)})", depth))
        lines.append(Line(entry["policy"], "apart" if entry["privileged"] else entry["kind"], [], cells))
    found.append(
        Table(
            "Ranks",
            "Rank on each board, in brackets score, attainment and token-weighted attainment; policies share ranks "
            "where the interval of their paired difference holds 0. First the mean place, from 0 (always first) to 1 "
            "(always last); policies judged on more boards come first."
            + (f" The first {SHOWN} of {len(board.policies)}." if len(board.policies) > SHOWN else ""),
            ["mean place", *names],
            lines,
        )
    )
    if len(board.boards) > 1:
        lines = [
            Line(
                flip["first"],
                "heuristic",
                [],
                [
                    Cell(flip["second"]), Cell(f"{flip['first_wins_on']}: {100 * flip['by']:+.1f}"),
                    Cell(f"{flip['second_wins_on']}: {100 * -flip['by_there']:+.1f}"),
                ],
            )
            for flip in board.flips[:30]
        ]  # fmt: skip
        caption = (
            "Pairs of policies, each significantly better somewhere (paired interval excludes 0): the difference of "
            "the first minus the second in percentage points, where it is largest either way. "
        )
        caption += f"{len(board.flips)} pairs flip; the widest 30." if len(board.flips) > 30 else ""
        if not board.flips:
            caption += "None does."
        found.append(Table("Where rankings flip", caption, ["second", "first is ahead", "second is ahead"], lines))
    return found


def verdict(board: Leaderboard) -> str:
    """Return a summary of the leaderboard, in a sentence or two; names are in backquotes."""
    winners = list(dict.fromkeys(row["best"] for row in board.boards))
    count = len(board.boards)
    if count == 1:
        text = f"On the only board, {board.boards[0]['board']}, `{winners[0]}` is best. "
    elif len(winners) == 1:
        text = f"`{winners[0]}` is best on all {count} boards. "
    else:
        text = f"No policy is best everywhere: {len(winners)} different ones lead on {count} boards. "
    gains = [row["gain"] for row in board.boards if row["gain"] is not None]
    if gains:
        low, high = 100 * min(gains), 100 * max(gains)
        span = f"{low:+.1f}" if len(gains) == 1 else f"{low:+.1f} to {high:+.1f}"
        text += f"The best is {span} points ahead of the defaults. "
    if count > 1:
        text += f"{len(board.flips)} pairs of policies change places between boards."
    return text.strip()


@checked(results=each(an("EvaluationResult"), 1))
def write_leaderboard(
    results: Sequence[EvaluationResult],
    path: str | Path,
    defaults: str | None = None,
    files: Sequence[str | Path] = (),
) -> dict[str, Path]:
    """Write the leaderboard of results as one HTML page, with Markdown and JSON beside it, written atomically.

    Args:
        results: Results of ``evaluate``.
        path: The page.
        defaults: See :func:`leaderboard`.
        files: See :func:`leaderboard`.

    Returns:
        The paths by ``html``, ``markdown`` and ``json``.

    Raises:
        BurstenvError: As :func:`leaderboard`.
    """
    from burstenv.evaluation.report.report import markdown_table, plain
    from burstenv.pages.page import render

    board = leaderboard(results, defaults, files)
    path = Path(path)
    paths = {"html": path, "markdown": path.with_suffix(".md"), "json": path.with_suffix(".json")}
    tables = leaderboard_tables(board)
    facts = (
        f"{len(board.boards)} result{'s' * (len(board.boards) > 1)}, {len(board.policies)} policies; "
        f"{sum(row['episodes'] for row in board.boards):,} episodes of each policy on all boards."
    )
    values = {"title": "Leaderboard", "facts": facts, "headline": verdict(board), "tables": tables}
    page = render("leaderboard.html.j2", "burstenv.evaluation.report", **values)
    write_atomic(paths["json"], json.dumps(asdict(board), indent=1, allow_nan=False) + "\n")
    parts = ["# Leaderboard", facts, f"**{plain(verdict(board))}**"]
    for table in tables:
        parts += [f"## {plain(table.title)}", plain(table.caption), markdown_table(table)]
    write_atomic(paths["markdown"], "\n\n".join(parts) + "\n")
    write_atomic(paths["html"], page)
    return paths
