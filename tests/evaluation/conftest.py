"""Shared pieces of the evaluation tests: a short scenario, two small agents, one small evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burstenv.config import read_yaml, shipped
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.evaluation import EvaluationPlan, EvaluationResult, evaluate


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    """Plain engines and little KV cache, 30-second episodes, and given capacities, so that nothing is measured."""
    values = {**read_yaml(shipped("scenarios")["blind"]), "name": "default"}
    values["episode"]["duration_s"] = 30
    values["load"] = 1.5
    values["capacity_per_s"] = {"train": 16.0, "validation": 16.0, "test": 16.0}
    return load_scenario(values)


class FixedReplica:
    """Sends everything to one replica; with the flat action 0 it refuses everything."""

    def __init__(self, name: str = "fixed", choice: int = 1, **environment: Any):
        self.name = name
        self.choice = choice
        self.environment = {"decide": ("admission", "routing"), "action": "flat", "batching": "edf-512", **environment}
        self.seen: list[np.ndarray] = []

    def act(self, observations: Any, masks: np.ndarray) -> np.ndarray:
        self.seen.append(np.array(observations))
        assert masks.dtype == bool
        return np.full((len(masks), 1), self.choice)


class ShortestQueue:
    """Routes to the replica with the fewest requests, as ``jsq`` does, from what it observes."""

    name = "observing-jsq"

    def __init__(self, scenario: Scenario):
        self.environment = {"decide": ["routing"], "admission": "always", "batching": scenario.mode_names[0]}
        names = EnvironmentBatch(1, scenario=scenario, **self.environment).observation_names()
        replicas = range(len(scenario.specs))
        self.waiting = [names.index(f"replica{r}.waiting") for r in replicas]
        self.running = [names.index(f"replica{r}.running") for r in replicas]

    def act(self, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
        load = observations[:, self.waiting] + observations[:, self.running]
        return np.where(masks, load, np.inf).argmin(axis=1)


POLICIES = ("always/jsq/edf-512", "size-aware-kv/lmetric/edf-512", "always/random/vllm")


@pytest.fixture(scope="session")
def small_plan(scenario: Scenario) -> EvaluationPlan:
    return EvaluationPlan(
        scenario=scenario, loads=(1.0, 1.5), episodes=9, policies=POLICIES, command="burstenv evaluate"
    )


@pytest.fixture(scope="session")
def small(scenario: Scenario, small_plan: EvaluationPlan) -> EvaluationResult:
    """Nine episodes, a day each, at two loads under three heuristics, the reference and two agents."""
    return evaluate(small_plan, agents=[ShortestQueue(scenario), FixedReplica()], progress=False)
