"""Several seeds, early stopping, tuning, and what is shown of a run."""

from __future__ import annotations

import io

import pytest
import yaml

from burstenv.agents.config import AgentConfig
from burstenv.agents.run.progress import LiveTable, clock
from burstenv.agents.train import load_agent_config, train
from burstenv.agents.training_seeds import over_seeds, train_seeds
from burstenv.agents.tune import tune_agent
from burstenv.errors import BurstenvError


def changed(recipe: AgentConfig, **values) -> AgentConfig:
    return AgentConfig.model_validate({**recipe.model_dump(), **values})


def test_seeds_side_by_side_are_those_on_their_own(scenario, recipe, tmp_path):
    config = changed(recipe, total_steps=256)
    together = train_seeds(config, scenario, tmp_path / "all", [3, 5], processes=2, progress=False)
    alone = train(config, scenario, tmp_path / "alone", seed=5, progress=False)
    assert [result.folder.name for result in together] == ["seed-3", "seed-5"]
    assert together[1].validation == alone.validation
    mean, spread = over_seeds(together)[2.0]
    each = [result.ahead_points[2.0]["mean"] for result in together]
    assert mean == pytest.approx(sum(each) / 2)
    assert spread >= 0.0
    again = train_seeds(config, scenario, tmp_path / "all", [3, 5, 6], resume=True, progress=False)
    assert [result.steps for result in again] == [256] * 3
    with pytest.raises(BurstenvError, match="training seeds must differ, got 1, 1"):
        train_seeds(config, scenario, tmp_path / "twice", [1, 1], progress=False)


def test_patience_ends_a_run(scenario, recipe, tmp_path):
    """With a learning rate of almost nothing no validation is better than the first."""
    algorithm = {**recipe.algorithm.model_dump(), "learning_rate": 1e-12}
    validation = {"episodes": 2, "loads": [1.5], "every_steps": 256, "patience": 2}
    config = changed(recipe, algorithm=algorithm, validation=validation, total_steps=10**6)
    result = train(config, scenario, tmp_path / "run", progress=False)
    assert result.steps == 512
    assert result.stopped == "no better validation in 2"
    assert not result.interrupted


def test_tuning_finds_a_recipe_and_goes_on(scenario, recipe, tmp_path):
    config = changed(recipe, total_steps=512, validation={"episodes": 2, "loads": [2.0], "every_steps": 256})
    found = tune_agent(config, scenario, tmp_path / "tune", trials=3, progress=False)
    assert found.trials == 3
    best = load_agent_config(found.recipe)
    assert best.name == "tiny-tuned"
    assert best.algorithm.learning_rate == found.settings["learning_rate"]
    more = tune_agent(config, scenario, tmp_path / "tune", trials=4, progress=False)
    assert more.trials == 4
    assert more.ahead_points >= found.ahead_points
    assert yaml.safe_load(more.recipe.read_text())["total_steps"] == 512


def test_lines_tell_the_lead(scenario, recipe, tmp_path, capsys):
    train(changed(recipe, total_steps=256), scenario, tmp_path / "run", seed=2, progress="lines")
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("seed 2: ") for line in lines)
    assert "fps" in lines[-1]
    assert "ETA 0:00" in lines[-1]
    assert "points" in lines[-1]
    assert "always/jsq/vllm" in lines[-1]


def test_the_live_table_is_drawn(recipe):
    out = io.StringIO()
    table = LiveTable(recipe, "tiny on small", out)
    points = {"mean": 1.2, "low": 0.8, "high": 1.6}
    table.update(500, 20_000.0, 0.5, 60.0, 0.9)
    table.validated(
        {
            "steps": 500, "validation": {"1": 0.912}, "ahead_points": {"1": points}, "ahead_points_overall": points,
            "reference_policy": {"1": "always/jsq/vllm"}, "best": True, "worst_prompts": {"1": ("0-200", -7.5)},
        }
    )  # fmt: skip
    table.close()
    text = out.getvalue()
    for part in ("tiny on small", "91.2 % (+1.2)", "best +1.2 +- 0.4", "always/jsq/vllm", "20,000 fps", "1:00 to go"):
        assert part in text
    assert all(part in text for part in ("prompts of", "0-200", "-7.5"))


def test_clock():
    assert clock(59.6) == "1:00"
    assert clock(3725) == "1:02:05"
