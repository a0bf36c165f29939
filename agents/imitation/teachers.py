"""Teachers: the choices of composites, as probabilities.

A teacher answers several times for the same state. If replicas tie, it breaks the tie at random, and the answer spreads
over them. A student is therefore not punished for an arbitrary choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from burstenv._jit.decorators import entry
from burstenv.agents.sb3.joint_batch import JointBatch
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.cluster.gateway import REJECT
from burstenv.cluster.world import Arrays, world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.batch import EnvironmentBatch
from burstenv.policies import parse_composite
from burstenv.policies.decide import decide


@entry
def _ask_composites(
    environments, memories, replicas, arenas, requests, gateway, specs, modes,
    policies, which, settings, draws, targets, actions,
):  # fmt: skip
    """Compute a composite's choices in every environment.

    The first arguments are those of ``Arrays``; then:

    policies: (K,) POLICY, the teachers.
    which: (N,) int64, the teacher of each environment.
    settings: (1,) SETTINGS, the decisions of the agent.
    draws: Number of answers.
    targets: (N, A) float32, choice probabilities, written. At a tick only a mode has an effect: without a batching
      decision they are 0 there, and also after the episode's end.
    actions: (N, C) int64, the last of the answers, written.
    """
    arrays, asked = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), settings[0]
    for i in range(len(environments)):
        world = world_of(arrays, i)
        environment, memory = world.environment, world.memory
        for a in range(targets.shape[1]):
            targets[i, a] = 0.0
        if environment.done:
            continue
        without_request = environment.at_gateway == NO_REQUEST
        for draw in range(draws):
            round_robin = memory.round_robin
            bucket_tokens = memory.bucket_tokens
            bucket_s = memory.bucket_s
            admission, replica, mode = decide(policies[which[i]], world)
            if draw < draws - 1:  # rules with a memory are charged for one answer only
                memory.round_robin = round_robin
                memory.bucket_tokens = bucket_tokens
                memory.bucket_s = bucket_s
            if asked.flat:
                choice = 0 if admission == REJECT else 1 + replica
                actions[i, 0] = choice
                targets[i, choice] += 0.0 if without_request else 1.0 / draws
                continue
            at = 0
            k = 0
            if asked.decides_admission:
                actions[i, k] = admission
                targets[i, admission] += 0.0 if without_request else 1.0 / draws
                at += 3
                k += 1
            if asked.decides_routing:
                actions[i, k] = replica
                targets[i, at + replica] += 0.0 if without_request and not asked.decides_batching else 1.0 / draws
                at += len(world.replicas)
                k += 1
            if asked.decides_batching:
                actions[i, k] = mode
                targets[i, at + mode] += 1.0 / draws


class Teacher:
    """Composites that answer for all environments of a batch at once.

    Args:
        venv: The environments.
        policies: A composite for all; or by load, the nearest to an episode's load is asked; or such a mapping for
            each part of a joint batch.
        draws: Answers per state.
    """

    def __init__(
        self, venv: SB3VecEnv, policies: str | Mapping[float, str] | Sequence[Mapping[float, str]], draws: int = 4
    ):
        batch = venv.batch
        parts = batch.parts if isinstance(batch, JointBatch) else [batch]
        if isinstance(policies, str):
            policies = {1.0: policies}
        each = [policies] * len(parts) if isinstance(policies, Mapping) else list(policies)
        self.targets = np.zeros(batch.masks.shape, np.float32)  # (N, A) choice probabilities
        self.actions = np.zeros_like(batch.actions)  # (N, C) one choice
        self._parts = []
        start = 0
        for part, own in zip(parts, each, strict=True):
            rows = slice(start, start + part.num_envs)
            self._parts.append(_PartTeacher(part, own, draws, self.targets[rows], self.actions[rows]))
            start += part.num_envs

    def ask(self) -> tuple[np.ndarray, np.ndarray]:
        """Return choice probabilities, (N, A), and one choice, (N, C), for the present states."""
        for part in self._parts:
            part.ask()
        return self.targets, self.actions


class _PartTeacher:
    """Answers into its rows of the teacher's arrays."""

    def __init__(
        self,
        batch: EnvironmentBatch,
        policies: Mapping[float, str],
        draws: int,
        targets: np.ndarray,
        actions: np.ndarray,
    ):
        names = batch.scenario.mode_names
        self._batch = batch
        self._loads = np.array(sorted(policies))
        self._records = np.concatenate([parse_composite(policies[load]).record(names) for load in self._loads])
        self._which = np.zeros(batch.num_envs, np.int64)
        self._draws = draws
        self._targets, self._actions = targets, actions

    def ask(self) -> None:
        """Compute the choices of the composite of each environment's load."""
        batch = self._batch
        if len(self._loads) > 1:
            now = np.array([episode.get("load", 1.0) for episode in batch.episodes])
            self._which[:] = np.abs(now[:, None] - self._loads[None]).argmin(1)
        _ask_composites(
            *batch.cluster.state.arrays(), self._records, self._which, batch.settings, self._draws, self._targets,
            self._actions,
        )  # fmt: skip
