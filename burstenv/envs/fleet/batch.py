"""The batch behind ``BurstGPT-Fleet-v0``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.cluster.cluster_config import ROLES
from burstenv.cluster.scaling.codes import BY_CALLER
from burstenv.envs.action import JointActions, chosen_components
from burstenv.envs.arguments import check_arguments, check_flat, places_checked
from burstenv.envs.control_batch import ControlBatch
from burstenv.envs.fleet.step import (
    BY_COUNT,
    BY_NAMED_RULE,
    BY_OFFSET,
    BY_REPLICA,
    BY_ROLE,
    FLEET_FEATURES,
    NO_LEVELS,
    REPLICA_FEATURES,
    step_fleet,
    step_fleet_threads,
)
from burstenv.envs.observation.features import LIMIT
from burstenv.envs.own_reward import RewardChoice
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.background import LEVELS
from burstenv.policies.composite import parse_rule
from burstenv.policies.scaling import SCALING_RULES

COMPONENTS = ("scaling", "background")
ACTIONS = {"replicas": BY_REPLICA, "count": BY_COUNT, "offset": BY_OFFSET, "roles": BY_ROLE}
OFFSETS = 3  # most replicas more, or fewer, than a rule asks for
FLEET_ALONE = "fleet"  # the observation: features of the whole fleet and no others
NET = "net"  # the reward: worth less the price of the GPU-hours that cost


def fleet_features() -> dict[str, list[str]]:
    """Return the names of the features of the fleet alone, by the groups of an observation."""
    return {"cluster": list(FLEET_FEATURES), "request": [], "replica": []}


@dataclass(frozen=True)
class FleetLayout:
    """An action: which replicas are to serve, how many, how many more than a rule says, or which in which role.

    With ``background`` a choice follows for the fine-tuning job of each replica.
    """

    num_replicas: int
    least: int
    most: int
    form: int
    decide: tuple[str, ...] = ("scaling",)
    flat: bool = False

    @classmethod
    def build(cls, action: str, scenario: Scenario, decide: Sequence[str] = ("scaling",)) -> FleetLayout:
        """Return the layout of an action on a scenario.

        Raises:
            BurstenvError: If it has no scaling, or a component is unknown.
        """
        chosen = chosen_components(decide, COMPONENTS)
        scaling, count = scenario.scaling, len(scenario.specs)
        if scaling is None:
            raise BurstenvError(f"scenario {scenario.config.name!r} has no scaling; use one with it, such as diurnal")
        if action == "roles" and not scaling.roles:
            raise BurstenvError(
                f"scenario {scenario.config.name!r} has fixed roles; action roles needs scaling.roles: true"
            )
        least, most, _ = scaling.numbers(count)
        return cls(count, least, most, ACTIONS[action] if "scaling" in chosen else BY_NAMED_RULE, chosen)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each component of the action."""
        return self._of_scaling + (LEVELS,) * (self.num_replicas if "background" in self.decide else 0)

    @property
    def _of_scaling(self) -> tuple[int, ...]:
        if self.form == BY_NAMED_RULE:
            return ()
        if self.form == BY_OFFSET:
            return (2 * OFFSETS + 1,)
        if self.form == BY_COUNT:
            return (self.most - self.least + 1,)
        return (1 + len(ROLES) if self.form == BY_ROLE else 2,) * self.num_replicas

    @property
    def levels_at(self) -> int:
        """Where the choices for the fine-tuning job begin, or NO_LEVELS."""
        return len(self._of_scaling) if "background" in self.decide else NO_LEVELS

    def space(self) -> gym.spaces.Discrete | JointActions:
        """Return the action space of one environment."""
        if self.form in (BY_COUNT, BY_OFFSET) and len(self.sizes) == 1:
            return gym.spaces.Discrete(self.sizes[0])
        return JointActions(list(self.sizes))


