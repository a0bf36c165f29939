"""Discounted returns of the decisions of a batch of environments."""

from __future__ import annotations

import numpy as np


def discounted(
    rewards: np.ndarray,
    dones: np.ndarray,
    future: np.ndarray,
    gamma: float,
    elapsed_s: np.ndarray,
    unit_s: float | None,
) -> np.ndarray:
    """Return the returns, (T, N) float32.

    Args:
        rewards: (T, N).
        dones: (T, N) whether the episode ended with the step.
        future: (N,) expected return after the last step.
        gamma: Discount of one decision, or of ``unit_s``.
        elapsed_s: (T, N) time that each step took in the cluster [s].
        unit_s: Time over which ``gamma`` discounts [s]; None: one decision.
    """
    discounts = (gamma ** (np.ones(rewards.shape) if unit_s is None else elapsed_s / unit_s)).astype(np.float32)
    returns = np.zeros_like(rewards)
    for t in reversed(range(len(rewards))):
        future = rewards[t] + discounts[t] * future * ~dones[t]
        returns[t] = future
    return returns
