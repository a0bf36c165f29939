"""What agents came to over many results, as one Markdown table: each against the best heuristic of its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.text import ABSENT
from burstenv.policies.network_policy import way_of

HEAD = (
    "scenario", "load", "agent", "seeds", "attains", "best heuristic", "attains", "ahead [points]", "seeds ahead",
    "by tokens", "worst prompt lengths",
)  # fmt: skip
PROMPTS = "prompt_"
TOKENS = "token_weighted_attainment"


def agent_table(results: Sequence[EvaluationResult]) -> str:
    """Return one line for each agent, or group of training seeds, in each result, at its headline load.

    A line has the mean over the runs; how far it is ahead of the best heuristic, with a 95 % interval by blocks of
    days; how many runs are ahead; the same by tokens; and the prompt lengths that fare worst against that heuristic.

    Raises:
        BurstenvError: When no result has an agent.
    """
    lines = [line for result in results for line in _lines(result)]
    if not lines:
        raise BurstenvError("no agent took part in these evaluations")
    table = [HEAD, tuple("---" for _ in HEAD), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in table)


def _lines(result: EvaluationResult) -> list[tuple[str, ...]]:
    load = result.headline_load
    grouped = {row["group"]: row for row in result.seeds if row["load"] == load}
    members = {group: list(row["members"]) for group, row in grouped.items()}
    taken = {name for names in members.values() for name in names}
    alone = [row["name"] for row in result.agents if row["name"] not in taken]
    members.update({name: [name] for name in alone})
    return [_line(result, load, name, names, grouped.get(name)) for name, names in members.items()]


def _line(
    result: EvaluationResult, load: float, name: str, members: Sequence[str], group: Row | None
) -> tuple[str, ...]:
    best = result.best_at(load)["policy"]
    mine = [result.summary_of(member, load)["attainment"] for member in members]
    theirs = result.summary_of(best, load)["attainment"]
    ahead = [result.difference(member, load, "best") for member in members]
    tokens = [result.difference(member, load, "best", TOKENS)["mean"] for member in members]
    whole = group if group is not None else ahead[0]
    return (
        result.scenario,
        f"{load:g}",
        f"`{name}`" if way_of(name) else f"**`{name}`**",
        str(len(members)),
        f"{100.0 * np.mean(mine):.1f} %",
        f"`{best}`",
        f"{100.0 * theirs:.1f} %",
        _points(whole["mean"]) + _interval(whole["low"], whole["high"]),
        f"{sum(row['mean'] > 0.0 for row in ahead)} of {len(members)}",
        _points(float(np.mean(tokens))),
        _worst_prompts(result, load, members),
    )


def _worst_prompts(result: EvaluationResult, load: float, members: Sequence[str]) -> str:
    """Return the prompt lengths with the lowest difference to the best heuristic, in the mean over runs."""
    found: dict[str, list[float]] = {}
    for row in result.groups:
        if row["load"] == load and row["policy"] in members and row["group"].startswith(PROMPTS):
            found.setdefault(row["group"].removeprefix(PROMPTS), []).append(row["difference"])
    if not found:
        return ABSENT
    lengths = min(found, key=lambda key: float(np.mean(found[key])))
    return f"{lengths.replace('_', ' ')}: {_points(float(np.mean(found[lengths])))}"


def _points(share: float) -> str:
    return f"{100.0 * share:+.1f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" [{_points(low)}, {_points(high)}]"
