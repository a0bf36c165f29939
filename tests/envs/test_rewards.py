"""Every reward's episode sum matches the records and the report."""

from __future__ import annotations

import copy

import gymnasium as gym
import numpy as np
import pytest

from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.reward import COMPONENTS, LATENCY_SCALE_S, REWARDS, VECTOR
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import episode_metrics


@pytest.fixture(scope="module")
def scenario(small_scenario):
    values = copy.deepcopy(small_scenario)
    values["slo"]["api"]["value"] = 0.25
    return load_scenario(values)


def finished(scenario, reward, **kwargs):
    """An episode of random actions: the environment, the sum of rewards, the sum of components."""
    env = gym.make("BurstGPT-v0", scenario=scenario, reward=reward, load=2.0, disable_env_checker=True, **kwargs)
    env.action_space.seed(3)
    _, info = env.reset(seed=3)
    total, components, terminated = 0.0, np.zeros(len(COMPONENTS)), False
    assert not info["reward_components"].any()
    while not terminated:
        _, paid, terminated, _, info = env.step(env.action_space.sample())
        total = total + paid
        components += info["reward_components"]
    return env.unwrapped, total, dict(zip(COMPONENTS, components, strict=True))


def test_episode_sums_match_the_report(scenario):
    env, _, sums = finished(scenario, "worth")
    records = env.batch.cluster.records(0)
    metrics = episode_metrics(records, 20.0)
    assert sums["worth"] == sums["dense"] == metrics["episode_return"] > 0
    assert sums["worth"] / metrics["offered"] == metrics["score"]
    assert sums["attainment"] == metrics["attained"]
    offered = (records["prompt_tokens"] + records["output_tokens"]).sum() / 1000.0
    assert sums["token-weighted"] / offered == pytest.approx(metrics["token_weighted_attainment"], rel=1e-12)
    assert sums["goodput-per-gpu"] / metrics["answering_s"] == pytest.approx(metrics["goodput_per_s"] / 4, rel=1e-12)


def test_latency_is_the_time_of_requests_in_the_system(scenario):
    env, _, sums = finished(scenario, "latency")
    records = env.batch.cluster.records(0)
    spent_s = (records["finish_s"] - records["arrival_s"]).sum()
    assert not np.isnan(spent_s)
    assert -sums["latency"] * LATENCY_SCALE_S == pytest.approx(spent_s, rel=1e-9)


def test_cost_is_the_time_that_gpus_computed(scenario):
    env, _, sums = finished(scenario, "cost")
    busy_s = env.batch.cluster.state.replicas["busy_s"][0].sum()
    assert -sums["cost"] == pytest.approx(float(busy_s), rel=1e-9)
    assert 0.0 < busy_s < 4 * float(env.batch.cluster.state.environments["now_s"][0])


@pytest.mark.parametrize("reward", REWARDS)
def test_the_paid_reward_is_among_the_components(scenario, reward):
    _, total, sums = finished(scenario, reward)
    if reward == "vector":
        assert np.allclose(total, [sums[name] for name in VECTOR], rtol=1e-4)
    else:
        assert total == pytest.approx(sums[reward], abs=1e-9)


def test_rejecting_everything_earns_nothing_and_costs_nothing(scenario):
    batch = EnvironmentBatch(1, scenario)
    batch.reset(0, np.random.default_rng(0))
    total = np.zeros(len(COMPONENTS))
    while not batch.done[0]:
        batch.actions[0] = 0
        batch.step()
        total += batch.components[0]
    assert np.allclose(total, 0.0, atol=1e-9)


def test_the_vector_reward_follows_mo_gymnasium(scenario):
    env = gym.make("BurstGPT-v0", scenario=scenario, reward="vector", disable_env_checker=True)
    env.reset(seed=0)
    space = env.unwrapped.reward_space
    assert space.shape == (env.unwrapped.reward_dim,) == (4,)
    env.action_space.seed(0)
    for _ in range(50):
        paid = env.step(env.action_space.sample())[1]
        assert isinstance(paid, np.ndarray)
        assert paid in space
    vector = gym.make_vec("BurstGPT-v0", num_envs=3, scenario=scenario, reward="vector")
    vector.reset(seed=0)
    paid = vector.step(vector.action_space.sample())[1]
    assert paid.shape == (3, 4)
    assert paid.dtype == np.float32
    assert vector.unwrapped.reward_space.shape == (3, 4)


def test_rewards_of_decisions_taken_by_a_rule_are_not_lost(scenario):
    """After decisions under a rule the components are the rule's rewards, and the next step's are its own."""
    from burstenv.policies import parse_composite

    batch = EnvironmentBatch(1, scenario)
    batch.reset(0, np.random.default_rng(0))
    batch.fast_forward(0, parse_composite("always/jsq/vllm"), 200)
    earned = batch.components[0].copy()
    assert earned[0] == batch.cluster.state.environments["attained_worth"][0] > 0
    batch.step()
    assert batch.components[0, 0] <= 5


def test_an_unknown_reward_names_the_valid_ones(scenario):
    with pytest.raises(BurstenvError, match="token-weighted"):
        EnvironmentBatch(1, scenario, reward="tokens")
