"""Decisions per second of the environments, compared with an environment that does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.fleet.batch import FleetBatch
from burstenv.envs.fleet.env import FleetVectorEnv
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.envs.vector_env import BurstGPTVectorEnv
from burstenv.evaluation.bench.figures import median_rate, row
from burstenv.policies import parse_composite

GROUP = "Environments"
LARGER = "replicas-64"  # a scenario with many replicas
LARGER_DURATION_S = 10.0  # of its episodes here
FLEET, FLEET_RATE_PER_S, FLEET_DURATION_S = "replicas-16", 100.0, 3_600.0  # an hour of a fleet
FLEET_ENVS = 64
LARGER_ENVS = 32  # a row of 64 replicas with prefix caching is 0.3 GB, and 256 of them do not fit into memory


class NullEnv(gym.Env[Any, Any]):
    """An environment of the same spaces that does nothing: the cost of Gymnasium itself."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space
        self._zeros = np.zeros(observation_space.shape or (), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start nothing."""
        super().reset(seed=seed)
        return self._zeros.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do nothing."""
        return self._zeros.copy(), 0.0, False, False, {}


def _step_scalar(env: gym.Env[Any, Any], action: Any, steps: int) -> None:
    step, reset = env.step, env.reset
    for _ in range(steps):
        _, _, terminated, _, _ = step(action)
        if terminated:
            reset()


def bench_environments(scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Measure the environments of the default scenario in decisions/s, admitting everything to replicas in turn.

    Args:
        scale: 1 for the full measurement, less for a quick one.
    """
    steps = max(2_000, int(200_000 * scale))
    scenario = EnvironmentBatch(1).scenario
    env = gym.make("BurstGPT-v0", scenario="default")
    env.reset(seed=0)
    action = np.array([1, 2, 6])
    _step_scalar(env, action, 1_000)
    scalar = median_rate(steps, lambda: _step_scalar(env, action, steps), lambda: env.reset(seed=0))

    if "BurstenvNull-v0" not in gym.registry:
        gym.register("BurstenvNull-v0", entry_point="burstenv.evaluation.bench.environments:NullEnv")
    null = gym.make("BurstenvNull-v0", observation_space=env.observation_space, action_space=env.action_space)
    null.reset(seed=0)
    null_rate = median_rate(steps, lambda: _step_scalar(null, action, steps))

    yield row(GROUP, "BurstGPT-v0 through gym.make", scalar, "decisions/s", "null environment", null_rate)
    batched = 0.0
    for num_envs in (256, 1024):
        batched = _vector_rate(scenario, num_envs, max(20, int(8_000 * 256 / num_envs * scale)))
        yield row(GROUP, f"native batch of {num_envs}", batched, "decisions/s", "through gym.make", scalar)
    larger = _vector_rate(_larger(), LARGER_ENVS, max(20, int(1_600 * scale)))
    name = f"native batch of {LARGER_ENVS}, {LARGER}"
    yield row(GROUP, name, larger, "decisions/s", "native batch of 1024", batched)
    record = parse_composite("always/jsq/edf-512").record(scenario.mode_names)
    cluster = scenario.make_cluster()
    requests, drawn = scenario.episode("train", 0, 1.5 * scenario.capacity_per_s("train"))
    clients = scenario.clients_of(requests, drawn, 0)
    compiled = median_rate(
        len(requests),
        lambda: rollout(*cluster.state.arrays(), record, 0, UNLIMITED),
        lambda: cluster.load(0, requests, 0, clients),
    )
    name = "heuristic in compiled code (always/jsq)"
    yield row(GROUP, name, compiled, "decisions/s", "native batch of 1024", batched)
    hour = _fleet_rate(_fleet(max(60.0, FLEET_DURATION_S * scale)), FLEET_RATE_PER_S)
    name = f"BurstGPT-Fleet-v0, 16 replicas at {FLEET_RATE_PER_S:g} requests/s"
    yield row(GROUP, name, hour, "requests/s", "heuristic in compiled code", compiled)
    controls = _fleet_vector_rate(max(20, int(1_000 * scale)))
    name = f"BurstGPT-Fleet-v0, native batch of {FLEET_ENVS}"
    yield row(GROUP, name, controls, "decisions/s", "native batch of 1024", batched)


def _larger() -> Scenario:
    values = load_scenario(LARGER).config.model_dump(mode="json", exclude_none=True)
    values["episode"]["duration_s"] = LARGER_DURATION_S
    return load_scenario(values)


def _fleet(duration_s: float) -> Scenario:
    values = load_scenario(FLEET).config.model_dump(mode="json", exclude_none=True)
    values["episode"]["duration_s"] = duration_s
    values["scaling"] = {"cold_start": 60.0}
    return load_scenario(values)


def _fleet_rate(scenario: Scenario, rate_per_s: float) -> float:
    """Return the requests/s of an episode in which all replicas serve, decided about every 10 s."""
    batch = FleetBatch(1, scenario=scenario)
    batch.actions[:] = 1

    def reset() -> None:
        batch.reset(0, np.random.default_rng(0), {"episode": 0, "rate_per_s": rate_per_s})

    def run() -> None:
        while not batch.done[0]:
            batch.step()

    reset()
    return median_rate(batch.num_requests(0), run, reset)


def _fleet_vector_rate(calls: int) -> float:
    vector = FleetVectorEnv(FLEET_ENVS, action="count", autoreset_mode="same_step")
    rng = np.random.default_rng(0)
    numbers = rng.integers(2, 8, (64, FLEET_ENVS))
    vector.reset(seed=0)

    def step() -> None:
        for k in range(calls):
            vector.step(numbers[k % 64])

    step()
    return median_rate(calls * FLEET_ENVS, step)


def _vector_rate(scenario: Scenario, num_envs: int, calls: int) -> float:
    vector = BurstGPTVectorEnv(num_envs, scenario=scenario, autoreset_mode="same_step")
    rng = np.random.default_rng(0)
    batches = rng.integers(0, len(scenario.specs), (64, num_envs, 3))
    batches[..., 0], batches[..., 2] = 1, 6
    vector.reset(seed=0)

    def step() -> None:
        for k in range(calls):
            vector.step(batches[k % 64])

    step()
    return median_rate(calls * num_envs, step)
