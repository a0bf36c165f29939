"""Several gateways: each decides by its own log, its own traffic and its own memory; all read the same metrics."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from burstenv.cluster import ADMIT, DEFER, STATUS_NAMES, Cluster
from burstenv.cluster.gateway_log import gateway_of
from burstenv.cluster.traffic import FAST_WINDOW_S, SLOW_WINDOW_S
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.policies import View, load_policy
from tests.cluster.small_clusters import loaded, random_requests, replica, requests_at

LOGS = {"log": True, "scrape_period_s": 0.1, "count_sent": False}


def viewer(cluster: Cluster) -> int:
    return int(cluster.state.environments["viewer"][0])


def test_each_gateway_has_its_own_turns_in_round_robin():
    requests = requests_at(*np.arange(12.0), prompt=50, output=5)
    cluster = loaded(requests, [replica()] * 3, gateways=2)
    player = player_of(load_policy("always/round-robin/vllm"), cluster)
    while cluster.next_epoch(0) >= 0:
        cluster.decide(0, *player.decision())
    assert cluster.records(0)["replica"].tolist() == [0, 0, 1, 1, 2, 2] * 2


@pytest.mark.parametrize("split", ["evenly", "hash"])
def test_each_gateway_sees_its_own_traffic_and_log_alone(split):
    rng = np.random.default_rng(3)
    requests = random_requests(rng, 120, 200, 12.0)
    requests["session"] = rng.integers(-1, 20, len(requests))
    cluster = loaded(requests, [replica(num_blocks=400)] * 2, gateways=3, split=split, max_defers=2, tick_s=0.5)
    cluster.see_log()
    own = [gateway_of(k, int(requests["session"][k]), 3, split) for k in range(len(requests))]
    assert set(own) == {0, 1, 2}
    waiting_at_gateway: set[int] = set()
    decided = 0
    while not cluster.done(0):
        k = cluster.next_epoch(0)
        if cluster.done(0):
            break
        me = own[k] if k >= 0 else 0
        assert viewer(cluster) == me
        environment, now_s = cluster.state.environments[0], float(cluster.state.environments["now_s"][0])
        waiting_at_gateway.discard(k)
        arrived = np.arange(int(environment["next_arrival"]))
        mine = arrived[np.array(own)[arrived] == me]
        age_s = now_s - requests["arrival_s"][mine]
        assert environment["rate_fast_per_s"] == pytest.approx(np.exp(-age_s / FAST_WINDOW_S).sum() / FAST_WINDOW_S)
        assert environment["rate_slow_per_s"] == pytest.approx(np.exp(-age_s / SLOW_WINDOW_S).sum() / SLOW_WINDOW_S)
        assert environment["deferred"] == sum(own[j] == me for j in waiting_at_gateway)
        records, view = cluster.records(0), View(cluster, 0, cluster.mode_names, {}, False)
        under_way = np.isin(records["status"], [STATUS_NAMES.index(s) for s in ("waiting", "running")])
        for r in range(2):
            there = under_way & (records["replica"] == r)
            assert view.replicas[r].log.in_flight == (there & (np.array(own) == me)).sum()
        if k >= 0 and decided % 5 == 0 and records["defers"][k] < 2:
            waiting_at_gateway.add(k)
            cluster.decide(0, DEFER)
        else:
            cluster.decide(0, ADMIT, int(rng.integers(2)))
        decided += 1
    assert decided > 120


def test_limits_by_tokens_and_by_late_answers_are_each_gateways_own():
    """Gateway 0 spends its bucket; that of gateway 1, to which few requests come, stays full."""
    requests = requests_at(*[0.001 * k for k in range(40)], prompt=1000, output=2)
    other = next(s for s in range(1, 20) if gateway_of(0, s, 2, "hash") != gateway_of(0, 0, 2, "hash"))
    requests["session"] = np.where(np.arange(40) % 8 == 0, other, 0)
    cluster = loaded(requests, [replica(num_blocks=2000)], gateways=2, split="hash")
    player = player_of(load_policy("token-bucket(capacity_tokens=5000,refill_tokens_per_s=500)/jsq/vllm"), cluster)
    while cluster.next_epoch(0) >= 0:
        cluster.decide(0, *player.decision())
    rejected = np.array([STATUS_NAMES[s] == "rejected" for s in cluster.records(0)["status"]])
    assert rejected[requests["session"] == 0].sum() == 30
    assert not rejected[requests["session"] == other].any()


def several(small_scenario: dict[str, Any], **changes: Any) -> dict[str, Any]:
    values = copy.deepcopy(small_scenario)
    return {**values, "gateways": 4, "observation": LOGS, **changes}


@pytest.mark.parametrize("split", ["evenly", "hash"])
def test_same_seed_same_bytes_and_the_vector_environment_is_the_scalar_one(small_scenario, split):
    scenario = load_scenario(several(small_scenario, split=split))
    runs = []
    for _ in range(2):
        env = gym.make("BurstGPT-v0", scenario=scenario, load=2.0)
        observation, info = env.reset(seed=4)
        seen, rng = [(observation.tobytes(), info["gateway"])], np.random.default_rng(1)
        for _ in range(200):
            action = np.array([1, rng.integers(2), 0])
            observation, reward, over, _, info = env.step(action)
            seen.append((observation.tobytes(), info["gateway"], reward))
            if over:
                break
        runs.append(seen)
    assert runs[0] == runs[1]
    assert len({entry[1] for entry in runs[0]}) == 4
    vector = gym.make_vec("BurstGPT-v0", 2, vectorization_mode="vector_entry_point", scenario=scenario, load=2.0)
    observations, infos = vector.reset(seed=[4, 9])
    rng = np.random.default_rng(1)
    for step, entry in enumerate(runs[0][:100]):
        assert (observations[0].tobytes(), infos["gateway"][0]) == entry[:2], step
        action = np.array([1, rng.integers(2), 0])
        observations, _, _, _, infos = vector.step(np.stack([action, action]))


def test_one_gateway_is_what_there_was_before(small_scenario):
    values = copy.deepcopy(small_scenario)
    one, none = load_scenario({**values, "gateways": 1, "split": "hash"}), load_scenario(values)
    requests, _ = none.episode("validation", 2, 20.0)
    found = []
    for scenario in (one, none):
        cluster = scenario.make_cluster(num_requests=len(requests))
        cluster.load(0, requests, 2)
        player_of(load_policy("aimd/power-of-two/vllm"), cluster).run()
        found.append(cluster.records(0).tobytes())
    assert found[0] == found[1]


WRONG = {
    "forecast": ({"observation": {**LOGS, "forecast": True}}, "forecast"),
    "count_sent": ({"observation": {**LOGS, "count_sent": True}}, "count_sent"),
    "none": ({"gateways": 0}, "gateways"),
    "split": ({"split": "random"}, "split"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_several_gateways_cannot_have_is_one_sentence(small_scenario, name):
    changes, word = WRONG[name]
    with pytest.raises(BurstenvError, match=word):
        load_scenario(several(small_scenario, **changes))


@pytest.mark.parametrize("env_id", ["BurstGPT-Interval-v0", "BurstGPT-Iteration-v0"])
def test_environments_of_one_gateway_say_so(small_scenario, env_id):
    values = several(small_scenario)
    if "Iteration" in env_id:
        values = {**load_scenario("one-replica").config.model_dump(mode="json"), "gateways": 4, "observation": {}}
    with pytest.raises(BurstenvError, match="gateways"):
        gym.make(env_id, scenario=values)
