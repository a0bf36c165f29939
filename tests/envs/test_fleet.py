"""The number of replicas as an environment: keeping it is the static rule, cost is paid, checkers are silent."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.config import read_yaml, shipped
from burstenv.envs.fleet.batch import OFFSETS, FleetBatch
from burstenv.envs.fleet.step import FLEET_FEATURES, REPLICA_FEATURES
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.policies import load_policy
from tests.cluster.small_clusters import assert_same_records

ID = "BurstGPT-Fleet-v0"
RATE_PER_S = 6.0  # more than the first replicas serve


@pytest.fixture(scope="module")
def values():
    """Four replicas of which two serve, and short episodes."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["fragmentation"]))
    values["migration"] = None
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    values["cluster"] = copy.deepcopy(read_yaml(shipped("clusters")["llama-2-7b-a10-x4"]))
    values["cluster"]["replicas"][0] |= {"num_blocks": 300}
    values["scaling"] = {"control_period_s": 2, "initial": 2, "cold_start": 3, "price_per_gpu_h": 3600}
    return values


def play(env, choose, seed=3):
    """Play an episode; return the records, the rewards, the metrics and the flat observations."""
    observation, _ = env.reset(seed=seed, options={"rate_per_s": RATE_PER_S})
    rewards, seen, done = [], [observation], False
    while not done:
        observation, reward, done, _, info = env.step(choose(len(rewards)))
        rewards.append(reward)
        seen.append(observation)
    return env.unwrapped.batch.cluster.records(0), rewards, info["episode_metrics"], np.array(seen)


@pytest.mark.parametrize("form", [{}, {"observation": "dict", "action": "count"}], ids=str)
def test_gymnasium_checker_is_silent(values, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, scenario=values, **form).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("action", ["replicas", "count"])
def test_keeping_the_replicas_is_the_static_rule_and_worth_less_the_price_is_paid(values, action):
    env = gym.make(ID, scenario=values, action=action)
    keep = np.array([1, 1, 0, 0]) if action == "replicas" else 1
    records, rewards, metrics, _ = play(env, lambda step: keep)
    scenario = load_scenario(values)
    cluster = scenario.make_cluster()
    seed = env.unwrapped.batch.episodes[0]["seed"]
    drawn = scenario.sampler("train").sample(seed, RATE_PER_S)
    requests = np.zeros(len(drawn), records.dtype)
    scenario.write_requests(requests, drawn, seed, False, None)
    cluster.load(0, requests, seed)
    player_of(load_policy("always/jsq/vllm/static"), cluster).run()
    assert_same_records(records, cluster.records(0))
    assert metrics["boots"] == 0
    assert metrics["gpu_s"] == pytest.approx(2 * metrics["duration_s"])
    paid = metrics["score"] * metrics["offered"] - metrics["gpu_s"]  # one for each second, by the price
    assert sum(rewards) == pytest.approx(paid, rel=1e-6)


def test_observations_follow_the_replicas(values):
    env = gym.make(ID, scenario=values)
    _, _, metrics, seen = play(env, lambda step: np.array([1, 0, 1, 0]) if step < 8 else np.array([1, 1, 1, 1]))
    names = env.unwrapped.observation_names
    assert len(names) == seen.shape[1]
    at = {name: seen[:, names.index(name)] for name in names}
    assert at["fleet.wanted"][0] == at["fleet.active"][0] == 0.5
    assert at["life2.off"][0] == 1
    assert at["life2.booting"][1] == 1
    assert 0.5 < at["life2.booted"][1] < 0.8, "2 s of a boot of 2.7 to 3.3 s"
    assert at["life2.active"][2] == at["life2.booted"][2] == 1
    assert at["life1.wanted"][1] == 0
    assert at["fleet.rate"][1:8].max() > 0.5
    assert metrics["boots"] >= 2
    assert {name.split(".")[1] for name in names if name.startswith("life0.")} == set(REPLICA_FEATURES)
    assert {name.split(".")[1] for name in names if name.startswith("fleet.")} == set(FLEET_FEATURES)


def test_more_replicas_attain_more_and_cost_more(values):
    env = gym.make(ID, scenario=values, action="count")
    results = [play(env, lambda step, number=number: number)[2] for number in (0, 3)]
    assert results[0]["score"] < results[1]["score"]
    assert results[0]["gpu_s"] < results[1]["gpu_s"]


def test_the_batch_is_its_environments(values):
    seeds = [11, 12]
    envs = gym.make_vec(ID, num_envs=2, scenario=values)
    envs.reset(seed=seeds, options={"rate_per_s": RATE_PER_S})
    singles = [gym.make(ID, scenario=values) for _ in seeds]
    for env, seed in zip(singles, seeds, strict=True):
        env.reset(seed=seed, options={"rate_per_s": RATE_PER_S})
    rng = np.random.default_rng(4)
    for _ in range(9):
        actions = rng.integers(0, 2, (2, 4))
        observations, rewards, *_ = envs.step(actions)
        for i, env in enumerate(singles):
            observation, reward, *_ = env.step(actions[i])
            assert (observations[i] == observation).all()
            assert rewards[i] == reward


