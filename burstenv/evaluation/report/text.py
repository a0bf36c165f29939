"""What a report says in words: numbers in their units, the headline, and the notes beneath it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from burstenv.evaluation.coverage import coverage_sentences
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.statistics.sign_flips import least_blocks
from burstenv.workload import DAY_S

ABSENT = "-"
FEW_BLOCKS = 10  # below it, percentile intervals by blocks are known to come out too narrow


def shortened(name: str, most: int) -> str:
    """Return a policy's name in at most ``most`` characters.

    Composites lose names of parameters first, ``size-aware-kv(1.2, 0.3, 0.6)/...``, for what tells them apart stands at
    their end, and then what does not fit in the middle.
    """
    if len(name) > most:
        name = re.sub(r"[a-z_]+=([^,()]+),?", lambda match: f"{match[1]} ", name).replace(" )", ")")
    if len(name) > most:
        name = f"{name[: most // 2 - 1]}...{name[len(name) - (most - most // 2 - 2) :]}"
    return name


def percent(share: float | None) -> str:
    """Return a share as ``71.3 %``."""
    return ABSENT if share is None else f"{100 * share:.1f} %"


def percent_interval(low: float | None, high: float | None) -> str:
    """Return an interval of shares as ``[69.1, 73.4]`` in percent, or that there is none."""
    return "(no interval)" if low is None or high is None else f"[{100 * low:.1f}, {100 * high:.1f}]"


def points(mean: float, low: float | None = None, high: float | None = None) -> str:
    """Return a difference of shares as ``+1.2 points [+0.4, +2.0]``.

    More decimals are given where one would turn a number that is not zero into zero, so that an interval
    that excludes zero is never printed as one that touches it.
    """
    values = [100 * v for v in (mean, low, high) if v is not None]
    decimals = next((d for d in (1, 2, 3) if all(v == 0 or round(v, d) != 0 for v in values)), 4)

    def signed(value: float) -> str:
        return f"{100 * value:+.{decimals}f}" if value else f"{0:.{decimals}f}"

    if low is None or high is None:
        return f"{signed(mean)} points"
    return f"{signed(mean)} points [{signed(low)}, {signed(high)}]"


def seconds(value: float | None) -> str:
    """Return seconds with three figures: ``0.034``, ``1.23``, ``12.3``, ``123``."""
    if value is None:
        return ABSENT
    decimals = 3 if value < 0.9995 else 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f}"


def milliseconds(value_s: float | None) -> str:
    """Return seconds as milliseconds: ``38.5``."""
    return ABSENT if value_s is None else f"{1000 * value_s:.1f}"


def number(value: float | None, decimals: int = 2) -> str:
    """Return a plain number."""
    return ABSENT if value is None else f"{value:.{decimals}f}"


def best_name(best: Row, tuned: bool) -> str:
    """Return how the best heuristic of a load is introduced, in words."""
    if best["beforehand"] and tuned:
        return f"the best tuned composite, `{best['policy']}`,"
    if best["beforehand"]:
        return f"the heuristic chosen beforehand, `{best['policy']}`,"
    if best["candidates"] == 1:
        return f"the only heuristic, `{best['policy']}`,"
    return f"the best of the {best['candidates']} heuristics, `{best['policy']}`,"


def headline_agent(result: EvaluationResult) -> Row | None:
    """Return the summary row of the agent that the headline is about, or None without agents.

    The unprivileged agent of highest attainment at the headline load; a privileged one only where there
    is no other.
    """
    ranked = result.ranking(result.headline_load)
    for wanted in (False, True):
        for row in ranked:
            policy = result.policy(row["policy"])
            if policy["kind"] == "agent" and policy["privileged"] is wanted:
                return row
    return None


def unused(result: EvaluationResult) -> list[str]:
    """Return what is shipped for the scenario and was not used, a sentence each, to be read before anything else."""
    return list(result.provenance.get("unused", []))


def headline(result: EvaluationResult) -> str:
    """Return what the evaluation shows, in one or two sentences; policy names stand in backquotes."""
    load = result.headline_load
    best = result.best_at(load)
    agent = headline_agent(result)
    if agent is None:
        return _headline_of_heuristics(result, best)
    top = result.summary_of(best["policy"], load)
    difference = result.difference(agent["policy"], load, "best")
    of_many = f" (the best of {len(result.agents)} agents)" if len(result.agents) > 1 else ""
    sees = ", which sees true output lengths," if result.policy(agent["policy"])["privileged"] else ""
    verdict = _verdict(difference, "the agent", _unit(result))
    text = (
        f"Agent `{agent['policy']}`{of_many}{sees} attains {_attains(agent)} of the offered requests at load {load:g}, "
        f"{best_name(best, bool(result.tuning))} {_attains(top)}; {verdict[0].lower()}{verdict[1:]}"
    )
    return text + _by_tokens(result, agent["policy"], difference) + _over_runs(result, agent["policy"])


def _headline_of_heuristics(result: EvaluationResult, best: Row) -> str:
    load = result.headline_load
    top = result.summary_of(best["policy"], load)
    if best["policy"] == result.reference:
        others = best["candidates"] - 1
        rest = ", and none of the others attained more on these episodes" if others and not best["beforehand"] else ""
        return (
            f"The reference, `{result.reference}`, attains {_attains(top)} of the offered requests at load "
            f"{load:g}"
            f"{rest}. No agent was evaluated."
        )
    reference = result.summary_of(result.reference, load)
    opening = best_name(best, bool(result.tuning))
    return (
        f"{opening[0].upper()}{opening[1:]} attains {_attains(top)} of the offered requests at load "
        f"{load:g}; the "
        f"reference, `{result.reference}`, attains {_attains(reference)}. "
        f"{_verdict(result.difference(best['policy'], load, 'reference'), 'the heuristic', _unit(result))} "
        "No agent was evaluated."
    )


def _attains(row: Row) -> str:
    return f"{percent(row['attainment'])} {percent_interval(row['attainment_low'], row['attainment_high'])}"


def _amount(difference: Row) -> str:
    return points(difference["mean"], difference["low"], difference["high"])


def _verdict(difference: Row, subject: str, unit: str) -> str:
    amount = _amount(difference)
    if difference["verdict"] == "unknown":
        return (
            f"The paired difference is {amount} on {_count(difference['blocks'], unit)} of traffic, too few for an "
            f"interval: it shows nothing about other {_plural(unit)}."
        )
    if difference["verdict"] == "undecided":
        return f"The paired difference is {amount}: no difference could be shown."
    comparison = "more" if difference["verdict"] == "higher" else "less"
    within = "" if unit == "day" else " on this stretch of traffic"
    return f"The paired difference is {amount}: {subject} attains {comparison}{within}."


def _unit(result: EvaluationResult) -> str:
    """Return what blocks of episodes are called: days, or blocks of a trace that is shorter than three."""
    held = result.provenance.get("coverage")
    return "day" if held is None or held["block_s"] == DAY_S else f"block of {held['block_s']:,.0f} s"


def _plural(unit: str) -> str:
    return unit.replace("day", "days").replace("block", "blocks")


def _count(count: int, unit: str) -> str:
    return f"a single {unit}" if count == 1 else f"{count} {_plural(unit)}"


def _over_runs(result: EvaluationResult, agent: str) -> str:
    """Say what the agent's algorithm attains over all its training seeds, where there are several."""
    for row in result.seeds:
        if row["load"] == result.headline_load and agent in row["members"] and len(row["members"]) > 1:
            amount = points(row["mean"], row["low"], row["high"])
            return (
                f" Over the {len(row['members'])} training runs of `{row['group']}` the interquartile mean is "
                f"{percent(row['iqm'])} {percent_interval(row['iqm_low'], row['iqm_high'])}, their mean paired "
                f"difference {amount}."
            )
    return ""


