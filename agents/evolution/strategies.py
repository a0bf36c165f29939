"""Evolution strategies: random perturbations of the actor's weights, and steps towards the good ones.

After Salimans et al., "Evolution strategies as a scalable alternative to reinforcement learning" (2017): antithetic
pairs, ranks in place of scores, Adam on the estimated gradient. It climbs the score as it is judged, of the most
probable choices: whole episodes are played in compiled code, under the exported form of each candidate.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.save_util import save_to_zip_file

from burstenv.agents.agent import describe_agent
from burstenv.agents.algorithm_config import EvolutionConfig
from burstenv.agents.baseline import references
from burstenv.agents.config import AgentConfig
from burstenv.agents.environments import load_range_at
from burstenv.agents.export.arrays import network_of
from burstenv.agents.networks import acting_weights, put_acting_weights
from burstenv.agents.play.groups import GroupCounts, sacrifice
from burstenv.agents.play.ray_stage import make_stage
from burstenv.agents.play.stage import Stage, mean_scores
from burstenv.agents.run.random_state import random_state, restore_random_state
from burstenv.agents.sb3.actors import build_untrained
from burstenv.agents.sb3.histograms import weight_histograms
from burstenv.envs.acting import acting_features
from burstenv.envs.batch import TRAIN_SEEDS
from burstenv.envs.scenario import Scenario
from burstenv.evaluation.episodes import Episode
from burstenv.policies import parse_composite
from burstenv.policies.network.policy import NetworkPolicy
from burstenv.policies.network.weights import Network, check_features

SIGMA_STEP, SIGMA_ENDS = 1.2, 20.0  # factor of a change of sigma, and of all of them together

_KEPT = ("_center", "_start", "_sigma", "_first", "_second", "steps", "_generation", "_facts")  # in a state


class EvolutionLearner:
    """A policy in training.

    Args:
        config: The agent's.
        scenarios: Tasks with the same features; candidates play all of them, in turn by generation.
        seed: Of weights, directions and episodes.
        ray: Address of a Ray cluster that plays the episodes; None: this machine does.

    Attributes:
        policy: The network; its actor is what evolves.
        steps: Decisions so far.
    """

    def __init__(self, config: AgentConfig, scenarios: Sequence[Scenario], seed: int, ray: str | None = None):
        assert isinstance(config.algorithm, EvolutionConfig)
        self._config = config
        self._settings = config.algorithm
        self._random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.policy = build_untrained(config, scenarios[0])
        self.policy.set_training_mode(False)
        self.steps = 0
        self._generation = 0
        told = describe_agent(config, scenarios[0], seed)
        exported = network_of(config, self.policy, told, config.name)
        assert exported is not None
        self._description = exported.description
        for other in scenarios[1:]:
            features = acting_features(config.environment(), other)
            check_features(self._description, features, len(other.specs), other.config.name)
        self._scenarios = scenarios
        self._num_replicas = len(scenarios[0].specs)
        priced = config.group_price > 0.0
        self._stages = [make_stage(scenario, config.num_threads, priced, ray) for scenario in scenarios]
        self._facts: dict[str, float | None] = {}
        self.take_policy()

    def take_policy(self) -> None:
        """Go on from the policy's present weights."""
        arrays = acting_weights(self.policy)
        self._shapes = {name: array.shape for name, array in arrays.items()}
        self._center = np.concatenate([array.ravel() for array in arrays.values()]).astype(np.float64)
        self._start = self._center.copy()
        self._sigma = self._settings.sigma
        self._first = np.zeros_like(self._center)  # Adam's moments
        self._second = np.zeros_like(self._center)

    # -- what the monitor asks for -------------------------------------------------------------------

    def actor(self) -> NetworkPolicy:
        """Return the policy as it stands."""
        return self._candidate(self._center)

    def save(self, file: Any) -> None:
        """Write a checkpoint as Stable-Baselines3 lays it out."""
        save_to_zip_file(file, data={"num_timesteps": self.steps}, params={"policy": self.policy.state_dict()})

    def facts(self) -> dict[str, float | None]:
        """Return mean and spread of the candidates' scores in the last generation, and sigma."""
        return self._facts

    def histograms(self) -> dict[str, torch.Tensor]:
        """Return the weights."""
        return weight_histograms(self.policy)

    def state(self) -> dict[str, Any]:
        """Return weights, moments and random streams."""
        weights = io.BytesIO()
        torch.save(self.policy.state_dict(), weights)
        return {
            **{name: getattr(self, name) for name in _KEPT},
            "weights": weights.getvalue(),
            "stream": self._random.bit_generator.state,
            "random": random_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.policy.load_state_dict(torch.load(io.BytesIO(state["weights"]), weights_only=True))
        self._random.bit_generator.state = state["stream"]
        restore_random_state(state["random"])
        for name in _KEPT:
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
        shifts = self._sigma * np.concatenate([directions, -directions])  # (2 pairs, W)
        scores = self._play(self._center + shifts, spent)
        better = rank_shaped(scores)
        pairs = settings.pairs
        gradient = (better[:pairs] - better[pairs:]) @ directions / (2 * pairs * self._sigma)
        gradient -= settings.weight_decay * (self._center - self._start)
        self._ascend(gradient, learning_rate * self._sigma / settings.sigma)
        put_acting_weights(self.policy, self._arrays(self._center))
        spread = float(scores.std())
        self._facts = {"score_mean": float(scores.mean()), "score_spread": spread, "sigma": self._sigma}
        least, most = settings.spread
        if not least <= spread <= most:
            self._sigma *= SIGMA_STEP if spread < least else 1.0 / SIGMA_STEP
            self._sigma = min(SIGMA_ENDS * settings.sigma, max(settings.sigma / SIGMA_ENDS, self._sigma))

    def _ascend(self, gradient: np.ndarray, learning_rate: float) -> None:
        """Take a step of Adam (Kingma and Ba 2015) uphill."""
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        first = self._first / (1.0 - 0.9**self._generation)
        second = self._second / (1.0 - 0.999**self._generation)
        self._center = self._center + learning_rate * first / (np.sqrt(second) + 1e-8)

    def _arrays(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return the weights of one vector, (W,), by name."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self._shapes.values()])
        parts = np.split(weights.astype(np.float32), ends[:-1])
        return {name: part.reshape(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def _candidate(self, weights: np.ndarray) -> NetworkPolicy:
        return NetworkPolicy(Network(self._description, self._arrays(weights)), self._config.name, sampled=False)

    def _play(self, candidates: np.ndarray, spent: float) -> np.ndarray:
        """Return each candidate's mean score, (P,), over its episodes, less the price of the groups it sacrifices."""
        place = self._generation % len(self._scenarios)
        episodes = self._draw(self._scenarios[place], self._stages[place], spent)
        pairs = self._settings.pairs
        tasks = []
        for k, weights in enumerate(candidates):
            # Both of a pair play the same episodes; otherwise their difference would be noise.
            policy, own = self._candidate(weights), episodes[0 if self._settings.common_arrivals else k % pairs]
            tasks += [(policy, episode) for episode in own]
        outcomes = self._stages[place].play(tasks)
        self.steps += sum(played.decisions for played in outcomes)
        scores = mean_scores(outcomes, len(candidates))
        if self._config.group_price == 0.0:
            return scores
        counts = GroupCounts.stacked([played.groups for played in outcomes if played.groups is not None])
        baseline = self._baseline_groups(place, [episode for _, episode in tasks])
        lost = sacrifice(counts.ahead_of(baseline)).reshape(len(candidates), -1).mean(1)
        return scores - self._config.group_price * lost

    def _baseline_groups(self, place: int, episodes: Sequence[Episode]) -> GroupCounts:
        """Return the counts of the baseline of each episode's load, (E, B), each different episode played once."""
        different = {(episode.load, episode.seed): episode for episode in episodes}
        policies = references(self._config, self._scenarios[place], [load for load, _ in different])
        played = self._stages[place].play(
            [(parse_composite(policies[episode.load]), episode) for episode in different.values()]
        )
        counts = {key: one.groups for key, one in zip(different, played, strict=True) if one.groups is not None}
        return GroupCounts.stacked([counts[episode.load, episode.seed] for episode in episodes])

    def _draw(self, scenario: Scenario, stage: Stage, spent: float) -> list[list[Episode]]:
        """Draw the episodes of a generation: the same for all pairs if arrivals are common, else for each pair."""
        span, loads = load_range_at(self._config, spent), scenario.config.train_loads
        drawn: list[list[Episode]] = []
        for _ in range(1 if self._settings.common_arrivals else self._settings.pairs):
            own, dealt = [], self._random.permutation(len(loads))
            # About as many decisions in each generation, whatever the number of replicas.
            count = max(1, round(self._settings.episodes * self._num_replicas / len(scenario.specs)))
            for k in range(count):
                # Loads in turn, not at random: an uneven share of hard episodes would hide what is good at each.
                load = float(loads[dealt[k % len(loads)]]) if span is None else float(self._random.uniform(*span))
                load = self._config.settled_load or load
                own.append(stage.draw("train", load, int(self._random.integers(TRAIN_SEEDS))))
            drawn.append(own)
        return drawn


def rank_shaped(scores: np.ndarray) -> np.ndarray:
    """Return centred ranks, (P,), from -0.5 for the worst to 0.5 for the best; equal scores share their mean rank."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = ends - (counts + 1) / 2.0
    return mean_rank[places] / max(1, len(scores) - 1) - 0.5
