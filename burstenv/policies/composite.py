"""Composites by name: ``admission/routing/batching``, such as ``queue-cap(limit=64)/lmetric/vllm``.

A health rule may stand beside the routing rule, which then chooses among the replicas that it leaves:
``always/jsq+outlier-ejection(factor=3)/vllm``. Further parts say by which rule requests migrate, such as
``always/freeness/vllm/llumnix(low=5)``; by which rule the number of replicas changes, such as
``always/jsq/vllm/kpa(target=20)``; by which rule prefilled requests are placed, such as
``always/lmetric/vllm/dynamo(queue=8)``; by which rule replicas fine-tune in the slack, such as
``always/jsq/vllm/dcb(bound=0.5)``; and in which order requests leave the gateway's queue, such as
``always/jsq/vllm/vtc-queue(in_flight=32)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from burstenv.cluster import Cluster
from burstenv.engine.background_rule import BackgroundRule
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.background import BACKGROUND_RULES, background_rule
from burstenv.policies.batching import batching_rule, canonical_mode
from burstenv.policies.flow import FLOW_RULES
from burstenv.policies.health_rules import ANY, HEALTH_RULES, HEDGE, RETRY
from burstenv.policies.known_load import BOTH, LOG
from burstenv.policies.migration import MIGRATION_RULES
from burstenv.policies.placement import PLACEMENT_RULES
from burstenv.policies.records import POLICY
from burstenv.policies.registry import admission_rules, routing_rules
from burstenv.policies.rule import SOURCE, Rule, by_name
from burstenv.policies.scaling import SCALING_RULES

_HEALTH = re.compile(r"\+(?![^()]*\))")  # the plus between a routing rule and the health rule beside it
_PART = re.compile(r"^(?P<name>[a-z0-9-]+)(?:\((?P<parameters>[^()]*)\))?$")


@dataclass(frozen=True)
class RuleChoice:
    """One rule with all its parameters."""

    rule: Rule
    parameters: tuple[float, ...]

    @property
    def named(self) -> dict[str, float]:
        """The parameters by name."""
        return dict(zip(self.rule.parameters, self.parameters, strict=True))

    @property
    def source(self) -> int:
        """The source of its knowledge of load, see ``known_load.py``; 0 for a rule that reads none."""
        return int(self.named.get(SOURCE.name, SOURCE.default))

    @property
    def numbers(self) -> tuple[float, ...]:
        """The parameters of the compiled record: all but the source, which is the last."""
        return self.parameters[:-1] if self.rule.declared[-1:] == (SOURCE,) else self.parameters

    def __str__(self) -> str:
        return self.rule.written(self.parameters)


def parse_rule(text: str, kind: str, rules: tuple[Rule, ...]) -> RuleChoice:
    """Read one rule, such as ``queue-cap(limit=64)``.

    Args:
        text: The user's text.
        kind: Such as ``"admission rule"``, for the error message.
        rules: The valid rules.

    Raises:
        BurstenvError: On an unknown rule or parameter, or a value outside its limits.
    """
    match = _PART.match(text.strip())
    known = by_name(rules)
    if match is None or match["name"] not in known:
        raise unknown_name(kind, match["name"] if match else text, known)
    rule = known[match["name"]]
    return RuleChoice(rule, parse_parameters(rule, match["parameters"]))


def parse_parameters(rule: Rule, text: str | None) -> tuple[float, ...]:
    """Read ``limit=64,slack=2``; missing parameters have their defaults.

    Raises:
        BurstenvError: On an unknown parameter, or a value outside its limits.
    """
    values, declared = dict(rule.parameters), {parameter.name: parameter for parameter in rule.declared}
    for pair in filter(None, (p.strip() for p in (text or "").split(","))):
        name, _, value = (part.strip() for part in pair.partition("="))
        if name not in values:
            raise unknown_name(f"parameter of {rule.name}", name, values)
        values[name] = declared[name].read(rule.name, value)
    return tuple(values.values())


@dataclass(frozen=True)
class Composite:
    """A hand-written policy: rules for admission and routing, a batching mode, perhaps rules for what else there is."""

    admission: RuleChoice
    routing: RuleChoice
    batching: str
    migration: RuleChoice | None = None  # None: as the scenario says
    scaling: RuleChoice | None = None  # likewise
    placement: RuleChoice | None = None  # of prefilled requests, likewise
    background: RuleChoice | None = None  # likewise
    flow: RuleChoice | None = None  # of the gateway's queue, likewise
    health: RuleChoice | None = None  # None: every replica that takes requests is a choice

    @property
    def name(self) -> str:
        """The name that parses back to this policy."""
        further = (getattr(self, kind) for kind in FURTHER_PARTS)
        parts = self.admission, self.routed, self.batching, *further
        return "/".join(str(part) for part in parts if part is not None)

    @property
    def routed(self) -> str:
        """The routing rule, with the health rule beside it."""
        return str(self.routing) if self.health is None else f"{self.routing}+{self.health}"

    @property
    def compiled(self) -> bool:
        """Whether compiled code runs all of it: no rule is in Python."""
        return self.admission.rule.function is None and self.routing.rule.function is None

    @property
    def oracle(self) -> bool:
        """Whether a part of it uses true output lengths or hidden faults, or knows the future."""
        mode = batching_rule(self.batching)
        rules = self.admission, self.routing, self.scaling, self.health
        return any(choice is not None and choice.rule.oracle for choice in rules) or (mode is not None and mode.oracle)

    @property
    def floor(self) -> bool:
        """Whether a part of it is bad on purpose."""
        mode = batching_rule(self.batching)
        rules = self.admission, self.routing, self.background
        return any(choice is not None and choice.rule.floor for choice in rules) or (mode is not None and mode.floor)

    @property
    def reads_log(self) -> bool:
        """Whether a rule reads the gateway's log, or is asked to."""
        choices = [choice for choice in (self.admission, self.routing, self.health) if choice is not None]
        return any(choice.rule.needs_log or choice.source in (LOG, BOTH) for choice in choices)

    def prepare(self, cluster: Cluster) -> None:
        """Prepare a cluster to be acted on: make room for the second copies of requests, if a rule sends them.

        Raises:
            BurstenvError: If a rule reads a log that decisions do not see, or sends requests again where replicas serve
                for ever or a second copy cannot be.
        """
        if self.reads_log:
            cluster.check_log(f"policy {self.name}")
        if self.health is not None and self.health.rule.code == RETRY:
            cluster.check_faults(f"policy {self.name}: {self.health}")
        if self.health is not None and self.health.rule.code == HEDGE:
            cluster.hold_copies(f"policy {self.name}: {self.health}")

    @property
    def modes(self) -> tuple[str, ...]:
        """The batching modes it names."""
        return (self.batching,)

    def check(self, mode_names: Sequence[str]) -> None:
        """Raise the error of :meth:`record` if the scenario lacks the batching mode."""
        self.compiled_part(mode_names)

    def record(self, mode_names: Sequence[str]) -> np.ndarray:
        """Return the policy's record for the kernel, (1,) POLICY.

        Args:
            mode_names: The batching modes of the scenario, in its order.

        Raises:
            BurstenvError: If the scenario has no such mode, or a rule is in Python.
        """
        for rule in (self.admission.rule, self.routing.rule):
            if rule.function is not None:
                raise BurstenvError(
                    f"rule {rule.name} is written in Python: it runs in evaluate, simulate and env.policy_action, "
                    f"but not inside the compiled step of an environment"
                )
        return self.compiled_part(mode_names)

    def compiled_part(self, mode_names: Sequence[str]) -> np.ndarray:
        """Return :meth:`record` for the compiled rules; the fields of a rule in Python stay empty."""
        if self.batching not in mode_names:
            raise unknown_name("batching mode of this scenario", self.batching, mode_names)
        record = np.zeros(1, POLICY)
        record["admission"] = max(0, self.admission.rule.code)
        record["routing"] = max(0, self.routing.rule.code)
        record["mode"] = list(mode_names).index(self.batching)
        record["sees_cache"] = self.admission.rule.sees_cache or self.routing.rule.sees_cache
        for component, choice in (("admission", self.admission), ("routing", self.routing)):
            if choice.rule.function is None:
                record[f"{component}_source"] = choice.source
                numbers = choice.numbers
                record[f"{component}_parameters"][0, : len(numbers)] = numbers
        if self.health is not None:
            record["health"] = self.health.rule.code
            record["health_parameters"][0, : len(self.health.parameters)] = self.health.parameters
        return record


