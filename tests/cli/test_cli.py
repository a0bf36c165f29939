"""The command line: every verb on small input, and one clear sentence for everything a user can get wrong."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
import yaml

from burstenv.cli import main
from burstenv.cli.main import make_parser
from tests.shipped_files import golden

HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


@pytest.fixture
def burstgpt_csv(tmp_path) -> Path:
    """Ten days of 120 conversation requests each, in the official schema, one of them failed."""
    rows = [
        f"{86_400 * day + 600 * k},GPT-4,{100 + k},{0 if day == k == 3 else 20 + k % 30},{120 + k},Conversation log"
        for day in range(10)
        for k in range(120)
    ]
    path = tmp_path / "trace.csv"
    path.write_text(HEADER + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def scenario_yaml(tmp_path, small_scenario) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({**small_scenario, "name": "small"}))
    return path


@pytest.fixture
def agent_yaml(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    values = {
        "name": "tiny",
        "algorithm": {"name": "ppo", "n_steps": 32, "batch_size": 128, "n_epochs": 1},
        "decide": ["admission", "routing"],
        "action": "flat",
        "batching": "edf-256",
        "num_envs": 8,
        "net_arch": [8],
        "total_steps": 512,
        "validation": {"episodes": 2, "every_steps": 256},
    }
    path.write_text(yaml.safe_dump(values))
    return path


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_simulate_writes_records_and_metrics(capsys, burstgpt_csv, tmp_path):
    out = tmp_path / "requests.csv"
    code, text, _ = run(
        capsys, "simulate", burstgpt_csv, "--policy", "always/lmetric/vllm", "--requests-out", out, "--json"
    )
    assert code == 0
    metrics = json.loads(text)
    assert metrics["offered"] == metrics["attained"] == 1199  # the failed row is no request
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1199
    first = rows[0]
    times = [float(first[k]) for k in ("arrival_s", "first_scheduled_s", "first_token_s", "finish_s")]
    assert times == sorted(times)
    assert {row["status"] for row in rows} == {"attained"}
    assert all(row["preemptions"] == "0" for row in rows)


def test_validate_exits_by_what_it_finds(capsys, tmp_path):
    source = golden("05_many_short")
    for engine in ("reference", "fast"):
        assert run(capsys, "validate", source, "--engine", engine)[:2] == (0, "identical: 74 iterations\n")
    for file in source.iterdir():
        (tmp_path / file.name).write_text(file.read_text())
    config = json.loads((tmp_path / "config.json").read_text())
    config["max_num_seqs"] = 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    code, text, _ = run(capsys, "validate", tmp_path)
    assert code == 1
    assert text.startswith("iteration ")


def test_train_several_seeds_and_tune(capsys, scenario_yaml, agent_yaml, tmp_path):
    task = ["train", "--scenario", scenario_yaml, "--agent", agent_yaml, "--steps", "256", "--json", "--out"]
    code, text, _ = run(capsys, *task, tmp_path / "seeds", "--seeds", "2")
    assert code == 0
    assert [entry["steps"] for entry in json.loads(text)] == [256, 256]
    assert (tmp_path / "seeds" / "seed-1" / "best.zip").is_file()
    code, text, _ = run(capsys, *task, tmp_path / "tune", "--tune", "2")
    assert code == 0
    assert json.loads(text)["trials"] == 2
    code, _, error = run(capsys, *task, tmp_path / "none", "--tune", "0")
    assert code != 0
    assert "--tune must be a whole number of at least 1, got 0" in error
    code, _, error = run(capsys, *task, tmp_path / "none", "--tune", "2", "--seed", "0", "1")
    assert code != 0
    assert "--tune searches with one training seed" in error


def test_train_evaluate_report(capsys, scenario_yaml, agent_yaml, tmp_path):
    folder = tmp_path / "run"
    code, text, _ = run(capsys, "train", "--scenario", scenario_yaml, "--agent", agent_yaml, "--out", folder, "--json")
    assert code == 0
    assert json.loads(text)["steps"] >= 512
    assert {"agent.json", "best.zip", "last.zip", "training.json"} <= {p.name for p in folder.iterdir()}

    report = tmp_path / "report"
    arguments = ["evaluate", "--scenario", scenario_yaml, "--agent", folder, "--episodes", "9", "--out", report]
    code, text, _ = run(capsys, *arguments, "--load", "1.5", "--policy", "always/lmetric/vllm")
    assert code == 0
    assert text.rstrip().endswith(f"report: {report / 'report.html'}")
    result = json.loads((report / "result.json").read_text())
    assert {row["policy"] for row in result["summary"]} >= {"always/lmetric/vllm", "always/jsq/vllm"}

    before = (report / "report.html").read_text()
    (report / "report.html").unlink()
    assert run(capsys, "report", report, "--training", folder)[0] == 0
    assert (report / "report.html").read_text() == before

    # the same agent where observations hold something else
    values = yaml.safe_load(scenario_yaml.read_text())
    values["observation"] = {"forecast": True}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(values))
    code, _, error = run(capsys, "evaluate", "--scenario", other, "--agent", folder, "--out", tmp_path / "none")
    assert code == 1
    assert "trained" in error
    assert not (tmp_path / "none").exists()


def test_train_on_own_rows(capsys, burstgpt_csv, scenario_yaml, agent_yaml, tmp_path):
    values = yaml.safe_load(scenario_yaml.read_text())
    values["cluster"] = "llama-2-13b-a100-x1"
    scenario_yaml.write_text(yaml.safe_dump(values))
    folder = tmp_path / "run"
    task = ["--scenario", scenario_yaml, "--trace", burstgpt_csv]
    assert run(capsys, "train", *task, "--agent", agent_yaml, "--out", folder, "--json")[0] == 0
    arguments = ["--agent", folder, "--policy", "always/jsq/vllm", "--load", "1.0", "--episodes", "2"]
    code, text, told = run(capsys, "evaluate", *task, *arguments, "--out", tmp_path / "report")
    assert code == 0, told
    assert "always/jsq/vllm" in text


def test_lists(capsys):
    code, text, _ = run(capsys, "policies")
    assert code == 0
    assert "size-aware-kv" in text
    assert "default (v" in run(capsys, "scenarios")[1]
    assert yaml.safe_load(run(capsys, "scenarios", "default")[1])["cluster"] == "default"
    assert "always" in [rule["name"] for rule in json.loads(run(capsys, "policies", "--json")[1])["admission"]]


def test_trace_info(capsys, burstgpt_csv):
    code, text, _ = run(capsys, "trace", "info", burstgpt_csv)
    assert code == 0
    assert "1,199 requests and 1 failures" in text
    assert json.loads(run(capsys, "trace", "info", burstgpt_csv, "--json")[1])["failures"] == 1


def test_bench_compares_with_floors(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("burstenv.evaluation.bench.figures.REPEATS", 1)
    page = tmp_path / "speed.md"
    code, text, _ = run(capsys, "bench", "environments", "--quick", "--json", "--out", page)
    assert code == 0
    rows = json.loads(text)
    assert {"BurstGPT-v0 through gym.make", "native batch of 256"} <= {r["name"] for r in rows}
    assert all(row["value"] > 0 and row["beside_value"] > 0 for row in rows)
    assert "| native batch of 256 |" in page.read_text()


def test_bench_names_its_subjects(capsys):
    code, _, error = run(capsys, "bench", "engines")
    assert code == 1
    assert "'engines'" in error
    assert "environments" in error


CSVS = {
    "missing column": (
        "Timestamp,Model,Request tokens,Total tokens,Log Type\n1,GPT-4,2,4,API log\n",
        "Response tokens",
    ),
    "non-numeric": (HEADER + "1,GPT-4,5,5,10,API log\n2,GPT-4,many,2,4,API log\n", "row 2"),
    "negative": (HEADER + "1,GPT-4,5,5,10,API log\n2,GPT-4,-5,2,4,API log\n", "row 2"),
    "unsorted": (HEADER + "9,GPT-4,5,5,10,API log\n2,GPT-4,5,2,7,API log\n", "row 2"),
    "empty": ("", "empty"),
    "only a header": (HEADER, "no "),
}


@pytest.mark.parametrize("case", CSVS)
def test_wrong_rows_get_one_sentence_and_write_nothing(capsys, tmp_path, case):
    text, named = CSVS[case]
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    out = tmp_path / "out.csv"
    code, printed, error = run(capsys, "simulate", path, "--requests-out", out)
    assert code == 1
    assert printed == ""
    assert error.startswith("burstenv: ")
    assert error.count("\n") == 1
    assert named in error
    assert "wrong.csv" in error
    assert not out.exists()


WRONG = {
    "unknown policy": (["simulate", "TRACE", "--policy", "always/lmetrik/vllm"], "did you mean lmetric"),
    "two parts": (["simulate", "TRACE", "--policy", "always/jsq"], "three parts"),
    "unknown cluster": (["simulate", "TRACE", "--cluster", "defalt"], "did you mean default"),
    "unknown scenario": (["evaluate", "--scenario", "defualt"], "did you mean default"),
    "unknown split": (["evaluate", "--split", "tset"], "did you mean test"),
    "unknown agent": (["train", "--agent", "pppo"], "did you mean ppo"),
    "no such run": (["evaluate", "--agent", "nowhere"], "nowhere"),
    "no such trace": (["trace", "info", "nowhere.csv"], "nowhere.csv"),
    "no such case": (["validate", "nowhere"], "config.json"),
    "no such result": (["report", "nowhere"], "nowhere"),
    "bad speed": (["simulate", "TRACE", "--speed", "0"], "speed"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_get_one_sentence(capsys, monkeypatch, burstgpt_csv, tmp_path, case):
    monkeypatch.chdir(tmp_path)
    arguments, named = WRONG[case]
    before = sorted(tmp_path.iterdir())
    code, printed, error = run(capsys, *(str(burstgpt_csv) if a == "TRACE" else a for a in arguments))
    assert code == 1
    assert printed == ""
    assert named in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert sorted(tmp_path.iterdir()) == before


def test_a_trace_shorter_than_an_episode(capsys, burstgpt_csv, tmp_path):
    short = tmp_path / "short.csv"
    short.write_text("\n".join(burstgpt_csv.read_text().splitlines()[:3]) + "\n")
    code, _, error = run(capsys, "evaluate", "--trace", short, "--out", tmp_path / "none")
    assert code == 1
    assert "short.csv" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "none").exists()


def test_a_prompt_larger_than_the_cache(capsys, tmp_path):
    path = tmp_path / "long.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0.0,100,5\n1.0,60000,5\n")
    out = tmp_path / "out.csv"
    code, _, error = run(capsys, "simulate", path, "--scenario", "blind", "--oversize", "error", "--requests-out", out)
    assert code == 1
    assert "request 2" in error
    assert "60005 tokens" in error
    assert not out.exists()
    code, text, _ = run(capsys, "simulate", path, "--scenario", "blind")
    assert code == 0
    assert "left out 1 requests of more than 4,096 tokens" in text
    code, text, _ = run(capsys, "simulate", path, "--scenario", "blind", "--oversize", "reject", "--json")
    assert code == 0
    assert json.loads(text)["failed"] == 1


@pytest.mark.parametrize("key", ["lod", "episode.durations_s", "slo.api.ttft_bas_s"])
def test_an_unknown_key_lists_the_valid_ones(capsys, scenario_yaml, tmp_path, key):
    values = yaml.safe_load(scenario_yaml.read_text())
    inner = values
    *path, last = key.split(".")
    for part in path:
        inner = inner[part]
    inner[last] = 1
    scenario_yaml.write_text(yaml.safe_dump(values))
    code, _, error = run(capsys, "evaluate", "--scenario", scenario_yaml, "--out", tmp_path / "none")
    assert code == 1
    assert f"unknown key '{key}'" in error
    assert "valid keys: " in error
    assert not (tmp_path / "none").exists()


def test_every_command_shows_its_help(capsys):
    parsers = [make_parser()]
    while parsers:
        parser = parsers.pop()
        assert parser.format_help().startswith("usage: burstenv")
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
