"""Files, names and workload YAML are accepted alike wherever a trace is asked for, and what is left out is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml

import burstenv  # noqa: F401  registers the environments
from burstenv.cli.main import main
from burstenv.envs.scenario import load_scenario
from burstenv.errors import BurstenvError

ROWS = 1200  # in 20 minutes, a tenth of them too long
SHORT = {
    "name": "short",
    "cluster": "one",
    "workload": "burstgpt-default",
    "episode": {"duration_s": 60, "max_total_tokens": 2000, "oversize": "drop"},
    "slo": {name: {"ttft_base_s": 1.0, "tpot_s": 0.05} for name in ("conversation", "api")},
    "capacity_per_s": {"train": 5.0, "validation": 5.0, "test": 5.0},
    "train_loads": [1.0],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trace with columns of other names, its YAML, the same as a plain file, and a scenario."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BURSTENV_DATA", str(tmp_path / "data"))
    random = np.random.default_rng(3)
    prompt = np.where(np.arange(ROWS) % 10 == 9, 3000, random.integers(50, 400, ROWS))
    rows = [f"{k},{prompt[k]},{random.integers(5, 60)}" for k in range(ROWS)]
    Path("plain.csv").write_text("arrival_s,prompt_tokens,output_tokens\n" + "\n".join(rows) + "\n")
    Path("other.csv").write_text("ts,in,out\n" + "\n".join(rows) + "\n")
    columns = {"arrival_s": "ts", "prompt_tokens": "in", "output_tokens": "out"}
    Path("mapped.yaml").write_text(yaml.safe_dump({"kind": "file", "path": "other.csv", "columns": columns}))
    replica = {"model": "llama-2-7b", "hardware": "a100-80g", "count": 1}
    cluster = {"name": "one", "replicas": [replica]}
    Path("short.yaml").write_text(yaml.safe_dump({**SHORT, "cluster": cluster}))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = main([*arguments, "--json"])
    captured = capsys.readouterr()
    if code:
        raise BurstenvError(captured.err.strip())
    return json.loads(captured.out)


def by_reset(name: str, _: Any) -> int:
    env = gym.make("BurstGPT-v0", scenario="short.yaml")
    description = env.reset(seed=0, options={"trace": name})[1]["episode_description"]
    return int(description["requests"] + description["dropped_oversize"])


def by_make(name: str, _: Any) -> int:
    env = gym.make("BurstGPT-v0", scenario="short.yaml", trace=name)
    return len(env.unwrapped.batch.scenario.trace)  # type: ignore[attr-defined]


def by_simulate(name: str, capsys: Any) -> int:
    m = printed(capsys, "simulate", name, "--scenario", "short.yaml")
    return int(m["offered"] + m["dropped_oversize"])


def by_info(name: str, capsys: Any) -> int:
    return int(printed(capsys, "trace", "info", name)["requests"])


def by_capacity(name: str, capsys: Any) -> int:
    printed(capsys, "capacity", "--scenario", "short.yaml", "--trace", name, "--episodes", "1")
    return len(load_scenario("short.yaml", name).trace)


WAYS: tuple[Callable[[str, Any], int], ...] = (by_reset, by_make, by_simulate, by_info, by_capacity)


@pytest.mark.parametrize("way", WAYS)
def test_files_and_workload_yaml_are_accepted_alike(
    folder: Path, capsys: pytest.CaptureFixture[str], way: Callable[[str, Any], int]
) -> None:
    assert [way(name, capsys) for name in ("plain.csv", "mapped.yaml")] == [ROWS, ROWS]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("burstgpt-1", "run 'burstenv trace download burstgpt-1'"),
        ("burstgpt-defautl", "did you mean burstgpt-default"),
        ("nowhere.csv", "nowhere.csv: no such file"),
        ("nowhere.yaml", "nowhere.yaml: no such file"),
    ],
)
def test_names_that_lead_nowhere_get_the_same_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], way: Callable[[str, Any], int], name: str, sentence: str
) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        way(name, capsys)


def test_a_shipped_workload_is_known_by_name(folder: Path) -> None:
    own = load_scenario("short.yaml")
    assert load_scenario("short.yaml", "burstgpt-default").trace is own.trace
    assert load_scenario("short.yaml", "burstgpt-default").config == own.config


def test_evaluate_says_what_it_leaves_out_and_that_blocks_are_short(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--scenario", "short.yaml", "--trace", "plain.csv", "--policy", "always/jsq/vllm", "--load", "1"]
    assert main(["evaluate", *arguments, "--episodes", "2", "--workers", "1", "--out", "out"]) == 0
    said = capsys.readouterr().out
    report = Path("out/report.md").read_text()
    for text in (said, report):
        assert "120 of the trace's 1,200 requests (10 %) are longer than 2,000 tokens" in text
        assert "too short for a split by days: its splits are blocks of 60 s (14 for train, 3 for validation" in text
    held = json.loads(Path("out/result.json").read_text())["provenance"]["coverage"]
    assert sum(part["dropped_oversize"] for part in held["splits"].values()) == 120


def test_a_file_that_changed_is_read_again(folder: Path) -> None:
    first = load_scenario("short.yaml", "plain.csv")
    assert load_scenario("short.yaml", "plain.csv") is first
    rows = Path("plain.csv").read_text().splitlines()
    Path("plain.csv").write_text("\n".join(rows[: ROWS // 2 + 1]) + "\n")
    assert len(load_scenario("short.yaml", "plain.csv").trace) == ROWS // 2
