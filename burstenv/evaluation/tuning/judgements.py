"""Judgements that policies exercise, and what is left to a policy without one of them.

The room between a default and the best tuned policy comes from judgement. A search without one of them says how much of
it that judgement makes: the same scenario, template, budget and episodes, with the rules and modes left out that
exercise it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies import named_mode

_BY_LOCALITY = frozenset({"session-affinity", "prefix-aware", "kv-router"})
_BLIND_TO_LOAD = frozenset({"random", "round-robin", "session-affinity"})
_BY_OBJECTIVES = frozenset({"predicted-deadline", "early-rejection", "tier-shedding"})


@dataclass(frozen=True)
class Judgement:
    """One judgement.

    Attributes:
        name: Its name.
        without: What a policy without it cannot do.
    """

    name: str
    without: str

    def leaves(self, component: str, name: str) -> bool:
        """Return whether a policy without it may use a rule or mode.

        Args:
            component: ``admission``, ``routing``, ``batching`` or ``flow``.
            name: Of the rule or mode.
        """
        if self.name == "locality":
            return component != "routing" or name not in _BY_LOCALITY
        if self.name == "balance":
            return component != "routing" or name in _BLIND_TO_LOAD
        if component == "flow":
            return name == "at-once"  # the others may put the more urgent first
        if component == "batching":
            mode = named_mode(name)
            by_class = mode.order == "fair" and mode.fair_by == "class"
            return not (by_class or mode.order in ("earliest-deadline", "priority") or mode.hopeless == "drop")
        return component != "admission" or name not in _BY_OBJECTIVES


JUDGEMENTS = {
    one.name: one
    for one in (
        Judgement("locality", "routes blind to cached prefixes and sessions"),
        Judgement("balance", "routes blind to load"),
        Judgement("classes", "knows no classes: neither objectives, deadlines nor priorities"),
    )
}


def judgement(name: str) -> Judgement:
    """Return a judgement by name.

    Raises:
        BurstenvError: On an unknown one, with the valid ones.
    """
    if name not in JUDGEMENTS:
        raise unknown_name("judgement", name, JUDGEMENTS)
    return JUDGEMENTS[name]


def modes_without(names: Sequence[str], without: str) -> list[str]:
    """Return the batching modes that a policy without a judgement may use.

    Raises:
        BurstenvError: If none is left.
    """
    left = [name for name in names if judgement(without).leaves("batching", name)]
    if not left:
        raise BurstenvError(f"no batching mode of this scenario is without {without}: {', '.join(names)}")
    return left
