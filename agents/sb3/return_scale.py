"""Rewards scaled by the spread of the returns so far."""

from __future__ import annotations

import numpy as np


class ReturnScale:
    """Keeps the standard deviation of discounted returns, over all environments, and divides rewards by it.

    The returns are sums over the past, as is usual (``VecNormalize`` of Stable-Baselines3); the mean is not subtracted,
    so signs stay.

    Args:
        num_envs: N.
        gamma: Discount of the returns, per decision.
    """

    def __init__(self, num_envs: int, gamma: float):
        self._gamma = gamma
        self._sums = np.zeros(num_envs)  # (N,)
        self._count = 1e-4
        self._mean = 0.0
        self._variance = 1.0

    def after(self, rewards: np.ndarray, dones: np.ndarray) -> float:
        """Add a step, (N,) rewards and (N,) ends, and return the new factor of the rewards."""
        self._sums = self._sums * self._gamma + rewards
        count, mean, variance = len(rewards), float(self._sums.mean()), float(self._sums.var())
        total = self._count + count
        apart = mean - self._mean  # Chan et al. 1979: moments of two samples put together
        spread = self._variance * self._count + variance * count + apart**2 * self._count * count / total
        self._mean += apart * count / total
        self._variance, self._count = spread / total, total
        self._sums[dones] = 0.0
        return 1.0 / float(np.sqrt(self._variance + 1e-8))