def parts_of_routing(text: str) -> tuple[str, str | None]:
    """Return the texts of a routing rule and of the health rule beside it; None: there is none."""
    routing, *watched = _HEALTH.split(text, maxsplit=1)
    return routing.strip(), watched[0] if watched else None


def composite_of(admission: str, routing: str, batching: str) -> Composite:
    """Return the composite of three parts that are given one by one.

    Raises:
        BurstenvError: If a rule is unknown; :meth:`Composite.check` does for the mode.
    """
    routing, watched = parts_of_routing(routing)
    return Composite(
        admission=parse_rule(admission, "admission rule", admission_rules()),
        routing=parse_rule(routing, "routing rule", routing_rules()),
        batching=canonical_mode(batching),
        health=None if watched is None else _health_rule(watched),
    )


def with_health(text: str, health: str) -> str:
    """Return a composite's name with a health rule beside its routing rule, in place of the one that it has.

    Raises:
        BurstenvError: If the policy is no composite, or the rule is unknown.
    """
    if "/" not in text or ":" in text:
        raise BurstenvError(f"policy {text} has no routing rule for a health rule to stand beside; leave out {health}")
    return replace(parse_composite(text), health=_health_rule(health)).name


def _health_rule(text: str) -> RuleChoice | None:
    """Read a health rule; None for ``any``."""
    choice = parse_rule(text, "health rule", HEALTH_RULES)
    return None if choice.rule.code == ANY else choice


