"""The part of a scenario's trace used by its episodes, and the part never played, with counts."""

from __future__ import annotations

from typing import Any

from burstenv.envs.scenario import Scenario
from burstenv.workload import DAY_S, SPLITS


def coverage(scenario: Scenario) -> dict[str, Any]:
    """Return the contents and omissions of the splits, in plain values.

    Returns:
        ``requests`` and ``span_s`` of the trace, ``max_total_tokens``, ``block_s`` (a day, or the length of the blocks
        that a shorter trace is split into), and for each of ``splits``: ``blocks`` that episodes are drawn from, their
        ``requests``, ``dropped_oversize``, and ``ineligible_requests``, in days or blocks with too few requests.
    """
    samplers = {split: scenario.sampler(split).metadata for split in SPLITS}
    splits = {
        split: {
            "blocks": len(found["days"]),
            "requests": found["requests"] - found["ineligible_requests"],
            "dropped_oversize": found["dropped_oversize"],
            "ineligible_requests": found["ineligible_requests"],
        }
        for split, found in samplers.items()
    }
    return {
        "requests": len(scenario.trace),
        "span_s": scenario.trace.span_s,
        "max_total_tokens": scenario.longest_tokens,
        "block_s": samplers[SPLITS[0]]["block_s"],
        "splits": splits,
    }


def coverage_sentences(found: dict[str, Any]) -> list[str]:
    """Return the notes on :func:`coverage`: omitted requests, and blocks other than days."""
    sentences = []
    unit = "days" if found["block_s"] == DAY_S else "blocks"
    for key, why in (
        (
            "dropped_oversize",
            f"are longer than {found['max_total_tokens']:,} tokens, prompt and output, and not played",
        ),
        ("ineligible_requests", f"lie in {unit} with too few requests of a class to draw episodes from"),
    ):
        left_out = {split: held[key] for split, held in found["splits"].items()}
        count = sum(left_out.values())
        if count:
            by_split = ", ".join(f"{count:,} of {split}" for split, count in left_out.items())
            share = 100 * count / found["requests"]
            sentences.append(
                f"{count:,} of the trace's {found['requests']:,} requests ({share:.2g} %) {why}: {by_split}."
            )
    if found["block_s"] != DAY_S:
        parts = ", ".join(f"{held['blocks']} for {split}" for split, held in found["splits"].items())
        sentences.append(
            f"The trace spans {found['span_s']:,.0f} s, too short for a split by days: its splits are blocks of "
            f"{found['block_s']:,.0f} s ({parts}). Such blocks share the hour they lie in, so intervals over them are "
            "too narrow for any claim about other hours or days."
        )
    return sentences
