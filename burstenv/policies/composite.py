"""Composites by name: ``admission/routing/batching``, such as ``queue-cap(limit=64)/lmetric/vllm``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.admission import ADMISSION_RULES
from burstenv.policies.routing import ROUTING_RULES
from burstenv.policies.rule import Rule, by_name
from burstenv.policies.state import POLICY

_PART = re.compile(r"^(?P<name>[a-z0-9-]+)(?:\((?P<parameters>[^()]*)\))?$")


@dataclass(frozen=True)
class RuleChoice:
    """One rule with all its parameters."""

    rule: Rule
    parameters: tuple[float, ...]

    def __str__(self) -> str:
        changed = [
            f"{name}={repr(value).removesuffix('.0')}"
            for (name, default), value in zip(self.rule.parameters.items(), self.parameters, strict=True)
            if value != default
        ]
        return self.rule.name + (f"({','.join(changed)})" if changed else "")


def parse_rule(text: str, kind: str, rules: tuple[Rule, ...]) -> RuleChoice:
    """Read one rule, such as ``queue-cap(limit=64)``.

    Args:
        text: What the user wrote.
        kind: ``"admission rule"`` or ``"routing rule"``, for the error message.
        rules: The valid rules.

    Raises:
        BurstenvError: On an unknown rule or parameter, or a value that is not a finite number.
    """
    match = _PART.match(text.strip())
    known = by_name(rules)
    if match is None or match["name"] not in known:
        raise unknown_name(kind, match["name"] if match else text, known)
    rule = known[match["name"]]
    values = dict(rule.parameters)
    for pair in filter(None, (p.strip() for p in (match["parameters"] or "").split(","))):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name not in values:
            raise unknown_name(f"parameter of {rule.name}", name, values)
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = float("nan")
        if not np.isfinite(values[name]):
            raise BurstenvError(f"parameter {name} of {rule.name} must be a finite number, got {value!r}")
    return RuleChoice(rule, tuple(values.values()))


@dataclass(frozen=True)
class Composite:
    """A hand-written policy: an admission rule, a routing rule and a batching mode."""

    admission: RuleChoice
    routing: RuleChoice
    batching: str

    @property
    def name(self) -> str:
        """The name that parses back to this policy."""
        return f"{self.admission}/{self.routing}/{self.batching}"

    def record(self, mode_names: Sequence[str]) -> np.ndarray:
        """Return the policy as the kernel takes it, (1,) POLICY.

        Args:
            mode_names: The batching modes of the scenario, in its order.

        Raises:
            BurstenvError: When the scenario has no such mode.
        """
        if self.batching not in mode_names:
            raise unknown_name("batching mode of this scenario", self.batching, mode_names)
        record = np.zeros(1, POLICY)
        record["admission"] = self.admission.rule.code
        record["routing"] = self.routing.rule.code
        record["mode"] = list(mode_names).index(self.batching)
        record["sees_cache"] = self.admission.rule.sees_cache or self.routing.rule.sees_cache
        record["admission_parameters"][0, : len(self.admission.parameters)] = self.admission.parameters
        record["routing_parameters"][0, : len(self.routing.parameters)] = self.routing.parameters
        return record


def parse_composite(text: str) -> Composite:
    """Read ``admission/routing/batching``.

    Raises:
        BurstenvError: When there are not three parts, or one of them is unknown.
    """
    parts = text.split("/")
    if len(parts) != 3:
        raise BurstenvError(
            f"policy {text!r} needs three parts, admission/routing/batching, such as always/lmetric/vllm"
        )
    return Composite(
        admission=parse_rule(parts[0], "admission rule", ADMISSION_RULES),
        routing=parse_rule(parts[1], "routing rule", ROUTING_RULES),
        batching=parts[2].strip(),
    )
