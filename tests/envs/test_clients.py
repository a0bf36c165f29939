"""Clients in environments: one episode under every runner, the counts, and the hidden data."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import STATUS_NAMES, draw_clients, request_array
from burstenv.engine.enums import ABANDONED, ATTAINED, FAILED, LATE, REJECTED, UNSENT
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import episode_metrics
from burstenv.policies import parse_composite
from burstenv.workload import EpisodeRequests
from tests.cluster.small_clusters import assert_same_records

CLIENTS: dict[str, Any] = {
    "patience": {"kind": "exponential", "ttft_multiple": 2.0},
    "retries": {"max_retries": 3, "after": ["rejection", "abandonment", "upstream_failure"]},
    "closed_loop": {},
}
POLICIES = ("queue-cap/jsq/vllm", "kv-threshold/power-of-two/edf-512", "size-aware-kv/expected-ttft/spf-512")


@pytest.fixture(scope="module")
def scenario(small_scenario) -> Scenario:
    values = copy.deepcopy(small_scenario)
    values["clients"] = CLIENTS
    return load_scenario(values)


def drawn(scenario: Scenario, seed: int = 3, load: float = 3.0) -> tuple[np.ndarray, EpisodeRequests]:
    return scenario.episode("train", seed, load * scenario.capacity_per_s("train"))


def compiled(scenario: Scenario, policy: str, seed: int = 3, load: float = 3.0) -> Any:
    requests, episode = drawn(scenario, seed, load)
    cluster = scenario.make_cluster()
    cluster.load(0, requests, seed, scenario.clients_of(requests, episode, seed))
    record = parse_composite(policy).record(scenario.mode_names)
    rollout(*cluster.state.arrays(), record, 0, UNLIMITED)
    assert cluster.done(0)
    return cluster


def assert_same_episode(a: Any, b: Any, i: int = 0) -> None:
    mine, theirs = a.records(0), b.records(i)
    for links in ("next", "previous"):  # ids, counted from another offset in another environment of a batch
        mine[links] = theirs[links] = 0
    assert_same_records(mine, theirs)
    assert a.client_counts(0) == b.client_counts(i)
    for name in ("attempts", "refusals"):
        assert np.array_equal(a.client_records(0)[name], b.client_records(i)[name])


@pytest.mark.parametrize("policy", POLICIES)
def test_stepped_batched_and_compiled_episodes_are_the_same(scenario, policy):
    seeds = (3, 4, 5)
    expected = [compiled(scenario, policy, seed) for seed in seeds]
    counts = expected[0].client_counts(0)
    assert counts["attempts"] > len(expected[0].records(0)) - counts["unsent"]
    batch = EnvironmentBatch(len(seeds), scenario=scenario)
    for i, seed in enumerate(seeds):
        batch.reset(i, np.random.default_rng(0), {"episode": seed, "load": 3.0})
    returns = np.zeros(len(seeds))
    while not batch.done.all():
        for i in np.flatnonzero(~batch.done):
            batch.actions[i] = batch.policy_action(int(i), parse_composite(policy))
        batch.step()
        returns += batch.rewards
    for i, cluster in enumerate(expected):
        assert_same_episode(cluster, batch.cluster, i)
        assert returns[i] == batch.cluster.state.environments["attained_worth"][i]
    env = BurstGPTEnv(scenario=scenario)
    env.reset(options={"seed": 3, "load": 3.0})
    info: dict[str, Any] = {}
    done = False
    while not done:
        _, _, done, _, info = env.step(env.policy_action(policy))
    assert_same_episode(expected[0], env.batch.cluster)
    assert {name: info["episode_metrics"][name] for name in counts} == counts


def test_pickles_and_clones_continue_alike(scenario):
    env = BurstGPTEnv(scenario=scenario)
    env.reset(options={"seed": 3, "load": 3.0})
    for _ in range(150):
        env.step(env.policy_action(POLICIES[0]))
    saved = env.clone_state()
    other = pickle.loads(pickle.dumps(env))
    for branch in (env, other):
        branch.batch.fast_forward(0, parse_composite(POLICIES[0]), 10**6)
    assert_same_episode(env.batch.cluster, other.batch.cluster)
    env.restore_state(saved)
    env.batch.fast_forward(0, parse_composite(POLICIES[0]), 10**6)
    assert_same_episode(other.batch.cluster, env.batch.cluster)
    batch = EnvironmentBatch(3, scenario=scenario)  # another index of a larger batch, with more room
    for i in range(3):
        batch.reset(i, np.random.default_rng(i), {"load": 4.0})
    saved.put_into(batch, [2])
    batch.fast_forward(2, parse_composite(POLICIES[0]), 10**6)
    assert_same_episode(other.batch.cluster, batch.cluster, 2)


def test_an_episode_is_played_again_from_its_beginning(scenario):
    cluster = compiled(scenario, POLICIES[0])
    before = cluster.records(0), cluster.client_counts(0)
    assert before[1]["unsent"] > 0
    cluster.rewind(0, len(before[0]), 3)
    rollout(*cluster.state.arrays(), parse_composite(POLICIES[0]).record(scenario.mode_names), 0, UNLIMITED)
    assert_same_records(before[0], cluster.records(0))
    assert cluster.client_counts(0) == before[1]


@pytest.mark.parametrize("clients", [CLIENTS, {"retries": CLIENTS["retries"]}])
def test_optional_features_and_stale_metrics_work_with_clients(small_scenario, clients):
    """Forecasts and sessions read arrivals and earlier turns, which depend on the clients."""
    values = copy.deepcopy(small_scenario)
    values["clients"] = clients
    values["observation"] = {"forecast": True, "sessions": True, "delay_s": 0.2}
    scenario = load_scenario(values)
    batch = EnvironmentBatch(1, scenario=scenario)
    batch.reset(0, np.random.default_rng(0), {"episode": 3, "load": 3.0})
    rng = np.random.default_rng(0)
    arrived: list[float] = []
    names = batch.observation_names()
    while not batch.done[0]:
        assert np.isfinite(batch.observations).all()
        at_gateway = batch.cluster.at_gateway(0)
        if batch.cluster.client_records(0)["attempts"][at_gateway] == 1 and at_gateway >= 0:
            request = batch.cluster.state.requests[0, at_gateway]
            if request["defers"] == 0:
                arrived.append(float(request["arrival_s"]))
        now_s = float(batch.cluster.state.environments["now_s"][0])
        recent = sum(t > now_s - 1.0 for t in arrived) / scenario.capacity_per_s("train")
        column = next(k for k, name in enumerate(names) if name.endswith("count_1s"))
        assert batch.observations[0, column] == pytest.approx(min(8.0, recent), rel=1e-5)
        batch.actions[0] = (rng.choice(3, p=[0.3, 0.6, 0.1]), rng.integers(4), 0)
        batch.step()


@pytest.mark.parametrize("policy", ["always/jsq/vllm", "never/jsq/vllm", POLICIES[0]])
def test_every_request_is_counted_once(scenario, policy):
    cluster = compiled(scenario, policy)
    records, numbers, counts = cluster.records(0), cluster.client_records(0), cluster.client_counts(0)
    status = records["status"]
    assert np.isin(status, (ATTAINED, LATE, REJECTED, FAILED, ABANDONED, UNSENT)).all()
    metrics = episode_metrics(records, 20.0, client_counts=counts)
    assert metrics["offered"] == (status != UNSENT).sum()
    assert metrics["offered"] == sum(metrics[name] for name in ("attained", "late", "rejected", "failed"))
    assert metrics["late"] == (status == LATE).sum() + counts["abandoned"]
    assert sum(value for name, value in metrics.items() if name.startswith("lost_")) == (
        metrics["offered"] - metrics["attained"]
    )
    assert numbers["attempts"].sum() == counts["attempts"]
    assert numbers["refusals"].sum() == counts["refusals"]
    assert (numbers["attempts"][status == REJECTED] == 4).all()  # the last rejection settles it
    assert (numbers["attempts"][status == UNSENT] == 0).all()
    assert (numbers["attempts"] <= 4).all()
    sent = records[status != UNSENT]
    assert (sent["arrival_s"] <= sent["finish_s"]).all()
    assert (sent["arrival_s"] < 20.0).all()  # nothing new once the window is closed
    gave_up = status == ABANDONED
    waited_s = (records["finish_s"] - records["arrival_s"])[gave_up & (numbers["attempts"] == 1)]
    assert np.allclose(waited_s, numbers["patience_s"][gave_up & (numbers["attempts"] == 1)])
    if policy.startswith("never"):
        assert counts["refusals"] == counts["attempts"]
        assert metrics["offered"] == metrics["rejected"]


def test_patience_and_coming_turns_are_not_observed(scenario):
    """No observation shows a client's action before it takes place."""
    requests, episode = drawn(scenario)
    clients = scenario.clients_of(requests, episode, 3)
    other = copy.deepcopy(clients)
    other.patience_s[...] *= 1.5
    other.think_s[...] += 1.0
    batch = EnvironmentBatch(2, scenario=scenario)
    for i, acting in enumerate((clients, other)):
        batch.start(i, requests, 3, {}, acting)
    for _ in range(20):
        assert batch.observations[0].tobytes() == batch.observations[1].tobytes()
        batch.actions[:] = batch.policy_action(0, parse_composite("always/round-robin/vllm"))
        batch.step()


