"""The agent's observation: documented, causal, as stale as the scenario says."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burstenv.engine.enums import NO_REQUEST, RUNNING, WAITING
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.observation.features import (
    LIMIT,
    LOG_REPLICA_FEATURES,
    ObservationConfig,
    ObservationLayout,
    feature_table,
)
from burstenv.envs.observation.sessions import turn_links
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.errors import BurstenvError

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "stale": {"delay_s": 0.3},
    "polled": {"scrape_period_s": 0.25, "count_sent": False},
    "log": {"log": True, "scrape_period_s": 1.0},
    "no relay": {"log": True, "relays": False, "scrape_period_s": 1.0, "count_sent": False},
    "everything": {"forecast": True, "sessions": True, "log": True, "delay_s": 0.05, "scrape_period_s": 0.1},
}


@pytest.fixture(scope="module")
def scenarios(small_scenario) -> dict[str, Scenario]:
    """The small scenario under every form of observation; the last with prefix caching."""
    loaded = {}
    for name, form in FORMS.items():
        values = copy.deepcopy(small_scenario)
        values["observation"] = form
        if name == "everything":
            values["cluster"] = {
                "name": "caching", "prefix_caching": True,
                "replicas": [{"model": "llama-2-13b", "hardware": "a100-80g", "count": 2}],
            }  # fmt: skip
        loaded[name] = load_scenario(values)
    return loaded


def play(batch: EnvironmentBatch, requests: np.ndarray, actions: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Return (time, observation) of every decision of an episode."""
    batch.start(0, requests, 0, {})
    seen = [(float(batch.cluster.state.environments["now_s"][0]), batch.observations[0].copy())]
    for action in actions:
        if batch.done[0]:
            break
        batch.actions[0] = action
        batch.step()
        seen.append((float(batch.cluster.state.environments["now_s"][0]), batch.observations[0].copy()))
    return seen


def test_the_docstring_and_the_names_come_from_the_same_table(scenarios):
    assert feature_table().splitlines()[5].strip() in (BurstGPTEnv.__doc__ or "")
    assert "{observation_table}" not in (BurstGPTEnv.__doc__ or "")
    for scenario in scenarios.values():
        layout = scenario.observation_layout
        names = layout.names()
        assert len(names) == len(set(names)) == layout.size
        documented = feature_table()
        for name in names:
            group, _, feature = name.partition(".")
            group = "replica" if group.startswith("replica") else group
            assert f"| {group}.{feature.split('=')[0]}" in documented, name


def test_the_numbers_of_the_table_are_the_positions_on_the_default_scenario():
    layout = load_scenario("default").observation_layout
    names, first = layout.names(), layout.num_cluster + layout.num_request
    for line in feature_table().splitlines()[2:]:
        place, name = (cell.strip() for cell in line.split("|")[1:3])
        if name.startswith("replica") and place != "+" and "m" not in place:
            offset = 0 if place == f"{first} + r F" else int(place.removeprefix("+ "))
            assert names[first + offset] == name.replace("replica.", "replica0.")
        elif place.isdigit():
            assert names[int(place)] == name