def test_wrong_arguments_are_one_sentence(values):
    with pytest.raises(BurstenvError, match="count, offset, replicas"):
        FleetBatch(1, action="number", scenario=values)
    with pytest.raises(BurstenvError, match="has no scaling"):
        FleetBatch(1, scenario="default")
    with pytest.raises(BurstenvError, match="unknown scaling rule 'kap'"):
        load_scenario(values | {"scaling": {"rule": "kap"}})
    with pytest.raises(BurstenvError, match=r"leave out kpa"):
        player_of(load_policy("always/jsq/vllm/kpa"), load_scenario("default").make_cluster())


@pytest.mark.parametrize("rule", ["kpa(target=3,window_s=4)", "ray-serve(target=4,up_s=0,down_s=4)", None])
def test_no_offset_is_the_rule_itself_and_offsets_add_to_it(values, rule):
    own = load_scenario({**values, "scaling": {**values["scaling"], "rule": rule or "kpa(target=4)"}})
    env = gym.make(ID, scenario=own, action="offset", scaling=rule, observation="fleet")
    assert env.observation_space.shape == (len(FLEET_FEATURES),)
    records, *_, seen = play(env, lambda k: OFFSETS)
    batch = FleetBatch(1, scenario=own)
    batch.cluster.scale_by(*own.make_cluster().scaling_rule)  # nothing is left to the caller: opened is played
    batch.reset(0, np.random.default_rng(3), {"rate_per_s": RATE_PER_S})
    assert batch.done[0]
    assert_same_records(records, batch.cluster.records(0))
    advice = 4 * seen[:, FLEET_FEATURES.index("advice")]
    wanted = 4 * seen[:, FLEET_FEATURES.index("wanted")]
    assert len(set(advice[1:-1])) > 1
    _, _, _, more = play(env, lambda k: OFFSETS + 1)
    asked, now = (4 * more[:, FLEET_FEATURES.index(name)] for name in ("advice", "wanted"))
    np.testing.assert_allclose(now[1:-1], np.clip(asked[:-2] + 1, 1, 4))
    np.testing.assert_allclose(wanted[1:-1], np.clip(advice[:-2], 1, 4))


def test_an_observation_of_the_fleet_alone_is_a_part_of_the_whole(values):
    whole = play(gym.make(ID, scenario=values, action="count"), lambda k: k % 3)[3]
    env = gym.make(ID, scenario=values, action="count", observation="fleet")
    alone = play(env, lambda k: k % 3)[3]
    at = whole.shape[1] - len(FLEET_FEATURES) - 4 * len(REPLICA_FEATURES)
    np.testing.assert_array_equal(alone, whole[:, at : at + len(FLEET_FEATURES)])
    assert env.unwrapped.observation_names == [f"fleet.{name}" for name in FLEET_FEATURES]


def test_a_rule_without_offsets_is_an_error(values):
    with pytest.raises(BurstenvError, match="scaling is the rule that action offset adds to"):
        gym.make(ID, scenario=values, action="count", scaling="kpa")
    with pytest.raises(BurstenvError, match="unknown scaling rule 'nope'"):
        gym.make(ID, scenario=values, action="offset", scaling="nope")
    with pytest.raises(BurstenvError, match="scaling must be a name or None"):
        gym.make(ID, scenario=values, action="offset", scaling=3)


def test_roles_are_an_action(values):
    """Without prefill replicas no request moves; with them, or flexible ones, requests do."""
    switching = copy.deepcopy(values)
    switching["cluster"]["transfers"] = {"link": "ethernet-400g", "at_once": 32}
    switching["scaling"] |= {"initial": 4, "roles": True}
    handed_over = {}
    for roles in ((1, 1, 1, 1), (2, 3, 3, 3), (4, 4, 4, 4)):
        env = gym.make(ID, scenario=switching, action="roles", routing="least-tokens")
        assert env.action_space == gym.spaces.MultiDiscrete([5] * 4)
        env.reset(seed=3, options={"rate_per_s": RATE_PER_S})
        done = False
        while not done:
            _, _, done, _, _ = env.step(np.array(roles))
        cluster = env.unwrapped.batch.cluster
        handed_over[roles] = cluster.transfer_counts(0)["handed_over"]
        assert cluster.state.replicas[0]["role"].tolist() == [role - 1 for role in roles]
    assert handed_over[1, 1, 1, 1] == 0
    assert handed_over[2, 3, 3, 3] > 20
    assert handed_over[4, 4, 4, 4] > 0


def test_roles_as_an_action_need_a_scenario_with_them(values):
    with pytest.raises(BurstenvError, match=r"scaling\.roles: true"):
        gym.make(ID, scenario=values, action="roles")
    wrong = copy.deepcopy(values)
    wrong["cluster"]["transfers"] = None
    wrong["scaling"] |= {"roles": True}
    with pytest.raises(BurstenvError, match=r"scaling\.roles needs a cluster with transfers"):
        gym.make(ID, scenario=wrong, action="roles")
