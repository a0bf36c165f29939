"""Worth: its definition, rewards that add up to the score, and no gain from rejecting long prompts."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv._jit.decorators import entry
from burstenv.cluster import Cluster, request_array
from burstenv.engine.enums import ATTAINED, UNSENT
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.worth import WorthConfig
from burstenv.envs.worth import set_worths as set_worths_kernel
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import episode_metrics
from burstenv.policies import load_policy, named_mode, parse_composite
from burstenv.policies.batching import BATCHING_RULES
from burstenv.policies.registry import admission_rules, routing_rules
from tests.cluster.small_clusters import replica
from tests.random_examples import examples

CLIENTS: dict[str, Any] = {
    "none": {},
    "patience": {"patience": {"kind": "exponential", "ttft_multiple": 2.0}},
    "retries": {"retries": {"max_retries": 3, "after": ["rejection"]}},
    "closed loop": {"closed_loop": {}},
    "all": {
        "patience": {"kind": "fixed", "seconds": 2.0},
        "retries": {"max_retries": 2, "after": ["rejection", "abandonment"]},
        "closed_loop": {},
    },
}
MODES = [rule.name for rule in BATCHING_RULES]


@entry
def set_worths(requests, values, by_tokens, output_weight):
    set_worths_kernel(requests, values, by_tokens, output_weight)


def worths(prompt: Any, output: Any, values=(1.0, 1.0), code=0, by_tokens=0.5, output_weight=1.0) -> np.ndarray:
    requests = request_array(np.arange(len(prompt), dtype=float), np.array(prompt), np.array(output))
    requests["class_code"] = code
    set_worths(requests, np.array(values), by_tokens, output_weight)
    return requests["worth"].astype(np.float64)


def test_half_by_count_and_half_by_tokens():
    # 300 tokens in the mean: 0.5 + 0.5 x (100, 200, 600) / 300
    assert worths([60, 150, 500], [40, 50, 100]) == pytest.approx([2 / 3, 5 / 6, 1.5], abs=2**-15)
    # An output token three times: (180, 300, 800) of 1,280.
    assert worths([60, 150, 500], [40, 50, 100], by_tokens=1.0, output_weight=3.0) == pytest.approx(
        [3 * 180 / 1280, 3 * 300 / 1280, 3 * 800 / 1280], abs=2**-15
    )
    assert worths([60, 150, 500], [40, 50, 100], by_tokens=0.0).tolist() == [1.0, 1.0, 1.0]
    # A class of twice the value: (1, 1, 2) of 4.
    assert worths([60, 150, 500], [40, 50, 100], (1.0, 2.0), [0, 0, 1], 0.0) == pytest.approx(
        [0.75, 0.75, 1.5], abs=2**-15
    )


@examples(60)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 10_000)), min_size=1, max_size=60),
    by_tokens=st.floats(0.0, 1.0),
    output_weight=st.floats(0.0, 1e3),
    value=st.floats(1e-6, 1e6),
)
def test_the_mean_is_exactly_one_and_sums_are_exact_in_any_order(lengths, by_tokens, output_weight, value):
    prompt, output = zip(*lengths, strict=True)
    code = np.arange(len(prompt)) % 2
    worth = worths(prompt, output, (1.0, value), code, by_tokens, output_weight)
    assert (worth >= 0.0).all()
    assert worth.sum() == len(worth)
    assert sum(reversed(worth.tolist())) == len(worth)


def scenario_of(values: dict[str, Any], **changes: Any) -> Scenario:
    return load_scenario({**copy.deepcopy(values), **changes})


def test_every_drawn_episode_has_mean_one(small_scenario):
    values = copy.deepcopy(small_scenario)
    values["slo"]["api"]["value"] = 0.25
    scenario = scenario_of(values, worth={"tokens": 0.7, "output_weight": 3.0})
    for seed in range(5):
        requests, _ = scenario.episode("train", seed, 40.0)
        worth = requests["worth"].astype(np.float64)
        assert worth.sum() == len(requests)
        tokens = requests["prompt_tokens"] + 3.0 * requests["output_tokens"]
        own = np.where(requests["class_code"] == 1, 0.25, 1.0) * (0.3 + 0.7 * tokens / tokens.mean())
        assert worth == pytest.approx(own / own.mean(), abs=2**-15)


def played(scenario: Scenario, policy: str, load: float = 3.0) -> tuple[Any, float, dict]:
    """Play an episode in an environment by a policy's actions: the environment, its return, its metrics."""
    batch = EnvironmentBatch(1, scenario, split="train", load=load)
    batch.reset(0, np.random.default_rng(0), {"episode": 5})
    composite, total = parse_composite(policy), 0.0
    while not batch.done[0]:
        batch.actions[0] = batch.policy_action(0, composite)
        batch.step()
        total += float(batch.rewards[0])
    records = batch.cluster.records(0)
    metrics = episode_metrics(records, 20.0, episode_return=total, client_counts=batch.cluster.client_counts(0))
    return batch, total, metrics