@places_checked
class FleetBatch(ControlBatch):
    """``N`` environments whose agents start and stop replicas.

    Args:
        num_envs: N.
        decide: ``scaling``, ``background`` or both. Without ``scaling`` a rule says how many replicas serve.
        action: ``replicas``, which are to serve, ``count``, how many, ``offset``, how many more or fewer than
            ``scaling`` asks for, or ``roles``, which are to serve in which role.
        scaling: With ``offset``, or where the agent does not decide it, the rule, such as ``kpa(target=6)``; None: the
            scenario's.
        admission: Rule for admission.
        routing: Rule for routing.
        reward: As of :class:`EnvironmentBatch`, or ``net``: worth less the price of the GPU-hours that cost.
        observation: As of :class:`EnvironmentBatch`, or ``fleet``: the features of the whole fleet alone, which are the
            same for any number of replicas.
        shared: Arguments of :class:`EnvironmentBatch`, except ``decide``.

    Raises:
        BurstenvError: On an unknown name, with the valid ones, and on a scenario without scaling.
    """

    kernel = staticmethod(step_fleet)
    threads_kernel = staticmethod(step_fleet_threads)
    no_policy = "policies decide about requests at the gateway, not about replicas"
    layout: Any

    def __init__(
        self,
        num_envs: int,
        decide: Sequence[str] = ("scaling",),
        action: str = "replicas",
        scaling: str | None = None,
        admission: str = "always",
        routing: str = "jsq",
        reward: RewardChoice = NET,
        observation: str = "flat",
        **shared: Any,
    ):
        shared.setdefault("scenario", "diurnal")
        check_arguments({"decide": decide, "action": action, "scaling": scaling, "observation": observation})
        if action not in ACTIONS:
            raise unknown_name("action", str(action), ACTIONS)
        if isinstance(reward, str) and reward == NET:
            given = shared["scenario"]
            scenario = given if isinstance(given, Scenario) else load_scenario(given, shared.pop("trace", None))
            shared["scenario"] = scenario
            price = 0.0 if scenario.scaling is None else scenario.scaling.price_per_gpu_h
            reward = {"worth": 1.0, "cost": price / 3600.0}
        by_rule = action == "offset" or "scaling" not in decide
        if scaling is not None and not by_rule:
            raise BurstenvError(f"scaling is the rule that action offset adds to; with action {action} leave it out")
        self._alone = observation == FLEET_ALONE
        if self._alone and "background" in decide:
            raise BurstenvError("observation fleet shows nothing of the background job; use flat or dict")
        if self._alone:
            observation = "flat"
        super().__init__(
            num_envs, decide=("admission",), admission=admission, routing=routing, reward=reward,
            observation=observation, **shared,
        )  # fmt: skip
        self.layout = FleetLayout.build(action, self.scenario, decide)
        if "background" in self.layout.decide:
            self._need_job("decide")
        if by_rule:
            rule = self.scenario.scaling_rule if scaling is None else parse_rule(scaling, "scaling rule", SCALING_RULES)
            self.cluster.scale_by(rule.rule.code, rule.parameters, advises=True)
        else:
            self.cluster.scale_by(BY_CALLER, ())
        self.actions = np.zeros((num_envs, len(self.layout.sizes)), np.int64)  # (N, C)
        self.masks = np.zeros((num_envs, sum(self.layout.sizes)), np.int8)  # (N, A)
        if self._alone:
            self.observation_size = len(FLEET_FEATURES)
        else:
            self.observation_size += len(FLEET_FEATURES) + self.cluster.num_replicas * len(REPLICA_FEATURES)
        self.observations = np.zeros((num_envs, self.observation_size), np.float32)  # (N, O)

    def action_names(self) -> list[str]:
        """Return the name of every number of an action."""
        numbers = range(self.layout.num_replicas)
        names = {BY_COUNT: ["replicas"], BY_OFFSET: ["replicas more than the rule asks for"], BY_NAMED_RULE: []}
        jobs = [f"background of replica {r}" for r in numbers if "background" in self.layout.decide]
        return names.get(self.layout.form, [f"replica {r}" for r in numbers]) + jobs

    def observation_space(self) -> gym.Space:
        """Return the observation space of one environment."""
        if self._alone:
            return gym.spaces.Box(-LIMIT, LIMIT, (self.observation_size,), np.float32)
        space = super().observation_space()
        if isinstance(space, gym.spaces.Dict):
            fleet = gym.spaces.Box(-LIMIT, LIMIT, (len(FLEET_FEATURES),), np.float32)
            lives = gym.spaces.Box(-LIMIT, LIMIT, (self.cluster.num_replicas, len(REPLICA_FEATURES)), np.float32)
            return gym.spaces.Dict({**space.spaces, "fleet": fleet, "lives": lives})
        return space

    def observation_names(self) -> list[str]:
        """Return the name of every number of a flat observation."""
        if self._alone:
            return [f"fleet.{name}" for name in FLEET_FEATURES]
        names = super().observation_names() + [f"fleet.{name}" for name in FLEET_FEATURES]
        for r in range(self.cluster.num_replicas):
            names += [f"life{r}.{name}" for name in REPLICA_FEATURES]
        return names

    def shaped(self, flat: np.ndarray) -> Any:
        """Return flat observations, (..., O), in the configured form (a fresh copy)."""
        check_flat(flat, self.observation_size)
        if self.observation_form == "flat":
            return flat.copy()
        fleet = self.observation_layout.size
        lives = fleet + len(FLEET_FEATURES)
        return {
            **super().shaped(flat[..., :fleet]),
            "fleet": flat[..., fleet:lives].copy(),
            "lives": flat[..., lives:].reshape(*flat.shape[:-1], self.cluster.num_replicas, -1).copy(),
        }

    def without_request(self, i: int) -> str:
        """Describe the decision in environment ``i``."""
        what = {"scaling": "which replicas serve", "background": "how they fine-tune"}
        return " and ".join(what[name] for name in self.layout.decide)

    def in_force(self, i: int) -> str:
        """Describe the replicas of environment ``i``."""
        replicas = self.cluster.state.replicas[i]
        return f"{int(replicas['wanted'].sum())} replicas wanted, {int(replicas['paid'].sum())} cost"

    def step_arguments(self) -> tuple[Any, ...]:
        """Return the arguments of every kernel of the batch, and what an action says."""
        return *super().step_arguments(), self.layout.form, OFFSETS, self.layout.levels_at
