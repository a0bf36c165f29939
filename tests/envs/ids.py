"""Every registered id of the namespace, and helpers of their tests."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import burstenv  # noqa: F401  (registers them)
from burstenv.envs.registration import NAMESPACE

IDS = sorted(env_id for env_id in gym.registry if env_id.startswith(NAMESPACE))
NATIVE = [env_id for env_id in IDS if gym.registry[env_id].vector_entry_point is not None]
every_id = pytest.mark.parametrize("env_id", IDS)
every_native_id = pytest.mark.parametrize("env_id", NATIVE)


def masked(space, mask):
    """Return a mask in the form that ``space.sample`` takes: components apart."""
    if isinstance(space, gym.spaces.MultiDiscrete):
        return tuple(np.split(mask, np.cumsum(space.nvec)[:-1]))
    return mask


def arrays_in(value):
    """Yield every array inside an observation or info."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from arrays_in(inner)
