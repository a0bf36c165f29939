"""The native batch keeps the contract of a Stable-Baselines3 VecEnv."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO

import burstenv  # noqa: F401  registers the environments
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.batch import EnvironmentBatch

FLAT = {"decide": ("admission", "routing"), "action": "flat"}


def make(scenario, num_envs=4, stagger=None, max_episode_steps=None, reward_scale=1.0, **kwargs):
    batch = EnvironmentBatch(num_envs, scenario, **{**FLAT, **kwargs})
    return SB3VecEnv(batch, 7, reward_scale, stagger, max_episode_steps)


def play(venv, steps, seed=0):
    """Step with random actions; yield (observations, rewards, dones, infos)."""
    random = np.random.default_rng(seed)
    venv.reset()
    for _ in range(steps):
        yield venv.step(random.integers(0, venv.action_space.n, venv.num_envs))


def test_shapes_and_types(scenario):
    venv = make(scenario)
    observations = venv.reset()
    assert observations.shape == (4, *venv.observation_space.shape)
    assert observations.dtype == np.float32
    observations, rewards, dones, infos = venv.step(np.ones(4, int))
    assert (observations.dtype, rewards.dtype, dones.dtype) == (np.float32, np.float32, bool)
    assert len(infos) == 4
    assert venv.get_attr("render_mode") == [None] * 4
    assert venv.get_attr("elapsed_s", indices=[1, 2]) == [venv.batch.elapsed_s[1], venv.batch.elapsed_s[2]]
    assert venv.env_method("counts", indices=0)[0]["offered"] > 0
    assert not venv.has_attr("no_such_thing")
    with pytest.raises(AttributeError):
        venv.set_attr("load", 1.0)


def test_observations_are_not_overwritten_by_the_next_step(scenario):
    venv = make(scenario)
    first = venv.reset()
    kept = first.copy()
    second, *_ = venv.step(np.ones(4, int))
    np.testing.assert_array_equal(first, kept)
    assert not np.array_equal(first, second)


def test_an_episode_return_is_its_score(scenario):
    ended = 0
    for _, _, dones, infos in play(make(scenario, reward="worth", reward_scale=0.01), 900):
        for i in range(4):
            assert bool(infos[i]) == bool(dones[i])
            if dones[i]:
                ended += 1
                metrics = infos[i]["episode_metrics"]
                assert infos[i]["episode"]["r"] / metrics["offered"] == metrics["score"]
                assert metrics["offered"] == metrics["attained"] + metrics["late"] + metrics["rejected"]
                assert infos[i]["episode"]["l"] >= metrics["offered"]
                assert infos[i]["TimeLimit.truncated"] is False
    assert ended > 4


def test_same_as_the_gymnasium_environments(scenario):
    """Environment i of a batch seeded 7 is the scalar environment seeded 7 + i, across an episode's end."""
    venv = make(scenario, num_envs=2)
    env = gym.make("BurstGPT-v0", scenario=scenario.config.model_dump(), **FLAT)
    observation, _ = env.reset(seed=8)
    random = np.random.default_rng(0)
    np.testing.assert_array_equal(venv.reset()[1], observation)
    ends = 0
    while ends < 2:
        actions = random.integers(0, 5, 2)
        observations, rewards, dones, infos = venv.step(actions)
        observation, reward, terminated, _, _ = env.step(actions[1])
        assert dones[1] == terminated
        assert rewards[1] == reward
        if terminated:
            ends += 1
            np.testing.assert_array_equal(infos[1]["terminal_observation"], observation)
            observation, _ = env.reset()
        np.testing.assert_array_equal(observations[1], observation)


def test_truncation(scenario):
    venv = make(scenario, max_episode_steps=20)
    for step, (_, _, dones, infos) in enumerate(play(venv, 40), start=1):
        assert dones.all() == (step % 20 == 0)
        if dones.any():
            assert all(info["TimeLimit.truncated"] and info["episode"]["l"] == 20 for info in infos)


def test_stagger_spreads_the_first_episodes_only(scenario):
    venv = make(scenario, num_envs=16, stagger="always/jsq/vllm")
    venv.reset()
    before = venv.batch.cluster.state.environments["decisions"].copy()
    assert len(np.unique(before)) > 8
    assert not venv.batch.done.any()
    partial = 0
    for _, _, dones, infos in play(venv, 200):  # play() resets, which opens whole episodes
        partial += sum("episode" not in info for info, done in zip(infos, dones, strict=True) if done)
    assert partial == 0
    spread = make(scenario, num_envs=16, stagger="always/jsq/vllm")
    spread.reset()
    infos = [info for _ in range(300) for info in spread.step(np.ones(16, int))[3] if info]
    assert any("episode" not in info for info in infos)
    assert all("episode_metrics" in info for info in infos)


def test_seeds(scenario):
    one, two = make(scenario), make(scenario)
    np.testing.assert_array_equal(one.reset(), two.reset())
    two.seed(8)
    shifted = two.reset()
    one.seed(7)
    np.testing.assert_array_equal(one.reset()[1:], shifted[:-1])


def test_masks_reach_maskable_ppo_and_are_obeyed(scenario):
    """With a mask that allows one replica only, MaskablePPO sends everything there; PPO does not."""

    class OneReplica(SB3VecEnv):
        def action_masks(self):
            masks = np.zeros_like(super().action_masks())
            masks[:, 2] = True
            return masks

    chosen = {}
    for algorithm in (MaskablePPO, PPO):
        venv = OneReplica(EnvironmentBatch(4, scenario, **FLAT), 0)
        assert is_masking_supported(venv)
        assert get_action_masks(venv).shape == (4, 5)
        model = algorithm("MlpPolicy", venv, n_steps=16, batch_size=64, n_epochs=1, seed=0, device="cpu")
        model.learn(64)
        chosen[algorithm] = set(model.rollout_buffer.actions.ravel().astype(int))
    assert chosen[MaskablePPO] == {2}
    assert len(chosen[PPO]) > 2


def test_multi_discrete_masks_are_side_by_side(scenario):
    venv = make(scenario, decide=("admission", "routing", "batching"), action="multi")
    venv.reset()
    assert get_action_masks(venv).shape == (4, 3 + 4 + 2)
    assert (get_action_masks(venv) == venv.batch.masks.astype(bool)).all()
    model = MaskablePPO("MlpPolicy", venv, n_steps=16, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(64)
    # The scenario allows no deferral: choice 2 of the admission is never legal.
    assert set(model.rollout_buffer.actions[..., 0].ravel().astype(int)) == {0, 1}
