"""The last observations of every environment of a batch, for policies without memory."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from burstenv.arguments import checked, whole
from burstenv.errors import BurstenvError


class FrameHistoryVector(gym.vector.VectorWrapper):
    """A vector environment that shows its last ``length`` observations, (N, length, O), the newest last.

    At the start of an episode its first observation is repeated (the default of Gymnasium's ``FrameStackObservation``).
    Works with both autoreset modes: a history never reaches into the previous episode.

    Args:
        env: The vector environment; its observations are boxes.
        length: Number of observations, at least 1.
    """

    @checked(length=whole(1, 10_000))
    def __init__(self, env: gym.vector.VectorEnv, length: int):
        super().__init__(env)
        space = env.single_observation_space
        if not isinstance(space, gym.spaces.Box):
            raise BurstenvError(f"FrameHistoryVector needs Box observations, got {space}; flatten them first")
        if length < 1:
            raise BurstenvError(f"length must be at least 1, got {length}")
        self.length = length
        low, high = (np.repeat(bound[None], length, axis=0) for bound in (space.low, space.high))
        self.single_observation_space = gym.spaces.Box(low, high, dtype=space.dtype)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._same_step = env.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
        self._frames = np.zeros((self.num_envs, length, *space.shape), space.dtype)  # (N, length, O)
        self._over = np.zeros(self.num_envs, bool)  # (N,) episodes that the last step ended

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        self._frames[:] = observations[:, None]
        self._over[:] = False
        return self._frames.copy(), infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        over = terminated | truncated
        begun = over if self._same_step else self._over
        if self._same_step and over.any():
            final = np.full(self.num_envs, None, dtype=object)
            for i in np.flatnonzero(over):
                final[i] = np.concatenate([self._frames[i, 1:], infos["final_obs"][i][None]])
            infos["final_obs"] = final
        self._frames[:, :-1] = self._frames[:, 1:]
        self._frames[:, -1] = observations
        self._frames[begun] = observations[begun, None]
        self._over = over
        return self._frames.copy(), rewards, terminated, truncated, infos