POLICIES = [
    *(f"{rule.name}/least-kv/vllm" for rule in admission_rules() if not rule.oracle),
    *(f"size-aware-kv/{rule.name}/vllm" for rule in routing_rules() if not rule.oracle),
    *(f"kv-threshold/jsq/{mode}" for mode in MODES),
]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_return_is_the_score_under_every_rule_and_mode(small_scenario, policy):
    scenario = scenario_of(small_scenario, modes=MODES, observation={"log": True})
    batch, total, metrics = played(scenario, policy)
    assert total > 0.0 or policy.startswith("never")
    assert total / metrics["offered"] == metrics["score"] == batch.episode_metrics(0)["score"]
    assert metrics["offered_worth"] == metrics["offered"]
    assert batch.episode_metrics(0)["attainment"] == metrics["attainment"]
    assert batch.episode_metrics(0)["token_weighted_attainment"] == metrics["token_weighted_attainment"]


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_return_is_the_score_with_every_kind_of_client(small_scenario, kind):
    scenario = scenario_of(small_scenario, clients=CLIENTS[kind])
    batch, total, metrics = played(scenario, "size-aware-kv/jsq/edf-512", 4.0)
    records = batch.cluster.records(0)
    sent = records["status"] != UNSENT
    assert metrics["offered_worth"] == float(records["worth"][sent].sum(dtype=np.float64))
    assert total / metrics["offered_worth"] == metrics["score"] == batch.episode_metrics(0)["score"]
    assert 0.0 < metrics["score"] < 1.0
    environment = batch.cluster.state.environments[0]
    assert environment["attained_worth"] + environment["lost_worth"] == len(records)  # unsent requests are lost
    assert sent.all() == (metrics["offered_worth"] == len(records))
    if kind in ("none", "patience", "retries"):
        assert sent.all()  # all requests are offered: the return divided by their number is the score


def test_rejecting_long_prompts_no_longer_pays(small_scenario):
    """One replica, and a long prompt every second that makes the short ones beside it late."""
    second = np.repeat(np.arange(20.0), 4)
    prompt = np.tile([1800, 40, 40, 40], 20)
    requests = request_array(second + np.tile([0.0, 0.001, 0.002, 0.003], 20), prompt, np.tile([2, 2, 2, 2], 20))
    requests["ttft_slo_s"] = np.where(prompt > 1000, 5.0, 0.15)
    requests["tpot_slo_s"] = 1.0
    set_worths(requests, np.ones(2), 0.5, 1.0)

    def shares(policy: str) -> dict[str, float]:
        cluster = Cluster([replica(num_blocks=400, max_model_len=2048)], [named_mode("vllm")], 1, len(requests))
        cluster.load(0, requests.copy(), 0)
        player_of(load_policy(policy), cluster, 0).run()
        return episode_metrics(cluster.records(0), 20.0)

    admits, rejects = shares("always/jsq/vllm"), shares("size-aware-kv(limit=1,prompt=0.7,output=0)/jsq/vllm")
    assert rejects["rejected"] == 20
    assert rejects["attainment"] > admits["attainment"]
    assert rejects["score"] < admits["score"]


def test_the_observed_value_depends_on_predicted_and_not_on_true_output(small_scenario):
    scenario = scenario_of(small_scenario, worth={"tokens": 0.5, "output_weight": 3.0})
    requests, _ = scenario.episode("train", 1, 20.0)
    others = requests.copy()
    others["output_tokens"] = others["target_tokens"] = 1 + np.arange(len(others)) % 700
    set_worths(others, np.ones(2), 0.5, 3.0)
    assert (others["worth"] != requests["worth"]).any()
    batch = EnvironmentBatch(2, scenario)
    place = batch.observation_layout.names().index("request.value")
    for i, some in enumerate((requests, others)):
        batch.start(i, some, 1, {})
    first = requests[0]
    value = (first["prompt_tokens"] + 3.0 * first["predicted_tokens"]) / 1000.0
    assert batch.observations[0, place] == batch.observations[1, place] == pytest.approx(value, rel=1e-6)
    assert (batch.cluster.records(0)["status"] != ATTAINED).all()


@pytest.mark.parametrize("wrong", [{"tokens": 1.5}, {"tokens": -0.1}, {"output_weight": -1.0}, {"outputs": 2.0}])
def test_a_wrong_worth_is_one_sentence(small_scenario, wrong):
    with pytest.raises(BurstenvError, match="worth") as caught:
        scenario_of(small_scenario, worth=wrong)
    assert "\n" not in str(caught.value)


def test_worth_is_described():
    assert str(WorthConfig()) == "50 % by count, 50 % by tokens"
    assert str(WorthConfig(tokens=0.0)) == "each request counts alike"
    assert "an output token 3 times" in str(WorthConfig(tokens=1.0, output_weight=3.0))
