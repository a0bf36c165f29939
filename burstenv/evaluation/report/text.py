"""The text of a report: numbers in their units, the headline, and the notes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from burstenv.arguments import checked
from burstenv.envs.worth import WorthConfig
from burstenv.evaluation.coverage import coverage_sentences
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.evaluation.statistics.sign_flips import least_blocks
from burstenv.workload import DAY_S

ABSENT = "-"
FEW_BLOCKS = 10  # below it, percentile intervals by blocks are too narrow


def shortened(name: str, most: int) -> str:
    """Return a policy's name in at most ``most`` characters.

    Composites first lose the names of parameters, ``size-aware-kv(1.2, 0.3, 0.6)/...``, because their ends tell them
    apart, and then the excess in the middle.
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

    It has more decimals if one decimal would turn a nonzero number into zero: an interval that excludes zero is never
    printed as one that touches it.
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


def beside(row: Row) -> str:
    """Return attainment and token-weighted attainment, which stand beside a score, as ``71.3, 60.4 %``."""
    return f"{100 * row['attainment']:.1f}, {percent(row['token_weighted_attainment'])}"


def best_name(best: Row, tuned: bool) -> str:
    """Return the name of the best heuristic of a load with its introduction."""
    if best["beforehand"] and tuned:
        return f"the best tuned composite, `{best['policy']}`,"
    if best["beforehand"]:
        return f"the heuristic chosen beforehand, `{best['policy']}`,"
    if best["candidates"] == 1:
        return f"the only heuristic, `{best['policy']}`,"
    return f"the best of the {best['candidates']} heuristics, `{best['policy']}`,"


def headline_agent(result: EvaluationResult) -> Row | None:
    """Return the summary row of the headline's agent, or None without agents.

    The unprivileged agent of the highest score at the headline load; a privileged one only if there is no other.
    """
    ranked = result.ranking(result.headline_load)
    for wanted in (False, True):
        for row in ranked:
            policy = result.policy(row["policy"])
            if policy["kind"] == "agent" and policy["privileged"] is wanted:
                return row
    return None


def unused(result: EvaluationResult) -> list[str]:
    """Return a warning for each shipped file of the scenario that was not used."""
    return list(result.provenance.get("unused", []))


def on_trace(result: EvaluationResult) -> str:
    """Return `` on trace NAME`` where another trace than the scenario's own was given, else nothing."""
    given = result.provenance.get("trace_given")
    return f" on trace {given}" if given else ""


@checked()
def headline(result: EvaluationResult) -> str:
    """Return the result of the evaluation, in one or two sentences; policy names are in backquotes."""
    load = result.headline_load
    best = result.best_at(load)
    agent = headline_agent(result)
    if agent is None:
        return _headline_of_heuristics(result, best)
    top = result.summary_of(best["policy"], load)
    difference = result.difference(agent["policy"], load, "best")
    of_many = f" (the best of {len(result.agents)} agents)" if len(result.agents) > 1 else ""
    sees = ", which sees true output lengths," if result.policy(agent["policy"])["privileged"] else ""
    other = best_name(best, bool(result.tuning))
    text = (
        f"By worth, agent `{agent['policy']}`{of_many}{sees} differs by {_amount(difference)} from {other}"
        f"{on_trace(result)} at load {load:g}{_verdict(difference, 'the agent', _unit(result))} Their "
        f"scores are {_scores(agent)} and {_scores(top)}. {_beside(result, agent['policy'], 'best')}"
    )
    return text + _by_tokens(result, agent["policy"], difference) + _over_runs(result, agent["policy"])


def _headline_of_heuristics(result: EvaluationResult, best: Row) -> str:
    load = result.headline_load
    top = result.summary_of(best["policy"], load)
    if best["policy"] == result.reference:
        others = best["candidates"] - 1
        rest = ", the highest of all heuristics on these episodes" if others and not best["beforehand"] else ""
        return (
            f"The reference, `{result.reference}`, scores {_scores(top)}{on_trace(result)} at load {load:g}{rest}; "
            f"{_shares(top)}. No agent was evaluated."
        )
    reference = result.summary_of(result.reference, load)
    opening = best_name(best, bool(result.tuning))
    difference = result.difference(best["policy"], load, "reference")
    return (
        f"By worth, {opening} differs by {_amount(difference)} from the reference, `{result.reference}`,"
        f"{on_trace(result)} at load {load:g}{_verdict(difference, 'the heuristic', _unit(result))} Their "
        f"scores are {_scores(top)} and {_scores(reference)}. {_beside(result, best['policy'], 'reference')} "
        "No agent was evaluated."
    )


