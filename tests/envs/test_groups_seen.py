"""What decisions see of classes and tenants: the numbers are those of the records, and tell nothing of the future."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.config import parse
from burstenv.engine.enums import AT_GATEWAY, ATTAINED, AWAY, LATE, LENGTH_CAPPED, RUNNING, SETTLED, WAITING
from burstenv.envs.scenario import Scenario
from burstenv.envs.scenario_config import ScenarioConfig
from tests.envs.test_population import mixed


@pytest.fixture(scope="module")
def scenario(small_scenario: dict[str, Any]) -> Scenario:
    values = mixed(
        small_scenario, tenants={"of": {"a": {"share": 0.3}, "b": {"share": 0.7}}},
        observation={"log": True, "scrape_period_s": 0.1, "delay_s": 0.05},
        flow={"rule": "vtc-queue(in_flight=6)"},
    )  # fmt: skip
    return Scenario(parse(ScenarioConfig, values, "test"), measure=False)


def expected(env: Any, now_s: float) -> dict[str, float]:
    """The features by name, from the records."""
    batch = env.unwrapped.batch
    records, tenant = batch.cluster.records(0), batch.cluster.tenant_of(0)
    status, first_s = records["status"], records["first_token_s"]
    no_token = np.isnan(first_s)
    waits = no_token & np.isin(status, (AT_GATEWAY, WAITING, RUNNING, AWAY))
    answered = np.isin(status, (ATTAINED, LATE, LENGTH_CAPPED)) & ~no_token
    tokens = np.where(answered, records["prompt_tokens"] + 2.0 * records["produced_tokens"], 0.0)
    began = (~no_token | np.isin(status, SETTLED)) & (records["arrival_s"] <= now_s)
    in_time = first_s - records["arrival_s"] <= records["ttft_slo_s"]
    found = {}
    groups = [("class", ("urgent", "normal", "batch"), records["class_code"]), ("tenant", ("a", "b"), tenant)]
    door = batch.cluster.at_gateway(0)
    for kind, names, code in groups:
        for k, name in enumerate(names):
            own = code == k
            found[f"cluster.backlog:{kind}={name}"] = min(8.0, np.count_nonzero(waits & own) / 16.0)
            found[f"cluster.served:{kind}={name}"] = tokens[own].sum() / max(1.0, tokens.sum())
            found[f"cluster.in_time:{kind}={name}"] = np.count_nonzero(in_time & own) / max(1, (began & own).sum())
            found[f"cluster.share:{kind}={name}"] = (began & own).sum() / max(1, began.sum())
            found[f"request.{kind}={name}"] = float(door >= 0 and code[door] == k)
    return found


def test_features_of_classes_and_tenants_are_those_of_the_records(scenario: Scenario) -> None:
    env = gym.make("BurstGPT-v0", scenario=scenario)
    layout = env.unwrapped.batch.observation_layout
    assert len(layout.names()) == len(set(layout.names())) == layout.size
    observation, _ = env.reset(seed=4)
    over, steps = False, 0
    while not over:
        now_s = float(env.unwrapped.batch.cluster.state.environments["now_s"][0])
        flat = dict(zip(layout.names(), env.unwrapped.batch.observations[0].tolist(), strict=True))
        if steps % 7 == 0:
            for name, value in expected(env, now_s).items():
                assert flat[name] == pytest.approx(value, abs=1e-5), (steps, name)
        assert env.observation_space.contains(observation)
        observation, _, over, _, _ = env.step(env.unwrapped.policy_action("always/jsq/vllm"))
        steps += 1
    assert steps > 300


def test_they_do_not_tell_the_future(scenario: Scenario) -> None:
    """Episodes that are equal up to an instant look equal up to it."""
    env = gym.make("BurstGPT-v0", scenario=scenario)
    batch = env.unwrapped.batch
    requests, drawn = scenario.episode("train", 2, 28.0)
    later = np.flatnonzero(requests["arrival_s"] > 8.0)
    other, tenant = requests.copy(), drawn.tenant.copy()
    other["class_code"][later] = 2 - other["class_code"][later]
    tenant[later] = 1 - tenant[later]
    seen = []
    for rows, of in ((requests, drawn.tenant), (other, tenant)):
        clients = scenario.clients_of(rows, drawn, 2)
        batch.start(0, rows, 2, {}, clients, tenant=of)
        found = []
        while not batch.done[0] and float(batch.cluster.state.environments["now_s"][0]) <= 8.0:
            found.append(batch.observations[0].copy())
            batch.actions[0] = [1, 0, 0]
            batch.step()
        seen.append(np.array(found))
    assert seen[0].shape == seen[1].shape
    assert len(seen[0]) > 50
    np.testing.assert_array_equal(*seen)


def test_both_checkers_are_silent(scenario: Scenario) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("BurstGPT-v0", scenario=scenario).unwrapped, skip_render_check=True)
        checker.check_env(gym.make("BurstGPT-v0", scenario=scenario).unwrapped)
