"""The batch behind ``BurstGPT-Iteration-v0``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.envs.arguments import check_arguments, check_flat, places_checked
from burstenv.envs.control_batch import ControlBatch
from burstenv.envs.iteration.step import (
    ROOM_FEATURES,
    SLOT_FEATURES,
    step_iterations,
    step_iterations_threads,
)
from burstenv.envs.observation.features import LIMIT
from burstenv.errors import BurstenvError


@dataclass(frozen=True)
class ChoiceLayout:
    """An action that chooses one of ``slots`` waiting requests, or none."""

    slots: int
    decide: tuple[str, ...] = ("choice",)
    flat: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each component of the action."""
        return (self.slots + 1,)

    def space(self) -> gym.spaces.Discrete:
        """Return the action space of one environment."""
        return gym.spaces.Discrete(self.slots + 1)


@places_checked
class IterationBatch(ControlBatch):
    """``N`` engines; the agent of each chooses the waiting requests that join the next iteration.

    Args:
        num_envs: N.
        slots: K, number of waiting requests to choose from, oldest first.
        batching: The batching mode: token budget, most sequences, headroom; its order must be fcfs. None: the
            scenario's first.
        shared: Arguments of :class:`EnvironmentBatch`, except ``decide``, the other rules and ``action``.

    Raises:
        BurstenvError: On an unknown name, with the valid ones, and on a scenario other than one plain engine.
    """

    kernel = staticmethod(step_iterations)
    threads_kernel = staticmethod(step_iterations_threads)
    no_policy = "policies decide about requests at the gateway, not in an engine"
    layout: Any

    def __init__(self, num_envs: int, slots: int = 8, batching: str | None = None, **shared: Any):
        check_arguments({"slots": slots})
        shared.setdefault("scenario", "one-replica")
        super().__init__(num_envs, decide=("admission",), routing="round-robin", batching=batching, **shared)
        self._mode = int(self.settings["mode"][0])
        self._check()
        self.slots = int(slots)
        self.layout = ChoiceLayout(self.slots)
        self.actions = np.zeros((num_envs, 1), np.int64)  # (N, 1)
        self.masks = np.zeros((num_envs, self.slots + 1), np.int8)  # (N, K + 1)
        self.observation_size += len(ROOM_FEATURES) + self.slots * len(SLOT_FEATURES)
        self.observations = np.zeros((num_envs, self.observation_size), np.float32)  # (N, O)

    def _check(self) -> None:
        name, config = self.scenario.config.name, self.scenario.config
        specs = self.cluster.state.specs
        mode = self.scenario.modes[self._mode]
        wrong = ""
        if len(self.scenario.specs) != 1:
            wrong = (
                f"its cluster has {len(self.scenario.specs)} replicas; use one with one replica, such as one-replica"
            )
        elif specs["general"].any() or specs["prefix_caching"].any() or (specs["depth"] > 1).any():
            wrong = (
                "leave out prefix caching, asynchronous scheduling, and modes that share iterations or memory otherwise"
            )
        elif self.observation_layout.config.period_s > 0.0:
            wrong = "an engine's scheduler sees its own state at once; leave delay_s and scrape_period_s out"
        elif self.observation_layout.config.log:
            wrong = "an engine's scheduler has no gateway's log; leave observation.log out"
        elif self.cluster.state.layout.gateways > 1:
            wrong = "it has several gateways, and the scheduler of one engine none; leave gateways out"
        elif config.acting_clients is not None:
            wrong = "its clients do more than send and wait; leave patience, retries and closed loops out"
        elif self.cluster.queues:
            wrong = "it has a queue at the gateway, and the scheduler of one engine is behind it; leave flow out"
        elif self.cluster.recovery is not None:
            wrong = "its replica may fail; leave faults out"
        elif self.cluster.background is not None:
            wrong = "its replica fine-tunes between iterations; leave background out"
        elif mode.order != "fcfs":
            wrong = f"batching mode {mode.name!r} orders the queue by {mode.order}; choose one whose order is fcfs"
        if wrong:
            raise BurstenvError(f"scenario {name!r} cannot be scheduled iteration by iteration: {wrong}")

    def observation_space(self) -> gym.Space:
        """Return the observation space of one environment."""
        space = super().observation_space()
        if isinstance(space, gym.spaces.Dict):
            room = gym.spaces.Box(-LIMIT, LIMIT, (len(ROOM_FEATURES),), np.float32)
            queue = gym.spaces.Box(-LIMIT, LIMIT, (self.slots, len(SLOT_FEATURES)), np.float32)
            return gym.spaces.Dict({**space.spaces, "room": room, "queue": queue})
        return space

    def observation_names(self) -> list[str]:
        """Return the name of every number of a flat observation."""
        names = super().observation_names() + [f"room.{name}" for name in ROOM_FEATURES]
        for k in range(self.slots):
            names += [f"queue{k}.{name}" for name in SLOT_FEATURES]
        return names

    def shaped(self, flat: np.ndarray) -> Any:
        """Return flat observations, (..., O), in the configured form (a fresh copy)."""
        check_flat(flat, self.observation_size)
        if self.observation_form == "flat":
            return flat.copy()
        room = self.observation_layout.size
        queue = room + len(ROOM_FEATURES)
        return {
            **super().shaped(flat[..., :room]),
            "room": flat[..., room:queue].copy(),
            "queue": flat[..., queue:].reshape(*flat.shape[:-1], self.slots, -1).copy(),
        }

    def queue(self, i: int) -> list[int]:
        """Return the numbers, within the episode, of the requests in the slots of environment ``i``."""
        memory = self.cluster.state.memories[i]
        first = int(memory["queue_first"])
        return self.cluster.state.parts(i).events.reshape(-1)[first : first + int(memory["queue_size"])].tolist()

    def without_request(self, i: int) -> str:
        """Describe the decision in environment ``i``."""
        memory = self.cluster.state.memories[i]
        return f"{int(memory['queue_size'])} waiting, {int(memory['chosen'])} chosen for the next iteration"

    def in_force(self, i: int) -> str:
        """Describe the requests that environment ``i`` may choose from, oldest first."""
        queue = self.queue(i)[: self.slots]
        if not queue:
            return "nothing to choose from"
        requests = self.cluster.state.requests[i]
        lengths = " ".join(
            f"{int(request['prompt_tokens'])}+{float(request['predicted_tokens']):.0f}" for request in requests[queue]
        )
        return f"to choose from, prompt + predicted tokens: {lengths}"
