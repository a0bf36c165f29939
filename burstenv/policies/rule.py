"""What every rule of the ladder declares: its name, parameters with defaults, and where it comes from."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rule:
    """One heuristic for one component of a decision.

    Attributes:
        code: The number by which the kernel knows it.
        name: The name users write.
        summary: What it does, in one line.
        source: Paper, system or document that defines it; how our setting differs.
        parameters: Names, in the kernel's order, with defaults.
        sees_cache: Whether it looks at KV use or context, which change at every iteration, and not just at queues.
    """

    code: int
    name: str
    summary: str
    source: str
    parameters: dict[str, float] = field(default_factory=dict)
    sees_cache: bool = False


def by_name(rules: tuple[Rule, ...]) -> dict[str, Rule]:
    """Return rules by name."""
    return {rule.name: rule for rule in rules}
