"""Scaling rules at equal cost: curves over knobs, mixtures between settings, and the pages that show them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.config import read_yaml, shipped
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.scaler_front import KNOBS, ScalerCurve, ScalerPoint, scaler_front
from burstenv.evaluation.scaler_front_page import page, rows, write_front_page
from burstenv.evaluation.tuning.scorer import Scorer
from burstenv.evaluation.validation import llumnix_scaling
from burstenv.policies import load_policy, parse_composite
from burstenv.policies.scaling import SCALING_RULES

POLICIES = ["always/jsq/vllm/kpa(target=4,window_s=4)", "always/jsq/vllm/static", "always/jsq/vllm/oracle-scaling"]


@pytest.fixture(scope="module")
def scenario():
    values = read_yaml(shipped("scenarios")["fragmentation"])
    cluster = read_yaml(shipped("clusters")["llama-2-7b-a10-x4"])
    cluster["replicas"][0] |= {"num_blocks": 300}
    scaling = {"control_period_s": 2, "initial": 2, "cold_start": 3, "price_per_gpu_h": 500, "replica_per_s": 1.0}
    values |= {"migration": None, "cluster": cluster, "scaling": scaling, "load": 1.0}
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    return load_scenario(values)


def test_every_rule_has_a_knob_of_its_own_parameters():
    for rule in SCALING_RULES:
        if rule.name != "static":  # over its number of replicas
            assert set(KNOBS[rule.code]) <= set(rule.parameters), rule.name


def test_curves_are_what_their_policies_score_and_the_reference_is_equal_to_itself(scenario, tmp_path):
    front = scaler_front(scenario, POLICIES, split="validation", episodes=3)
    assert [curve.rule for curve in front.curves] == ["kpa", "static", "oracle-scaling"]
    assert [curve.oracle for curve in front.curves] == [False, False, True]
    assert len(front.curves[1].points) == 4  # one to four replicas
    scorer = Scorer(scenario, "validation", 1.0, range(3))
    for curve in front.curves:
        costs = [point.cost for point in curve.points]
        assert costs == sorted(costs)
        scores = scorer.score(load_policy(curve.points[0].policy))
        np.testing.assert_array_equal(curve.points[0].score, scores.score)
        np.testing.assert_array_equal(curve.points[0].gpu_hours, scores.gpu_hours)
    targets = [parse_composite(point.policy).scaling.named["target"] for point in front.curves[0].points]
    assert max(targets) == 4 * min(targets) == 8.0
    own = front.at_equal_cost["kpa"]
    assert own.mean == pytest.approx(0.0, abs=1e-9)  # one of its settings is the reference
    write_front_page(front, tmp_path / "front.html")
    assert "oracle-scaling (knows the arrivals)" in (tmp_path / "front.html").read_text()
    assert all(f"| {' | '.join(row)} |" in page(front) for row in rows(front))


def test_episodes_between_two_settings_are_mixed():
    points = (ScalerPoint("a", (1.0, 3.0), (0.5, 0.7)), ScalerPoint("b", (3.0, 5.0), (0.9, 0.9)))
    curve = ScalerCurve("rule", False, points)
    np.testing.assert_allclose(curve.at_cost(3.0), [0.7, 0.8])  # halfway from 2 to 4 GPU-hours
    np.testing.assert_allclose(curve.at_score(0.75), [2.0, 4.0])
    assert curve.at_cost(1.9) is None
    assert curve.at_score(0.95) is None


def test_the_command_compares_scalers(scenario, tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(scenario.config.model_dump(mode="json")))
    command = ["plan", "--scenario", str(path), "--scalers", "--episodes", "2", "--out", str(tmp_path / "f.html")]
    assert main([*command, "--scaler", POLICIES[0], "--scaler", POLICIES[1]]) == 0
    assert "GPU-hours at equal score" in capsys.readouterr().out
    assert main(command) == 1
    assert "no scalers were tuned" in capsys.readouterr().err
    assert main([*command, "--failures", "1"]) == 1
    assert "--failures has no effect with --scalers" in capsys.readouterr().err


def test_a_rule_that_is_missing_is_an_error(scenario):
    with pytest.raises(BurstenvError, match="no scaling rule as its fourth part"):
        scaler_front(scenario, ["always/jsq/vllm"], episodes=1)
    with pytest.raises(BurstenvError, match="has no scaling"):
        scaler_front(load_scenario("one-replica"), POLICIES, episodes=1)


def test_llumnix_workload_has_the_published_lengths_and_gaps():
    trace = llumnix_scaling.trace(0, 20_000)
    gaps_s = np.diff(trace.arrival_s)
    assert gaps_s.mean() == pytest.approx(0.5, rel=0.05)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(2.0, rel=0.05)
    assert trace.prompt_tokens.mean() == pytest.approx(512, rel=0.05)
    published = {50: 55, 80: 582, 95: 3113, 99: 5166}
    for percent, tokens in published.items():
        assert np.percentile(trace.output_tokens, percent) == pytest.approx(tokens, rel=0.1)


def test_llumnix_points_are_compared_at_equal_latency():
    published = llumnix_scaling.PUBLISHED
    ratio = llumnix_scaling.instances_at(published["Llumnix"], 4.6) / llumnix_scaling.instances_at(
        published["INFaaS++"], 4.6
    )
    assert ratio - 1 == pytest.approx(-0.2, abs=0.02)  # a fifth, not the 36 % of the headline
    assert llumnix_scaling.instances_at(published["Llumnix"], 100.0) is None


def test_a_small_sweep_makes_a_page():
    found = {
        name: [llumnix_scaling.Point(t, 10.0 - k, 1.0 + k) for k, (t, _) in enumerate(thresholds)]
        for name, thresholds in llumnix_scaling.policies().items()
    }
    text, svg = llumnix_scaling.page(found)
    assert "| here | 1.5 s | 9.42 | 9.42 | 9.42 | 9.42 | +0 % | +0 % |" in text
    assert svg.count("<svg") == 3
    for thresholds in llumnix_scaling.policies().values():
        for _, policy in thresholds:
            assert parse_composite(policy).scaling is not None


def test_llumnix_needs_fewer_instances_than_its_baselines(monkeypatch):
    """One threshold each, about the same P99 of prefill, or a longer one for the baselines: the published direction."""
    monkeypatch.setattr(llumnix_scaling, "LOW", (30.0,))
    monkeypatch.setattr(llumnix_scaling, "UP", (0.9,))
    found = {name: points[0] for name, points in llumnix_scaling.sweep(1).items()}
    llumnix = found.pop(llumnix_scaling.LLUMNIX)
    assert llumnix.prefill_s < 1.5
    for name, point in found.items():
        assert point.instances > 1.02 * llumnix.instances, name
        assert point.prefill_s > 0.95 * llumnix.prefill_s or name == llumnix_scaling.ALONE, name