def test_without_clients_nothing_changes(small_scenario, scenario):
    plain = load_scenario(copy.deepcopy(small_scenario))
    values = copy.deepcopy(small_scenario)
    values["clients"] = {"patience": {"seconds": 1e6}}
    patient = load_scenario(values)
    assert plain.make_cluster().client_counts(0) is None
    assert plain.clients_of(*drawn(plain), 3) is None
    for policy in POLICIES:
        a, b = compiled(plain, policy), compiled(patient, policy)
        assert_same_records(a.records(0), b.records(0))
        assert b.client_counts(0)["attempts"] == len(a.records(0))


@pytest.mark.parametrize("retried", [False, True])
def test_recorded_failures_are_failures_before_the_gateway(small_scenario, retried):
    values = copy.deepcopy(small_scenario)
    if retried:
        values["clients"] = {"retries": {"after": ["upstream_failure"]}}
    else:
        values["episode"]["upstream_failures"] = "recorded"
    scenario = load_scenario(values)
    requests = request_array(np.arange(6) * 0.5, np.full(6, 50), np.full(6, 4))
    requests["ttft_slo_s"] = requests["tpot_slo_s"] = 5.0
    failed = np.array([True, False, True, False, False, True])
    clients = draw_clients(scenario.config.clients, requests, 0, upstream_failed=failed)
    batch = EnvironmentBatch(1, scenario=scenario)
    batch.start(0, requests, 0, {}, clients)
    seen = []
    while not batch.done[0]:
        seen.append(batch.cluster.at_gateway(0))
        batch.actions[0] = (1, 0, 0)
        batch.step()
    status = [STATUS_NAMES[s] for s in batch.cluster.records(0)["status"]]
    counts = batch.counts(0)
    assert counts["upstream_failed"] == 3
    if retried:  # back after half a second, less the jitter
        assert sorted(seen) == [0, 1, 2, 3, 4, 5]
        assert status == ["attained"] * 6
        assert counts["attempts"] == 9
    else:
        assert seen == [1, 3, 4]
        assert status == ["failed", "attained", "failed", "attained", "attained", "failed"]
        assert counts["failed"] == 3
        assert counts["offered"] == 6