FURTHER_PARTS = {
    "migration": MIGRATION_RULES, "scaling": SCALING_RULES, "placement": PLACEMENT_RULES,
    "background": BACKGROUND_RULES,
    "flow": FLOW_RULES,
}  # fmt: skip
_FURTHER_RULES = tuple(rule for rules in FURTHER_PARTS.values() for rule in rules)


def parse_composite(text: str) -> Composite:
    """Read ``admission/routing/batching``, perhaps with further parts: rules of ``FURTHER_PARTS``.

    Raises:
        BurstenvError: If a part is missing, unknown or there twice.
    """
    parts = text.split("/")
    if len(parts) < 3:
        raise BurstenvError(
            f"policy {text!r} needs three parts, admission/routing/batching, such as always/lmetric/vllm, "
            f"and may have further ones: a migration, scaling, placement, background or flow rule"
        )
    further: dict[str, RuleChoice] = {}
    for part in parts[3:]:
        choice = parse_rule(part, "migration, scaling, placement, background or flow rule", _FURTHER_RULES)
        kind = next(kind for kind, rules in FURTHER_PARTS.items() if choice.rule in rules)
        if kind in further:
            raise BurstenvError(f"policy {text!r} has two {kind} rules: {further[kind]} and {choice}; leave one out")
        further[kind] = choice
    return replace(composite_of(*parts[:3]), **further)  # type: ignore[arg-type]  # all are RuleChoice fields


def named_background_rule(name: str) -> BackgroundRule:
    """Return what the engine acts by under a rule as a user writes it, such as ``dcb(bound=0.5)``."""
    tuner = parse_rule(name, "background rule", BACKGROUND_RULES)
    return background_rule(tuner.rule.code, tuner.named)
