"""Every rule and policy by name: the shipped ones, and those that users register."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from burstenv.errors import BurstenvError
from burstenv.policies.admission_rules import ADMISSION_RULES
from burstenv.policies.routing_rules import ROUTING_RULES
from burstenv.policies.rule import Rule

if TYPE_CHECKING:
    from burstenv.policies.python_policy import PythonPolicy

_NAME = re.compile(r"^[a-z0-9]+(-[a-z0-9]+)*$")
_SHIPPED = {"admission": ADMISSION_RULES, "routing": ROUTING_RULES}
_users: dict[str, dict[str, Rule]] = {"admission": {}, "routing": {}}
_policies: dict[str, PythonPolicy] = {}


def admission_rules() -> tuple[Rule, ...]:
    """Return all admission rules, the shipped ones first."""
    return (*ADMISSION_RULES, *_users["admission"].values())


def routing_rules() -> tuple[Rule, ...]:
    """Return all routing rules, the shipped ones first."""
    return (*ROUTING_RULES, *_users["routing"].values())


def python_policies() -> dict[str, PythonPolicy]:
    """Return the registered whole policies by name."""
    return dict(_policies)


def register_rule(component: str, rule: Rule) -> None:
    """Register a user's rule; the same function of the same file may be registered again, changed or not.

    Args:
        component: ``admission`` or ``routing``.
        rule: The rule.

    Raises:
        BurstenvError: If the name is malformed or taken.
    """
    kind = f"{component} rule"
    _check_name(kind, rule)
    if any(rule.name == shipped.name for shipped in _SHIPPED[component]):
        raise BurstenvError(f"{_place(rule)}: {kind} {rule.name!r} is a shipped one; choose another name")
    _check_free(kind, rule, _users[component].get(rule.name))
    _users[component][rule.name] = rule


def register_policy(policy: PythonPolicy) -> None:
    """Register a user's whole policy; errors as :func:`register_rule`."""
    _check_name("policy", policy.rule)
    known = _policies.get(policy.rule.name)
    _check_free("policy", policy.rule, None if known is None else known.rule)
    _policies[policy.rule.name] = policy


def _place(rule: Rule) -> str:
    assert rule.function is not None
    return f"{rule.function.__code__.co_filename}, line {rule.function.__code__.co_firstlineno}"


def _check_name(kind: str, rule: Rule) -> None:
    if not _NAME.match(rule.name):
        raise BurstenvError(
            f"{_place(rule)}: {kind} name {rule.name!r} must be small letters, digits and hyphens, such as my-rule"
        )


def _check_free(kind: str, rule: Rule, known: Rule | None) -> None:
    if known is None:
        return
    assert rule.function is not None
    assert known.function is not None
    mine, theirs = rule.function, known.function
    same = (mine.__code__.co_filename, mine.__qualname__) == (theirs.__code__.co_filename, theirs.__qualname__)
    if not same:
        raise BurstenvError(f"{_place(rule)}: {kind} {rule.name!r} is registered already, at {_place(known)}")
