"""Saving and restoring: exact, across environments, and an error if the snapshot does not fit."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest

from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError


@pytest.fixture(scope="module")
def scenarios(small_scenario):
    values = copy.deepcopy(small_scenario)
    values["observation"] = {"forecast": True, "sessions": True, "delay_s": 0.2}
    caching = copy.deepcopy(values)
    caching["cluster"] = {
        "name": "caching", "prefix_caching": True, "asynchronous": True,
        "replicas": [{"model": "llama-2-13b", "hardware": "h100"}] * 2,
    }  # fmt: skip
    ahead = copy.deepcopy(caching)
    ahead["cluster"]["prefix_caching"] = False
    return {
        "plain": load_scenario(small_scenario), "stale": load_scenario(values), "caching": load_scenario(caching),
        "asynchronous": load_scenario(ahead),
    }  # fmt: skip


def go_on(env, actions) -> list[bytes]:
    """Return the results of a sequence of actions, as bytes."""
    out = []
    for action in actions:
        observation, reward, terminated, _, info = env.step(action)
        out.append(observation.tobytes() + np.float64(reward).tobytes() + info["reward_components"].tobytes())
        if terminated:
            break
    return out


@pytest.mark.parametrize("name", ["plain", "stale", "caching", "asynchronous"])
def test_a_branch_continues_bit_for_bit_in_any_environment(scenarios, name):
    env, other = (gym.make("BurstGPT-v0", scenario=scenarios[name], load=2.0).unwrapped for _ in range(2))
    env.reset(seed=1)
    other.reset(seed=99)
    env.action_space.seed(0)
    for _ in range(120):
        observation = env.step(env.action_space.sample())[0]
    saved = env.clone_state()
    actions = [env.action_space.sample() for _ in range(400)]
    first = go_on(env, actions)
    assert np.array_equal(env.restore_state(saved), observation)
    assert go_on(env, actions) == first
    assert np.array_equal(other.restore_state(pickle.loads(pickle.dumps(saved))), observation)
    assert go_on(other, actions) == first
    assert env.batch.cluster.records(0).tobytes() == other.batch.cluster.records(0).tobytes()


@pytest.mark.parametrize("name", ["plain", "stale", "caching", "asynchronous"])
def test_one_environment_of_a_batch_fits_into_another_and_into_a_scalar_one(scenarios, name):
    vector = gym.make_vec("BurstGPT-v0", num_envs=4, scenario=scenarios[name], load=2.0).unwrapped
    vector.reset(seed=5)
    vector.action_space.seed(0)
    for _ in range(100):
        vector.step(vector.action_space.sample())
    third = vector.clone_state(env=2)
    whole = vector.clone_state()
    observations = vector.restore_state(third, env=0)
    assert np.array_equal(observations[0], observations[2])
    scalar = gym.make("BurstGPT-v0", scenario=scenarios[name]).unwrapped
    scalar.restore_state(third.environments)
    into_batch = vector.clone_state()
    for _ in range(60):
        actions = vector.action_space.sample()
        actions[0] = actions[2]
        stepped, rewards, *_ = vector.step(actions)
        alone, reward, *_ = scalar.step(actions[2])
        assert stepped[0].tobytes() == stepped[2].tobytes() == alone.tobytes()
        assert rewards[0] == rewards[2] == reward
    # A scalar environment's state fits into a batch, and the whole batch can be restored.
    vector.restore_state(scalar.clone_state(), env=3)
    observations = vector.restore_state(whole)
    assert not np.array_equal(observations[0], observations[2])
    vector.restore_state(into_batch)
    assert len(into_batch.environments) == 4


def test_a_longer_episode_goes_into_a_smaller_batch(scenarios):
    env, other = (gym.make("BurstGPT-v0", scenario=scenarios["plain"], load=load).unwrapped for load in (6.0, 0.2))
    env.reset(seed=0)
    other.reset(seed=0)
    env.action_space.seed(0)
    go_on(env, [env.action_space.sample() for _ in range(200)])
    saved = env.clone_state()
    actions = [env.action_space.sample() for _ in range(100)]
    other.restore_state(saved)
    assert go_on(other, actions) == go_on(env, actions)


def test_another_scenario_or_action_space_is_an_error_in_one_sentence(scenarios):
    env = gym.make("BurstGPT-v0", scenario=scenarios["plain"]).unwrapped
    env.reset(seed=0)
    saved = env.clone_state()
    with pytest.raises(BurstenvError, match="of scenario 'blind'"):
        gym.make("BurstGPT-v0", scenario=scenarios["stale"]).unwrapped.restore_state(saved)
    with pytest.raises(BurstenvError, match="same decide and action"):
        gym.make("BurstGPT-Routing-v0", scenario=scenarios["plain"]).unwrapped.restore_state(saved)
    vector = gym.make_vec("BurstGPT-v0", num_envs=2, scenario=scenarios["plain"]).unwrapped
    with pytest.raises(BurstenvError, match="1 environments, it cannot go into 2"):
        vector.restore_state(saved)
    with pytest.raises(BurstenvError, match="env must be from 0 to 1"):
        vector.clone_state(env=2)


def test_a_pickled_snapshot_with_any_byte_changed_is_refused(small_scenario):
    """Compiled code follows the ids and offsets that a snapshot holds, so it must be the one that was taken."""
    batch = EnvironmentBatch(2, scenario=load_scenario(small_scenario))
    random = np.random.default_rng(0)
    for i in range(2):
        batch.reset(i, random, {"load": 1.0})
    snapshot = batch.clone_state()
    assert batch.restore_state(pickle.loads(pickle.dumps(snapshot))) is None
    arrays = [
        snapshot.buffers["masks"],
        *(value for row in snapshot.rows for value in vars(row).values() if isinstance(value, np.ndarray)),
    ]
    for array in arrays:
        place, whole = array.view(np.uint8).reshape(-1), pickle.dumps(snapshot)
        at = whole.find(place.tobytes())
        assert at > 0
        changed = bytearray(whole)
        changed[at + int(random.integers(place.size))] ^= 1 << int(random.integers(8))
        with pytest.raises(BurstenvError, match="damaged"):
            pickle.loads(bytes(changed))
