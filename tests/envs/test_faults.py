"""Environments whose replicas fail: what agents see and may do, and that neither tells of an undetected fault."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from burstenv.config import load
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.play.policy import player_of
from burstenv.envs.scenario import load_scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError
from burstenv.evaluation.metrics import failures
from burstenv.evaluation.simulate import simulate
from burstenv.evaluation.timeline.series import FLEET
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.lookahead.choice_worth import ChoiceWorth
from burstenv.policies.lookahead.playing import Lookahead

OFTEN = {
    "name": "often",
    "hazards": [{"kind": "crash", "mtbf_s": 15.0}, {"kind": "slow", "mtbf_s": 15.0, "duration_s": 5.0, "factor": 3.0}],
    "at_least_one": True,
    "paces": {},
    "detect_s": 1.0,
    "cold_start": 3.0,
    "recovery": {"requests": "continue", "limit": 1},
}


def with_faults(small_scenario: dict[str, Any], **faults: Any) -> dict[str, Any]:
    return {**copy.deepcopy(small_scenario), "faults": {"name": "test", "cold_start": 3.0, **faults}}


def one_fault(small_scenario: dict[str, Any], kind: str, detect_s: float) -> dict[str, Any]:
    script = [{"at_s": 3.0, "kind": kind, "replica": 1}] if kind else []
    return with_faults(small_scenario, script=script, detect_s=detect_s)


@pytest.mark.parametrize("form", [{}, {"decide": ("admission", "routing"), "action": "flat"}], ids=str)
def test_gymnasium_checker_is_silent(small_scenario, form):
    env = gym.make("BurstGPT-v0", scenario=with_faults(small_scenario, **OFTEN), **form)
    check_env(env.unwrapped, skip_render_check=True)


def played(values: dict[str, Any], until_s: float) -> list[tuple[bytes, bytes, float]]:
    """Observation, mask and time at every decision until then, all requests being sent by turns."""
    env = gym.make("BurstGPT-v0", scenario=values, load=2.0).unwrapped
    seen, turn = [], 0
    observation, info = env.reset(seed=5)
    while env.batch.cluster.state.environments["now_s"][0] < until_s:
        now_s = float(env.batch.cluster.state.environments["now_s"][0])
        seen.append((observation.tobytes(), info["action_mask"].tobytes(), now_s))
        observation, _, over, _, info = env.step((1, turn % 4, 0))
        turn += 1
        if over:
            break
    return seen


def test_no_observation_tells_a_crash_from_a_hang_and_no_mask_tells_of_either(small_scenario):
    crash, hang = (played(one_fault(small_scenario, kind, 9.0), 11.9) for kind in ("crash", "hang"))
    none = played(one_fault(small_scenario, "", 9.0), 11.9)
    assert crash == hang
    assert crash != none, "it is inferred from the answers that do not come"
    assert [mask for _, mask, _ in crash] == [mask for _, mask, _ in none]


def test_a_known_fault_is_masked_and_an_action_beside_the_mask_is_a_rejection(small_scenario):
    batch = EnvironmentBatch(1, scenario=one_fault(small_scenario, "crash", 1.0), load=2.0)
    batch.reset(0, np.random.default_rng(2))
    environment = batch.cluster.state.environments[0:1]
    masked = 0
    while not batch.done[0]:
        down = 4.0 < environment["now_s"][0] < 4.0 + 0.9 * 3.0
        if down and batch.cluster.at_gateway(0) >= 0:
            masked += 1
            assert batch.masks[0, 3:7].tolist() == [1, 0, 1, 1]
            before = batch.counts(0)["rejected"]
            batch.actions[0] = (1, 1, 0)
            batch.step()
            assert batch.counts(0)["rejected"] == before + 1
            continue
        batch.actions[0] = (1, int(environment["decisions"][0]) % 4, 0)
        batch.step()
    assert masked > 10
    assert batch.counts(0)["failovers"] > 0


@pytest.mark.parametrize(("routing", "avoids"), [("random", False), ("random+timeout(limit_s=0.5)", True)])
def test_an_agent_may_have_a_health_rule_beside_it(small_scenario, routing, avoids):
    """The agent admits; the replica that hangs from 3.0 on gets requests until it has been silent for half a second."""
    values = one_fault(small_scenario, "hang", 60.0)
    values["observation"] = {**values.get("observation", {}), "log": True}
    batch = EnvironmentBatch(1, scenario=values, load=2.0, decide=("admission",), routing=routing)
    batch.reset(0, np.random.default_rng(0))
    while not batch.cluster.done(0):
        batch.actions[:] = 1
        batch.step()
        if batch.cluster.state.environments["now_s"][0] > 10.0:
            break
    records = batch.cluster.records(0)
    late = records[(records["arrival_s"] > 5.0) & (records["arrival_s"] < 10.0)]
    assert len(late) > 10
    assert ((late["replica"] == 1).sum() == 0) == avoids


def test_a_batch_of_two_threads_and_a_snapshot_go_on_alike(small_scenario):
    values = with_faults(small_scenario, **OFTEN)
    one, two = (EnvironmentBatch(3, scenario=values, load=2.0, num_threads=n) for n in (1, 2))
    for batch in (one, two):
        for i in range(3):
            batch.reset(i, np.random.default_rng(i))
    rng = np.random.default_rng(1)
    kept, later = None, []
    for step in range(240):
        if step == 100:
            kept = one.clone_state()
        actions = rng.integers(0, one.layout.sizes, one.actions.shape)
        actions[:, 0] = 1
        later += [actions] if step >= 100 else []
        for batch in (one, two):
            batch.actions[:] = actions
            batch.step()
        assert one.observations.tobytes() == two.observations.tobytes()
        assert one.masks.tobytes() == two.masks.tobytes()
    end = one.observations.tobytes(), [one.counts(i) for i in range(3)]
    one.restore_state(kept)
    for actions in later:
        one.actions[:] = actions
        one.step()
    assert (one.observations.tobytes(), [one.counts(i) for i in range(3)]) == end
    assert sum(one.counts(i)["faults"] for i in range(3)) > 3


@pytest.mark.parametrize("policy", ["always/jsq/vllm", "size-aware-kv/expected-ttft/edf-512"])
def test_failures_are_counted_by_cause(small_scenario, policy):
    scenario = load_scenario(with_faults(small_scenario, **{**OFTEN, "recovery": {"requests": "fail"}}))
    requests, drawn = scenario.episode("train", 3, 60.0)
    cluster = scenario.make_cluster()
    cluster.load(0, requests, 3, faults=scenario.faults_of(drawn, 3))
    player_of(load_policy(policy), cluster, 0).run()
    records, counts = cluster.records(0), cluster.fault_counts(0)
    environment = cluster.state.environments[0]
    causes = failures(records)
    assert causes["injected"] == counts["faulted"] > 0
    assert causes["upstream"] == 0
    assert sum(causes.values()) + int(environment["length_capped"]) == environment["failed"]


def test_a_replay_has_the_faults_it_is_given(small_scenario):
    scenario = load_scenario(with_faults(small_scenario, **OFTEN))
    given = {"rate_per_s": 20.0, "duration_s": 40.0}
    result = simulate(scenario.trace, None, "always/jsq/vllm", scenario, timeline=True, **given)
    assert result.metrics["faults"] > 0
    assert 0.0 < result.metrics["availability"] < 1.0
    assert result.timeline.fleet.shape[1] == 1 + len(FLEET)
    assert result.timeline.fleet[:, 1].min() < 4
    again = simulate(scenario.trace, None, "always/jsq/vllm", scenario, **given)
    assert again.metrics == result.metrics


def test_what_cannot_be_played_with_faults_says_so(small_scenario):
    values = with_faults(small_scenario, spells={})
    with pytest.raises(BurstenvError, match=r"set episode\.upstream_failures to 'recorded'"):
        EnvironmentBatch(1, scenario=values).reset(0, np.random.default_rng(0))
    values["episode"]["upstream_failures"] = "recorded"
    batch = EnvironmentBatch(1, scenario=values)
    batch.reset(0, np.random.default_rng(0))
    with pytest.raises(BurstenvError, match="lookahead does not sample the faults of replicas"):
        Lookahead(batch.cluster, "lookahead:always/jsq/vllm")
    Lookahead(batch.cluster, "oracle-lookahead:always/jsq/vllm")
    scaled = load_scenario("diurnal").make_cluster()
    for look_ahead in (
        lambda: Lookahead(scaled, "oracle-lookahead:always/jsq/vllm"),
        lambda: ChoiceWorth(scaled, parse_composite("always/jsq/vllm"), 5.0),
    ):
        with pytest.raises(BurstenvError, match="in this scenario they are scaled"):
            look_ahead()
    with pytest.raises(BurstenvError, match=r"unknown model or class in spells\.pools of faults 'test' 'GPT4'"):
        load_scenario(with_faults(small_scenario, spells={"pools": {"GPT4": [0]}}))


def test_spells_begin_at_failed_rows(small_scenario):
    values = with_faults(small_scenario, spells={})
    values["episode"]["upstream_failures"] = "recorded"
    scenario = load_scenario(values)
    found = []
    for seed in range(3):
        _, drawn = scenario.episode("train", seed, 60.0)
        rows = scenario.faults_of(drawn, seed).rows
        assert np.isin(rows["time_s"], drawn.arrival_s[drawn.upstream_failed]).all()
        found += rows["time_s"].tolist()
    assert found


def test_a_scenario_may_have_faults_and_migration():
    values = load(ScenarioConfig, "scenarios", "fragmentation").model_dump(mode="json")
    metrics = simulate(
        load_scenario(values).trace, None, "always/freeness/vllm/llumnix", load_scenario({**values, "faults": "crash"}),
        duration_s=30.0, load=0.8,
    ).metrics  # fmt: skip
    assert metrics["faults"] > 0
