"""If no rate reaches 90 % attainment, or a name is wrong, one sentence says so first."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import yaml

from burstenv.cli import main
from burstenv.config import read_yaml, shipped
from burstenv.envs import capacity
from burstenv.errors import BurstenvError
from burstenv.evaluation.tuning import grid as grid_module
from burstenv.evaluation.tuning.grid import run_grid

TOO_SLOW = "no rate reaches 90 % attainment on the train split: the shortest iteration of qwen2.5-32b on a100-80g is"


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """A cluster whose shortest iteration is longer than an objective."""
    values = read_yaml(shipped("scenarios")["blind"])
    del values["capacity_per_s"]
    values.update(
        name="slow",
        cluster={"name": "slow", "replicas": [{"model": "qwen2.5-32b", "hardware": "a100-80g", "count": 4}]},
    )
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    return "slow.yaml"


@pytest.mark.parametrize(
    "command", ["capacity", "evaluate --tuned none --out out", "train --steps 2000 --out run", "tune --out t.yaml"]
)
def test_an_objective_that_no_replica_meets_is_named(command, slow, capsys):
    verb, *rest = command.split()
    assert main([verb, "--scenario", slow, *rest]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"burstenv: {TOO_SLOW}")
    assert "the TPOT objective of conversation 27 ms" in error


def test_an_environment_says_the_same(slow):
    with pytest.raises(BurstenvError, match=TOO_SLOW):
        gym.make("BurstGPT-v0", scenario=slow)


def test_bursts_that_no_load_spreads_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    rows = [(d * 86_400 + t, *random.integers(5, 800, 2)) for d in range(7) for t in np.sort(random.uniform(0, 5, 300))]
    lines = [f"{t:.3f},{prompt},{output}" for t, prompt, output in rows]
    (tmp_path / "bursts.csv").write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines]) + "\n")
    for command in (
        "evaluate --scenario blind --trace bursts.csv --out out",
        "simulate bursts.csv --scenario blind --load 1",
    ):
        assert main(command.split()) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert "no rate reaches 90 %" in error
        assert "300 requests arrive within 5 s" in error


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("capacity --policy always/jsq/vllm --policy always/nope/vllm", "unknown routing rule 'nope'"),
        ("capacity --policy always/jsq/vlm", "unknown batching mode of this scenario 'vlm'"),
        ("capacity --split tst", "unknown split 'tst'"),
        ("evaluate --policy always/jsq/vlm", "unknown batching mode of this scenario 'vlm'"),
        ("evaluate --split tst", "unknown split 'tst'"),
        ("tune --split tst", "unknown split 'tst'"),
        ("train --steps 0", "--steps must be a whole number of at least 1, got 0"),
        ("train --steps -5", "--steps must be a whole number of at least 1, got -5"),
        ("train --seed -1", "--seed must be a whole number of at least 0, got -1"),
    ],
)
def test_names_and_counts_are_checked_before_anything_is_measured(command, message, slow, capsys, monkeypatch):
    monkeypatch.setattr(capacity, "measure_capacity_per_s", lambda *_: pytest.fail("measured"))
    verb, *rest = command.split()
    assert main([verb, "--scenario", slow, *rest]) == 1
    assert message in capsys.readouterr().err


def test_an_interrupted_grid_goes_on(scenario, tmp_path, monkeypatch):
    template, asked = "kv-threshold/*/edf-512", {"loads": [1.5], "episodes": 2, "settings": 1, "progress": False}
    whole = run_grid(scenario, template, **asked)
    run_tasks, scored = grid_module.run_tasks, []

    def stopped(run, tasks, workers):
        yield next(iter(run_tasks(run, tasks, workers)))
        raise KeyboardInterrupt

    def counted(run, tasks, workers):
        scored.extend(name for task in tasks for name in task)
        return run_tasks(run, tasks, workers)

    monkeypatch.setattr(grid_module, "run_tasks", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_grid(scenario, template, **asked, journal=tmp_path)
    monkeypatch.setattr(grid_module, "run_tasks", counted)
    assert run_grid(scenario, template, **asked, journal=tmp_path) == whole
    assert 0 < len(scored) < len(whole.rows)
    with pytest.raises(BurstenvError, match="different: settings"):
        run_grid(scenario, template, **{**asked, "settings": 2}, journal=tmp_path)
