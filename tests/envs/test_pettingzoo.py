"""The gateways of a cluster as agents of PettingZoo."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("pettingzoo")

from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, seed_test

from burstenv import pettingzoo
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError


@pytest.fixture(scope="module")
def scenario(small_scenario: dict[str, Any]) -> Scenario:
    values = copy.deepcopy(small_scenario)
    values["episode"]["duration_s"] = 5
    values["gateways"] = 3
    values["observation"] = {"log": True, "scrape_period_s": 0.5, "count_sent": False}
    return load_scenario(values)


FORMS: dict[str, dict[str, Any]] = {
    "routing": {"decide": ("routing",)},
    "all": {},
    "dict": {"decide": ("admission", "routing"), "action": "flat", "observation": "dict"},
}


@pytest.mark.parametrize("form", FORMS)
def test_pettingzoos_own_tests_pass(scenario, form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*reset option 'options' is unknown", category=UserWarning)
        if form != "routing":  # it advises boxes and single numbers
            warnings.filterwarnings(
                "ignore", message=".*(probably should be|a NumPy array|not NumPy array)", category=UserWarning
            )
        api_test(pettingzoo.env(scenario, **FORMS[form]), num_cycles=500)
        parallel_api_test(pettingzoo.parallel_env(scenario, **FORMS[form]), num_cycles=500)


def test_pettingzoos_own_tests_of_seeds_pass(scenario):
    seed_test(lambda: pettingzoo.env(scenario, decide=("routing",)), num_cycles=200)
    parallel_seed_test(lambda: pettingzoo.parallel_env(scenario, decide=("routing",)), num_cycles=200)


def test_the_agent_that_decides_sees_what_the_single_environment_shows(scenario):
    """And what the others see does not depend on whether it is read."""
    single = gym.make("BurstGPT-v0", scenario=scenario)
    seen, info = single.reset(seed=7)
    cycle, parallel = pettingzoo.env(scenario), pettingzoo.parallel_env(scenario)
    cycle.reset(seed=7)
    found, infos = parallel.reset(seed=7)
    rng, steps, over, total = np.random.default_rng(0), 0, False, 0.0
    others = 0
    while not over:
        agent = cycle.agent_selection
        assert agent == f"gateway_{info['gateway']}"
        assert [name for name in infos if infos[name]["decides"]] == [agent]
        assert cycle.observe(agent).tobytes() == seen.tobytes() == found[agent].tobytes()
        for name in cycle.possible_agents if steps % 3 == 0 else ():
            assert cycle.observe(name).tobytes() == found[name].tobytes()
            others += found[name].tobytes() != seen.tobytes()
        action = np.array([1, rng.integers(4), 0])
        seen, reward, over, _, info = single.step(action)
        cycle.step(action)
        found, rewards, overs, _, infos = parallel.step(dict.fromkeys(parallel.agents, action))
        assert set(rewards.values()) == {reward} == set(cycle.rewards.values())
        assert set(overs.values()) == {over}
        total += reward
        steps += 1
    assert total > 0.0
    assert others > 20
    assert parallel.agents == []


def test_others_have_no_request_and_their_own_log(scenario):
    env = pettingzoo.env(scenario)
    names = scenario.observation_layout.names()
    present, in_flight = names.index("request.present"), [k for k, name in enumerate(names) if ".in_flight" in name]
    env.reset(seed=3)
    sent = dict.fromkeys(env.agents, 0)
    for _ in range(12):
        agent = env.agent_selection
        for name in env.agents:
            assert env.observe(name)[present] == (name == agent)
            assert env.observe(name)[in_flight].sum() * 64 <= sent[name] + 1e-4
        sent[agent] += 1
        env.step(np.array([1, 0, 0]))
    assert env.observe("gateway_1")[in_flight].sum() * 64 == pytest.approx(sent["gateway_1"])


def test_one_gateway_or_a_vector_is_an_error(scenario, small_scenario):
    with pytest.raises(BurstenvError, match="has one gateway; set gateways: 4"):
        pettingzoo.env(small_scenario)
    with pytest.raises(BurstenvError, match="vector"):
        pettingzoo.env(scenario, reward="vector")
    env = pettingzoo.parallel_env(scenario)
    env.reset(seed=0)
    with pytest.raises(BurstenvError, match=r"actions must have one of gateway_\d, which decides now"):
        env.step({})