def _scores(row: Row) -> str:
    return f"{percent(row['score'])} {percent_interval(row['score_low'], row['score_high'])}"


def _fallback(row: Row) -> str:
    """Return how often the rules of an ensemble decided; nothing for other policies."""
    return f"  falls back {percent(row['fallback_share'])}" if "fallback_share" in row else ""


def _trained(row: Row) -> str:
    """Return what a policy trained in the slack, where replicas fine-tune."""
    if row.get("background_tokens_per_s") is None:
        return ""
    return f"net {percent(row['net']):>7}  trained {row['background_tokens_per_s']:>8,.0f} tokens/s  "


def _shares(row: Row) -> str:
    return (
        f"attainment {percent(row['attainment'])}, token-weighted attainment "
        f"{percent(row['token_weighted_attainment'])}"
    )


def _beside(result: EvaluationResult, policy: str, against: str) -> str:
    """Return the differences by count and by tokens, which stand beside that by worth."""
    by_count, by_tokens = (
        _amount(result.difference(policy, result.headline_load, against, metric))
        for metric in ("attainment", "token_weighted_attainment")
    )
    return f"In attainment the difference is {by_count}, in token-weighted attainment {by_tokens}."


def _amount(difference: Row) -> str:
    return points(difference["mean"], difference["low"], difference["high"])


def _verdict(difference: Row, subject: str, unit: str) -> str:
    """Return the end of a sentence that states a difference."""
    if difference["verdict"] == "unknown":
        return (
            f" on {_count(difference['blocks'], unit)} of traffic, too few for an interval: it says nothing about "
            f"other {_plural(unit)}."
        )
    if difference["verdict"] == "undecided":
        return ": not significant."
    comparison = "better" if difference["verdict"] == "higher" else "worse"
    within = "" if unit == "day" else " on this part of the traffic"
    return f": {subject} is {comparison}{within}."


def _unit(result: EvaluationResult) -> str:
    """Return the name of a block of episodes: day, or block of a trace shorter than three days."""
    held = result.provenance.get("coverage")
    return "day" if held is None or held["block_s"] == DAY_S else f"block of {held['block_s']:,.0f} s"


def _plural(unit: str) -> str:
    return unit.replace("day", "days").replace("block", "blocks")


def _count(count: int, unit: str) -> str:
    return f"a single {unit}" if count == 1 else f"{count} {_plural(unit)}"


def _over_runs(result: EvaluationResult, agent: str) -> str:
    """Return the score of the agent's algorithm over its training seeds, if there are several."""
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
    """Return a warning if an agent gains by worth but not by tokens: it rejects long requests."""
    by_tokens = result.difference(agent, result.headline_load, "best", "token_weighted_attainment")
    if difference["verdict"] != "higher" or by_tokens["verdict"] == "higher":
        return ""
    if by_tokens["verdict"] == "lower":
        return " Weighted by tokens it is worse: it gains by preferring short requests."
    return " Weighted by tokens the gain is not significant."


