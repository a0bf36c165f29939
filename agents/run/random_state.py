"""Save and restore the random streams of a process that training uses."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from gymnasium import spaces


def random_state(actions: spaces.Space | None = None) -> dict[str, Any]:
    """Return the state of Python's, NumPy's and PyTorch's global streams, and of an action space's."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002  Stable-Baselines3 draws on it
        "torch": torch.get_rng_state(),
        "actions": None if actions is None else actions.np_random.bit_generator.state,
    }


def restore_random_state(state: dict[str, Any], actions: spaces.Space | None = None) -> None:
    """Restore the result of :func:`random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if actions is not None:
        actions.np_random.bit_generator.state = state["actions"]
