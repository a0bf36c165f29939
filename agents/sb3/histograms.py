"""Values whose distributions a run logs at each validation."""

from __future__ import annotations

from typing import Any

import torch

from burstenv.envs.action import ActionLayout


def weight_histograms(policy: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a network by name, without single numbers."""
    return {f"weights/{name}": values.detach() for name, values in policy.named_parameters() if values.numel() > 1}


def rollout_histograms(model: Any, layout: ActionLayout) -> dict[str, torch.Tensor]:
    """Return rewards and choices of the last rollout, by component of the action.

    Args:
        model: Of Stable-Baselines3; one that learns from a replay buffer has no rollouts, and nothing is returned.
        layout: The components.
    """
    buffer = getattr(model, "rollout_buffer", None)
    if buffer is None or not buffer.full:
        return {}
    actions = torch.as_tensor(buffer.actions).flatten(0, -2)
    names = ["choice"] if layout.flat else layout.decide
    chosen = {f"rollout/{name}": actions[:, k] for k, name in enumerate(names)}
    return {"rollout/rewards": torch.as_tensor(buffer.rewards).flatten(), **chosen}
