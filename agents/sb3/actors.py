"""Choices of a trained policy of any algorithm: the most probable, the most valuable or the mean action."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from sb3_contrib.qrdqn.policies import QRDQNPolicy
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy

from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import make_batch
from burstenv.agents.networks import begin_as_the_rule, logits
from burstenv.agents.sb3.algorithms import policy_of
from burstenv.envs.scenario import Scenario
from burstenv.policies.network.policy import choose, random_stream


def build_untrained(config: AgentConfig, scenario: Scenario) -> Any:
    """Return an untrained policy of an agent's algorithm, on the CPU."""
    batch = make_batch(config, scenario, 1, "validation")
    kind, arguments = policy_of(config, batch.layout, batch.observation_layout)
    policy = kind(batch.observation_space(), batch.action_space(), lambda _: 0.0, **arguments)
    begin_as_the_rule(config, policy, batch.observation_layout)
    return policy


class Actor:
    """Computes a policy's actions.

    Args:
        policy: Of Stable-Baselines3 or sb3-contrib.
        sizes: Number of choices of each component of the action.
        flat: Whether the one component is rejection followed by replicas.
        seed: Of the sampled choices; None: the most probable ones are taken. Values and continuous actions are never
            sampled.
    """

    def __init__(self, policy: Any, sizes: Sequence[int], flat: bool = False, seed: int | None = None):
        self._policy = policy
        values = isinstance(policy, DQNPolicy | QRDQNPolicy | SACPolicy | TD3Policy)
        self._stream = None if seed is None or values else random_stream(seed)
        self._sizes = np.array(sizes, np.int64)
        self._halves = flat and not isinstance(policy, DQNPolicy | QRDQNPolicy)  # values are no probabilities
        self._states: RNNStates | None = None
        self._fresh = np.zeros(0, bool)  # (N,) whether the episode has just begun

    @property
    def remembers(self) -> bool:
        """Whether it needs :meth:`begin` and :meth:`keep` to follow its environments."""
        return isinstance(self._policy, RecurrentActorCriticPolicy)

    def begin(self, count: int) -> None:
        """Reset the memory: ``count`` environments begin an episode."""
        if self.remembers:
            lstm = self._policy.lstm_actor
            zeros = torch.zeros(lstm.num_layers, count, lstm.hidden_size)
            self._states = RNNStates((zeros, zeros), (zeros, zeros))
            self._fresh = np.ones(count, bool)

    def keep(self, rows: np.ndarray) -> None:
        """Keep some of the environments of the last call, by index into them."""
        if self._states is not None:
            self._states = RNNStates(*[tuple(part[:, rows] for part in pair) for pair in self._states])
            self._fresh = self._fresh[rows]

    def act(self, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """Choose for a batch of environments.

        Args:
            observations: (N, O) float32.
            masks: Which choices are legal, components side by side, (N, A) bool.

        Returns:
            (N, C) int64, or float64 on the interval environment.
        """
        seen = torch.from_numpy(np.ascontiguousarray(observations, np.float32))
        with torch.no_grad():
            if isinstance(self._policy, SACPolicy | TD3Policy):
                return self._policy.actor(seen, **self._greedy()).numpy().astype(np.float64)
            scores = self._scores(seen).numpy()
        return choose(scores, masks, self._sizes, self._halves, self._stream is not None, self._stream)

    def _greedy(self) -> dict[str, bool]:
        return {"deterministic": True} if isinstance(self._policy, SACPolicy) else {}

    def _scores(self, seen: torch.Tensor) -> torch.Tensor:
        policy = self._policy
        if isinstance(policy, QRDQNPolicy):
            return policy.quantile_net(seen).mean(1)
        if isinstance(policy, DQNPolicy):
            return policy.q_net(seen)
        if not self.remembers:
            return logits(policy, seen)
        if self._states is None or len(self._fresh) != len(seen):
            self.begin(len(seen))
        assert self._states is not None
        starts = torch.from_numpy(self._fresh.astype(np.float32))
        chosen, own = policy.get_distribution(seen, self._states.pi, starts)
        self._states = RNNStates(own, self._states.vf)
        self._fresh = np.zeros(len(seen), bool)
        found = chosen.distribution
        return torch.cat([part.logits for part in found], 1) if isinstance(found, list) else found.logits