def test_clients_must_be_loaded_with_their_requests(scenario):
    requests, episode = drawn(scenario)
    with pytest.raises(BurstenvError, match=f"needs those of {len(requests)} requests"):
        scenario.make_cluster().load(0, requests)
    few = scenario.clients_of(requests, episode, 3)
    with pytest.raises(BurstenvError, match="got those of"):
        scenario.make_cluster().load(0, requests[:5], 0, few)
    with pytest.raises(BurstenvError, match="has think time nan"):
        draw_clients(scenario.config.clients, requests[:2], 0, np.array([-1, 0]))


@pytest.mark.parametrize(
    ("block", "wrong", "message"),
    [
        ("patience", {}, "one of seconds and ttft_multiple"),
        ("patience", {"seconds": 1, "ttft_multiple": 1}, "one of seconds and ttft_multiple"),
        ("patience", {"seconds": 0}, "greater than or equal to 0.001"),
        ("retries", {"max_retries": 0}, "greater than or equal to 1"),
        ("retries", {"after": ["boredom"]}, "rejection"),
        ("retries", {"tries": 3}, "tries"),
        ("closed_loop", {"after_failure": "perhaps"}, "end"),
    ],
)
def test_wrong_configurations_are_one_clear_sentence(small_scenario, block, wrong, message):
    values = copy.deepcopy(small_scenario)
    values["clients"] = {block: wrong}
    with pytest.raises(BurstenvError, match=message):
        load_scenario(values)
