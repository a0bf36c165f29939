"""The rules of migration: the compiled ones equal the plain ones, and do what they are for."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import Cluster
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.reference.migration import migrate_by_rule
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.policies import parse_composite
from burstenv.policies.migration import MIGRATION_RULES
from tests.cluster.play import CHANGES, Play, changing, episode
from tests.cluster.small_clusters import LATENCY, VLLM, replica, requests_at
from tests.cluster.test_cluster_agrees import MODES
from tests.cluster.test_transfers_agree import MOVING, QUICK, SIZES
from tests.random_examples import examples

RULES = {rule.name: rule for rule in MIGRATION_RULES}


class RuledCluster(ReferenceCluster):
    """A reference cluster in which a rule decides about migrations."""

    rule: tuple[int, list[float]]

    def _migrate(self, number: int) -> DecisionKind | None:
        if super()._migrate(number) is not None:
            migrate_by_rule(self, *self.rule)
        return None


class RuledPlay(Play):
    make_reference = RuledCluster


def play(
    seed: int,
    name: str,
    engine: dict[str, Any],
    low: float,
    high: float,
    pick: int,
    changes: str = "none",
    role: str = "mixed",
) -> Play:
    """Play and compare one episode of three replicas, two of them alike."""
    rng = np.random.default_rng(seed)
    specs = [replica(**SIZES[k], **engine, **QUICK, role=role, max_model_len=640) for k in (0, 0, 2)]
    requests, _ = episode(rng, None, 70, 560, float(rng.choice([1.5, 4.0])), 60)
    result = RuledPlay(
        rng, specs, MODES, requests, odds=(0.05, 0.95, 0.0), transfers=TransfersConfig(), migrate_period_s=0.05,
        **changing(rng, changes, 3, 6.0),
    )  # fmt: skip
    parameters = [low, high, float(pick)]
    if name == "llumnix-adaptive":
        parameters = [low / 20.0, high / 10.0, float(pick), 0.85, 0.03]
    result.cluster.migrate_by(RULES[name].code, parameters)
    result.reference.rule = RULES[name].code, parameters
    result.run()
    result.compare_outcomes()
    return result


@examples(30)
@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(list(RULES)),
    engine=st.sampled_from(MOVING),
    low=st.sampled_from([0.0, 3.0, 10.0]),
    high=st.sampled_from([0.0, 3.0, 20.0]),
    pick=st.integers(0, 2),
    changes=st.sampled_from(CHANGES),
    role=st.sampled_from(["mixed", "flexible"]),
)
def test_rules_are_what_is_written_down(seed, name, engine, low, high, pick, changes, role):
    play(seed, name, engine, low, high, pick, changes, role)


def test_every_rule_but_none_migrates():
    done: Counter[str] = Counter()
    for seed in range(3):
        for name in RULES:
            done[name] += play(seed, name, {}, 3.0, 3.0, 0, role="flexible").cluster.transfer_counts(1)["migrations"]
    assert done["none"] == 0
    assert all(done[name] > 5 for name in RULES if name != "none"), done


@pytest.mark.parametrize("name", RULES)
def test_equal_lengths_and_light_load_change_nothing(name):
    """No replica is short of blocks, so that there are no pairs (Llumnix)."""
    requests = requests_at(*np.arange(40) * 0.3, prompt=128, output=128)
    specs = [replica(latency=LATENCY, **QUICK) for _ in range(4)]
    ends = []
    for rule in (RULES["none"], RULES[name]):
        cluster = Cluster(specs, (VLLM,), transfers=TransfersConfig(), migrate_period_s=0.1)
        cluster.migrate_by(rule.code, list(rule.parameters.values()))
        cluster.load(0, requests)
        while (at := cluster.next_epoch(0)) >= 0:
            cluster.decide(0, 1, at % 4)
        assert cluster.transfer_counts(0)["migrations_begun"] == 0
        ends.append(cluster.records(0)["finish_s"])
    assert (ends[0] == ends[1]).all()


def test_a_queue_that_fits_nowhere_finds_room_when_a_request_moves():
    """Each replica has 64 of 130 blocks free, together 128; a prompt of 70 blocks waits until one request has moved."""

    def first_token_s(rule: str) -> float:
        specs = [replica(num_blocks=130, latency=LATENCY, **QUICK) for _ in range(2)]
        cluster = Cluster(specs, (VLLM,), transfers=TransfersConfig(), migrate_period_s=0.1)
        chosen = RULES[rule]
        cluster.migrate_by(chosen.code, list(chosen.parameters.values()))
        requests = requests_at(0.0, 0.0, 0.0, 0.0, 2.0, prompt=440, output=200)
        requests["prompt_tokens"][4] = 1120
        cluster.load(0, requests)
        while (at := cluster.next_epoch(0)) >= 0:
            cluster.decide(0, 1, at % 2)
        return float(cluster.records(0)["first_token_s"][4])

    stays_s = first_token_s("none")
    assert first_token_s("llumnix-paper") < 0.75 * stays_s
    assert first_token_s("llumnix") < 0.75 * stays_s


def test_a_composite_may_name_a_migration_rule():
    policy = parse_composite("always/freeness/vllm/llumnix(low=5)")
    assert policy.name == "always/freeness/vllm/llumnix(low=5)"
    assert policy.migration is not None
    assert policy.migration.named == {"low": 5.0, "high": 3.0, "pick": 1.0}