def notes(result: EvaluationResult) -> list[str]:
    """Return the notes on the numbers."""
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
                f"Training runs by algorithm: {counted}. Intervals of interquartile means cover other training "
                "seeds, those of differences cover other traffic; a claim about an algorithm needs at least five "
                "runs."
            )
        if len({name for row in runs for name in row["members"]}) < len(result.agents):
            found.append(
                "Each agent is one training run: intervals cover the traffic, not other training seeds. "
                "A claim about an algorithm needs 5 or more training seeds."
            )
        fixed = [p for p in result.policies if any(r["role"] == "fixed components" for r in p["roles"])]
        found.append(
            "An agent's fixed components can be most of its merit. The composites of the agents' fixed components "
            f"with trivial admission and routing are in the tables: {_listed(p['name'] for p in fixed)}."
        )
    hidden = [p["name"] for p in result.policies if p["privileged"]]
    if hidden:
        found.append(
            f"{_listed(hidden)} {'sees' if len(hidden) == 1 else 'see'} true output lengths, unlike "
            "any deployed policy; they are bounds and never count as the best heuristic."
        )
    found.append(_note_on_load(result))
    found.append(
        "Attainment is the share of offered requests that met both objectives, averaged over episodes; the score is "
        f"the same share of their worth ({_worth(result)}; mean 1 in each episode). Differences are paired by episode. "
        "By class and by prompt length attainment is pooled over all episodes."
    )
    found.append(
        "Latencies cover finished requests only, so a policy that rejects requests can look fast; the latency "
        "curves therefore count every offered request and level off at the finished share."
    )
    if result.provenance.get("trace", {}).get("source") == "burstenv generator":
        found.append(
            "The traffic is generated, with the statistics of BurstGPT; a claim about a real trace needs an "
            "evaluation on it."
        )
    return found


def _worth(result: EvaluationResult) -> str:
    return str(WorthConfig(**result.provenance["scenario"].get("worth", {"tokens": 0.0})))


def _note_on_intervals(blocks: int, episodes: int, unit: str) -> str:
    if blocks < least_blocks():
        return (
            f"All {episodes} episodes are drawn from {_count(blocks, unit)}, so there are no intervals and no ranks: "
            f"fewer than {least_blocks()} {_plural(unit)} allow no statement at 95 %, because episodes of one {unit} "
            f"are not independent. Evaluate more episodes, or a split with more "
            f"{_plural(unit)}."
        )
    text = (
        f"Intervals are at 95 % over blocks: {episodes} episodes from {blocks} whole {_plural(unit)}, because "
        f"episodes of one {unit} are not independent. Those of differences invert the exact test that gives p (sign "
        f"flips of {_plural(unit)}); those of scores are percentile bootstraps."
    )
    if blocks < FEW_BLOCKS:
        text += f" With as few as {blocks} blocks the bootstraps tend to be too narrow."
    return text


def _note_on_best(result: EvaluationResult) -> str:
    best = result.best_at(result.headline_load)
    if best["beforehand"]:
        return f"The best heuristic, `{best['policy']}`, was chosen beforehand, not on these episodes."
    return (
        "At each load the best heuristic was picked on the evaluated episodes themselves, which slightly favours "
        "heuristics; choose it beforehand on the validation split for an unbiased comparison. It is the best of "
        "those listed, and tuned only if they were."
    )


def _note_on_load(result: EvaluationResult) -> str:
    origin = result.provenance
    text = (
        f"Load 1 is {number(origin['capacity_per_s'])} requests/s, the capacity of the "
        f"{origin['capacity_split']} split "
        "(the rate at which join-shortest-queue with the scenario's first mode reaches 90 % attainment)."
    )
    if origin["capacity_split"] != result.split:
        text += f" The {result.split} split was not calibrated: this is a test of drift."
    return text


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


@checked()
def summary_lines(result: EvaluationResult) -> list[str]:
    """Return the evaluation for a terminal: the headline, then a ranking for each load."""
    tuned = bool(result.tuning) and result.best_at(result.headline_load)["beforehand"]
    held = result.provenance.get("coverage")
    lines = [*unused(result), headline(result).replace("`", ""), *(coverage_sentences(held) if held else [])]
    width = max(len(row["policy"]) for row in result.summary)
    for load in dict.fromkeys(row["load"] for row in result.summary):
        lines += ["", f"load {load:g}"]
        first = result.best_at(load)["policy"] if tuned else ""  # what the others are compared with
        for row in sorted(result.ranking(load), key=lambda row: row["policy"] != first):
            against = [
                f"vs {which} {_amount(result.difference(row['policy'], load, against))}"
                for which, against in (("tuned" if tuned else "best", "best"), ("reference", "reference"))
            ]
            lines.append(
                f"  {row['policy']:<{width}}  score {_scores(row):<22}  attainment {percent(row['attainment']):>7}  "
                f"by tokens {percent(row['token_weighted_attainment']):>7}  "
                f"{_trained(row)}rejects {percent(row['rejection_share']):>7}  {'  '.join(against)}{_fallback(row)}"
            )
    return lines
