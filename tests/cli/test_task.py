"""``--set``, ``--slo`` and the options of reading a trace reach every command that names a scenario."""

from __future__ import annotations

import json

import numpy as np
import pytest

from burstenv.cli.main import main, make_parser
from burstenv.cli.task import changed_config, changed_scenario, task_of, trace_of
from burstenv.config import load
from burstenv.envs.scenario_config import ScenarioConfig
from burstenv.errors import BurstenvError

VERBS = ("evaluate", "train", "tune", "capacity")
DEFAULT = load(ScenarioConfig, "scenarios", "default")


def asked(verb: str, *words: str):
    return make_parser().parse_args([verb, *words])


@pytest.mark.parametrize("verb", [*VERBS, "simulate"])
def test_keys_of_a_scenario_are_set(verb):
    trace = ["x.csv"] if verb == "simulate" else []
    given = ("--set", "predictor.kind=exact", "--set", "modes=[vllm]", "--slo", "tpot_s=0.5")
    config = changed_config(asked(verb, *trace, *given))
    assert config.predictor.kind == "exact"
    assert config.modes == ["vllm"]
    assert config.slo["api"].tpot_s == config.slo["conversation"].tpot_s == 0.5
    assert config.capacity_per_s is None  # of another cluster or predictor: measured anew
    assert config.episode == DEFAULT.episode


def test_only_what_changes_the_capacity_makes_it_unknown():
    assert changed_config(asked("tune", "--set", "load=1.25")).capacity_per_s == DEFAULT.capacity_per_s
    given = "capacity_per_s={train: 1, validation: 2, test: 3}"
    config = changed_config(asked("tune", "--set", "tick_s=0.5", "--set", given))
    assert config.capacity_per_s == {"train": 1, "validation": 2, "test": 3}
    assert changed_scenario(asked("tune")) == "default"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("predictor.kind", r"--set predictor.kind: need KEY=VALUE"),
        ("predictr.kind=exact", r"unknown key of a scenario 'predictr'; did you mean predictor\?"),
        ("predictor.knd=exact", r"--set: unknown key 'predictor.knd'; valid keys: kind, sigma"),
        ("predictor.kind=oracle", r"--set: predictor\.kind: .*'oracle'"),
        ("cluster.name=x", r"--set cluster\.name=x: cluster is 'default', which has no keys; give it whole"),
        ("load=[", r"--set load=\[: line 1: not valid YAML"),
    ],
)
def test_a_wrong_setting_is_one_sentence(given, sentence):
    with pytest.raises(BurstenvError, match=sentence):
        changed_config(asked("evaluate", "--set", given))


def test_a_replay_is_of_the_changed_scenario(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{k},100,10\n" for k in range(20)))
    assert main(["simulate", str(trace), "--set", "predictor.kind=class-mean", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["predictor"]["kind"] == "class-mean"


def test_columns_of_a_file_reach_the_task(tmp_path):
    random = np.random.default_rng(0)
    arrivals = np.sort(random.uniform(0, 6 * 86_400_000, 3000)).astype(int)
    path = tmp_path / "odd.csv"
    path.write_text("when,in,out\n" + "".join(f"{at},{100 + k % 50},{10 + k % 7}\n" for k, at in enumerate(arrivals)))
    words = (
        "--trace",
        str(path),
        "--columns",
        "arrival_s=when,prompt_tokens=in,output_tokens=out",
        "--time-unit",
        "ms",
    )
    given = ("--set", "workload=burstgpt-default", "--set", "capacity_per_s={train: 1, validation: 1, test: 1}")
    trace = task_of(asked("evaluate", *words, *given)).trace
    assert len(trace) == 3000
    assert trace.arrival_s[-1] - trace.arrival_s[0] == pytest.approx((arrivals[-1] - arrivals[0]) / 1000)
    with pytest.raises(BurstenvError, match="--columns is for the file of --trace, which is missing"):
        trace_of(asked("train", "--columns", "arrival_s=when"))
    with pytest.raises(BurstenvError, match="--sort belongs to a trace file, burstgpt-default is a workload"):
        trace_of(asked("tune", "--trace", "burstgpt-default", "--sort"))
    assert trace_of(asked("capacity", "--trace", "some.csv")) == "some.csv"
