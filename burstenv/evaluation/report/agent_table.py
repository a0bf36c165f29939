"""What agents came to over many results, as one Markdown table: each against the best heuristic of its evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burstenv.config import load as load_config
from burstenv.config import shipped
from burstenv.errors import BurstenvError
from burstenv.evaluation.bound.headroom import FOLDER, Headroom
from burstenv.evaluation.report.text import ABSENT
from burstenv.evaluation.result import EvaluationResult
from burstenv.evaluation.statistics.intervals import interquartile_mean, paired_difference
from burstenv.policies.network.policy import way_of

HEAD = (
    "scenario", "load", "agent", "seeds", "score", "compared with", "score", "ahead [points]", "seeds ahead",
    "by count", "by tokens", "worst prompt lengths", "of the room",
)  # fmt: skip
LEAST_ROOM = 0.02  # by which foresight is ahead, where a share of it says something
PROMPTS = "prompt_"
BESIDE = ("attainment", "token_weighted_attainment")


def agent_table(results: Sequence[EvaluationResult], against: str | None = None, every_load: bool = False) -> str:
    """Return one line for each agent, or group of training seeds, in each result.

    Args:
        results: Results of ``evaluate``.
        against: A policy of all of them; None: the best heuristic of each.
        every_load: All loads of a result, not its headline load alone.

    A line has the mean over the runs; their lead over the best heuristic, with a 95 % interval by blocks of days; the
    number of runs ahead; the lead by count (attainment) and by tokens; the worst prompt lengths; and the share of the
    room to foresight that the lead closes, on the episodes of the scenario's shipped headroom, where there is one for
    this load, its best composite is what the agent is compared with, and there are at least two points of room.
    The last line has the interquartile mean of these shares.

    Raises:
        BurstenvError: If no result has an agent, or one does not include ``against``.
    """
    for result in results:
        if against is not None and all(policy["name"] != against for policy in result.policies):
            raise BurstenvError(f"{against} is not in the evaluation of {result.scenario}")
    lines, shares = [], []
    for result in results:
        for load in result.loads if every_load else [result.headline_load]:
            for line, share in _lines(result, load, against):
                lines.append(line)
                shares += [] if share is None else [share]
    if not lines:
        raise BurstenvError("these evaluations include no agent")
    table = [HEAD, tuple("---" for _ in HEAD), *lines]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
    if len(shares) > 1:
        middle = interquartile_mean(np.array(shares))
        text += f"\n\nOf the room to foresight, interquartile mean of {len(shares)} lines: {100.0 * middle:.0f} %."
    return text


def _lines(result: EvaluationResult, load: float, against: str | None) -> list[tuple[tuple[str, ...], float | None]]:
    """Return a load's lines, each with its share of the room to foresight."""
    members = {row["group"]: list(row["members"]) for row in result.seeds if row["load"] == load}
    taken = {name for names in members.values() for name in names}
    members.update({row["name"]: [row["name"]] for row in result.agents if row["name"] not in taken})
    other = against or result.best_at(load)["policy"]
    return [_line(result, load, name, names, other) for name, names in members.items()]


def _line(
    result: EvaluationResult, load: float, name: str, members: Sequence[str], other: str
) -> tuple[tuple[str, ...], float | None]:
    days = np.array([row["day"] for row in result.episodes if row["load"] == load and row["policy"] == other])
    theirs = _episodes(result, load, other, "score")
    mine = np.stack([_episodes(result, load, member, "score") for member in members])  # (runs, episodes)
    ahead = paired_difference(mine.mean(axis=0), theirs, days)
    share = _of_the_room(result, load, members, other)
    cells = (
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
        ABSENT if share is None else f"{100.0 * share:.0f} %",
    )
    return cells, share


def _episodes(
    result: EvaluationResult, load: float, policy: str, metric: str, count: int | None = None
) -> NDArray[np.float64]:
    """Return the episodes of a policy at a load, or those of the first ``count`` seeds."""
    rows = [row for row in result.episodes if row["load"] == load and row["policy"] == policy]
    return np.array([row[metric] for row in rows if count is None or row["seed"] < count])


def _of_the_room(result: EvaluationResult, load: float, members: Sequence[str], other: str) -> float | None:
    """Return the share of the room to foresight that some runs close; None where it is not known, or hardly any."""
    if result.scenario not in shipped(FOLDER):
        return None
    measured = load_config(Headroom, FOLDER, result.scenario)
    theirs = _episodes(result, load, other, "score", measured.episodes)
    best, room = measured.by_name["best"], measured.room.gain
    if best.net is not None:  # gains of something else than the score
        return None
    # The same score on the same seeds: the scenario, its trace and the composite are those of the measurement.
    same = len(theirs) == measured.episodes and abs(float(theirs.mean()) - best.score) < 1e-9
    if not same or (load, result.split) != (measured.load, measured.split) or room < LEAST_ROOM:
        return None
    mine = np.stack([_episodes(result, load, member, "score", measured.episodes) for member in members])
    return float(mine.mean() - theirs.mean()) / room


def _lead(result: EvaluationResult, load: float, members: Sequence[str], other: str, metric: str) -> float:
    mine = np.mean([result.summary_of(member, load)[metric] for member in members])
    return float(mine) - float(result.summary_of(other, load)[metric])


def _worst_prompts(result: EvaluationResult, load: float, members: Sequence[str], other: str) -> str:
    """Return the prompt lengths with the lowest difference to another policy, in the mean over runs.

    Lengths that no request of the evaluation has are left out.
    """
    groups = {
        row["group"]
        for row in result.groups
        if row["load"] == load and row["group"].startswith(PROMPTS) and row["attainment"] is not None
    }
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
