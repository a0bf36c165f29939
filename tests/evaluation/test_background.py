"""Reports on fine-tuning in the slack: replays, timelines, tuning, evaluations."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.config import load, parse, read_yaml, shipped
from burstenv.envs.scenario import Scenario
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.evaluation import EvaluationPlan, evaluate
from burstenv.evaluation.simulate import simulate
from burstenv.evaluation.timeline.page import _trained
from burstenv.evaluation.tuning.grid import run_grid
from burstenv.evaluation.tuning.scorer import Scorer
from burstenv.policies import load_policy
from burstenv.workload.workload_config import load_trace, load_workload


@pytest.fixture(scope="module")
def scenario():
    """The shipped scenario with short episodes."""
    values = copy.deepcopy(read_yaml(shipped("scenarios")["finetune-in-slack"]))
    values["episode"]["duration_s"] = 60
    return Scenario(parse(ScenarioConfig, values, "scenario"))


def test_net_is_the_score_with_the_worth_of_the_tokens(scenario):
    scorer = Scorer(scenario, "validation", 0.9, range(2))
    paused, filled = (scorer.score(load_policy(f"always/jsq/vllm/{rule}")) for rule in ("paused", "token-budget"))
    assert paused.net is not None
    assert paused.background_tokens_per_s is not None
    assert np.array_equal(paused.net, paused.score)
    assert (paused.background_tokens_per_s == 0.0).all()
    assert filled.net is not None
    assert filled.background_tokens_per_s is not None
    worth = scenario.background.worth_per_ktoken * 1e-3
    for i in range(2):
        environment = scorer.cluster.state.environments[i]
        tokens = filled.background_tokens_per_s[i] * environment["now_s"]
        assert filled.net[i] - filled.score[i] == pytest.approx(tokens * worth / environment["offered_worth"], rel=1e-5)
    assert filled.gpu_hours is None


def test_a_replay_tells_what_was_trained(scenario):
    trace = load_trace(load_workload("burstgpt-default"))
    found = simulate(trace, None, "always/jsq/vllm/idle-only", scenario, rate_per_s=2.0, duration_s=60.0, timeline=True)
    m, timeline = found.metrics, found.timeline
    assert m["background_tokens"] == pytest.approx(m["background_tokens_per_s"] * m["end_s"])
    assert m["background_tokens_per_gpu_h"] == pytest.approx(m["background_tokens_per_s"] * 3600.0 / 6.0)
    assert timeline is not None
    lines = _trained(timeline, 0.0, 6)
    assert [line["name"] for line in lines] == timeline.replicas
    assert (np.diff(timeline.trained[:, 1:], axis=0) >= 0.0).all()
    assert timeline.trained[-1, 1:].sum() == pytest.approx(m["background_tokens"])
    at = np.concatenate([timeline.trained[:1, 0], lines[0]["t"]])
    total = (np.array(lines[0]["v"]) * np.diff(at)).sum()
    assert total == pytest.approx(timeline.trained[-1, 1] - timeline.trained[0, 1], rel=0.02)


def test_an_evaluation_tells_it_of_every_policy(scenario):
    policies = [f"always/jsq/vllm/{rule}" for rule in ("paused", "idle-only")]
    result = evaluate(EvaluationPlan(scenario=scenario, policies=policies, loads=[0.9], episodes=2))
    rows = {row["policy"]: row for row in result.summary}
    assert rows[policies[0]]["background_tokens"] == 0.0
    assert rows[policies[1]]["background_tokens"] > 0.0
    assert rows[policies[1]]["net"] > rows[policies[1]]["score"]


def test_a_grid_searches_the_rules(scenario):
    grid = run_grid(scenario, "always/jsq/vllm/*", [0.9], 1, settings=1)
    names = {row["policy"].split("/")[3].partition("(")[0] for row in grid.rows}
    assert names == {"paused", "idle-only", "dcb", "dcb-fused", "dcb-lookahead", "llmstation", "token-budget", "slack"}
    assert grid.best().policies[0].net == max(round(row["net"], 6) for row in grid.rows)


def test_a_replay_of_a_scenario_without_a_job_may_be_given_one(capsys):
    assert load(ScenarioConfig, "scenarios", "one-replica").background is None
    arguments = ["simulate", "burstgpt-default", "--scenario", "one-replica", "--rate-per-s", "1", "--duration-s", "60"]
    assert main([*arguments, "--background", "dcb(bound=0.2)"]) == 0
    assert "background: trained" in capsys.readouterr().out
