"""Which policies a report draws, and each one's colour: the same in every figure and table of a page."""

from __future__ import annotations

from burstenv.evaluation.result import EvaluationResult
from burstenv.pages.palette import SERIES

SHOWN = 6  # policies in a figure of lines; the tables hold them all
OTHER = "other"  # the look of the rest


def shown_policies(result: EvaluationResult) -> list[str]:
    """Return the policies in figures of lines: agents, best, reference, fixed parts, then the next best."""
    load = result.headline_load
    ranked = [row["policy"] for row in result.ranking(load)]
    first = [name for name in ranked if result.policy(name)["kind"] == "agent"][:3]
    first += [result.best_at(load)["policy"], result.reference]
    first += [name for name in ranked if result.policy(name)["roles"]]
    return list(dict.fromkeys([*first, *ranked]))[:SHOWN]


def looks(result: EvaluationResult) -> dict[str, str]:
    """Return the style class of each policy in figures of lines."""
    return {name: f"s{k}" for k, name in enumerate(shown_policies(result))}


def series_looks(result: EvaluationResult, names: list[str], members: dict[str, list[str]]) -> dict[str, str]:
    """Return style classes of training runs or groups of them: a policy's own, else one that no policy has.

    Args:
        result: The evaluation.
        names: The runs or groups.
        members: Policies of a group, by its name.
    """
    known = looks(result)
    found: dict[str, str] = {}
    free = [f"s{k}" for k in range(SERIES) if f"s{k}" not in known.values()] or [f"s{SERIES - 1}"]
    for name in names:
        own = next((known[policy] for policy in [name, *members.get(name, [])] if policy in known), None)
        taken = own is not None and own not in found.values()
        found[name] = own if taken and own is not None else free[len(found) % len(free)]
    return found
