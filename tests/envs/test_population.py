"""Classes and tenants of a scenario: where they come from, and what they change."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from burstenv.config import parse
from burstenv.envs.scenario import Scenario, load_scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError
from burstenv.evaluation.simulate import simulate
from burstenv.workload import Trace

SLO = {"ttft_base_s": 1.0, "tpot_s": 0.05}


def mixed(small_scenario: dict[str, Any], **changes: Any) -> dict[str, Any]:
    slo = {"urgent": {**SLO, "value": 4.0, "priority": 0}, "normal": SLO, "batch": {**SLO, "priority": 9}}
    mix = {"urgent": 0.1, "normal": 0.6, "batch": 0.3}
    return {**small_scenario, "slo": slo, "classes": {"by": "mix", "mix": mix}, **changes}


def test_a_mix_of_classes_has_its_shares_values_and_priorities(small_scenario: dict[str, Any]) -> None:
    scenario = load_scenario(mixed(small_scenario))
    codes, worth, priority = [], [], []
    for seed in range(12):
        requests, _ = scenario.episode("train", seed, 28.0)
        codes.append(requests["class_code"])
        worth.append(requests["worth"])
        priority.append(requests["priority"])
    code = np.concatenate(codes)
    shares = np.bincount(code, minlength=3) / len(code)
    assert shares == pytest.approx([0.1, 0.6, 0.3], abs=0.03)
    by_class = [float(np.concatenate(worth)[code == k].mean()) for k in range(3)]
    assert by_class[0] / by_class[1] == pytest.approx(4.0, rel=0.2)
    assert [set(np.concatenate(priority)[code == k].tolist()) for k in range(3)] == [{0}, {0}, {9}]


def test_all_turns_of_a_session_are_of_one_class_and_tenant(small_scenario: dict[str, Any]) -> None:
    tenants = {"of": {"a": {"share": 0.5}, "b": {"share": 0.5}}}
    scenario = load_scenario(mixed({**small_scenario, "workload": "burstgpt-templates"}, tenants=tenants))
    drawn = scenario.draw("train", 3, 28.0)
    sessions = np.unique(drawn.session[drawn.session >= 0])
    several = [s for s in sessions.tolist() if np.count_nonzero(drawn.session == s) > 1]
    assert len(several) > 5
    for session in several:
        rows = drawn.session == session
        assert len(set(drawn.class_code[rows].tolist())) == len(set(drawn.tenant[rows].tolist())) == 1


@pytest.mark.parametrize("by", ["log-type", "model", "service"])
def test_services_are_classes_and_tenants(small_scenario: dict[str, Any], by: str) -> None:
    names = {
        "log-type": ["conversation", "api"],
        "model": ["ChatGPT", "GPT-4"],
        "service": ["ChatGPT conversation", "GPT-4 api", "ChatGPT api", "GPT-4 conversation"],
    }[by]
    values = {**small_scenario, "classes": {"by": by}, "slo": dict.fromkeys(names, SLO), "tenants": {"by": by}}
    scenario = load_scenario(values)
    drawn = scenario.draw("train", 0, 28.0)
    plain = load_scenario(small_scenario).draw("train", 0, 28.0)
    texts = {
        "log-type": [("conversation", "api")[k] for k in plain.class_code.tolist()],
        "model": [("ChatGPT", "GPT-4")[k] for k in plain.model.tolist()],
    }
    texts["service"] = [f"{m} {c}" for m, c in zip(texts["model"], texts["log-type"], strict=True)]
    assert [scenario.population.class_names[k] for k in drawn.class_code.tolist()] == texts[by]
    assert [scenario.population.tenant_names[k] for k in drawn.tenant.tolist()] == texts[by]


def test_a_tenants_bursts_leave_its_mean_rate_as_its_share(small_scenario: dict[str, Any]) -> None:
    bursts = {"every_s": 10.0, "for_s": 2.0, "factor": 4.0}
    of = {"calm": {"share": 0.5}, "bursty": {"share": 0.5, "bursts": bursts}}
    plain = load_scenario({**small_scenario, "tenants": {"of": {"calm": {"share": 0.5}, "rest": {"share": 0.5}}}})
    scenario = load_scenario({**small_scenario, "tenants": {"of": of}})
    counts, dispersion = np.zeros(2), {"plain": [], "bursty": []}
    for seed in range(30):
        drawn = scenario.draw("train", seed, 28.0)
        counts += np.bincount(drawn.tenant, minlength=2)
        assert (drawn.previous < np.arange(len(drawn))).all()
        for name, one in (("bursty", drawn), ("plain", plain.draw("train", seed, 28.0))):
            seconds = np.bincount(one.arrival_s[one.tenant == 1].astype(int), minlength=20)
            dispersion[name].append(seconds.var() / max(seconds.mean(), 1e-9))
    assert counts[1] / counts.sum() == pytest.approx(0.5, abs=0.05)
    assert counts.sum() / (30 * 20 * 28.0) == pytest.approx(1.0, abs=0.15)
    assert np.mean(dispersion["bursty"]) > 2.0 * np.mean(dispersion["plain"])


def test_a_tenant_may_have_classes_of_its_own(small_scenario: dict[str, Any]) -> None:
    of = {"people": {"share": 0.7, "classes": {"urgent": 1.0}}, "jobs": {"share": 0.3, "classes": {"batch": 1.0}}}
    drawn = load_scenario(mixed(small_scenario, tenants={"of": of})).draw("train", 0, 28.0)
    assert set(zip(drawn.tenant.tolist(), drawn.class_code.tolist(), strict=True)) == {(0, 0), (1, 2)}


def own_trace(n: int = 400) -> Trace:
    rng = np.random.default_rng(5)
    return Trace.from_columns(
        np.sort(rng.uniform(0.0, 20.0, n)), rng.integers(20, 900, n), rng.integers(5, 200, n),
        own_class=rng.integers(0, 3, n), tenant=rng.integers(-1, 2, n),
        metadata={"classes": ["urgent", "normal", "batch"], "tenants": ["acme", "zeta"]},
    )  # fmt: skip


def test_classes_and_tenants_of_a_trace_are_played(small_scenario: dict[str, Any]) -> None:
    values = mixed(small_scenario, classes={"by": "trace"}, tenants={"by": "trace", "of": {"zeta": {"weight": 2.0}}})
    trace = own_trace()
    found = simulate(trace, None, "always/jsq/vllm", parse(ScenarioConfig, values, "test"))
    m = found.metrics
    for k, name in enumerate(("urgent", "normal", "batch")):
        assert m[f"{name}_offered"] == np.count_nonzero(trace.own_class == k)
    assert m["tenant_acme_offered"] == np.count_nonzero(trace.tenant == 0)
    assert m["tenant_zeta_offered"] == np.count_nonzero(trace.tenant == 1)
    assert m["tenant_none_offered"] == np.count_nonzero(trace.tenant < 0)
    assert [row["priority"] for row in m["by_priority"]] == [0, 9]
    assert 1 / 3 <= m["jain_index"] <= 1.0


def test_an_environment_plays_a_trace_of_classes(small_scenario: dict[str, Any]) -> None:
    values = mixed(small_scenario, tenants={"of": {"a": {"share": 0.25}, "b": {"share": 0.75, "weight": 3.0}}})
    env = gym.make("BurstGPT-v0", scenario=Scenario(parse(ScenarioConfig, values, "test"), measure=False))
    batch = env.unwrapped.batch
    env.reset(seed=1)
    assert batch.describe(0).splitlines()[0].split("gateway: ")[1].split()[0] in ("urgent", "normal", "batch")
    over = False
    while not over:
        _, _, over, _, _ = env.step(env.unwrapped.policy_action("always/jsq/vllm"))
    assert set(batch.cluster.tenant_of(0).tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": {"by": "mix"}}, "shares"),
        ({"classes": {"by": "mix", "mix": {"urgent": 0.5, "normal": 0.4}}}, "sum to 1"),
        ({"classes": {"by": "mix", "mix": {"urgent": 0.5, "gold": 0.5}}}, "objectives for class 'gold' are missing"),
        ({"classes": {"by": "log-type"}}, "unknown class 'urgent'; valid: conversation, api"),
        ({"classes": {"by": "model"}}, "unknown class 'urgent'; valid: ChatGPT, GPT-4, other"),
        ({"tenants": {"of": {}}}, "must list the tenants"),
        ({"tenants": {"of": {"a": {}}}}, "has a share"),
        ({"tenants": {"by": "trace", "of": {"a": {"share": 1.0}}}}, "has a share"),
        ({"tenants": {"by": "model", "of": {"Llama": {}}}}, "unknown tenant 'Llama'"),
        ({"tenants": {"of": {"a": {"share": 0.7}}}}, "sum to 1"),
        ({"tenants": {"of": {"a": {"share": 1.0, "bursts": {"every_s": 10, "for_s": 5, "factor": 4}}}}}, "more than"),
        ({"tenants": {"of": {"a": {"share": 1.0, "classes": {"gold": 1.0}}}}}, "'gold' are missing"),
        ({"tenants": {"of": {"a,b": {"share": 1.0}}}}, "pattern"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(small_scenario: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BurstenvError, match=message):
        parse(ScenarioConfig, mixed(small_scenario, **changes), "test")


def test_a_trace_that_does_not_fit_the_scenario_is_an_error(small_scenario: dict[str, Any]) -> None:
    trace = own_trace()
    with pytest.raises(BurstenvError, match=r"class '(urgent|normal|batch)', scenario 'blind' has"):
        simulate(trace, None, "always/jsq/vllm", parse(ScenarioConfig, small_scenario, "test"))
    few = mixed(small_scenario, classes={"by": "trace"}, slo={"urgent": SLO, "normal": SLO})
    with pytest.raises(BurstenvError, match="class 'batch', which scenario 'blind' does not have"):
        simulate(trace, None, "always/jsq/vllm", parse(ScenarioConfig, few, "test"))
    nameless = Trace.from_columns([0.0, 1.0], [5, 5], [5, 5])
    values = {**small_scenario, "tenants": {"by": "trace"}}
    with pytest.raises(BurstenvError, match="names no tenants"):
        simulate(nameless, None, "always/jsq/vllm", parse(ScenarioConfig, values, "test"))
