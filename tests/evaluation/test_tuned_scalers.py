"""Tuning where replicas scale: the scaler is a part of the search, and its GPU-hours have their price."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.config import read_yaml, shipped
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError
from burstenv.evaluation.bound.headroom import measure_headroom
from burstenv.evaluation.tuning.grid import run_grid
from burstenv.evaluation.tuning.scalers import scaling_rules, tune_scalers, without_scaler
from burstenv.evaluation.tuning.scorer import Scorer
from burstenv.evaluation.tuning.search import TuningPlan, tune
from burstenv.evaluation.tuning.search_space import SearchSpace
from burstenv.evaluation.tuning.tuned_policies import load_tuned
from burstenv.policies import load_policy, parse_composite

PRICE = 2_000.0


@pytest.fixture(scope="module")
def values():
    """One to four replicas of 300 blocks, decided about every 2 s."""
    values = read_yaml(shipped("scenarios")["fragmentation"])
    cluster = read_yaml(shipped("clusters")["llama-2-7b-a10-x4"])
    cluster["replicas"][0] |= {"num_blocks": 300}
    scaling = {"control_period_s": 2, "initial": 2, "cold_start": 3, "price_per_gpu_h": PRICE}
    values |= {"migration": None, "cluster": cluster, "scaling": scaling, "load": 1.0}
    values["episode"]["duration_s"] = 20
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 4.0)
    return values


@pytest.fixture(scope="module")
def scenario(values):
    return load_scenario(values)


def test_net_is_the_return_of_the_fleet_environment_as_a_share_of_the_offered_worth(values, scenario):
    scores = Scorer(scenario, "validation", 1.0, [5]).score(load_policy("always/jsq/vllm/static"))
    env = gym.make("BurstGPT-Fleet-v0", scenario=values, split="validation", load=1.0, action="count")
    env.reset(seed=0, options={"episode": 5})
    total, done = 0.0, False
    while not done:
        _, reward, done, _, info = env.step(1)  # two replicas, as at the begin
        total += reward
    metrics = info["episode_metrics"]
    offered_worth = env.unwrapped.batch.cluster.state.environments["offered_worth"][0]
    assert scores.gpu_hours is not None
    assert scores.net is not None
    assert scores.gpu_hours[0] == pytest.approx(metrics["gpu_s"] / 3600)
    assert scores.net[0] == pytest.approx(total / offered_worth)
    assert scores.net[0] < scores.score[0]


def test_templates_have_a_fourth_part_where_replicas_scale(scenario):
    modes, scaling = scenario.mode_names, scenario.config.scaling
    every = SearchSpace.of("all", modes, scaling=scaling)
    names = {choice.rule.name for choice in every.scaling}
    assert {"static", "kpa", "llumnix-scaling"} < names
    assert not names & {"oracle-scaling", "sla-planner"}  # one knows the future, one needs replica_per_s
    known = scaling.model_copy(update={"replica_per_s": 1.0})
    assert "sla-planner" in {choice.rule.name for choice in SearchSpace.of("all", modes, scaling=known).scaling}
    assert SearchSpace.of("always/jsq/vllm", modes, scaling=scaling).scaling == ()  # the scenario's own rule decides
    assert SearchSpace.of("always/jsq/vllm/kpa", modes, scaling=scaling).has_choice
    grid = SearchSpace.of("always/jsq/vllm/*", modes, scaling=scaling).grid(1)
    assert {parse_composite(text).scaling.rule.name for text in grid} == names
    space = SearchSpace.of("*/jsq/vllm/*", modes, scaling=scaling)
    rng, text = np.random.default_rng(0), "always/jsq/vllm/kpa(target=6)"
    moves = [space.neighbour(text, rng) for _ in range(200)]
    assert any(move and move["scaling"] != "kpa" for move in moves)
    assert any(move and move["scaling"] == "kpa" and move["kpa.target"] != 6 for move in moves)
    for choice in SearchSpace.of("always/jsq/vllm/*", modes, scaling=known).scaling:  # published constants can be tried
        assert (
            len(
                SearchSpace.of(f"always/jsq/vllm/{choice}", modes, scaling=known).first_guesses(
                    [f"always/jsq/vllm/{choice}"]
                )
            )
            == 1
        ), choice
    with pytest.raises(BurstenvError, match="needs three parts"):
        SearchSpace.of("always/jsq/vllm/kpa", modes)
    with pytest.raises(BurstenvError, match="unknown scaling rule 'x'"):
        SearchSpace.of("always/jsq/vllm/x", modes, scaling=scaling)


def test_a_search_weighs_worth_against_gpu_hours(scenario, tmp_path):
    pytest.importorskip("optuna")
    plan = TuningPlan("always/jsq/vllm/*", [1.0], trials=40, episodes=3)
    tuned = tune(scenario, plan, progress=False)
    (best,) = tuned.policies
    assert tuned.metric == "net"
    assert best.net == pytest.approx(
        Scorer(scenario, "validation", 1.0, range(3)).score(load_policy(best.policy)).value("net"), abs=1e-6
    )
    assert best.default_net is not None
    assert best.net >= best.default_net
    dear = tune(scenario, TuningPlan("always/jsq/vllm/*", [1.0], 40, 3, metric="score"), progress=False).policies[0]
    assert dear.score >= best.score
    assert dear.gpu_hours > best.gpu_hours
    tuned.write(tmp_path / "t.yaml")
    assert load_tuned(tmp_path / "t.yaml", scenario.config.name) == tuned
    grid = run_grid(scenario, "always/jsq/vllm/*", [1.0], 3, settings=2, progress=False)
    assert grid.best().policies[0].net == pytest.approx(max(row["net"] for row in grid.rows), abs=1e-6)


def test_net_needs_a_price(capsys):
    command = ["tune", "--scenario", "one-replica", "--metric", "net", "--policy", "*/jsq/vllm"]
    assert main(command) == 1
    assert "metric net needs a scenario with scaling" in capsys.readouterr().err


def test_every_scaler_is_tuned_beside_the_same_front(scenario, tmp_path):
    pytest.importorskip("optuna")
    tuned = tune(scenario, TuningPlan("queue-cap(limit=30)/*/vllm/static", [1.0], 6, 3), progress=False)
    found = tune_scalers(scenario, tuned, 4, tmp_path, progress=False)
    assert tune_scalers(scenario, tuned, 4, tmp_path, progress=False) == found  # from the journal
    front = without_scaler(parse_composite(tuned.policies[0].policy))
    assert found.scalers is not None
    assert {without_scaler(parse_composite(one.policy)) for one in found.scalers} == {front}
    assert {parse_composite(one.policy).scaling.rule.name for one in found.scalers} == set(scaling_rules(scenario))
    assert [one.net for one in found.scalers] == sorted((one.net for one in found.scalers), reverse=True)
    scorer = Scorer(scenario, "validation", 1.0, range(3))
    for one in found.scalers:  # no worse than its published constants, which are tried first
        rule = parse_composite(one.policy).scaling.rule.name
        assert one.net >= round(scorer.score(load_policy(f"{front}/{rule}")).value("net"), 6)
    assert found.policies[0].net == max(found.scalers[0].net, tuned.policies[0].net)
    found.write(tmp_path / "t.yaml")
    assert load_tuned(tmp_path / "t.yaml", scenario.config.name) == found


def test_headroom_where_replicas_scale_is_of_worth_less_the_price(scenario):
    pytest.importorskip("optuna")
    known = load_scenario(
        scenario.config.model_dump(mode="json")
        | {"scaling": {**scenario.config.scaling.model_dump(mode="json"), "replica_per_s": 1.0}}
    )
    one = measure_headroom(known, episodes=2, workers=1)
    steps = one.by_name
    assert list(steps) == ["round-robin", "jsq", "best", "foresight"]  # no bound is known
    assert steps["foresight"].policy.split("/")[3].startswith("oracle-scaling")
    assert steps["foresight"].policy.split("/")[:3] == steps["best"].policy.split("/")[:3]
    assert one.room.gain == pytest.approx(steps["foresight"].net - steps["best"].net)
    scores = Scorer(known, "test", known.config.load, range(2)).score(load_policy(steps["best"].policy))
    assert steps["best"].net == pytest.approx(scores.value("net"))
    assert any("GPU-h" in line for line in one.lines())
