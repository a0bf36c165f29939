"""A joint action as one number: for algorithms that take ``Discrete`` only, such as DQN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space

from burstenv.arguments import checked
from burstenv.envs.given_actions import whole_numbers
from burstenv.errors import BurstenvError


class FlatCode:
    """The numbering of joint actions: mixed radix, the last component fastest (as ``np.ravel_multi_index``).

    Args:
        sizes: Number of choices of each component, such as ``(3, R, M)``.

    Attributes:
        n: Number of joint actions, the product of the sizes.
    """

    def __init__(self, sizes: Sequence[int]):
        self.sizes = tuple(int(size) for size in sizes)
        self.n = int(np.prod(self.sizes))
        # (n, C) the components of each number; a table is faster than dividing at each step
        self._parts = np.stack(np.unravel_index(np.arange(self.n), self.sizes), axis=-1)
        self._ends = np.cumsum(self.sizes)[:-1]

    def decode(self, numbers: Any) -> np.ndarray:
        """Return the components of one number, (C,), or of many, (..., C), int64; out of range is clipped."""
        return self._parts[np.clip(whole_numbers(numbers), 0, self.n - 1)]

    def encode(self, actions: Any) -> Any:
        """Return the number of an action, (C,), or the numbers of many, (..., C)."""
        parts = np.moveaxis(np.asarray(actions), -1, 0)
        return np.ravel_multi_index(tuple(parts), self.sizes)

    def mask(self, masks: np.ndarray) -> np.ndarray:
        """Return the legal numbers, (..., n), from masks with components side by side, (..., sum of sizes).

        A joint action is legal if each of its components is.
        """
        parts = np.split(masks, self._ends, axis=-1)
        joint = parts[0]
        for part in parts[1:]:
            joint = (joint[..., :, None] & part[..., None, :]).reshape(*joint.shape[:-1], -1)
        return joint


def _code(space: gym.Space, of: str) -> FlatCode:
    if not isinstance(space, gym.spaces.MultiDiscrete):
        raise BurstenvError(f"{of} needs a MultiDiscrete action space; this environment's is already {space}")
    return FlatCode(space.nvec.tolist())


class FlatAction(gym.ActionWrapper, RecordConstructorArgs):
    """A scalar environment whose joint ``MultiDiscrete`` action is one ``Discrete`` number.

    ``info["action_mask"]`` and :meth:`action_masks` mark the legal numbers.

    Args:
        env: The environment.

    Raises:
        BurstenvError: If the action is one number already.
    """

    @checked()
    def __init__(self, env: gym.Env):
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self.code = _code(env.action_space, "FlatAction")
        self.action_space = gym.spaces.Discrete(self.code.n)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        return observation, self._with_mask(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take the action of a number."""
        observation, reward, terminated, truncated, info = self.env.step(self.action(action))
        return observation, reward, terminated, truncated, self._with_mask(info)

    def action(self, action: Any) -> np.ndarray:
        """Return the components of a number, (C,) int64."""
        return self.code.decode(action)

    def action_masks(self) -> np.ndarray:
        """Return the legal numbers, (n,) bool."""
        return self.code.mask(self.env.get_wrapper_attr("action_masks")())

    def _with_mask(self, info: dict[str, Any]) -> dict[str, Any]:
        if "action_mask" in info:
            info = {**info, "action_mask": self.code.mask(info["action_mask"])}
        return info


class FlatActionVector(gym.vector.VectorWrapper):
    """A vector environment whose joint actions are numbers, (N,); see :class:`FlatAction`.

    Args:
        env: The vector environment.
    """

    @checked()
    def __init__(self, env: gym.vector.VectorEnv):
        super().__init__(env)
        self.code = _code(env.single_action_space, "FlatActionVector")
        self.single_action_space = gym.spaces.Discrete(self.code.n)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment."""
        observations, infos = self.env.reset(seed=seed, options=options)
        return observations, self._with_masks(infos)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take the actions of numbers, (N,)."""
        observations, rewards, terminated, truncated, infos = self.env.step(self.code.decode(actions))
        infos = self._with_masks(infos)
        if "final_info" in infos:
            infos["final_info"] = self._with_masks(infos["final_info"])
        return observations, rewards, terminated, truncated, infos

    def action_masks(self) -> np.ndarray:
        """Return the legal numbers, (N, n) bool."""
        return self.code.mask(self.env.unwrapped.action_masks())  # type: ignore[attr-defined]

    def _with_masks(self, infos: dict[str, Any]) -> dict[str, Any]:
        if "action_mask" in infos:
            infos = {**infos, "action_mask": self.code.mask(infos["action_mask"])}
        return infos
