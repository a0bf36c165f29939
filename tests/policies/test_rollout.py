"""Whole episodes under composites: the compiled rollout, the stepped environment, and expected results."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.scenario import load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.policies import ADMISSION_RULES, ROUTING_RULES, parse_composite
from tests.cluster.small_clusters import assert_same_records


@pytest.fixture(scope="module")
def scenario(small_scenario):
    return load_scenario(small_scenario | {"observation": {"log": True}})  # some rules read nothing else


def compiled(scenario, policy, requests, seed):
    cluster = scenario.make_cluster()
    cluster.load(0, requests, seed)
    record = parse_composite(policy).record(scenario.mode_names)
    decisions = rollout(*cluster.state.arrays(), record, 0, UNLIMITED)
    assert cluster.done(0)
    return cluster.records(0), decisions


ADMISSIONS = [rule.name for rule in ADMISSION_RULES]
ROUTINGS = [rule.name for rule in ROUTING_RULES]
# Every rule, each beside several others.
PAIRS = [(a, ROUTINGS[(k + step) % len(ROUTINGS)]) for k, a in enumerate(ADMISSIONS) for step in (0, 5, 10)]


def test_the_pairs_hold_every_rule():
    assert {admission for admission, _ in PAIRS} == set(ADMISSIONS)
    assert {routing for _, routing in PAIRS} == set(ROUTINGS)


@pytest.mark.parametrize(("admission", "routing"), PAIRS)
def test_stepped_and_compiled_episodes_are_the_same(scenario, admission, routing):
    policy = f"{admission}/{routing}/edf-512"
    env = BurstGPTEnv(scenario=scenario)
    env.reset(seed=1, options={"episode": 3, "load": 2.0})
    requests, _ = scenario.episode("train", 3, 2.0 * scenario.capacity_per_s("train"))
    expected, decisions = compiled(scenario, policy, requests, 3)
    steps, done = 0, False
    while not done:
        _, _, done, _, _ = env.step(env.policy_action(policy))
        steps += 1
    assert steps == decisions
    assert_same_records(env.batch.cluster.records(0), expected)


@pytest.mark.parametrize("routing", [rule.name for rule in ROUTING_RULES])
def test_an_environment_that_decides_batching_only_leaves_the_rest_to_the_rules(scenario, routing):
    policy = f"queue-cap/{routing}/spf-512"
    env = BurstGPTEnv(scenario=scenario, decide=("batching",), admission="queue-cap", routing=routing)
    env.reset(seed=1, options={"episode": 3, "load": 2.0})
    requests, _ = scenario.episode("train", 3, 2.0 * scenario.capacity_per_s("train"))
    expected, _ = compiled(scenario, policy, requests, 3)
    done = False
    while not done:
        _, _, done, _, _ = env.step(scenario.mode_names.index("spf-512"))
    assert_same_records(env.batch.cluster.records(0), expected)


def test_fast_forward_continues_after_steps(scenario):
    policy = "kv-threshold/power-of-two/vllm"
    requests, _ = scenario.episode("train", 3, 30.0)
    expected, _ = compiled(scenario, policy, requests, 3)
    env = BurstGPTEnv(scenario=scenario)
    env.reset(seed=1, options={"episode": 3, "rate_per_s": 30.0})
    for decisions in (1, 10, 57, 10**6):
        env.batch.fast_forward(0, parse_composite(policy), decisions)
    assert_same_records(env.batch.cluster.records(0), expected)


def attainment(scenario, policy, load, episodes=12):
    rate_per_s = load * scenario.capacity_per_s("validation")
    attained = offered = 0
    for seed in range(episodes):
        requests, _ = scenario.episode("validation", seed, rate_per_s)
        records, _ = compiled(scenario, policy, requests, seed)
        attained += int((records["status"] == 4).sum())
        offered += len(records)
    return attained / offered


def test_jsq_does_not_lose_to_round_robin_at_a_stable_load(scenario):
    jsq, round_robin = (attainment(scenario, f"always/{rule}/vllm", 0.4) for rule in ("jsq", "round-robin"))
    assert jsq > 0.95
    assert jsq >= round_robin - 0.005


def test_knowing_the_hardware_pays_under_overload(scenario):
    by_rule = {rule: attainment(scenario, f"always/{rule}/edf-512", 1.5) for rule in ("random", "jsq", "expected-ttft")}
    assert by_rule["expected-ttft"] > by_rule["random"]
    assert by_rule["jsq"] > by_rule["random"]


def test_never_rejects_every_request(scenario):
    requests, _ = scenario.episode("train", 0, 20.0)
    records, _ = compiled(scenario, "never/jsq/vllm", requests, 0)
    assert (records["status"] == 6).all()
    assert np.array_equal(records["finish_s"], records["arrival_s"])
