"""Every batching mode of the registry through ``env.step`` and compiled: the same decisions, the same records."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.policies import parse_composite
from burstenv.policies.batching import BATCHING_RULES
from tests.cluster.small_clusters import assert_same_records

MODES = [rule.name for rule in BATCHING_RULES]


@pytest.fixture(scope="module")
def every_mode(small_scenario: dict[str, Any]) -> Scenario:
    """A short episode under a scenario that lists every mode of the registry."""
    values = copy.deepcopy(small_scenario)
    values["episode"]["duration_s"] = 6
    values["modes"] = MODES
    return load_scenario(values)


@pytest.mark.parametrize("mode", MODES)
def test_stepped_and_compiled_episodes_are_the_same(every_mode, mode):
    policy = f"queue-cap/least-kv/{mode}"
    env = BurstGPTEnv(scenario=every_mode)
    env.reset(seed=1, options={"episode": 3, "load": 2.0})
    requests, _ = every_mode.episode("train", 3, 2.0 * every_mode.capacity_per_s("train"))
    cluster = every_mode.make_cluster()
    cluster.load(0, requests, 3)
    decisions = rollout(*cluster.state.arrays(), parse_composite(policy).record(every_mode.mode_names), 0, UNLIMITED)
    steps, done = 0, False
    while not done:
        _, _, done, _, _ = env.step(env.policy_action(policy))
        steps += 1
    assert steps == decisions
    assert_same_records(env.batch.cluster.records(0), cluster.records(0))