def _by_tokens(result: EvaluationResult, agent: str, difference: Row) -> str:
    """Say it when an agent gains in requests what it loses in tokens: it refuses the long ones."""
    by_tokens = result.difference(agent, result.headline_load, "best", "token_weighted_attainment")
    if difference["verdict"] != "higher" or by_tokens["verdict"] == "higher":
        return ""
    amount = points(by_tokens["mean"], by_tokens["low"], by_tokens["high"])
    if by_tokens["verdict"] == "lower":
        return f" Weighted by tokens it attains less ({amount}): it gains by preferring short requests."
    return f" Weighted by tokens no gain could be shown ({amount})."


def notes(result: EvaluationResult) -> list[str]:
    """Return what a reader has to know before believing the numbers."""
    row = result.ranking(result.headline_load)[0]
    blocks, episodes = row["blocks"], row["episodes"]
    held = result.provenance.get("coverage")
    found = [_note_on_intervals(blocks, episodes, _unit(result)), _note_on_best(result)]
    found += coverage_sentences(held) if held else []
    if result.agents:
        runs = [row for row in result.seeds if row["load"] == result.headline_load]
        if runs:
            counted = ", ".join(f"`{row['group']}` {len(row['members'])}" for row in runs)
            found.append(
                f"Training runs by algorithm: {counted}. Intervals of interquartile means cover what other training "
                "seeds would have given, those of differences what other traffic would have given; five runs are the "
                "least for a claim about an algorithm."
            )
        if len({name for row in runs for name in row["members"]}) < len(result.agents):
            found.append(
                "Each agent is one training run: intervals cover the traffic, not what another training seed would "
                "have given. Report 5 or more training seeds before claiming anything about an algorithm."
            )
        fixed = [p for p in result.policies if any(r["role"] == "fixed components" for r in p["roles"])]
        found.append(
            "What an agent leaves fixed can be most of its merit. The composites of the agents' fixed "
            "components "
            f"with trivial admission and routing are in the tables: {_listed(p['name'] for p in fixed)}."
        )
    hidden = [p["name"] for p in result.policies if p["privileged"]]
    if hidden:
        found.append(
            f"{_listed(hidden)} {'sees' if len(hidden) == 1 else 'see'} true output lengths, which no "
            "deployed policy "
            "can; they are shown as bounds and never count as the best heuristic."
        )
    found.append(_note_on_load(result))
    found.append(
        "Attainment is the share of offered requests that met both objectives, averaged over episodes; "
        "differences "
        "are taken episode by episode. By class and by prompt length it is pooled over all episodes."
    )
    found.append(
        "Latencies are over finished requests only, so a policy that refuses requests can look fast; the "
        "latency "
        "curves therefore count every offered request and level off at the share that finished."
    )
    if result.provenance.get("trace", {}).get("source") == "burstenv generator":
        found.append(
            "The traffic is generated, a stand-in with the statistics of BurstGPT; evaluate with a real "
            "trace before "
            "claiming anything about one."
        )
    return found


