"""What agents came to over many results, as one Markdown table: each against the best heuristic of its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.evaluation.report.text import ABSENT
from burstenv.evaluation.result import EvaluationResult
from burstenv.evaluation.statistics.intervals import paired_difference
from burstenv.policies.network.policy import way_of

HEAD = (
    "scenario", "load", "agent", "seeds", "score", "compared with", "score", "ahead [points]", "seeds ahead",
    "by count", "by tokens", "worst prompt lengths",
)  # fmt: skip
PROMPTS = "prompt_"
BESIDE = ("attainment", "token_weighted_attainment")


def agent_table(results: Sequence[EvaluationResult], against: str | None = None) -> str:
    """Return one line for each agent, or group of training seeds, in each result, at its headline load.

    Args:
        results: Results of ``evaluate``.
        against: A policy of all of them; None: the best heuristic of each.

    A line has the mean over the runs; their lead over the best heuristic, with a 95 % interval by blocks of days; the
    number of runs ahead; the lead by count (attainment) and by tokens; and the worst prompt lengths.

    Raises:
        BurstenvError: If no result has an agent, or one does not include ``against``.
    """
    for result in results:
        if against is not None and all(policy["name"] != against for policy in result.policies):
            raise BurstenvError(f"{against} is not in the evaluation of {result.scenario}")
    lines = [line for result in results for line in _lines(result, against)]
    if not lines:
        raise BurstenvError("these evaluations include no agent")
    table = [HEAD, tuple("---" for _ in HEAD), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def _lines(result: EvaluationResult, against: str | None) -> list[tuple[str, ...]]:
    load = result.headline_load
    members = {row["group"]: list(row["members"]) for row in result.seeds if row["load"] == load}
    taken = {name for names in members.values() for name in names}
    members.update({row["name"]: [row["name"]] for row in result.agents if row["name"] not in taken})
    other = against or result.best_at(load)["policy"]
    return [_line(result, load, name, names, other) for name, names in members.items()]


def _line(result: EvaluationResult, load: float, name: str, members: Sequence[str], other: str) -> tuple[str, ...]:
    days = np.array([row["day"] for row in result.episodes if row["load"] == load and row["policy"] == other])
    theirs = _episodes(result, load, other, "score")
    mine = np.stack([_episodes(result, load, member, "score") for member in members])  # (runs, episodes)
    ahead = paired_difference(mine.mean(axis=0), theirs, days)
    return (
        result.scenario,
        f"{load:g}",
        f"`{name}`" if way_of(name) else f"**`{name}`**",
        str(len(members)),
        f"{100.0 * mine.mean():.1f} %",
        f"`{other}`",
        f"{100.0 * theirs.mean():.1f} %",
        _points(ahead.mean) + _interval(ahead.low, ahead.high),
        f"{int((mine.mean(axis=1) > theirs.mean()).sum())} of {len(members)}",
        *(_points(_lead(result, load, members, other, metric)) for metric in BESIDE),
        _worst_prompts(result, load, members, other),
    )


def _episodes(result: EvaluationResult, load: float, policy: str, metric: str) -> NDArray[np.float64]:
    return np.array([row[metric] for row in result.episodes if row["load"] == load and row["policy"] == policy])


def _lead(result: EvaluationResult, load: float, members: Sequence[str], other: str, metric: str) -> float:
    mine = np.mean([result.summary_of(member, load)[metric] for member in members])
    return float(mine) - float(result.summary_of(other, load)[metric])


def _worst_prompts(result: EvaluationResult, load: float, members: Sequence[str], other: str) -> str:
    """Return the prompt lengths with the lowest difference to another policy, in the mean over runs."""
    groups = {row["group"] for row in result.groups if row["load"] == load and row["group"].startswith(PROMPTS)}
    if not groups:
        return ABSENT

    def behind(group: str) -> float:
        mine = np.mean([result.group(member, load, group)["attainment"] for member in members])
        return float(mine) - float(result.group(other, load, group)["attainment"])

    worst = min(sorted(groups), key=behind)
    return f"{worst.removeprefix(PROMPTS).replace('_', ' ')}: {_points(behind(worst))}"


def _points(share: float) -> str:
    return f"{100.0 * share:+.1f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{_points(low)}, {_points(high)}]"
