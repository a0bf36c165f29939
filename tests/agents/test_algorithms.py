"""The algorithms of Stable-Baselines3 and sb3-contrib learn on the native batch, a few updates each."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.batch import EnvironmentBatch

ON_POLICY = {"n_steps": 16, "batch_size": 64, "n_epochs": 1}
OFF_POLICY = {"buffer_size": 1000, "learning_starts": 32, "train_freq": 4, "batch_size": 32}
CASES = {
    "PPO": (PPO, "MlpPolicy", ON_POLICY, {}),
    "PPO on dictionaries": (PPO, "MultiInputPolicy", ON_POLICY, {"observation": "dict"}),
    "A2C": (A2C, "MlpPolicy", {"n_steps": 8}, {}),
    "DQN": (DQN, "MlpPolicy", OFF_POLICY, {"flat_action": True}),
    "QR-DQN": (QRDQN, "MlpPolicy", OFF_POLICY, {"flat_action": True}),
    "MaskablePPO": (MaskablePPO, "MlpPolicy", ON_POLICY, {}),
    "MaskablePPO, one number": (MaskablePPO, "MlpPolicy", ON_POLICY, {"flat_action": True}),
    "RecurrentPPO": (RecurrentPPO, "MlpLstmPolicy", {**ON_POLICY, "policy_kwargs": {"lstm_hidden_size": 8}}, {}),
}


def make(scenario, flat_action=False, num_envs=4, **kwargs):
    return SB3VecEnv(EnvironmentBatch(num_envs, scenario, **kwargs), 0, flat_action=flat_action)


@pytest.mark.parametrize("case", CASES)
def test_learns(scenario, case):
    algorithm, policy, settings, form = CASES[case]
    settings = {"policy_kwargs": {"net_arch": [8]}, **settings}
    model = algorithm(policy, make(scenario, **form), seed=0, device="cpu", **settings)
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(128)
    assert model.num_timesteps >= 128
    after = list(model.policy.parameters())
    assert any(not (a == b).all() for a, b in zip(before, after, strict=True))
    assert all(np.isfinite(parameter.detach().numpy()).all() for parameter in after)


def test_masks_of_one_number_are_obeyed(scenario):
    """The scenario allows no deferral, so MaskablePPO never chooses a number that stands for one."""
    venv = make(scenario, flat_action=True)
    model = MaskablePPO("MlpPolicy", venv, **ON_POLICY, seed=0, device="cpu")
    model.learn(64)
    admissions = venv._code.decode(model.rollout_buffer.actions.astype(int).ravel())[:, 0]
    assert set(admissions) == {0, 1}


def test_one_number_steps_as_the_joint_action(scenario):
    joint, flat = make(scenario), make(scenario, flat_action=True)
    np.testing.assert_array_equal(joint.reset(), flat.reset())
    random = np.random.default_rng(0)
    for _ in range(60):
        numbers = random.integers(0, flat.action_space.n, 4)
        for a, b in zip(joint.step(flat._code.decode(numbers))[:3], flat.step(numbers)[:3], strict=True):
            np.testing.assert_array_equal(a, b)


def test_vec_normalize_and_frame_stack(scenario):
    venv = VecNormalize(VecFrameStack(make(scenario), 3), norm_reward=True)
    model = PPO("MlpPolicy", venv, **ON_POLICY, seed=0, device="cpu")
    model.learn(128)
    assert venv.obs_rms.count > 100
    assert venv.reset().shape == (4, 3 * make(scenario).observation_space.shape[0])


def test_evaluate_policy_reads_whole_returns_without_a_warning(scenario):
    venv = make(scenario, reward="attainment")
    model = PPO("MlpPolicy", venv, **ON_POLICY, seed=0, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(model, venv, n_eval_episodes=4, return_episode_rewards=True)
    assert all(r == int(r) and r >= 0 for r in returns)
    assert min(lengths) > 10
