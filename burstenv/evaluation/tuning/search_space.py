"""The search space of a tuner: a template, and the ranges declared by the rules of the ladder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from burstenv.cluster.flow_config import AT_ONCE
from burstenv.cluster.migration import NO_MIGRATION
from burstenv.cluster.placement import FEWEST_REQUESTS
from burstenv.cluster.scaling.codes import NEED_RATE
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.errors import BurstenvError, unknown_name
from burstenv.evaluation.tuning.judgements import judgement, modes_without
from burstenv.policies import (
    Composite,
    Parameter,
    Range,
    Rule,
    RuleChoice,
    admission_rules,
    parse_composite,
    parse_rule,
    routing_rules,
)
from burstenv.policies.background import BACKGROUND_RULES, IDLE_ONLY
from burstenv.policies.composite import FURTHER_PARTS, parts_of_routing
from burstenv.policies.flow import FLOW_RULES
from burstenv.policies.health_rules import ANY, HEALTH_RULES, HEDGE
from burstenv.policies.migration import MIGRATION_RULES
from burstenv.policies.placement import PLACEMENT_RULES
from burstenv.policies.rule import SOURCE

ANYTHING = "*"
_STEP = 0.15  # of a parameter's range, by which a neighbour differs
_COMPONENTS = ("admission", "routing", "batching", *FURTHER_PARTS)  # in the order of a policy's name
_UNNAMED = {  # the rule of a part that a policy does not name
    kind: next(rule for rule in rules if rule.code == code)
    for kind, rules, code in (
        ("health", HEALTH_RULES, ANY),
        ("migration", MIGRATION_RULES, NO_MIGRATION),
        ("placement", PLACEMENT_RULES, FEWEST_REQUESTS),
        ("background", BACKGROUND_RULES, IDLE_ONLY),
        ("flow", FLOW_RULES, AT_ONCE),
    )
}


@dataclass(frozen=True)
class SearchSpace:
    """The policies of a template.

    Attributes:
        template: The user's text: ``admission/routing/batching``, ``*`` for any, with ``/migration``, ``/scaling``,
            ``/placement``, ``/background`` and ``/flow``, in this order, where the scenario has them; ``all`` is ``*``
            everywhere. A health rule may stand beside the routing rule: ``always/*+*/vllm``.
        admission: Rules to choose from, each with its parameters in the template.
        routing: The same for routing.
        batching: Batching modes to choose from.
        migration: Rules for migrations; none: the scenario's own decides.
        scaling: Likewise for the number of replicas.
        placement: Likewise for where prefilled requests decode.
        background: Likewise for when replicas fine-tune.
        flow: Likewise for the gateway's queue.
        health: Rules beside the routing rule; none: every replica is a choice.
        log: Whether the scenario's gateway has its own log, which rules may then be tuned to read.
        fixed: Components whose parameters stay as the template says.
    """

    template: str
    admission: tuple[RuleChoice, ...]
    routing: tuple[RuleChoice, ...]
    batching: tuple[str, ...]
    migration: tuple[RuleChoice, ...] = ()
    scaling: tuple[RuleChoice, ...] = ()
    placement: tuple[RuleChoice, ...] = ()
    background: tuple[RuleChoice, ...] = ()
    flow: tuple[RuleChoice, ...] = ()
    health: tuple[RuleChoice, ...] = ()
    log: bool = False
    fixed: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        template: str,
        modes: Sequence[str],
        log: bool = False,
        without: str = "",
        scaling: ScalingConfig | None = None,
        faults: bool = False,
        migrates: bool = False,
        hands_over: bool = False,
        background: bool = False,
        queues: bool = False,
    ) -> SearchSpace:
        """Read a template.

        A ``*`` stands for every deployable rule that is not bad on purpose, or every batching mode.

        Args:
            template: The user's text.
            modes: Batching modes of the scenario.
            log: Whether its gateway has its own log.
            without: A judgement, one of ``judgements.JUDGEMENTS``, whose rules and modes ``*`` leaves out; empty: none.
            scaling: That of the scenario; None: its replicas do not scale.
            faults: Whether its replicas fail: any routing rule then has any health rule beside it, given a log.
            migrates: Whether its requests migrate.
            hands_over: Whether its replicas have roles.
            background: Whether they have a fine-tuning job.
            queues: Whether requests may wait at its gateway.

        Raises:
            BurstenvError: If it has neither three parts nor all that the scenario has, or one of them is unknown.
        """
        there = {"migration": migrates, "scaling": scaling is not None, "placement": hands_over}
        there["background"] = background
        there["flow"] = queues
        further = [kind for kind, is_there in there.items() if is_there]
        count = 3 + len(further)
        parts = [ANYTHING] * count if template == "all" else [part.strip() for part in template.split("/")]
        if len(parts) != 3 and len(parts) != count:
            such = "/".join(FURTHER_PARTS[kind][1].name for kind in further)
            more = (
                f", perhaps followed by {'/'.join(further)}, such as kv-threshold/*/edf-512/{such}" if further else ""
            )
            raise BurstenvError(
                f"template {template!r} needs three parts, admission/routing/batching, such as kv-threshold/*/edf-512"
                f"{more}, or all"
            )
        routing, watched = parts_of_routing(parts[1])
        if watched is None and routing == ANYTHING and faults and log:
            watched = ANYTHING
        named = {"admission": parts[0], "routing": routing}
        named |= dict(zip(further, parts[3:], strict=False)) | ({} if watched is None else {"health": watched.strip()})
        choices: dict[str, tuple[RuleChoice, ...]] = {}
        for kind, part in named.items():
            rules = {
                "admission": admission_rules(), "routing": routing_rules(), "health": HEALTH_RULES, **FURTHER_PARTS,
            }[kind]  # fmt: skip
            if kind == "scaling" and scaling is not None and scaling.replica_per_s is None:
                rules = tuple(rule for rule in rules if rule.code not in NEED_RATE)
            if part == ANYTHING:
                left = [rule for rule in rules if not (rule.oracle or rule.floor or (rule.needs_log and not log))]
                if kind == "health" and (
                    migrates or hands_over or queues or background
                ):  # requests are on one replica there
                    left = [rule for rule in left if rule.code != HEDGE]
                if without:
                    left = [rule for rule in left if judgement(without).leaves(kind, rule.name)]
                choices[kind] = tuple(_default(rule) for rule in left)
            else:
                choices[kind] = (parse_rule(part, f"{kind} rule", rules),)
        if parts[2] != ANYTHING and parts[2] not in modes:
            raise unknown_name("batching mode of this scenario", parts[2], modes)
        batching: tuple[str, ...] = (parts[2],)
        if parts[2] == ANYTHING:
            batching = tuple(modes_without(modes, without) if without else modes)
        return cls(template, batching=batching, log=log, fixed=(), **choices)

    @property
    def has_choice(self) -> bool:
        """Whether there are parameters or rules to search."""
        options = (*self._rules.values(), self.batching)
        several = any(len(choices) > 1 for choices in options)
        return several or any(self._searched(name, choice) for name, rules in self._rules.items() for choice in rules)

    @property
    def _rules(self) -> dict[str, tuple[RuleChoice, ...]]:
        """The rules to choose from by component."""
        found = {"admission": self.admission, "routing": self.routing}
        return found | {name: getattr(self, name) for name in (*FURTHER_PARTS, "health") if getattr(self, name)}

    def _searched(self, component: str, choice: RuleChoice) -> list[Parameter]:
        """Return the parameters of a rule that a search varies."""
        if component in self.fixed:
            return []
        return [p for p in choice.rule.declared if p != SOURCE or self.log]

    def suggest(self, trial: Any) -> str:
        """Return the policy of an Optuna trial."""
        parts = {}
        for component, choices in self._rules.items():
            names = [choice.rule.name for choice in choices]
            name = names[0] if len(names) == 1 else trial.suggest_categorical(component, names)
            choice = choices[names.index(name)]
            values = {p.name: _suggested(trial, f"{name}.{p.name}", p) for p in self._searched(component, choice)}
            parts[component] = _written(choice.rule, {**choice.named, **values})
        parts["batching"] = self.batching[0]
        if len(self.batching) > 1:
            parts["batching"] = trial.suggest_categorical("batching", list(self.batching))
        return _joined(parts)

    def first_guesses(self, policies: Sequence[str]) -> list[dict[str, Any]]:
        """Return the given composites that lie in this space, as values by the names of trials."""
        found = []
        for text in policies:
            composite = parse_composite(text)
            values: dict[str, Any] = {}
            inside = composite.batching in self.batching and (composite.scaling is not None) == bool(self.scaling)
            for kind in _UNNAMED:
                inside = inside and (getattr(composite, kind) is None or bool(getattr(self, kind)))
            for component, choices in self._rules.items() if inside else ():
                choice: RuleChoice = _part(composite, component)
                names = [known.rule.name for known in choices]
                inside = inside and choice.rule.name in names
                if len(names) > 1:
                    values[component] = choice.rule.name
                for p in self._searched(component, choice):
                    value, where = choice.named[p.name], p.range
                    inside = inside and where.low <= value <= where.high
                    key = f"{choice.rule.name}.{p.name}"
                    values[key] = int(value) if where.scale == "integer" else value
                    if p.choices:  # what the scenario would choose is the first of those that are tuned
                        text = p.written(value)
                        values[key] = text if text in p.tuned else p.tuned[0]
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
        for component in (*self._rules, "batching"):
            if len(getattr(self, component)) > 1:
                moves.append((component, None))
        for component in self._rules:
            moves += [(component, parameter) for parameter in self._searched(component, _part(composite, component))]
        if not moves:
            return None
        component, parameter = moves[int(rng.integers(len(moves)))]
        parts = {name: str(_part(composite, name)) for name in (*self._rules, "batching")}
        if parameter is not None:
            choice: RuleChoice = _part(composite, component)
            values = {**choice.named, parameter.name: _near(parameter, choice.named[parameter.name], rng)}
            parts[component] = _written(choice.rule, values)
        else:
            others = [str(option) for option in getattr(self, component)]
            parts[component] = others[int(rng.integers(len(others)))]
        found = self.first_guesses([_joined(parts)])
        return found[0] if found else None

    def grid(self, settings: int = 1) -> list[str]:
        """Return all combinations of rules and modes, each rule with its own and ``settings`` other settings.

        The other settings lie at equal steps of the ranges, in their scales, with all parameters of a rule moved
        together: two settings lie at a quarter and three quarters of the range.
        """
        options = {
            component: [text for choice in choices for text in _settings(choice, settings)]
            for component, choices in self._rules.items()
        }
        options["batching"] = list(self.batching)
        return [_joined(dict(zip(options, parts, strict=True))) for parts in product(*options.values())]


def _joined(parts: dict[str, str]) -> str:
    """Return a policy's name from its parts by component."""
    if "health" in parts:
        parts = {**parts, "routing": f"{parts['routing']}+{parts['health']}"}
    return parse_composite("/".join(parts[name] for name in _COMPONENTS if name in parts)).name


def _part(composite: Composite, component: str) -> Any:
    """Return a part of a composite; one that it does not name is the rule of ``_UNNAMED``."""
    found = getattr(composite, component)
    return _default(_UNNAMED[component]) if found is None else found


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
