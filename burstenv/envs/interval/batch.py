"""The batch behind ``BurstGPT-Interval-v0``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.envs.arguments import check_arguments, check_flat, places_checked
from burstenv.envs.control_batch import ControlBatch
from burstenv.envs.interval.step import (
    INTERVAL_FEATURES,
    SHARE_FEATURES,
    step_intervals,
    step_intervals_threads,
)
from burstenv.envs.observation.features import LIMIT
from burstenv.errors import BurstenvError

LEAST_BUDGET_TOKENS = 64


def _each(values: np.ndarray) -> str:
    """Return a number for each replica, or, for many, their range."""
    if len(values) > 8:
        return f"{values.min():.0f} to {values.max():.0f}"
    return " ".join(f"{value:.0f}" for value in values)


@places_checked
class IntervalBatch(ControlBatch):
    """``N`` environments whose agents set rates, weights and budgets every interval.

    Args:
        num_envs: N.
        interval_s: Length of an interval [s].
        max_admission: Admission rate of an action just below its top, as a share of capacity.
        shared: Arguments of :class:`EnvironmentBatch`, except ``action``.

    Raises:
        BurstenvError: On an unknown name, with the valid ones.
    """

    kernel = staticmethod(step_intervals)
    threads_kernel = staticmethod(step_intervals_threads)
    no_policy = "policies decide about one request at a time, not about an interval"

    def __init__(self, num_envs: int, interval_s: float = 1.0, max_admission: float = 3.0, **shared: Any):
        check_arguments({"interval_s": interval_s, "max_admission": max_admission})
        super().__init__(num_envs, **shared)
        if self.scenario.config.gateways > 1:
            raise BurstenvError(
                f"scenario {self.scenario.config.name!r} has {self.scenario.config.gateways} gateways, and an interval "
                f"sets the rates of one; leave gateways out, or use BurstGPT-v0"
            )
        if not self.scenario.config.observation.relays:
            raise BurstenvError(
                f"scenario {self.scenario.config.name!r} has a gateway that relays no answers, and an interval's "
                f"observation counts them; leave relays out, or use BurstGPT-v0"
            )
        replicas = len(self.scenario.specs)
        self.interval_s = float(interval_s)
        self._most_per_s = float(max_admission) * self._scale
        mode = int(self.settings["mode"][0])
        limits = self.cluster.modes  # (R, M)
        # vLLM rejects a budget below the number of sequences; the highest is that of the hardware or of a mode.
        highest = np.maximum(
            [spec.default_max_num_batched_tokens for spec in self.scenario.specs], limits["token_budget"].max(axis=1)
        )
        lowest = np.minimum(np.maximum(limits["max_num_seqs"][:, mode], LEAST_BUDGET_TOKENS), highest)
        for r, spec in enumerate(self.scenario.specs):  # a prompt computed in one piece must fit
            if not spec.chunked_prefill or self.scenario.modes[mode].batch != "mixed":
                lowest[r] = limits["token_budget"][r, mode]
        self.budgets = np.stack([lowest, highest], axis=1).astype(np.int64)  # (R, 2) [tokens]
        widths = {"admission": 1, "routing": replicas, "batching": replicas, "background": 2 * replicas}
        width = sum(widths[part] for part in self.layout.decide)
        self.actions = np.zeros((num_envs, width))  # (N, C) float64
        self.observation_size += len(INTERVAL_FEATURES) + replicas * len(SHARE_FEATURES)
        self.observations = np.zeros((num_envs, self.observation_size), np.float32)  # (N, O)
        self.masks = np.zeros((num_envs, 0), np.int8)  # every action is legal

    def action_space(self) -> gym.Space:
        """Return the action space of one environment."""
        return gym.spaces.Box(-1.0, 1.0, self.actions.shape[1:], np.float32)

    def action_names(self) -> list[str]:
        """Return the name of every number of an action."""
        names = ["admission"] if "admission" in self.layout.decide else []
        for part, name in (
            ("routing", "weight"), ("batching", "budget"), ("background", "bound"), ("background", "shared"),
        ):  # fmt: skip
            if part in self.layout.decide:
                names += [f"replica{r}.{name}" for r in range(len(self.scenario.specs))]
        return names

    def observation_space(self) -> gym.Space:
        """Return the observation space of one environment."""
        space = super().observation_space()
        if isinstance(space, gym.spaces.Dict):
            size = self.observation_size - self.observation_layout.size
            return gym.spaces.Dict({**space.spaces, "interval": gym.spaces.Box(-LIMIT, LIMIT, (size,), np.float32)})
        return space

    def observation_names(self) -> list[str]:
        """Return the name of every number of a flat observation."""
        names = super().observation_names() + [f"interval.{name}" for name in INTERVAL_FEATURES]
        for r in range(len(self.scenario.specs)):
            names += [f"interval.replica{r}.{name}" for name in SHARE_FEATURES]
        return names

    def shaped(self, flat: np.ndarray) -> Any:
        """Return flat observations, (..., O), in the configured form (a fresh copy)."""
        check_flat(flat, self.observation_size)
        if self.observation_form == "flat":
            return flat.copy()
        size = self.observation_layout.size
        return {**super().shaped(flat[..., :size]), "interval": flat[..., size:].copy()}

    def without_request(self, i: int) -> str:
        """Describe the decision in environment ``i`` without a request at the gateway."""
        return f"the next {self.interval_s:g} s"

    def in_force(self, i: int) -> str:
        """Describe the admission rate, the routing weights and the token budgets of environment ``i``."""
        rate_per_s = float(self.cluster.state.memories[i]["admission_rate_per_s"])
        replicas = len(self.scenario.specs)
        shares = self.observations[i, -replicas * len(SHARE_FEATURES) :].reshape(replicas, -1)[:, 0]
        budgets = self.cluster.state.replicas[i]["token_budget"]
        texts = {
            "admission": "all admitted" if np.isinf(rate_per_s) else f"at most {rate_per_s:.3g} admitted/s",
            "routing": f"weights {_each(100 * shares)} %",
            "batching": f"budgets {_each(budgets)} tokens",
            "background": f"shares {_each(self.cluster.state.replicas[i]['background_tokens'])} tokens of the job",
        }
        return ", ".join(texts[part] for part in self.layout.decide)

    def step_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of every kernel of the batch, those of intervals included."""
        return *super().step_arguments(), self.budgets, self.interval_s, self._most_per_s