def _note_on_intervals(blocks: int, episodes: int, unit: str) -> str:
    if blocks < least_blocks():
        return (
            f"All {episodes} episodes are drawn from {_count(blocks, unit)}, so there are no intervals and no ranks: "
            f"with fewer than {least_blocks()} {_plural(unit)} nothing can be stated at 95 %, whatever the numbers, "
            f"for episodes of one {unit} are not independent. Evaluate more episodes, or a split with more "
            f"{_plural(unit)}."
        )
    text = (
        f"Intervals are at 95 % over blocks: {episodes} episodes from {blocks} {_plural(unit)}, each taken whole, for "
        f"episodes of one {unit} are not independent. Those of differences invert the exact test that gives p (sign "
        f"flips of {_plural(unit)}); those of attainment are percentile bootstraps."
    )
    if blocks < FEW_BLOCKS:
        text += f" With as few as {blocks} blocks the bootstraps tend to be too narrow."
    return text


def _note_on_best(result: EvaluationResult) -> str:
    best = result.best_at(result.headline_load)
    if best["beforehand"]:
        return f"The best heuristic, `{best['policy']}`, was chosen beforehand, not on these episodes."
    return (
        "At each load the best heuristic was picked on the very episodes it is judged on, which flatters "
        "heuristics a little; choose it beforehand on the validation split for an unbiased comparison. It "
        "is the "
        "best of those listed, and tuned only if they were."
    )


def _note_on_load(result: EvaluationResult) -> str:
    origin = result.provenance
    text = (
        f"Load 1 is {number(origin['capacity_per_s'])} requests/s, the capacity of the "
        f"{origin['capacity_split']} split "
        "(the rate at which join-shortest-queue with the scenario's first mode attains 90 %)."
    )
    if origin["capacity_split"] != result.split:
        text += f" The {result.split} split was not calibrated: this is a test of drift."
    return text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def summary_lines(result: EvaluationResult) -> list[str]:
    """Return the evaluation for a terminal: the headline, then a ranking for each load."""
    tuned = bool(result.tuning) and result.best_at(result.headline_load)["beforehand"]
    held = result.provenance.get("coverage")
    lines = [*unused(result), headline(result).replace("`", ""), *(coverage_sentences(held) if held else [])]
    width = max(len(row["policy"]) for row in result.summary)
    for load in dict.fromkeys(row["load"] for row in result.summary):
        lines += ["", f"load {load:g}"]
        for row in result.ranking(load):
            against = [
                f"vs {which} {_amount(result.difference(row['policy'], load, against))}"
                for which, against in (("tuned" if tuned else "best", "best"), ("reference", "reference"))
            ]
            lines.append(
                f"  {row['policy']:<{width}}  attains {_attains(row):<22}  by tokens "
                f"{percent(row['token_weighted_attainment']):>7}  rejects {percent(row['rejection_share']):>7}  "
                f"{'  '.join(against)}"
            )
    return lines
