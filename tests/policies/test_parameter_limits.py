"""Every parameter of every rule has limits, and they are kept wherever a policy's name is read."""

from __future__ import annotations

import math

import pytest

from burstenv.errors import BurstenvError
from burstenv.policies import named_mode, parse_lookahead, parse_rule
from burstenv.policies.admission_rules import ADMISSION_RULES
from burstenv.policies.batching import BATCHING_RULES, BatchingRule
from burstenv.policies.listing import Entry
from burstenv.policies.lookahead.policy import RULES as LOOKAHEAD_RULES
from burstenv.policies.migration import MIGRATION_RULES
from burstenv.policies.routing_rules import ROUTING_RULES
from burstenv.policies.rule import Parameter, Rule
from burstenv.policies.scaling import SCALING_RULES

RULES: dict[str, tuple[Rule, ...]] = {
    "admission": ADMISSION_RULES, "routing": ROUTING_RULES, "migration": MIGRATION_RULES, "scaling": SCALING_RULES,
}  # fmt: skip
KINDS: dict[str, tuple[Entry, ...]] = {**RULES, "batching": BATCHING_RULES, "lookahead": LOOKAHEAD_RULES}
EVERY = [
    (kind, rule, parameter)
    for kind, rules in KINDS.items()
    for rule in rules
    for parameter in rule.declared
    if not parameter.choices
]


def read(kind: str, rule: Entry, parameter: Parameter, text: str) -> float:
    """Read a policy's name with one parameter written; returns the value that was understood."""
    written = f"{rule.name}({parameter.name}={text})"
    if kind == "lookahead":
        return parse_lookahead(f"{written}:always/jsq/vllm").named[parameter.name]
    if isinstance(rule, BatchingRule):
        named_mode(written)
        return float(text)
    return parse_rule(written, f"{kind} rule", RULES[kind]).named[parameter.name]


@pytest.mark.parametrize(("kind", "rule", "parameter"), EVERY, ids=lambda v: getattr(v, "name", v))
def test_limits_are_kept(kind, rule, parameter):
    least, most = parameter.limits
    low, high, scale = parameter.range
    default = rule.parameters[parameter.name]
    assert -math.inf < least <= low <= high <= most < math.inf
    assert math.isnan(default) or least <= default <= most
    for value in {low, high} | ({least, most} if scale != "integer" or kind == "lookahead" else {least}):
        if kind == "batching" and parameter.name == "budget" and value < 256:
            continue  # fewer tokens than sequences is an error
        assert read(kind, rule, parameter, f"{value:g}") == float(f"{value:g}")
    beyond = [least - 1, least - 1e-6, most + 1, most * 1.001, -1e300, 1e300, "nan", "inf", "-inf", "", "1e", "0x10"]
    if parameter.whole or scale == "integer":
        beyond.append(low + 0.5)
    for value in beyond:
        with pytest.raises(
            BurstenvError, match=rf"parameter {parameter.name} of {rule.name} must be a (whole )?number"
        ):
            read(kind, rule, parameter, str(value))


def test_no_rule_takes_a_negative_limit():
    for kind, rule, parameter in EVERY:
        if kind == "migration":
            continue  # freeness is below 0 where the queue asks for more blocks than are free
        with pytest.raises(BurstenvError, match="must be a"):
            read(kind, rule, parameter, "-3")


@pytest.mark.parametrize("rule", SCALING_RULES, ids=lambda rule: rule.name)
def test_no_demand_is_divided_by_nothing(rule):
    """A scaling rule whose parameter could be 0 would ask for infinitely many replicas."""
    for parameter in rule.declared:
        if parameter.range.low > 0.0:
            with pytest.raises(BurstenvError, match=f"parameter {parameter.name} of {rule.name} must be a"):
                read("scaling", rule, parameter, "0")


def test_users_rules_keep_the_limits_of_their_ranges():
    from burstenv.policies.rule import declare

    free, near = declare("mine", {"any": 8, "cap": (8, 1, 64)})
    assert free.read("mine", "-5") == -5.0
    with pytest.raises(BurstenvError, match="parameter cap of mine must be a number from 0 to 64000, got '-5'"):
        near.read("mine", "-5")
