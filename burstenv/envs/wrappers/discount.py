r"""Discounting by time: a step lasts until the next decision, hence it is no unit of time.

In a semi-Markov decision process with discount ``g`` per second, the value of a state is

    V(s_0) = E[ sum_k g^(t_{k+1} - t_0) r_k ],      V(s_k) = E[ g^(tau_k) (r_k + V(s_{k+1})) ],

where ``tau_k = t_{k+1} - t_k`` is ``info["elapsed_s"]``, and ``r_k`` is paid at the end of the step
(Bradtke and Duff, "Reinforcement learning methods for continuous-time Markov decision problems", NeurIPS 1994; Sutton,
Precup and Singh, Artificial Intelligence 112, 1999). Under a constant discount per decision the future would
count less with more arrivals.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import AutoresetMode

from burstenv.arguments import checked
from burstenv.errors import BurstenvError


def _check(gamma_per_s: float) -> float:
    if not 0.0 < gamma_per_s <= 1.0:
        raise BurstenvError(f"gamma_per_s must be above 0 and at most 1, such as 0.99, got {gamma_per_s!r}")
    return float(gamma_per_s)


class SemiMDPDiscount(gym.Wrapper, RecordConstructorArgs):
    """A scalar environment that discounts by the elapsed time.

    Rewards become ``g^tau r``, and ``info["discount"]`` is ``g^tau`` (0 at termination). The target of a value is
    ``reward + info["discount"] * V(next observation)``. For an algorithm with one
    constant discount set ``from_start=True`` and a discount of 1: rewards then become ``g^(t - t_0) r`` and their plain
    sum is the discounted return. Prefer the first form if possible: under ``from_start`` values depend on the time,
    which the observation does not show.

    Args:
        env: The environment.
        gamma_per_s: g, the discount of one second, above 0 and at most 1.
        from_start: Discount rewards back to the start of the episode, not to the decision.

    Raises:
        BurstenvError: If g is out of range.
    """

    @checked()
    def __init__(self, env: gym.Env, gamma_per_s: float, from_start: bool = False):
        RecordConstructorArgs.__init__(self, gamma_per_s=gamma_per_s, from_start=from_start)
        gym.Wrapper.__init__(self, env)
        self.gamma_per_s = _check(gamma_per_s)
        self.from_start = from_start
        self._factor = 1.0  # g^(time since the start)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self._factor = 1.0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and discount by the elapsed time."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        discount = self.gamma_per_s ** info["elapsed_s"]
        self._factor *= discount
        reward = reward * (self._factor if self.from_start else discount)  # type: ignore[operator]
        return observation, reward, terminated, truncated, {**info, "discount": 0.0 if terminated else discount}


class SemiMDPDiscountVector(gym.vector.VectorWrapper):
    """A vector environment that discounts by time; see :class:`SemiMDPDiscount`.

    Args:
        env: The vector environment.
        gamma_per_s: g, above 0 and at most 1.
        from_start: Discount rewards back to the start of their episode.
    """

    @checked()
    def __init__(self, env: gym.vector.VectorEnv, gamma_per_s: float, from_start: bool = False):
        super().__init__(env)
        self.gamma_per_s = _check(gamma_per_s)
        self.from_start = from_start
        self._same_step = env.metadata.get("autoreset_mode") is AutoresetMode.SAME_STEP
        self._factor = np.ones(self.num_envs)  # (N,) g^(time since the start)
        self._over = np.zeros(self.num_envs, bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode in every environment."""
        self._factor[:] = 1.0
        self._over[:] = False
        return self.env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Step, and discount by the elapsed time."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        over = terminated | truncated
        elapsed_s = infos["elapsed_s"]
        if self._same_step and over.any():  # it already holds the new episode's
            elapsed_s = np.where(over, infos["final_info"]["elapsed_s"], elapsed_s)
        discount = self.gamma_per_s**elapsed_s
        discount[self._over & (not self._same_step)] = 1.0  # a step that only reset
        self._factor *= discount
        rewards = rewards * (self._factor if self.from_start else discount)
        self._factor[over] = 1.0
        self._over = over
        infos["discount"] = np.where(terminated, 0.0, discount)
        infos["_discount"] = np.ones(self.num_envs, bool)
        return observations, rewards, terminated, truncated, infos
