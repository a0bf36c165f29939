"""A number of replicas that changes by decisions: the compiled cluster equals the plain one, under every rule."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv.cluster import ClientsConfig
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.policies.scaling import SCALING_RULES
from tests.cluster.play import LOOPS, METRICS, PATIENCE, Play, episode, random_faults
from tests.cluster.small_clusters import replica
from tests.cluster.test_cluster_agrees import ENGINES, MODES, SIZES
from tests.random_examples import examples

RULES = {rule.name: rule for rule in SCALING_RULES}
# Parameters at which episodes of seconds have decisions of all kinds; the second of each is far from the first.
SHORT: dict[str, list[dict[str, float]]] = {
    "static": [{"replicas": 2}, {"replicas": 0}],
    "kpa": [{"target": 6, "window_s": 1.0, "panic_window_s": 0.2}, {"target": 15, "window_s": 0.3, "up_rate": 2.0}],
    "aibrix-apa": [{"target": 0.3, "window_s": 0.6, "down_s": 0.8}, {"target": 0.6, "window_s": 0.2, "down_s": 0.0}],
    "ray-serve": [
        {"target": 5, "window_s": 0.4, "up_s": 0.3, "down_s": 1.0},
        {"target": 9, "up_s": 0.0, "down_s": 0.2},
    ],
    "llumnix-scaling": [{"low": 2, "high": 8}, {"low": 8, "high": 20}],
    "wva": [{"down_s": 0.5, "kv": 0.7}, {"down_s": 0.0, "queue": 3, "spare_queue": 1}],
    "wva-tokens": [{"up": 0.5, "down": 0.3}, {"up": 1.0, "down": 0.8}],
    "dynamo-load": [{"up": 0.6, "down": 0.4, "prefill_up": 0.4}, {"up": 0.9, "down": 0.8, "prefill_down": 0.6}],
    "sla-planner": [{"window_s": 0.6, "forecast": 1, "down_s": 0.4}, {"window_s": 0.2, "forecast": 3, "use": 1.2}],
    "oracle-scaling": [{"window_s": 0.3}, {"window_s": 0.5, "use": 1.3}],
    "staffing": [
        {"target": 8, "window_s": 0.3, "forecast": 2, "rate_window_s": 0.2, "down_s": 0.3},
        {"target": 5, "margin": 0, "window_s": 0.1, "forecast": 3, "rate_window_s": 0.1, "ahead": 2.0},
    ],
}


class RuledCluster(ReferenceCluster):
    """A reference cluster in which a rule decides about the number of replicas."""

    rule: tuple[int, list[float]]

    def _scale(self, number: int) -> DecisionKind | None:
        if super()._scale(number) is not None:
            assert self.scaling is not None
            self.scaling.decide(*self.rule)
        return None


class RuledPlay(Play):
    make_reference = RuledCluster


def scaling(rng: np.random.Generator, **changes: Any) -> ScalingConfig:
    """Draw what may be decided about three replicas."""
    values: dict[str, Any] = {
        "control_period_s": float(rng.choice([0.1, 0.25])),
        "initial": int(rng.integers(1, 4)),
        "cold_start": float(rng.choice([0.0, 0.2, 1.0])),
        "drain_s": float(rng.choice([0.0, 0.5, 900.0])),
        "replica_per_s": 12.0,
    }
    return ScalingConfig(**values | changes)


def play(
    seed: int, rule: str | None, which: int = 0, engine: str = "fast", faults: int = 0, clients: bool = False,
    recovery: str = "continue", gateways: int = 1, **settings: Any,
) -> Play:  # fmt: skip
    """Play and compare one episode of three unequal replicas; without a rule the caller decides at random."""
    rng = np.random.default_rng(seed)
    specs = [replica(**size, **ENGINES[engine]) for size in SIZES]
    span_s = float(rng.choice([1.5, 6.0]))
    retries = {"max_retries": 2, "base_s": 0.1, "after": ["rejection", "abandonment", "fault"]}
    config = ClientsConfig(patience=PATIENCE[2], retries=retries, closed_loop=LOOPS[1]) if clients else None
    requests, drawn = episode(rng, config, 90, 700, span_s, 60)
    config_of = scaling(rng, recovery=RecoveryConfig(requests=recovery, warm_factor=2.0, warm_s=0.3))
    if faults:
        settings["faults"] = random_faults(rng, len(specs), span_s + 3.0, faults)
    kind = Play if rule is None else RuledPlay
    result = kind(rng, specs, MODES, requests, config, drawn, scaling=config_of, gateways=gateways, **settings)
    if rule is not None:
        parameters = list((RULES[rule].parameters | SHORT[rule][which]).values())
        result.cluster.scale_by(RULES[rule].code, parameters)
        result.reference.rule = RULES[rule].code, parameters
    result.run()
    result.compare_outcomes()
    return result


@examples(100)
@given(
    seed=st.integers(0, 2**20),
    rule=st.sampled_from(list(RULES)),
    which=st.integers(0, 1),
    engine=st.sampled_from(list(ENGINES)),
    faults=st.sampled_from([0, 0, 15]),
    clients=st.booleans(),
    recovery=st.sampled_from(["fail", "retry", "continue"]),
    gateways=st.sampled_from([1, 3]),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
@example(1, "wva", 1, "vLLM's defaults", 0, True, "fail", 1, None, METRICS[0])  # evicted after an iteration without it
def test_rules_are_what_is_written_down(
    seed, rule, which, engine, faults, clients, recovery, gateways, tick_s, metrics
):
    play(seed, rule, which, engine, faults, clients, recovery, gateways, tick_s=tick_s, metrics=metrics)


@examples(50)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    faults=st.sampled_from([0, 15]),
    clients=st.booleans(),
    recovery=st.sampled_from(["fail", "retry", "continue"]),
    gateways=st.sampled_from([1, 3]),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
    take_back_s=st.sampled_from([0.0, 0.15, 0.8]),
)
def test_decisions_of_the_caller_are_what_is_written_down(
    seed, engine, faults, clients, recovery, gateways, tick_s, metrics, take_back_s
):
    """With all that changes a cluster at once: faults, speeds, scaling, clients, engines as vLLM's, resending."""
    play(
        seed, None, 0, engine, faults, clients, recovery, gateways, tick_s=tick_s, metrics=metrics,
        take_back_s=take_back_s,
    )  # fmt: skip


def test_every_rule_but_static_goes_up_and_down():
    changes: Counter[tuple[str, bool]] = Counter()
    for name in RULES:
        for seed in range(6):
            for which in (0, 1):
                reference = play(seed, name, which).reference
                boots = sum(life.boots for life in reference.life.lives)
                changes[name, True] += boots
                changes[name, False] += boots + reference.scaling.samples[0].asked - reference.scaling.num_wanted
    assert all(changes[name, up] > 3 for name in RULES if name != "static" for up in (True, False)), changes
