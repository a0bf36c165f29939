"""A model of Stable-Baselines3 in the monitor's form, and the callback that calls the monitor."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at
from burstenv.agents.run.monitor import LearningRate, Monitor
from burstenv.agents.run.random_state import random_state, restore_random_state
from burstenv.agents.run.state_file import numbers_of, put_weights, weights_of
from burstenv.agents.sb3.actors import Actor
from burstenv.agents.sb3.algorithms import make_model
from burstenv.agents.sb3.histograms import rollout_histograms, weight_histograms
from burstenv.agents.sb3.vec_env import SB3VecEnv

_STEP_STATE = ("_last_obs", "_last_episode_starts", "_last_lstm_states")  # state that a rollout continues from


class ModelLearner:
    """A model in training.

    Args:
        config: The agent's.
        model: Of Stable-Baselines3 or sb3-contrib.
        venv: Its environments.
    """

    def __init__(self, config: AgentConfig, model: Any, venv: SB3VecEnv):
        self.model = model
        self._config = config
        self._venv = venv
        self._reward: float | None = None  # per decision, unscaled, over the last rollout

    def actor(self) -> Actor:
        """Return the present policy, for validation."""
        self.model.policy.set_training_mode(False)
        seed = 0 if self._config.draws else None
        return Actor(self.model.policy, self._venv.batch.layout.sizes, self._config.action == "flat", seed)

    def save(self, file: Any) -> None:
        """Write a checkpoint of Stable-Baselines3 to an open file."""
        self.model.save(file)

    def facts(self) -> dict[str, float | None]:
        """Return reward, entropy, explained variance and divergence of the last update."""
        values = self.model.logger.name_to_value
        return {
            "reward_per_decision": self._reward,
            "entropy": _number(values.get("train/entropy_loss"), -1.0),
            "explained_variance": _number(values.get("train/explained_variance")),
            "approx_kl": _number(values.get("train/approx_kl")),
        }

    def histograms(self) -> dict[str, torch.Tensor]:
        """Return the weights, and the actions and rewards of the last rollout where the algorithm keeps them."""
        return {**weight_histograms(self.model.policy), **rollout_histograms(self.model, self._venv.batch.layout)}

    def rewarded(self, reward_per_decision: float) -> None:
        """Record the mean reward of a rollout."""
        self._reward = reward_per_decision

    def state(self) -> dict[str, Any]:
        """Return model, environments and random streams."""
        replay = getattr(self.model, "replay_buffer", None)
        return {
            "weights": weights_of(self.model),
            "numbers": numbers_of(self.model),
            "step": {name: getattr(self.model, name) for name in _STEP_STATE if hasattr(self.model, name)},
            "replay": None if replay is None else numbers_of(replay),
            "environments": self._venv.state(),
            "random": random_state(self.model.action_space),
            "reward": self._reward,
        }

    @classmethod
    def restored(
        cls, config: AgentConfig, venv: SB3VecEnv, learning_rate: LearningRate, state: dict[str, Any]
    ) -> ModelLearner:
        """Restore the model, its environments and the random streams of the process."""
        model = make_model(config, venv, learning_rate, 0)
        put_weights(model, state["weights"])
        vars(model).update({**state["numbers"], **state["step"]})
        if state["replay"] is not None:
            vars(model.replay_buffer).update(state["replay"])
        venv.restore(state["environments"])
        restore_random_state(state["random"], model.action_space)
        learner = cls(config, model, venv)
        learner._reward = state["reward"]
        return learner


class TrainingCallback(BaseCallback):
    """Calls the monitor between updates.

    Args:
        config: The agent's.
        monitor: The monitor to call.
        learner: The model.
        venv: Its environments.
    """

    def __init__(self, config: AgentConfig, monitor: Monitor, learner: ModelLearner, venv: SB3VecEnv):
        super().__init__()
        self._config = config
        self._monitor = monitor
        self._learner = learner
        self._venv = venv
        self._rewards: list[float] = []

    def _on_rollout_start(self) -> None:
        """Run after the update that followed the rollout before."""
        self._monitor.between_updates(self.model.num_timesteps, self._learner)
        self._venv.load_range = load_range_at(self._config, self._monitor.spent)
        self._rewards = []

    def _on_step(self) -> bool:
        self._rewards.append(self._venv.last_reward)
        return True

    def _on_rollout_end(self) -> None:
        reward = float(np.mean(self._rewards))
        self._learner.rewarded(reward)
        self.logger.record("rollout/reward_per_decision", reward)


def _number(value: Any, factor: float = 1.0) -> float | None:
    if isinstance(value, torch.Tensor):
        value = value.item()
    return None if value is None or not np.isfinite(value) else factor * float(value)
