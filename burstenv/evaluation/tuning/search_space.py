"""The search space of a tuner: a template, and the ranges declared by the rules of the ladder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.tuning.judgements import judgement, modes_without
from burstenv.policies import (
    Parameter,
    Range,
    Rule,
    RuleChoice,
    admission_rules,
    parse_composite,
    parse_rule,
    routing_rules,
)

ANYTHING = "*"
_STEP = 0.15  # of a parameter's range, by which a neighbour differs
_COMPONENTS = ("admission", "routing", "batching")


@dataclass(frozen=True)
class SearchSpace:
    """The policies of a template.

    Attributes:
        template: The user's text: ``admission/routing/batching``, ``*`` for any; ``all`` is ``*/*/*``.
        admission: Rules to choose from, each with its parameters in the template.
        routing: The same for routing.
        batching: Batching modes to choose from.
        log: Whether the scenario's gateway has its own log, which rules may then be tuned to read.
    """

    template: str
    admission: tuple[RuleChoice, ...]
    routing: tuple[RuleChoice, ...]
    batching: tuple[str, ...]
    log: bool = False

    @classmethod
    def of(cls, template: str, modes: Sequence[str], log: bool = False, without: str = "") -> SearchSpace:
        """Read a template.

        A ``*`` stands for every deployable rule that is not bad on purpose, or every batching mode.

        Args:
            template: The user's text.
            modes: Batching modes of the scenario.
            log: Whether its gateway has its own log.
            without: A judgement, one of ``judgements.JUDGEMENTS``, whose rules and modes ``*`` leaves out; empty: none.

        Raises:
            BurstenvError: If it does not have three parts, or one of them is unknown.
        """
        parts = [ANYTHING] * 3 if template == "all" else [part.strip() for part in template.split("/")]
        if len(parts) != 3:
            raise BurstenvError(
                f"template {template!r} needs three parts, admission/routing/batching, such as kv-threshold/*/edf-512, "
                "or all"
            )
        choices = []
        for part, kind, rules in zip(parts, _COMPONENTS, (admission_rules(), routing_rules()), strict=False):
            if part == ANYTHING:
                left = [rule for rule in rules if not (rule.oracle or rule.floor)]
                if without:
                    left = [rule for rule in left if judgement(without).leaves(kind, rule.name)]
                choices.append(tuple(_default(rule) for rule in left))
            else:
                choices.append((parse_rule(part, f"{kind} rule", rules),))
        if parts[2] != ANYTHING and parts[2] not in modes:
            raise unknown_name("batching mode of this scenario", parts[2], modes)
        batching: tuple[str, ...] = (parts[2],)
        if parts[2] == ANYTHING:
            batching = tuple(modes_without(modes, without) if without else modes)
        return cls(template, choices[0], choices[1], batching, log)

    @property
    def has_choice(self) -> bool:
        """Whether there are parameters or rules to search."""
        rules = (*self.admission, *self.routing)
        return len(rules) > 2 or len(self.batching) > 1 or any(self._searched(choice) for choice in rules)

    def _searched(self, choice: RuleChoice) -> list[Parameter]:
        """Return the parameters of a rule that a search varies."""
        return [p for p in choice.rule.declared if not p.choices or self.log]

    def suggest(self, trial: Any) -> str:
        """Return the policy of an Optuna trial."""
        parts = []
        for component in ("admission", "routing"):
            choices: tuple[RuleChoice, ...] = getattr(self, component)
            names = [choice.rule.name for choice in choices]
            name = names[0] if len(names) == 1 else trial.suggest_categorical(component, names)
            choice = choices[names.index(name)]
            values = {p.name: _suggested(trial, f"{name}.{p.name}", p) for p in self._searched(choice)}
            parts.append(_written(choice.rule, values))
        mode = self.batching[0]
        if len(self.batching) > 1:
            mode = trial.suggest_categorical("batching", list(self.batching))
        return parse_composite("/".join([*parts, mode])).name

    def first_guesses(self, policies: Sequence[str]) -> list[dict[str, Any]]:
        """Return the given composites that lie in this space, as values by the names of trials."""
        found = []
        for text in policies:
            composite = parse_composite(text)
            values: dict[str, Any] = {}
            inside = composite.batching in self.batching
            for component in ("admission", "routing"):
                choice: RuleChoice = getattr(composite, component)
                names = [known.rule.name for known in getattr(self, component)]
                inside = inside and choice.rule.name in names
                if len(names) > 1:
                    values[component] = choice.rule.name
                for p in self._searched(choice):
                    value, where = choice.named[p.name], p.range
                    inside = inside and where.low <= value <= where.high
                    key = f"{choice.rule.name}.{p.name}"
                    values[key] = int(value) if where.scale == "integer" else value
                    if p.choices:  # what the scenario would choose is the first of those that are tuned
                        values[key] = p.written(max(1.0, value))
            if len(self.batching) > 1:
                values["batching"] = composite.batching
            if inside:
                found.append(values)
        return found

    def neighbour(self, text: str, rng: np.random.Generator) -> dict[str, Any] | None:
        """Return a policy that differs from one of this space in a single choice, as values by the names of trials.

        The choice is another rule with its default parameters, another batching mode, or another value of a parameter
        near the present one. None if what is drawn lies outside the space.
        """
        composite = parse_composite(text)
        moves: list[tuple[str, Parameter | None]] = []
        for component, options in (
            ("admission", self.admission), ("routing", self.routing), ("batching", self.batching),
        ):  # fmt: skip
            if len(options) > 1:
                moves.append((component, None))
        for component in ("admission", "routing"):
            moves += [(component, parameter) for parameter in self._searched(getattr(composite, component))]
        if not moves:
            return None
        component, parameter = moves[int(rng.integers(len(moves)))]
        parts = {name: str(getattr(composite, name)) for name in _COMPONENTS}
        if parameter is not None:
            choice: RuleChoice = getattr(composite, component)
            values = {**choice.named, parameter.name: _near(parameter, choice.named[parameter.name], rng)}
            parts[component] = _written(choice.rule, values)
        else:
            others = [str(option) for option in getattr(self, component)]
            parts[component] = others[int(rng.integers(len(others)))]
        found = self.first_guesses(["/".join(parts.values())])
        return found[0] if found else None

    def grid(self, settings: int = 1) -> list[str]:
        """Return all combinations of rules and modes, each rule with its own and ``settings`` other settings.

        The other settings lie at equal steps of the ranges, in their scales, with all parameters of a rule moved
        together: two settings lie at a quarter and three quarters of the range.
        """
        admission = [text for choice in self.admission for text in _settings(choice, settings)]
        routing = [text for choice in self.routing for text in _settings(choice, settings)]
        return ["/".join(parts) for parts in product(admission, routing, self.batching)]


def _default(rule: Rule) -> RuleChoice:
    return RuleChoice(rule, tuple(rule.parameters.values()))


def _settings(choice: RuleChoice, settings: int) -> list[str]:
    found = [str(choice)]
    varied = [p for p in choice.rule.declared if not p.choices]
    if varied:
        for k in range(settings):
            at = (2 * k + 1) / (2 * settings)
            values = {p.name: _between(p.range, at) for p in varied}
            found.append(_written(choice.rule, values))
    return list(dict.fromkeys(found))


def _between(where: Range, share: float) -> float:
    if where.scale == "log":
        return _rounded(math.exp(math.log(where.low) + share * (math.log(where.high) - math.log(where.low))))
    value = where.low + share * (where.high - where.low)
    return float(round(value)) if where.scale == "integer" else _rounded(value)


def _near(parameter: Parameter, value: float, rng: np.random.Generator) -> float:
    """Draw a value near another one: normally, with a deviation of ``_STEP`` of the range in its scale."""
    where = parameter.range
    if parameter.choices:
        options = [parameter.choices.index(name) for name in parameter.tuned]
        return float(options[int(rng.integers(len(options)))])
    step = float(rng.normal(0.0, _STEP))
    if where.scale == "log":
        moved = math.log(max(value, where.low)) + step * (math.log(where.high) - math.log(where.low))
        moved = math.exp(moved)
    else:
        moved = value + step * (where.high - where.low)
    moved = min(where.high, max(where.low, moved))
    return float(round(moved)) if where.scale == "integer" else min(where.high, max(where.low, _rounded(moved)))


def _suggested(trial: Any, name: str, parameter: Parameter) -> float:
    where = parameter.range
    if parameter.choices:
        return float(parameter.choices.index(trial.suggest_categorical(name, list(parameter.tuned))))
    if where.scale == "integer":
        return float(trial.suggest_int(name, int(where.low), int(where.high)))
    return _rounded(trial.suggest_float(name, where.low, where.high, log=where.scale == "log"))


def _rounded(value: float) -> float:
    """Round to four figures, for names that are easy to copy."""
    return float(f"{value:.4g}")


def _written(rule: Rule, values: dict[str, float]) -> str:
    return str(RuleChoice(rule, tuple(values.get(name, default) for name, default in rule.parameters.items())))
