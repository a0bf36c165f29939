"""One agent for several scenarios: evolution plays all of them, of any size, and validation counts them."""

from __future__ import annotations

import pytest

from burstenv.agents.agent import load_agent
from burstenv.agents.environments import of_one_size, training_scenarios
from burstenv.agents.evolution.strategies import EvolutionLearner
from burstenv.agents.export.arrays import export_agent
from burstenv.agents.export.ensemble import export_ensemble
from burstenv.agents.run.monitor import ValidationTask
from burstenv.agents.run.progress import ahead_text
from burstenv.agents.train import train
from burstenv.envs.observation.features import ObservationConfig
from burstenv.envs.scenario import Scenario
from burstenv.errors import BurstenvError
from tests.agents.conftest import evolution_in


def test_evolution_plays_the_scenarios_in_turn(scenario, further):
    config = evolution_in([further["two"], further["equal"]])
    scenarios = training_scenarios(config, scenario)
    learner = EvolutionLearner(config, scenarios, 0)
    played = []
    for stage, where in zip(learner._stages, scenarios, strict=True):
        stage.play = lambda tasks, play=stage.play, where=where: (played.append(where), play(tasks))[1]
    for _ in range(6):
        learner.update(0.01, 0.0)
    assert [where.config.name for where in played] == ["two", "equal", "small"] * 2


def test_a_larger_cluster_plays_fewer_episodes(scenario, further):
    """About as many decisions in a generation of each scenario."""
    config = evolution_in([further["two"]], algorithm={"name": "evolution", "pairs": 2, "episodes": 3})
    small, two = training_scenarios(config, scenario)
    for scenarios, counts in (([small, two], [3, 6]), ([two, small], [3, 2])):
        learner = EvolutionLearner(config, scenarios, 0)
        drawn = [learner._draw(one, stage, 0.0) for one, stage in zip(scenarios, learner._stages, strict=True)]
        assert [len(own) for (own,) in drawn] == counts


def test_a_run_begins_with_an_exported_agent(scenario, tmp_path):
    values = {"curriculum": None, "validation": {"episodes": 2, "every_steps": 100_000}}
    first = train(evolution_in([], **values, total_steps=6_000), scenario, tmp_path / "first", progress=False)
    file = export_agent(first.folder, tmp_path / "first.npz")
    config = evolution_in([], **values, total_steps=1, begin_with=str(file))
    second = train(config, scenario, tmp_path / "second", seed=5, progress=False)
    assert second.log[0]["validation"]["4"] == first.validation[4.0]
    alone = export_ensemble([file], tmp_path / "alone.npz", agree=0)  # as good as its only member
    third = train(config.model_copy(update={"begin_with": str(alone)}), scenario, tmp_path / "third", progress=False)
    assert third.log[0]["validation"]["4"] == first.validation[4.0]
    ensemble = export_ensemble([file, second.folder], tmp_path / "ensemble.npz", agree=0)
    for k, (changes, said) in enumerate(
        (
            ({"begin_with": "agent:joint-v0"}, "unknown agent 'joint-v0'"),
            ({"begin_with": str(ensemble)}, "is no single network"),
            ({"begin_with": str(file), "net_arch": [9]}, "another network; use its network, net_arch and activation"),
            ({"begin_with": str(file), "activation": "relu"}, "another network"),
            ({"begin_with": str(file), "batching": "vllm"}, "acts in .*batching='edf-512'.*this recipe in .*'vllm'"),
        )
    ):
        with pytest.raises(BurstenvError, match=said):
            train(config.model_copy(update=changes), scenario, tmp_path / str(k), progress=False)
    seen = ObservationConfig(forecast=True)
    elsewhere = Scenario(scenario.config.model_copy(update={"observation": seen}))
    with pytest.raises(BurstenvError, match="trained on other observations"):
        train(config, elsewhere, tmp_path / "elsewhere", progress=False)


def test_a_run_begins_with_the_run_of_its_seed(scenario, tmp_path):
    values = {"curriculum": None, "validation": {"episodes": 2, "every_steps": 100_000}}
    config = evolution_in([], **values, total_steps=1)
    first = [train(config, scenario, tmp_path / f"seed-{k}", seed=k, progress=False) for k in (0, 1)]
    assert first[0].validation != first[1].validation
    config = evolution_in([], **values, total_steps=1, begin_with=str(tmp_path / "seed-{seed}"))
    second = [train(config, scenario, tmp_path / f"next-{k}", seed=k, progress=False) for k in (0, 1)]
    for before, after in zip(first, second, strict=True):
        assert after.log[0]["validation"]["4"] == before.validation[4.0]
    with pytest.raises(BurstenvError, match="seed-2: no such run folder"):
        train(config, scenario, tmp_path / "next-2", seed=2, progress=False)


def test_the_best_checkpoint_is_the_best_over_all_scenarios(scenario, further, tmp_path):
    config = evolution_in([further["two"], further["equal"]])
    result = train(config, scenario, tmp_path / "run", progress=False)
    assert len(result.log) >= 2
    agent = load_agent(result.folder, scenario)
    best = next(record for record in reversed(result.log) if record["best"])
    assert list(best["elsewhere"]) == ["two", "equal"]
    means = []
    for other in training_scenarios(config, scenario):
        task = ValidationTask.of(config, other)
        score = task.validator.judge(load_agent(result.folder, other))
        means.append(score.mean)
        if other is not scenario:
            lead = best["elsewhere"][other.config.name]["mean"]
            assert lead == pytest.approx(100 * score.ahead_overall(task.reference).mean)
            assert f"; {other.config.name} {lead:+.1f}" in ahead_text(best)
    assert agent.config.curriculum is not None
    assert means[0] == pytest.approx(best["validation"]["4"])
    first = result.log[0]
    gains = [100 * (means[0] - first["validation"]["4"])]
    gains += [best["elsewhere"][name]["mean"] - first["elsewhere"][name]["mean"] for name in best["elsewhere"]]
    assert sum(gains) >= 0.0
    assert best is first or sum(gains) > 0.0


def test_imitation_takes_the_scenarios_of_the_size_of_the_first(scenario, further, tmp_path):
    """Where others have another number of replicas, only evolution plays them."""
    teacher = {"policy": "size-aware-kv/jsq/edf-512", "steps": 512, "chunk_steps": 16, "batch_size": 64}
    config = evolution_in([further["two"], further["equal"]], warm_start=teacher, num_envs=9)
    found = of_one_size(training_scenarios(config, scenario))
    assert [one.config.name for one in found] == ["small", "equal"]
    result = train(config, scenario, tmp_path / "run", progress=False)
    assert result.steps >= 6_000


def test_a_scenario_that_shows_other_features_is_rejected(scenario, further):
    config = evolution_in([further["seeing"]])
    with pytest.raises(BurstenvError, match=r"scenario 'seeing' shows \w+ feature \w+, which it does not know"):
        EvolutionLearner(config, training_scenarios(config, scenario), 0)
