"""The environments of training and validation, made from an agent's configuration."""

from __future__ import annotations

import sys
from typing import Any

from burstenv.agents.config import AgentConfig, ClusterChoice
from burstenv.agents.sb3.joint_batch import JointBatch
from burstenv.agents.sb3.return_scale import ReturnScale
from burstenv.agents.sb3.vec_env import SB3VecEnv
from burstenv.envs.acting import acting_batch
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.capacity import measure_capacity_per_s
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError
from burstenv.workload import SPLITS


def make_batch(config: AgentConfig, scenario: Scenario, num_envs: int, split: str, **others: Any) -> EnvironmentBatch:
    """Return a batch of the kind of environment that the agent acts in."""
    return acting_batch(num_envs, config.environment(), scenario=scenario, split=split, **others)


def training_scenarios(config: AgentConfig, scenario: Scenario) -> list[Scenario]:
    """Return the scenario, then those of the curriculum: on other clusters, and other scenarios."""
    found = [scenario]
    if config.curriculum is not None:
        found += [_on_cluster(scenario, choice) for choice in config.curriculum.clusters]
        found += [load_scenario(name) for name in config.curriculum.scenarios]
    return found


def _on_cluster(scenario: Scenario, choice: str | ClusterChoice) -> Scenario:
    choice = ClusterChoice(cluster=choice) if isinstance(choice, str) else choice
    known = choice.capacity_per_s
    # Training needs only one capacity: those of the other splits are not used.
    capacity = dict.fromkeys(SPLITS, known or 1.0)
    values = {"cluster": choice.cluster, "capacity_per_s": capacity, "name": f"{scenario.config.name}@{choice.cluster}"}
    moved = Scenario(scenario.config.model_copy(update=values))  # the same workload, whose trace is kept in memory
    own = len(scenario.specs)
    if len(moved.specs) != own:
        raise BurstenvError(
            f"curriculum.clusters: {choice.cluster} has {len(moved.specs)} replicas, the scenario's cluster has {own}; "
            "an agent trains on clusters of one size"
        )
    if known is None:
        print(f"burstenv: measuring the capacity of cluster {choice.cluster}", file=sys.stderr)
        known = measure_capacity_per_s(moved, "train")
    config = moved.config.model_copy(
        update={"capacity_per_s": dict.fromkeys(SPLITS, known), "episode": scenario.config.episode}
    )
    moved.config = config
    return moved


def of_one_size(scenarios: list[Scenario]) -> list[Scenario]:
    """Return the scenarios with as many replicas as the first, which can be stepped side by side."""
    return [scenario for scenario in scenarios if len(scenario.specs) == len(scenarios[0].specs)]


def training_environments(config: AgentConfig, scenarios: list[Scenario], seed: int) -> SB3VecEnv:
    """Return the training environments, divided evenly among scenarios.

    Args:
        config: The agent's.
        scenarios: Of one number of replicas, see :func:`training_scenarios` and :func:`of_one_size`.
        seed: Of the episodes.
    """
    each = config.num_envs // len(scenarios)
    parts = [
        make_batch(config, scenario, each, "train", load=config.load, reward=config.reward) for scenario in scenarios
    ]
    stagger = None
    if config.stagger and not config.continuous and not config.scales:
        own = f"{config.admission}/{config.routing}/{config.batching or scenarios[0].mode_names[0]}"
        teacher = None if config.warm_start is None else config.warm_start.policy
        stagger = teacher if isinstance(teacher, str) and teacher.count("/") == 2 else own
    return SB3VecEnv(
        parts[0] if len(parts) == 1 else JointBatch(parts),
        seed,
        config.reward_scale,
        stagger,
        group=1 if config.common_arrivals is None else config.common_arrivals.group,
        scale=ReturnScale(config.num_envs, config.gamma) if config.reward_scaling == "running" else None,
    )


def load_range_at(config: AgentConfig, spent: float) -> tuple[float, float] | None:
    """Return the range of loads after a share of the budget is spent; None: the scenario's loads."""
    plan = config.curriculum
    if plan is None or plan.load_range is None:
        return None
    low, high = plan.load_range
    if plan.first_load_range is None:
        return low, high
    part = min(1.0, spent / plan.widen_share)
    first_low, first_high = plan.first_load_range
    return first_low + part * (low - first_low), first_high + part * (high - first_high)
