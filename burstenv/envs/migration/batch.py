"""The batch behind ``BurstGPT-Migration-v0``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.cluster.migration import BY_CALLER
from burstenv.cluster.transfer_config import Pick, given_up
from burstenv.envs.arguments import check_flat, places_checked
from burstenv.envs.control_batch import ControlBatch
from burstenv.envs.migration.step import (
    END_FEATURES,
    MOVED_FEATURES,
    step_migrations,
    step_migrations_threads,
)
from burstenv.envs.observation.features import LIMIT
from burstenv.errors import BurstenvError, unknown_name

PICKS = tuple(pick.name.lower() for pick in Pick)


@dataclass(frozen=True)
class PairLayout:
    """An action that chooses an ordered pair of replicas, or none."""

    num_replicas: int
    decide: tuple[str, ...] = ("migration",)
    flat: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each component of the action."""
        return (1 + self.num_replicas * (self.num_replicas - 1),)

    def space(self) -> gym.spaces.Discrete:
        """Return the action space of one environment."""
        return gym.spaces.Discrete(self.sizes[0])


@places_checked
class MigrationBatch(ControlBatch):
    """``N`` environments whose agents move running requests from replica to replica.

    Args:
        num_envs: N.
        pick: Which request of the source moves: ``shortest``, ``newest`` or ``longest``.
        admission: Rule for admission.
        routing: Rule for routing.
        shared: Arguments of :class:`EnvironmentBatch`, except ``decide`` and ``action``.

    Raises:
        BurstenvError: On an unknown name, with the valid ones, and on a scenario without migration.
    """

    kernel = staticmethod(step_migrations)
    threads_kernel = staticmethod(step_migrations_threads)
    no_policy = "policies decide about requests at the gateway, not about migrations"
    layout: Any

    def __init__(
        self, num_envs: int, pick: str = "shortest", admission: str = "always", routing: str = "freeness", **shared: Any
    ):
        shared.setdefault("scenario", "fragmentation")
        if pick not in PICKS:
            raise unknown_name("pick", str(pick), PICKS)
        super().__init__(num_envs, decide=("admission",), admission=admission, routing=routing, **shared)
        if not self.cluster.migrates or self.cluster.num_replicas < 2:
            raise BurstenvError(
                f"scenario {self.scenario.config.name!r} has no migration; use one with it and two replicas at least, "
                f"such as fragmentation"
            )
        if self.cluster.hands_over:
            raise BurstenvError(
                f"scenario {self.scenario.config.name!r} has prefill replicas, whose requests move on their own; this "
                f"environment needs mixed ones"
            )
        self.cluster.migrate_by(BY_CALLER, ())
        self._pick = PICKS.index(pick)
        count = self.cluster.num_replicas
        self.layout = PairLayout(count)
        self.actions = np.zeros((num_envs, 1), np.int64)  # (N, 1)
        self.masks = np.zeros((num_envs, self.layout.sizes[0]), np.int8)  # (N, 1 + R (R - 1))
        self.observation_size += len(MOVED_FEATURES) + count * len(END_FEATURES)
        self.observations = np.zeros((num_envs, self.observation_size), np.float32)  # (N, O)

    def action_names(self) -> list[str]:
        """Return the name of every number of an action."""
        return ["source and destination"]

    def observation_space(self) -> gym.Space:
        """Return the observation space of one environment."""
        space = super().observation_space()
        if isinstance(space, gym.spaces.Dict):
            moved = gym.spaces.Box(-LIMIT, LIMIT, (len(MOVED_FEATURES),), np.float32)
            ends = gym.spaces.Box(-LIMIT, LIMIT, (self.cluster.num_replicas, len(END_FEATURES)), np.float32)
            return gym.spaces.Dict({**space.spaces, "moved": moved, "ends": ends})
        return space

    def observation_names(self) -> list[str]:
        """Return the name of every number of a flat observation."""
        names = super().observation_names() + [f"moved.{name}" for name in MOVED_FEATURES]
        for r in range(self.cluster.num_replicas):
            names += [f"end{r}.{name}" for name in END_FEATURES]
        return names

    def shaped(self, flat: np.ndarray) -> Any:
        """Return flat observations, (..., O), in the configured form (a fresh copy)."""
        check_flat(flat, self.observation_size)
        if self.observation_form == "flat":
            return flat.copy()
        moved = self.observation_layout.size
        ends = moved + len(MOVED_FEATURES)
        return {
            **super().shaped(flat[..., :moved]),
            "moved": flat[..., moved:ends].copy(),
            "ends": flat[..., ends:].reshape(*flat.shape[:-1], self.cluster.num_replicas, -1).copy(),
        }

    def without_request(self, i: int) -> str:
        """Describe the decision in environment ``i``."""
        return "which request migrates"

    def in_force(self, i: int) -> str:
        """Describe the migrations of environment ``i`` so far."""
        counts = self.cluster.transfer_counts(i) or {}
        under_way = int(self.cluster.state.environments["transfers"][i])
        return f"migrations: done {counts['migrations']:,}, given up {given_up(counts)}, under way {under_way}"

    def step_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of every kernel of the batch, and which request of a replica migrates."""
        return *super().step_arguments(), self._pick
