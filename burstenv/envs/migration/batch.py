"""The batch behind ``BurstGPT-Migration-v0``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.cluster import Cluster
from burstenv.cluster.migration import BY_CALLER, HIGH, LOW, NO_MIGRATION, PICK
from burstenv.cluster.transfer_config import Pick, given_up
from burstenv.envs.arguments import check_arguments, check_flat, places_checked
from burstenv.envs.control_batch import ControlBatch
from burstenv.envs.migration.pairs import CLUSTER_FEATURES, PAIR_FEATURES, Form
from burstenv.envs.migration.step import (
    END_FEATURES,
    MOVED_FEATURES,
    step_migrations,
    step_migrations_threads,
)
from burstenv.envs.observation.features import DEFAULT_OBSERVATION, LIMIT, ObservationConfig
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.composite import parse_rule
from burstenv.policies.migration import MIGRATION_RULES

PICKS = tuple(pick.name.lower() for pick in Pick)
PAIRS_ALONE = "pairs"  # the observation: features of the choices and few others
ADVISERS = ("none", "llumnix", "llumnix-paper", "llumnix-balanced")  # rules that pair replicas by thresholds, or never


@dataclass(frozen=True)
class PairLayout:
    """An action that chooses an ordered pair of replicas, or none."""

    num_replicas: int
    num_modes: int = 0
    decide: tuple[str, ...] = ("migration",)
    flat: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each component of the action."""
        return (1 + self.num_replicas * (self.num_replicas - 1),)

    def space(self) -> gym.spaces.Discrete:
        """Return the action space of one environment."""
        return gym.spaces.Discrete(self.sizes[0])


def pair_features() -> dict[str, list[str]]:
    """Return the names of the features of the pairs alone, by the groups of an observation."""
    return {"cluster": list(CLUSTER_FEATURES), "request": [], "replica": list(PAIR_FEATURES)}


@dataclass(frozen=True)
class PairsObserved:
    """The layout of the observation of pairs: features of the cluster, then those of every choice.

    It has the names of :class:`burstenv.envs.observation.features.ObservationLayout`, with choices as its replicas.
    """

    num_replicas: int
    num_cluster: int = len(CLUSTER_FEATURES)
    num_request: int = 0
    num_replica: int = len(PAIR_FEATURES)
    mode_names: tuple[str, ...] = ()
    config: ObservationConfig = DEFAULT_OBSERVATION  # without further features

    @property
    def size(self) -> int:
        """Length of a flat observation."""
        return self.num_cluster + self.num_replicas * self.num_replica

    def names(self) -> list[str]:
        """Return the name of every number of a flat observation, in order."""
        names = [f"cluster.{name}" for name in CLUSTER_FEATURES]
        return names + [f"choice{k}.{name}" for k in range(self.num_replicas) for name in PAIR_FEATURES]


def check_migrates(cluster: Cluster, where: str) -> None:
    """Raise a one-sentence error unless an agent can migrate the requests of a cluster."""
    if not cluster.migrates or cluster.num_replicas < 2:
        raise BurstenvError(
            f"{where} has no migration; use one with it and two replicas at least, such as fragmentation"
        )
    if cluster.hands_over:
        raise BurstenvError(
            f"{where} has prefill replicas, whose requests move on their own; an agent that migrates needs mixed ones"
        )


def form_of(pick: str, pairs: bool, rule: str | None, usual: tuple[int, tuple[float, ...]]) -> Form:
    """Return how an agent migrates; the pick of a rule whose choice is shown is the agent's.

    Args:
        pick: Of ``PICKS``, where no choice of a rule is shown.
        pairs: Whether the observation is that of the pairs alone.
        rule: The rule whose choice is shown; None: ``usual``.
        usual: Code and parameters of the cluster's own rule.

    Raises:
        BurstenvError: On an unknown name or parameter, with the valid ones, and on a rule that does not pair replicas.
    """
    if pick not in PICKS:
        raise unknown_name("pick", pick, PICKS)
    if not pairs:
        if rule is not None:
            raise BurstenvError("migration is the rule whose choice the observation pairs shows; leave it out")
        return Form(PICKS.index(pick), False, NO_MIGRATION, 0.0, 0.0)
    code, parameters = usual
    if rule is not None:
        chosen = parse_rule(rule, "migration rule", MIGRATION_RULES)
        code, parameters = chosen.rule.code, chosen.parameters
    name = next(rule.name for rule in MIGRATION_RULES if rule.code == code)
    if name not in ADVISERS:
        raise unknown_name("migration rule beside an agent", name, ADVISERS)
    if code == NO_MIGRATION:
        return Form(PICKS.index(pick), True, code, 0.0, 0.0)
    return Form(int(parameters[PICK]), True, code, float(parameters[LOW]), float(parameters[HIGH]))


@places_checked
class MigrationBatch(ControlBatch):
    """``N`` environments whose agents move running requests from replica to replica.

    Args:
        num_envs: N.
        pick: Which request of the source moves: ``shortest``, ``newest`` or ``longest``; with observation ``pairs`` a
            rule with a pick of its own says so instead.
        admission: Rule for admission.
        routing: Rule for routing.
        migration: With observation ``pairs``, the rule whose choice is shown, such as ``llumnix(low=5)``; None: the
            scenario's.
        observation: As of :class:`EnvironmentBatch`, or ``pairs``: features of the cluster and of each choice alone,
            which are the same for any number of replicas.
        shared: Arguments of :class:`EnvironmentBatch`, except ``decide`` and ``action``.

    Raises:
        BurstenvError: On an unknown name, with the valid ones, and on a scenario without migration.
    """

    kernel = staticmethod(step_migrations)
    threads_kernel = staticmethod(step_migrations_threads)
    no_policy = "policies decide about requests at the gateway, not about migrations"
    layout: Any
    observation_layout: Any

    def __init__(
        self,
        num_envs: int,
        pick: str = "shortest",
        admission: str = "always",
        routing: str = "freeness",
        migration: str | None = None,
        observation: str = "flat",
        **shared: Any,
    ):
        shared.setdefault("scenario", "fragmentation")
        check_arguments({"migration": migration, "observation": observation})
        pairs = observation == PAIRS_ALONE
        super().__init__(
            num_envs, decide=("admission",), admission=admission, routing=routing,
            observation="flat" if pairs else observation, **shared,
        )  # fmt: skip
        check_migrates(self.cluster, f"scenario {self.scenario.config.name!r}")
        self._form = form_of(str(pick), pairs, migration, self.cluster.migration_rule)
        self.cluster.migrate_by(BY_CALLER, ())
        count = self.cluster.num_replicas
        self.layout = PairLayout(count)
        self.actions = np.zeros((num_envs, 1), np.int64)  # (N, 1)
        self.masks = np.zeros((num_envs, self.layout.sizes[0]), np.int8)  # (N, 1 + R (R - 1))
        if pairs:
            self.observation_layout = PairsObserved(self.layout.sizes[0])
            self.observation_size = self.observation_layout.size
        else:
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
        names = super().observation_names()
        if self._form.pairs:
            return names
        names += [f"moved.{name}" for name in MOVED_FEATURES]
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
        """Return the arguments of every kernel of the batch, and how an agent migrates."""
        return *super().step_arguments(), *self._form
