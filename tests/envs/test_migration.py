"""Live migration as an environment: doing nothing is no migration, legal pairs begin, and both checkers are silent."""

from __future__ import annotations

import copy
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.config import read_yaml, shipped
from burstenv.envs.migration.batch import MigrationBatch
from burstenv.envs.migration.step import pair_of
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.policies import load_policy
from tests.cluster.small_clusters import assert_same_records

ID = "BurstGPT-Migration-v0"
RATE_PER_S = 6.0  # about what the memory of the replicas can hold


@pytest.fixture(scope="module")
def values():
    """Three replicas with little memory, and short episodes."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["fragmentation"]))
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    values["cluster"] = copy.deepcopy(read_yaml(shipped("clusters")["llama-2-7b-a10-x4"]))
    values["cluster"]["replicas"][0] |= {"count": 3, "num_blocks": 300}
    return values


def play(env, choose, seed=3):
    """Play an episode; return the records, the rewards and what became of the migrations."""
    _, info = env.reset(seed=seed, options={"rate_per_s": RATE_PER_S})
    rewards, done = [], False
    while not done:
        _, reward, done, _, info = env.step(choose(info["action_mask"]))
        rewards.append(reward)
    return env.unwrapped.batch.cluster.records(0), rewards, info["episode_metrics"]


def test_actions_are_all_ordered_pairs():
    for count in (2, 5):
        pairs = [pair_of.py_func(k, count) if hasattr(pair_of, "py_func") else pair_of(k, count)
                 for k in range(1, 1 + count * (count - 1))]  # fmt: skip
        assert pairs == [(s, d) for s in range(count) for d in range(count) if s != d]


@pytest.mark.parametrize("form", [{}, {"observation": "dict", "pick": "longest"}], ids=str)
def test_gymnasium_checker_is_silent(values, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(ID, scenario=values, **form).unwrapped, skip_render_check=True)


def test_doing_nothing_is_the_policy_without_migration(values):
    env = gym.make(ID, scenario=values)
    records, rewards, metrics = play(env, lambda mask: 0)
    scenario = load_scenario(values)
    cluster = scenario.make_cluster()
    batch = env.unwrapped.batch
    seed = batch.episodes[0]["seed"]
    drawn = scenario.sampler("train").sample(seed, RATE_PER_S)
    requests = np.zeros(len(drawn), records.dtype)
    scenario.write_requests(requests, drawn, seed, False, None)
    cluster.load(0, requests, seed)
    player_of(load_policy("always/freeness/vllm/none"), cluster).run()
    assert_same_records(records, cluster.records(0))
    assert metrics["migrations_begun"] == 0
    assert sum(rewards) == pytest.approx(metrics["score"] * metrics["offered"], rel=1e-6)


def test_legal_pairs_begin_unless_blocks_are_short(values):
    rng = np.random.default_rng(5)
    env = gym.make(ID, scenario=values)
    tried = 0

    def choose(mask):
        nonlocal tried
        legal = np.flatnonzero(mask[1:]) + 1
        tried += len(legal) > 0
        return int(rng.choice(legal)) if len(legal) else 0

    _, _, metrics = play(env, choose)
    assert 20 < metrics["migrations_begun"] <= tried
    ended = metrics["migrations"] + sum(number for name, number in metrics.items() if name.startswith("aborted_"))
    assert 0 <= metrics["migrations_begun"] - ended <= 1


def test_illegal_actions_do_nothing(values):
    env = gym.make(ID, scenario=values)

    def choose(mask):
        illegal = np.flatnonzero(mask == 0)
        return int(illegal[0]) if len(illegal) else 0

    _, _, metrics = play(env, choose)
    assert metrics["migrations_begun"] == 0


def test_the_batch_is_its_environments(values):
    seeds = [11, 12]
    envs = gym.make_vec(ID, num_envs=2, scenario=values)
    envs.reset(seed=seeds, options={"rate_per_s": RATE_PER_S})
    singles = [gym.make(ID, scenario=values) for _ in seeds]
    for env, seed in zip(singles, seeds, strict=True):
        env.reset(seed=seed, options={"rate_per_s": RATE_PER_S})
    for k in range(60):
        action = k % 7
        observations, rewards, *_ = envs.step(np.array([action, action]))
        for i, env in enumerate(singles):
            observation, reward, *_ = env.step(action)
            assert (observations[i] == observation).all()
            assert rewards[i] == reward


def test_wrong_arguments_are_one_sentence(values):
    with pytest.raises(BurstenvError, match="longest, newest, shortest"):
        MigrationBatch(1, pick="oldest", scenario=values)
    with pytest.raises(BurstenvError, match="has no migration"):
        MigrationBatch(1, scenario="default")
    with pytest.raises(BurstenvError, match="needs a cluster with transfers"):
        load_scenario(values | {"cluster": "default"})
    with pytest.raises(BurstenvError, match="llumnix"):
        load_scenario(values | {"migration": {"rule": "lumnix"}})
    with pytest.raises(BurstenvError, match="leave out llumnix"):
        player_of(load_policy("always/freeness/vllm/llumnix"), load_scenario("default").make_cluster())


def test_a_rule_that_a_policy_brings_ends_with_the_episode(values):
    """The scenario's own rule is none: an agent's episode is the same before and after one of a policy's."""

    def begun(env):
        _, info = env.reset(seed=3, options={"rate_per_s": RATE_PER_S})
        done, turn = False, 0
        while not done:
            _, _, done, _, info = env.step((1, turn % 3, 0))
            turn += 1
        return info["episode_metrics"]["migrations_begun"]

    env = gym.make("BurstGPT-v0", scenario=values).unwrapped
    assert begun(env) == 0
    env.reset(seed=1, options={"rate_per_s": RATE_PER_S})
    env.policy_action("always/freeness/vllm/llumnix")
    assert begun(env) == 0


def test_a_migration_rule_is_no_part_of_a_mode_nor_of_a_base(values):
    with pytest.raises(BurstenvError, match="unknown batching mode"):
        gym.make("BurstGPT-v0", scenario=values, decide=("admission", "routing"), batching="vllm/llumnix")
    with pytest.raises(BurstenvError, match="leave out llumnix"):
        load_policy("oracle-lookahead:always/freeness/vllm/llumnix")
