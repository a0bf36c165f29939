"""The placement rules: the compiled ones equal the plain ones, and do what they are for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster.events import DecisionKind
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.reference.placement import choose_place, stays_whole, takes_prompts
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.engine.enums import ACTIVE
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite
from burstenv.policies.decide import choose_replica_at
from burstenv.policies.placement import PLACEMENT_RULES
from tests.cluster.play import CHANGES, METRICS, Play, changing, episode
from tests.cluster.small_clusters import replica
from tests.cluster.test_cluster_agrees import MODES
from tests.cluster.test_hand_overs_agree import ROLES
from tests.cluster.test_transfers_agree import MOVING, QUICK, SIZES
from tests.random_examples import examples

RULES = {rule.name: rule for rule in PLACEMENT_RULES}


class RuledCluster(ReferenceCluster):
    """A reference cluster in which a rule decides where prefilled requests decode."""

    rule = 0
    turn = 0
    knows_log = True
    fill = 0.85

    def _place(self, k: int) -> DecisionKind | None:
        super()._place(k)
        self.viewer = self.lifecycle.gateway(k)
        source = self.lifecycle.requests[k].replica
        chosen, self.turn = choose_place(self, source, self.rule, self.turn, self.knows_log, self.fill)
        self.place(chosen)
        return None


class RuledPlay(Play):
    make_reference = RuledCluster


def play(
    seed: int, name: str, engine: dict, roles: tuple[str, ...], metrics: dict, log: bool, changes: str = "none"
) -> Play:
    """Play and compare one episode of three unequal replicas with roles."""
    rng = np.random.default_rng(seed)
    specs = [
        replica(**size, **engine, **QUICK, role=role, max_model_len=640)
        for size, role in zip(SIZES, roles, strict=True)
    ]
    requests, _ = episode(rng, None, 70, 560, float(rng.choice([1.5, 4.0])), 60)
    result = RuledPlay(
        rng, specs, MODES, requests, odds=(0.05, 0.95, 0.0), transfers=TransfersConfig(at_once=4), metrics=metrics,
        **changing(rng, changes, len(SIZES), 6.0),
    )  # fmt: skip
    parameters = list(RULES[name].parameters.values())
    result.cluster.place_by(RULES[name].code, parameters)
    result.cluster.stop_to_place(False)
    result.cluster.state.gateway["knows_log"] = log
    result.cluster.load(1, requests, 7, faults=result.faults)
    result.reference.rule, result.reference.knows_log = RULES[name].code, log
    policy = parse_composite("always/jsq/vllm").record(["vllm"])

    def compare_whole(at_gateway: int) -> None:
        if at_gateway >= 0:
            chosen = choose_replica_at(*result.cluster.state.arrays(), policy, 1)
            whole = stays_whole(result.reference, *parameters[:2], log)
            assert result.cluster.state.memories["whole"][1] == whole
            lives = result.reference.life.lives
            allowed = [
                r
                for r, role in enumerate(result.reference.roles)
                if lives[r].known == ACTIVE
                and (role != "prefill" if whole else takes_prompts(result.reference, r, log))
            ]
            assert chosen in allowed or not allowed

    result.run(compare_whole)
    result.compare_outcomes()
    return result


@examples(30)
@given(
    seed=st.integers(0, 2**20),
    name=st.sampled_from(list(RULES)),
    engine=st.sampled_from(MOVING),
    roles=st.sampled_from(ROLES),
    metrics=st.sampled_from([one for one in METRICS if not one["count_sent"]]),
    log=st.booleans(),
    changes=st.sampled_from(CHANGES),
)
def test_rules_are_what_is_written_down(seed, name, engine, roles, metrics, log, changes):
    play(seed, name, engine, roles, metrics, log, changes)


def test_rules_choose_differently_and_all_hand_over():
    finished: dict[int, tuple[float, ...]] = {}
    handed: Counter[int] = Counter()
    for rule in RULES.values():
        result = play(3, rule.name, {}, ROLES[0], METRICS[0], True)
        finished[rule.code] = tuple(result.cluster.records(1)["finish_s"].tolist())
        handed[rule.code] += result.cluster.transfer_counts(1)["handed_over"]
    assert len(set(finished.values())) == len(finished)
    assert min(handed.values()) > 10


def test_a_composite_may_name_several_further_rules():
    policy = parse_composite("always/jsq/vllm/dynamo(queue=8)/llumnix(low=5)")
    assert policy.placement is not None
    assert policy.placement.named["queue"] == 8.0
    assert policy.migration is not None
    assert policy.name == "always/jsq/vllm/llumnix(low=5)/dynamo(queue=8)"
    with pytest.raises(BurstenvError, match="two placement rules: dynamo and distserve"):
        parse_composite("always/jsq/vllm/dynamo/distserve")
