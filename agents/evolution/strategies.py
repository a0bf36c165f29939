"""Evolution strategies: random perturbations of the actor's weights, and steps towards the good ones.

After Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning" (2017): antithetic
pairs, ranks in place of scores, Adam on the estimated gradient. All candidates of a generation act at once: their
weights are stacked and the network is mapped over them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.save_util import save_to_zip_file
from torch.func import functional_call, vmap

from burstenv.agents.algorithm_config import EvolutionConfig
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at, make_batch
from burstenv.agents.networks import logits
from burstenv.agents.random_state import random_state, restore_random_state
from burstenv.agents.sb3.actors import Actor, build_untrained
from burstenv.agents.sb3.histograms import weight_histograms
from burstenv.envs.batch import TRAIN_SEEDS
from burstenv.envs.scenario import Scenario


class _Logits(torch.nn.Module):
    """The actor of a policy, as a module of its own whose call gives the logits."""

    def __init__(self, policy: Any):
        super().__init__()
        self.policy = policy

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return logits(self.policy, observations)


class EvolutionLearner:
    """A policy in training.

    Args:
        config: The agent's.
        scenarios: Tasks; candidates play all of them, in turn by generation.
        seed: Of weights, directions and episodes.

    Attributes:
        policy: The network; its actor is what evolves.
        steps: Decisions so far.
    """

    def __init__(self, config: AgentConfig, scenarios: Sequence[Scenario], seed: int):
        assert isinstance(config.algorithm, EvolutionConfig)
        self._config = config
        self._settings = config.algorithm
        self._random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.policy = build_untrained(config, scenarios[0])
        self.policy.set_training_mode(False)
        self.steps = 0
        self._generation = 0
        self._module = _Logits(self.policy)
        self._names = [name for name, _ in self._module.named_parameters()]
        count = 2 * self._settings.pairs * self._settings.episodes
        self._batches = [make_batch(config, scenario, count, "train", reward=config.reward) for scenario in scenarios]
        self._facts: dict[str, float | None] = {}
        self.take_policy()

    def take_policy(self) -> None:
        """Go on from the policy's present weights."""
        self._center = torch.nn.utils.parameters_to_vector(self._module.parameters()).detach().double().numpy()
        self._first = np.zeros_like(self._center)  # Adam's moments
        self._second = np.zeros_like(self._center)

    # -- what the monitor asks for -------------------------------------------------------------------

    def actor(self) -> Actor:
        """Return the policy as it stands."""
        return Actor(self.policy, self._batches[0].layout.sizes, self._config.action == "flat")

    def save(self, file: Any) -> None:
        """Write a checkpoint as Stable-Baselines3 lays it out."""
        save_to_zip_file(file, data={"num_timesteps": self.steps}, params={"policy": self.policy.state_dict()})

    def facts(self) -> dict[str, float | None]:
        """Return reward per decision, and mean and spread of the candidates' scores."""
        return self._facts

    def histograms(self) -> dict[str, torch.Tensor]:
        """Return the weights."""
        return weight_histograms(self.policy)

    def state(self) -> dict[str, Any]:
        """Return weights, moments and random streams."""
        kept = ("_center", "_first", "_second", "steps", "_generation", "_facts")
        weights = io.BytesIO()
        torch.save(self.policy.state_dict(), weights)
        return {
            **{name: getattr(self, name) for name in kept},
            "weights": weights.getvalue(),
            "stream": self._random.bit_generator.state,
            "random": random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.policy.load_state_dict(torch.load(io.BytesIO(state["weights"]), weights_only=True))
        self._random.bit_generator.state = state["stream"]
        restore_random_state(state["random"])
        for name in ("_center", "_first", "_second", "steps", "_generation", "_facts"):
            setattr(self, name, state[name])

    # -- one generation ------------------------------------------------------------------------------

    def update(self, learning_rate: float, spent: float) -> None:
        """Play a generation and move the weights.

        Args:
            learning_rate: Of Adam.
            spent: Share of the budget that is spent, for the curriculum.
        """
        settings = self._settings
        self._generation += 1
        directions = self._random.standard_normal((settings.pairs, len(self._center)))
        shifts = settings.sigma * np.concatenate([directions, -directions])  # (2 pairs, W)
        returns, scores = self._play(self._center + shifts, spent)
        better = rank_shaped(returns)
        pairs = settings.pairs
        gradient = (better[:pairs] - better[pairs:]) @ directions / (2 * pairs * settings.sigma)
        gradient -= settings.weight_decay * self._center
        self._ascend(gradient, learning_rate)
        with torch.no_grad():
            center = torch.from_numpy(self._center.astype(np.float32))
            torch.nn.utils.vector_to_parameters(center, self._module.parameters())
        self._facts["score_mean"] = float(scores.mean())
        self._facts["score_spread"] = float(scores.std())

    def _ascend(self, gradient: np.ndarray, learning_rate: float) -> None:
        """Take a step of Adam (Kingma and Ba 2015) uphill."""
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        first = self._first / (1.0 - 0.9**self._generation)
        second = self._second / (1.0 - 0.999**self._generation)
        self._center = self._center + learning_rate * first / (np.sqrt(second) + 1e-8)

    def _play(self, candidates: np.ndarray, spent: float) -> tuple[np.ndarray, np.ndarray]:
        """Return each candidate's mean return and score, (P,), over its episodes."""
        batch = self._batches[self._generation % len(self._batches)]
        count, episodes = len(candidates), self._settings.episodes
        self._open(batch, spent, episodes)
        weights = self._stacked(candidates)
        module, names = self._module, self._names
        buffers = dict(module.named_buffers())

        def one(own: dict[str, torch.Tensor], seen: torch.Tensor) -> torch.Tensor:
            return functional_call(module, {**own, **buffers}, (seen,))

        ask = vmap(one, randomness="error")
        stacked = dict(zip(names, weights, strict=True))
        returns = np.zeros(batch.num_envs)
        decisions = 0
        sizes = batch.layout.sizes
        while not batch.done.all():
            decisions += int((~batch.done).sum())
            seen = torch.from_numpy(batch.observations).unflatten(0, (count, episodes))
            with torch.no_grad():
                scores = ask(stacked, seen).flatten(0, 1).numpy()
            scores = np.where(batch.masks.astype(bool), scores, -np.inf)
            at = 0
            for k, size in enumerate(sizes):
                batch.actions[:, k] = scores[:, at : at + size].argmax(1)
                at += size
            batch.step()
            returns += batch.rewards
        self.steps += decisions
        self._facts = {"reward_per_decision": float(returns.sum() / max(1, decisions))}
        e = batch.cluster.state.environments
        reached = e["attained_worth"] / np.maximum(1e-9, e["offered_worth"])
        offered = np.maximum(1, e["offered"])
        shape = (count, episodes)
        return (returns / offered).reshape(shape).mean(1), reached.reshape(shape).mean(1)

    def _open(self, batch: Any, spent: float, episodes: int) -> None:
        """Begin an episode everywhere; the same ones for all candidates if arrivals are common."""
        drawn = {}
        span = load_range_at(self._config, spent)
        loads = batch.scenario.config.train_loads
        for i in range(batch.num_envs):
            # Both of a pair play the same episodes; otherwise their difference would be noise.
            pair = (i // episodes) % self._settings.pairs
            key = (0 if self._settings.common_arrivals else pair, i % episodes)
            if key not in drawn:
                load = float(self._random.choice(loads)) if span is None else float(self._random.uniform(*span))
                load = self._config.settled_load or load
                drawn[key] = {"episode": int(self._random.integers(TRAIN_SEEDS)), "load": load}
            batch.reset(i, self._random, drawn[key])

    def _stacked(self, candidates: np.ndarray) -> list[torch.Tensor]:
        flat = torch.from_numpy(candidates.astype(np.float32))
        shapes = [parameter.shape for parameter in self._module.parameters()]
        parts = flat.split([shape.numel() for shape in shapes], dim=1)
        return [part.reshape(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True)]


def rank_shaped(scores: np.ndarray) -> np.ndarray:
    """Return centred ranks, (P,), from -0.5 for the worst to 0.5 for the best; equal scores share their mean rank."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = ends - (counts + 1) / 2.0
    return mean_rank[places] / max(1, len(scores) - 1) - 0.5
