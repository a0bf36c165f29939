"""Prefill and decode replicas in the environment: one action space, and a decision about where a request decodes."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.cluster.events import DecisionKind
from burstenv.config import read_yaml, shipped
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.role_plan import plan_roles
from burstenv.policies import load_policy
from tests.cluster.small_clusters import assert_same_records

ID = "BurstGPT-v0"
RATE_PER_S = 40.0


@pytest.fixture(scope="module")
def values():
    """Four replicas with little memory, and short episodes."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["disaggregated"]))
    values["episode"] |= {"duration_s": 8, "max_total_tokens": 4096}
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 30.0)
    values["cluster"] = copy.deepcopy(read_yaml(shipped("clusters")["llama-2-13b-a100-1p3d"]))
    for group in values["cluster"]["replicas"]:
        group["num_blocks"] = 600
    return values


def play(env, choose, seed=3):
    """Play an episode; ``choose`` gets the mask and the kind of decision."""
    _, info = env.reset(seed=seed, options={"rate_per_s": RATE_PER_S})
    cluster, rewards, done = env.unwrapped.batch.cluster, [], False
    while not done:
        _, reward, done, _, info = env.step(choose(info["action_mask"], cluster.decision_kind(0)))
        rewards.append(reward)
    return cluster.records(0), rewards, info["episode_metrics"]


@pytest.mark.parametrize("form", [{}, {"decide": ("admission", "routing"), "action": "flat"}, {"observation": "dict"}])
def test_gymnasium_checker_is_silent(values, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, scenario=values, **form).unwrapped, skip_render_check=True)


def test_legal_places_of_a_prefilled_request(values):
    """They are the decode replicas and its own; what the observation says of the decision holds."""
    env = gym.make(ID, scenario=values, decide=("admission", "routing"), load=1.0)
    names = env.unwrapped.batch.observation_names()
    cluster, rng, seen = env.unwrapped.batch.cluster, np.random.default_rng(5), set()
    observation, info = env.reset(seed=3, options={"rate_per_s": RATE_PER_S})
    done = False
    while not done:
        kind, told = cluster.decision_kind(0), dict(zip(names, observation, strict=True))
        assert told["request.prefilled"] == (kind == DecisionKind.PLACE_DECODE)
        mask = info["action_mask"]
        if kind == DecisionKind.PLACE_DECODE:
            own = int(cluster.state.requests[0, cluster.at_gateway(0)]["replica"])
            assert mask.tolist() == [0, 1, 0, own == 0, 1, 1, 1]
            assert [told[f"replica{r}.has_kv"] for r in range(4)] == [own == r for r in range(4)]
        elif kind == DecisionKind.ADMIT_AND_ROUTE:
            assert mask[3:].all()
        assert [told[f"replica{r}.prefills"] for r in range(4)] == [1, 0, 0, 0]
        assert [told[f"replica{r}.decodes"] for r in range(4)] == [0, 1, 1, 1]
        seen.add(kind)
        action = np.array([1, rng.choice(np.flatnonzero(mask[3:]))])
        observation, _, done, _, info = env.step(action)
    assert {DecisionKind.PLACE_DECODE, DecisionKind.ADMIT_AND_ROUTE} <= seen
    metrics = info["episode_metrics"]
    assert metrics["handed_over"] > 20
    assert metrics["stayed"] > 5
    assert metrics["attained"] + metrics["late"] + metrics["rejected"] + metrics["failed"] == metrics["offered"]


def test_one_that_does_not_route_leaves_places_to_the_rule(values):
    """Then the episode is that of the composite with the scenario's rule; a composite's own rule gives another one."""
    env = gym.make(ID, scenario=values, decide=("admission",), routing="jsq")
    records, rewards, metrics = play(env, lambda mask, kind: 1)
    scenario = load_scenario(values)
    cluster = scenario.make_cluster()
    seed = env.unwrapped.batch.episodes[0]["seed"]
    drawn = scenario.sampler("train").sample(seed, RATE_PER_S)
    requests = np.zeros(len(drawn), records.dtype)
    scenario.write_requests(requests, drawn, seed, False, None)
    cluster.load(0, requests, seed)
    player_of(load_policy("always/jsq/vllm"), cluster).run()
    assert_same_records(records, cluster.records(0))
    assert sum(rewards) == pytest.approx(metrics["score"] * metrics["offered"], rel=1e-6)
    handed_over = cluster.transfer_counts(0)["handed_over"]
    assert handed_over == np.count_nonzero(records["output_tokens"] > 1)  # the others end with their prompt
    cluster.load(0, requests, seed)
    player_of(load_policy("always/jsq/vllm/dynamo(local_tokens=300,queue=1000)"), cluster).run()
    whole = np.isin(cluster.records(0)["replica"], [1, 2, 3]) & (records["prompt_tokens"] <= 300)
    assert cluster.transfer_counts(0)["handed_over"] == np.count_nonzero(
        (records["prompt_tokens"] > 300) & (records["output_tokens"] > 1)
    )
    assert whole.sum() == np.count_nonzero(records["prompt_tokens"] <= 300)


def test_a_heuristic_may_be_asked_about_a_place(values):
    env = gym.make(ID, scenario=values)
    policy = "always/jsq/vllm/in-turn"
    records, _, _ = play(env, lambda mask, kind: env.unwrapped.policy_action(policy))
    cluster = env.unwrapped.batch.cluster
    requests = cluster.state.requests[0, : len(records)].copy()
    again = load_scenario(values).make_cluster()
    again.load(0, requests_as_sent(requests), env.unwrapped.batch.episodes[0]["seed"])
    player_of(load_policy(policy), again).run()
    assert_same_records(records, again.records(0))


def requests_as_sent(records):
    """The requests of an episode that was played, as they were before."""
    requests = np.zeros_like(records)
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "predicted_tokens", "ttft_slo_s", "tpot_slo_s", "worth",
                 "class_code", "session", "priority", "stream", "prefix_stream", "prefix_tokens"):  # fmt: skip
        requests[name] = records[name]
    return requests


def test_splits_into_roles(values):
    scenario = load_scenario(values)
    splits = plan_roles(scenario, "always/jsq/vllm/dynamo", 3, rate_per_s=30.0, episodes=2)
    assert [(split.prefill, split.decode) for split in splits] == [(0, 0), (1, 2), (2, 1)]
    assert len({split.fleet.attainment.mean for split in splits}) == 3
    assert all(split.fleet.replicas == 3 for split in splits)


def test_roles_need_transfers(values):
    wrong = copy.deepcopy(values)
    wrong["cluster"] |= {"transfers": None}
    with pytest.raises(BurstenvError, match="replicas with roles hand requests over"):
        gym.make(ID, scenario=wrong)


def test_a_cluster_needs_both_roles(values):
    wrong = copy.deepcopy(values)
    wrong["cluster"]["replicas"] = wrong["cluster"]["replicas"][:1]
    with pytest.raises(BurstenvError, match="all replicas have role prefill"):
        gym.make(ID, scenario=wrong)


def test_a_placement_rule_needs_roles():
    scenario = load_scenario("default")
    with pytest.raises(BurstenvError, match="has no prefill replicas; leave out dynamo"):
        player_of(load_policy("always/jsq/vllm/dynamo"), scenario.make_cluster())