@pytest.mark.parametrize("form", FORMS)
def test_every_number_stays_within_its_documented_bounds(scenarios, form):
    scenario = scenarios[form]
    env = gym.make("BurstGPT-v0", scenario=scenario, load=2.0)
    low, high = scenario.observation_layout.bounds()
    env.action_space.seed(0)
    observation, _ = env.reset(seed=1)
    extremes = [observation.copy(), observation.copy()]
    terminated = False
    while not terminated:
        observation, _, terminated, _, _ = env.step(env.action_space.sample())
        extremes = [np.minimum(extremes[0], observation), np.maximum(extremes[1], observation)]
    for k, name in enumerate(scenario.observation_layout.names()):
        assert low[k] <= extremes[0][k] <= extremes[1][k] <= high[k], name
    moved = {name.split(".")[1] for k, name in enumerate(scenario.observation_layout.names())
             if extremes[0][k] < extremes[1][k]}  # fmt: skip
    if form == "everything":
        assert {"count_1s", "count_60s", "fano", "gap_cv", "turn", "since_previous", "prefix_hit", "had_previous",
                "metrics_age", *(feature.name for feature in LOG_REPLICA_FEATURES)} <= moved  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_changing_the_future_never_changes_a_past_observation(scenarios, data):
    scenario = scenarios[data.draw(st.sampled_from(list(FORMS)))]
    batch = EnvironmentBatch(1, scenario)
    seed = data.draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    requests, _ = scenario.episode("train", seed, float(rng.uniform(3.0, 30.0)))
    actions = rng.integers(0, batch.layout.sizes, (400, 3))
    actions[:, 0] = rng.choice([0, 1, 1, 1, 2], 400)
    cut_s = float(rng.uniform(0.0, 15.0))
    other = requests.copy()
    later = other["arrival_s"] > cut_s
    count = int(later.sum())
    other["arrival_s"][later] = cut_s + np.sort(rng.uniform(1e-6, 5.0, count))
    other["prompt_tokens"][later] = rng.integers(1, 2000, count)
    other["output_tokens"][later] = rng.integers(1, 1000, count)
    other["predicted_tokens"][later] = rng.uniform(1, 1000, count)
    other["class_code"][later] = rng.integers(0, 2, count)
    other["session"][later] = NO_REQUEST
    if data.draw(st.booleans()):
        other = other[: len(other) - count // 2]
    first, second = play(batch, requests, actions), play(batch, other, actions)
    past = [seen.tobytes() for now_s, seen in first if now_s <= cut_s]
    assert [seen.tobytes() for now_s, seen in second if now_s <= cut_s][: len(past)] == past
    assert len(past) > 0 or cut_s < requests["arrival_s"][0]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_output_lengths_are_hidden_until_a_request_ends(scenarios, seed):
    """Two episodes with other true output lengths have equal observations until the first token stream ends."""
    scenario = scenarios["plain"]
    batch = EnvironmentBatch(1, scenario)
    rng = np.random.default_rng(seed)
    requests, _ = scenario.episode("train", seed, 10.0)
    requests = requests[requests["prompt_tokens"] + 900 <= scenario.longest_tokens]
    requests["output_tokens"] = 300  # no request ends within 300 iterations, which take more than 3 s
    other = requests.copy()
    other["output_tokens"] = rng.integers(300, 900, len(other))
    actions = rng.integers(0, batch.layout.sizes, (100, 3))
    first, second = play(batch, requests, actions), play(batch, other, actions)
    past = [seen.tobytes() for now_s, seen in first if now_s <= requests["arrival_s"][0] + 3.0]
    assert len(past) > 3
    assert [seen.tobytes() for _, seen in second][: len(past)] == past


def test_the_features_of_the_log_are_never_stale(scenarios):
    """With a reading a second, they are what the records say now; the metrics beside them are not."""
    scenario = scenarios["log"]
    batch = EnvironmentBatch(1, scenario)
    requests, _ = scenario.episode("train", 5, 12.0)
    batch.start(0, requests, 0, {})
    in_flight, unanswered, waiting, running = (
        replica_columns(scenario, name) for name in ("in_flight", "unanswered", "waiting", "running")
    )
    old = 0
    for step in range(150):
        records, seen = batch.cluster.records(0), batch.observations[0]
        for r in range(len(scenario.specs)):
            sent = (records["replica"] == r) & np.isin(records["status"], (WAITING, RUNNING))
            assert seen[in_flight[r]] * 64 == pytest.approx(sent.sum())
            assert seen[unanswered[r]] * 16 == pytest.approx((sent & np.isnan(records["first_token_s"])).sum())
            old += seen[waiting[r]] * 16 + seen[running[r]] * 64 != pytest.approx(sent.sum())
        batch.actions[0] = [1, step % len(scenario.specs), 0]
        batch.step()
    assert old > 50


def replica_columns(scenario: Scenario, *features: str) -> list[int]:
    """Columns of scraped features of all replicas."""
    names = scenario.observation_layout.names()
    return [k for k, name in enumerate(names) if name.startswith("replica") and name.split(".")[1] in features]


def test_stale_metrics_are_those_of_the_last_reading_that_has_arrived(scenarios):
    """With everything rejected after a while, stale metrics are those of a fresh observer at the last grid point."""
    values = scenarios["plain"].config.model_dump(mode="json")
    delay_s = 0.5
    values["observation"] = {"delay_s": delay_s, "count_sent": False}
    values["tick_s"] = delay_s / 2  # epochs on the grid of readings
    stale = load_scenario(values)
    values["observation"] = {}
    fresh = load_scenario(values)
    requests, _ = fresh.episode("train", 3, 10.0)
    requests = requests[:25]
    requests["arrival_s"] = 0.0  # all at once; afterwards only ticks, at multiples of 0.25 s
    actions = np.tile([1, 0, 0], (400, 1))
    actions[:, 1] = np.arange(400) % 4
    old, new = (play(EnvironmentBatch(1, s), requests, actions) for s in (stale, fresh))
    columns = [replica_columns(s, "waiting", "running", "kv_used", "preemptions") for s in (stale, fresh)]
    age = stale.observation_layout.names().index("cluster.metrics_age")
    seen_at = {now_s: seen[columns[1]] for now_s, seen in new}
    compared = 0
    for now_s, seen in old[:-1]:
        read_s = now_s - float(seen[age])
        assert delay_s <= seen[age] < 2 * delay_s or now_s < 2 * delay_s
        if read_s > 0 and read_s in seen_at:
            assert np.array_equal(seen[columns[0]], seen_at[read_s])
            compared += 1
    assert compared > 20


def test_counting_sent_requests(scenarios):
    values = scenarios["plain"].config.model_dump(mode="json")
    waiting = {}
    for count_sent in (True, False):
        values["observation"] = {"delay_s": 5.0, "count_sent": count_sent}
        scenario = load_scenario(values)
        batch = EnvironmentBatch(1, scenario)
        requests, _ = scenario.episode("train", 1, 20.0)
        actions = np.tile([1, 2, 0], (6, 1))
        seen = play(batch, requests, actions)
        assert seen[-1][0] < 5.0  # no reading has arrived
        column = replica_columns(scenario, "waiting")[2]
        waiting[count_sent] = [float(s[column]) * 16 for _, s in seen]
    assert waiting[True] == [0, 1, 2, 3, 4, 5, 6]
    assert waiting[False] == [0] * 7


@pytest.mark.parametrize("form", ["stale", "polled"])
@pytest.mark.parametrize("policy", ["always/jsq/vllm", "size-aware-kv/expected-ttft/edf-512"])
def test_a_compiled_rule_and_a_queried_one_see_the_same_stale_metrics(scenarios, form, policy):
    """Lazy runs read the metrics too; and stale metrics change a rule's decisions."""
    from burstenv.policies import parse_composite

    composite = parse_composite(policy)
    outcomes = {}
    for name in (form, "plain"):
        scenario = scenarios[name]
        requests, _ = scenario.episode("train", 5, 25.0)
        asked, compiled = EnvironmentBatch(1, scenario), EnvironmentBatch(1, scenario)
        for batch in (asked, compiled):
            batch.start(0, requests, 5, {})
        while not asked.done[0]:
            asked.actions[0] = asked.policy_action(0, composite)
            asked.step()
        compiled.fast_forward(0, composite, 2**60)
        assert compiled.cluster.records(0).tobytes() == asked.cluster.records(0).tobytes()
        outcomes[name] = asked.cluster.records(0)["replica"].tolist()
    assert outcomes[form] != outcomes["plain"]


def test_observations_after_a_lazy_run_are_those_of_stepping(scenarios):
    from burstenv.policies import parse_composite

    composite = parse_composite("always/jsq/vllm")
    for name, scenario in scenarios.items():
        requests, _ = scenario.episode("train", 2, 20.0)
        stepped, jumped = EnvironmentBatch(1, scenario), EnvironmentBatch(1, scenario)
        for batch in (stepped, jumped):
            batch.start(0, requests, 2, {})
        for _ in range(150):
            stepped.actions[0] = stepped.policy_action(0, composite)
            stepped.step()
        jumped.fast_forward(0, composite, 150)
        elapsed = scenario.observation_layout.names().index("cluster.elapsed")
        stepped.observations[:, elapsed] = jumped.observations[:, elapsed] = 0.0
        assert np.array_equal(stepped.observations, jumped.observations), name


def test_forecast_features_match_the_arrivals(scenarios):
    scenario = scenarios["everything"]
    batch = EnvironmentBatch(1, scenario)
    requests, _ = scenario.episode("train", 4, 15.0)
    names = scenario.observation_layout.names()
    columns = {name.split(".")[1]: k for k, name in enumerate(names) if name.startswith("cluster.")}
    capacity = scenario.capacity_per_s("train")
    arrival_s = requests["arrival_s"]
    actions = np.tile([1, 0, 0], (len(requests), 1))
    actions[:, 1] = np.arange(len(requests)) % 2
    checked = 0
    for now_s, seen in play(batch, requests, actions)[40::17]:
        arrived = arrival_s[arrival_s <= now_s]
        if len(arrived) == len(arrival_s):
            break
        for horizon_s in (1, 10, 60):
            count = int((arrived > now_s - horizon_s).sum())
            assert seen[columns[f"count_{horizon_s}s"]] == pytest.approx(count / capacity / horizon_s, rel=1e-5)
        bins = np.bincount(arrived.astype(int), minlength=int(now_s) + 1)[: int(now_s)][-60:]
        assert seen[columns["fano"]] * 8 == pytest.approx(min(64, bins.var() / bins.mean()), rel=1e-4)
        checked += 1
    assert checked > 5


def test_turn_links():
    links = turn_links(np.array([3, -1, 3, 5, -1, 3, 5]))
    assert links[:, 0].tolist() == [0, 0, 1, 0, 0, 2, 1]
    assert links[:, 1].tolist() == [-1, -1, 0, -1, -1, 2, 3]


def test_more_than_one_reading_under_way_is_an_error(small_scenario):
    values = {**small_scenario, "observation": {"delay_s": 1.0, "scrape_period_s": 0.5}}
    with pytest.raises(BurstenvError, match="scrape_period_s"):
        load_scenario(values)


def test_layouts_know_their_sizes():
    layout = ObservationLayout(3, ("a", "b"), ObservationConfig(forecast=True))
    assert layout.size == layout.num_cluster + layout.num_request + 3 * layout.num_replica
    assert (layout.bounds()[1] <= LIMIT).all()
