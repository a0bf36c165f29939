"""Scaling rules at equal cost: each as a curve of score against GPU-hours over its knob, on the same episodes.

A rule's knob is the parameter that says how much load a replica bears; both thresholds of a rule that has two move
together. The other parameters are as tuned, or as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import checked, number, one_of, optional, whole
from burstenv.cluster.scaling import codes
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.statistics.intervals import Estimate, paired_difference
from burstenv.evaluation.tuning.scorer import Scorer
from burstenv.evaluation.tuning.tuned_policies import shipped_tuned
from burstenv.policies import Composite, RuleChoice, load_policy, parse_composite
from burstenv.workload import SPLITS

EPISODES = 27
# Parameters that move together.
KNOBS: dict[int, tuple[str, ...]] = {
    codes.KPA: ("target",),
    codes.APA: ("target",),
    codes.RAY_SERVE: ("target",),
    codes.LLUMNIX_SCALING: ("low", "high"),
    codes.WVA: ("kv", "queue"),
    codes.WVA_TOKENS: ("up", "down"),
    codes.DYNAMO_LOAD: ("prefill_up", "prefill_down", "up", "down"),
    codes.SLA_PLANNER: ("use",),
    codes.ORACLE: ("use",),
    codes.STAFFING: ("target",),
}
FACTORS = (0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0)  # of the knob


@dataclass(frozen=True)
class ScalerPoint:
    """One setting of a rule.

    Attributes:
        policy: The composite.
        gpu_hours: Of each episode, (E,).
        score: Likewise.
    """

    policy: str
    gpu_hours: tuple[float, ...]
    score: tuple[float, ...]

    @property
    def cost(self) -> float:
        """Mean GPU-hours."""
        return float(np.mean(self.gpu_hours))

    @property
    def mean_score(self) -> float:
        """Mean score."""
        return float(np.mean(self.score))


@dataclass(frozen=True)
class ScalerCurve:
    """A rule over its knob.

    Attributes:
        rule: Its name.
        oracle: Whether it knows the future.
        points: By mean GPU-hours.
    """

    rule: str
    oracle: bool
    points: tuple[ScalerPoint, ...]

    def at_cost(self, gpu_hours: float) -> NDArray[np.float64] | None:
        """Return the score of each episode at a mean cost, between the two settings around it; None beyond them."""
        return _between([(p.cost, p.score) for p in self.points], gpu_hours)

    def at_score(self, score: float) -> NDArray[np.float64] | None:
        """Return the GPU-hours of each episode at a mean score, on the part of the curve that rises; None beyond it."""
        rising: list[ScalerPoint] = []
        for point in self.points:
            if not rising or point.mean_score > rising[-1].mean_score:
                rising.append(point)
        return _between([(p.mean_score, p.gpu_hours) for p in rising], score)


@dataclass(frozen=True)
class ScalerFront:
    """Rules over their knobs, and their differences to one of them.

    Attributes:
        scenario: Name of the scenario.
        split: Split of the episodes.
        load: Share of capacity.
        episodes: Their number.
        reference: Composite that the rules are compared with.
        cost: Its mean GPU-hours.
        score: Its mean score.
        curves: The rules.
        at_equal_cost: By rule, score minus that of the reference at the reference's GPU-hours.
        at_equal_score: By rule, GPU-hours minus those of the reference at the reference's score.
    """

    scenario: str
    split: str
    load: float
    episodes: int
    reference: str
    cost: float
    score: float
    curves: tuple[ScalerCurve, ...]
    at_equal_cost: dict[str, Estimate]
    at_equal_score: dict[str, Estimate]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


@checked(load=optional(number(above=0.0)), split=one_of(*SPLITS), episodes=whole(1))
def scaler_front(
    scenario: Scenario,
    policies: Sequence[str] = (),
    load: float | None = None,
    split: str = "test",
    episodes: int = EPISODES,
    factors: Sequence[float] = FACTORS,
) -> ScalerFront:
    """Play every scaling rule over its knob.

    Args:
        scenario: The scenario, with scaling.
        policies: Composites with a scaling rule, or agents; the first is the reference. None: the scalers tuned and
            shipped for the scenario, best deployable first.
        load: Share of capacity; None: the scenario's.
        split: Split of the episodes.
        episodes: Their number; intervals need several days.
        factors: Of the knobs.

    Raises:
        BurstenvError: On a scenario without scaling or without shipped scalers, or an unknown policy.
    """
    if scenario.scaling is None:
        raise BurstenvError(f"scenario {scenario.config.name!r} has no scaling; use one with it, such as diurnal")
    load = scenario.config.load if load is None else load
    chosen = list(policies) or shipped_scalers(scenario)
    scorer = Scorer(scenario, split, load, range(episodes))
    days = np.array(scorer.days)
    most = scenario.scaling.numbers(len(scenario.specs))[1]

    def played(policy: str) -> ScalerPoint:
        scores = scorer.score(load_policy(policy))
        assert scores.gpu_hours is not None
        return ScalerPoint(policy, tuple(scores.gpu_hours.tolist()), tuple(scores.score.tolist()))

    curves = []
    for text in chosen:
        policy = load_policy(text)
        settings = _settings(policy, factors, most) if isinstance(policy, Composite) else [text]
        points = sorted((played(one) for one in settings), key=lambda point: point.cost)
        own = policy.scaling.rule.name if isinstance(policy, Composite) and policy.scaling is not None else policy.name
        curves.append(ScalerCurve(own, bool(policy.oracle), tuple(points)))
    reference = played(chosen[0])
    equal_cost: dict[str, Estimate] = {}
    equal_score: dict[str, Estimate] = {}
    for curve in curves:
        for found, mine, theirs in (
            (equal_cost, curve.at_cost(reference.cost), reference.score),
            (equal_score, curve.at_score(reference.mean_score), reference.gpu_hours),
        ):
            if mine is not None:
                found[curve.rule] = paired_difference(mine, np.array(theirs), days).stated()
    return ScalerFront(
        scenario.config.name, split, load, episodes, reference.policy, reference.cost, reference.mean_score,
        tuple(curves), equal_cost, equal_score,
    )  # fmt: skip


def shipped_scalers(scenario: Scenario) -> list[str]:
    """Return the scalers tuned and shipped for a scenario, those that know the future last."""
    tuned, why = shipped_tuned(scenario.config, scenario.trace)
    if tuned is None or not tuned.scalers:
        raise BurstenvError(
            f"no scalers were tuned for {scenario.config.name}{f' ({why})' if why else ''}; name policies such as "
            "always/jsq/vllm/kpa, or tune with burstenv tune --scalers"
        )
    names = [one.policy for one in tuned.scalers]
    return sorted(names, key=lambda name: parse_composite(name).oracle)  # stable: best first


def _settings(policy: Composite, factors: Sequence[float], most: int) -> list[str]:
    """Return a composite at all settings of its scaling rule's knob, each once."""
    choice = policy.scaling
    if choice is None:
        raise BurstenvError(f"policy {policy.name} has no scaling rule as its fourth part, so it has no knob")
    if choice.rule.code == codes.STATIC:
        return [replace(policy, scaling=RuleChoice(choice.rule, (float(k),))).name for k in range(1, most + 1)]
    names = KNOBS[choice.rule.code]
    found = []
    for factor in factors:
        values = dict(choice.named)
        for parameter in choice.rule.declared:
            if parameter.name in names:
                low, high = parameter.limits
                values[parameter.name] = float(f"{min(max(factor * values[parameter.name], low), high):.4g}")
        found.append(replace(policy, scaling=RuleChoice(choice.rule, tuple(values.values()))).name)
    return list(dict.fromkeys(found))


def _between(points: Sequence[tuple[float, Sequence[float]]], at: float) -> NDArray[np.float64] | None:
    """Return the values of each episode at a place between two points, mixed linearly; None beyond the ends."""
    for (left, low), (right, high) in pairwise(points):
        if left <= at <= right:
            share = (at - left) / (right - left) if right > left else 0.0
            return (1.0 - share) * np.array(low) + share * np.array(high)
    return np.array(points[0][1]) if len(points) == 1 and points[0][0] == at else None
