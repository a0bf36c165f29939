"""Registering the environments with Gymnasium, without importing what they need."""

from __future__ import annotations

import gymnasium as gym

ENV_ID = "BurstGPT-v0"


def register_envs() -> None:
    """Register every environment id; calling it again changes nothing."""
    if ENV_ID in gym.registry:
        return
    gym.register(
        id=ENV_ID,
        entry_point="burstenv.envs.env:BurstGPTEnv",
        vector_entry_point="burstenv.envs.vector_env:BurstGPTVectorEnv",
    )
