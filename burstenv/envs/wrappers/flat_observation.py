"""The dictionary observation as one vector, in the order of ``observation="flat"``.

Gymnasium's ``FlattenObservation`` does this too, but in the alphabetical order of the keys.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space

from burstenv.arguments import checked
from burstenv.errors import BurstenvError

ORDER = ("cluster", "request", "replicas")  # as in burstenv/envs/observation/encoder.py


def _keys(space: gym.Space, of: str) -> tuple[str, ...]:
    """Return the keys in their order within the vector."""
    if not isinstance(space, gym.spaces.Dict):
        raise BurstenvError(f"{of} needs a Dict observation space; this environment's is already {space}")
    known = tuple(key for key in ORDER if key in space.spaces)
    return known + tuple(key for key in space.spaces if key not in known)


def _flat_space(space: gym.spaces.Dict, keys: tuple[str, ...]) -> gym.spaces.Box:
    boxes = [space.spaces[key] for key in keys]
    low = np.concatenate([box.low.ravel() for box in boxes])  # type: ignore[attr-defined]
    high = np.concatenate([box.high.ravel() for box in boxes])  # type: ignore[attr-defined]
    return gym.spaces.Box(low, high, dtype=np.float32)


class FlatObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """A scalar environment whose dictionary observation is one vector, (O,) float32.

    Args:
        env: The environment.

    Raises:
        BurstenvError: If the observation is one vector already.
    """

    @checked()
    def __init__(self, env: gym.Env):
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self._keys = _keys(env.observation_space, "FlatObservation")
        self.observation_space = _flat_space(env.observation_space, self._keys)  # type: ignore[arg-type]

    def observation(self, observation: Any) -> np.ndarray:
        """Return an observation as one vector."""
        return np.concatenate([observation[key].ravel() for key in self._keys])


class FlatObservationVector(gym.vector.VectorWrapper):
    """A vector environment whose dictionary observations are one array, (N, O) float32.

    Args:
        env: The vector environment.
    """

    @checked()
    def __init__(self, env: gym.vector.VectorEnv):
        super().__init__(env)
        self._keys = _keys(env.single_observation_space, "FlatObservationVector")
        self.single_observation_space = _flat_space(env.single_observation_space, self._keys)  # type: ignore[arg-type]
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return self._flat(observations), infos

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step every environment."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        if "final_obs" in infos:
            final = np.full(self.num_envs, None, dtype=object)
            for i, one in enumerate(infos["final_obs"]):
                if one is not None:
                    final[i] = np.concatenate([one[key].ravel() for key in self._keys])
            infos["final_obs"] = final
        return self._flat(observations), rewards, terminated, truncated, infos

    def _flat(self, observations: Any) -> np.ndarray:
        return np.concatenate([observations[key].reshape(self.num_envs, -1) for key in self._keys], axis=1)
