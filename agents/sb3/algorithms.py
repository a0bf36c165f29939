"""The algorithms of Stable-Baselines3 and sb3-contrib behind one function."""

from __future__ import annotations

from typing import Any

import numpy as np
from sb3_contrib import QRDQN, RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3 import A2C, DQN, SAC, TD3
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from burstenv.agents.algorithm_config import (
    ON_POLICY,
    A2CConfig,
    DQNConfig,
    MaskablePPOConfig,
    PPOConfig,
    QRDQNConfig,
    RecurrentPPOConfig,
    SACConfig,
    TD3Config,
)
from burstenv.agents.config import AgentConfig
from burstenv.agents.networks import ACTIVATIONS, begin_as_the_rule, policy_arguments, policy_class
from burstenv.agents.sb3.rollout_buffers import (
    TimedMaskableRolloutBuffer,
    TimedRecurrentRolloutBuffer,
    TimedRolloutBuffer,
)
from burstenv.agents.sb3.segments import RecordingMaskablePPO, RecordingPPO, SegmentRecorder, records_segments

CLASSES = {
    "ppo": RecordingPPO, "maskable-ppo": RecordingMaskablePPO, "recurrent-ppo": RecurrentPPO, "a2c": A2C,
    "dqn": DQN, "qr-dqn": QRDQN, "sac": SAC, "td3": TD3,
}  # fmt: skip
_OTHER_POLICIES = {
    "recurrent-ppo": RecurrentActorCriticPolicy, "dqn": DQNPolicy, "qr-dqn": QRDQNPolicy, "sac": SACPolicy,
    "td3": TD3Policy,
}  # fmt: skip


def policy_of(config: AgentConfig, layout: Any, observed: Any) -> tuple[type[Any], dict[str, Any]]:
    """Return an agent's policy class and its keyword arguments, for an action and an observation layout."""
    algorithm = config.algorithm
    if algorithm.name not in _OTHER_POLICIES:
        return policy_class(config), policy_arguments(config, layout, observed)
    arguments: dict[str, Any] = {
        "net_arch": list(config.net_arch),
        "activation_fn": ACTIVATIONS[config.activation],
    }
    if isinstance(algorithm, RecurrentPPOConfig):
        arguments["lstm_hidden_size"] = algorithm.lstm_size
    if isinstance(algorithm, QRDQNConfig):
        arguments["n_quantiles"] = algorithm.quantiles
    return _OTHER_POLICIES[algorithm.name], arguments


def make_model(config: AgentConfig, venv: Any, learning_rate: Any, seed: int) -> Any:
    """Return an untrained model of Stable-Baselines3 on a batch.

    Args:
        config: The agent's.
        venv: An :class:`SB3VecEnv`, or any ``VecEnv`` with the same spaces and a ``batch``.
        learning_rate: A number, or a function of the remaining share of the budget.
        seed: Of the weights, the sampled actions and the minibatches.
    """
    policy, arguments = policy_of(config, venv.batch.layout, venv.batch.observation_layout)
    model = CLASSES[config.algorithm.name](
        policy, venv, learning_rate=learning_rate, gamma=config.gamma, policy_kwargs=arguments, seed=seed,
        device="cpu", verbose=0, **_settings(config, venv),
    )  # fmt: skip
    begin_as_the_rule(config, model.policy, venv.batch.observation_layout)
    install_buffer(config, model)
    if isinstance(config.algorithm, PPOConfig) and records_segments(config, venv):
        model.recorder = SegmentRecorder(config, venv, config.algorithm.n_steps)
    return model


def _settings(config: AgentConfig, venv: Any) -> dict[str, Any]:
    """Return an algorithm's own names of its settings."""
    algorithm = config.algorithm
    if isinstance(algorithm, ON_POLICY):
        names = ["n_steps", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"]
        if isinstance(algorithm, PPOConfig):
            names += ["batch_size", "n_epochs", "clip_range", "target_kl"]
        settings = {name: getattr(algorithm, name) for name in names}
        return {**settings, "use_rms_prop": algorithm.rms_prop} if isinstance(algorithm, A2CConfig) else settings
    names = ["buffer_size", "learning_starts", "batch_size", "gradient_steps"]
    settings = {name: getattr(algorithm, name) for name in names} | {"train_freq": algorithm.train_every}  # type: ignore[union-attr]
    if isinstance(algorithm, DQNConfig):
        # The count is of decisions; with many environments the target follows after a step of all at the earliest.
        settings["target_update_interval"] = max(algorithm.target_update_every, venv.num_envs)
        settings["exploration_fraction"] = algorithm.exploration_share
        settings["exploration_final_eps"] = algorithm.exploration_final
        settings["max_grad_norm"] = algorithm.max_grad_norm
    if isinstance(algorithm, SACConfig):
        settings["tau"] = algorithm.tau
        settings["ent_coef"] = "auto" if algorithm.ent_coef is None else algorithm.ent_coef
    if isinstance(algorithm, TD3Config):
        width = venv.action_space.shape
        settings["tau"] = algorithm.tau
        settings["action_noise"] = NormalActionNoise(np.zeros(width), np.full(width, algorithm.action_noise))
    return settings


def install_buffer(config: AgentConfig, model: Any) -> None:
    """Give an on-policy model the rollout buffer of :mod:`burstenv.agents.sb3.rollout_buffers`.

    A model on other environments (the null environment of the bench) keeps its own.
    """
    algorithm = config.algorithm
    venv = model.get_env()
    if not isinstance(algorithm, ON_POLICY) or not hasattr(venv, "decided_request"):
        return
    shape = (algorithm.n_steps, model.observation_space, model.action_space)
    settings = {"gamma": config.gamma, "gae_lambda": algorithm.gae_lambda, "n_envs": venv.num_envs}
    if isinstance(algorithm, RecurrentPPOConfig):
        hidden = (algorithm.n_steps, 1, venv.num_envs, algorithm.lstm_size)
        buffer: Any = TimedRecurrentRolloutBuffer(*shape, hidden, model.device, **settings)
    elif isinstance(algorithm, MaskablePPOConfig):
        buffer = TimedMaskableRolloutBuffer(*shape, model.device, **settings)
    else:
        buffer = TimedRolloutBuffer(*shape, model.device, **settings)
    buffer.attach(venv, config)
    model.rollout_buffer = buffer
