"""A given option is never ignored: where a verb's way of working does not read one, giving it is an error.

Each verb is run in each of its ways with a record of the arguments that it reads. Every option that was not read is
then given, and must be refused by name.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from burstenv import Trace, write_burstgpt
from burstenv.cli.main import main, make_parser
from tests.shipped_files import golden, real

SAMPLES: dict[str, list[str]] = {"--latency": ["default"], "--form": ["hinge"], "--time-unit": ["s"], "--to": ["plain"]}


class Recording(argparse.Namespace):
    """Arguments that remember which of them were asked for."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__").setdefault("_read", set()).add(name)
        return object.__getattribute__(self, name)


@pytest.fixture(scope="module")
def files(tmp_path_factory, small_scenario) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("options")
    random, n = np.random.default_rng(0), 400
    arrival_s = np.sort(random.uniform(0.0, 10 * 86_400.0, n))
    trace = Trace.from_columns(arrival_s, random.integers(1, 300, n), random.integers(1, 300, n))
    write_burstgpt(trace, folder / "trace.csv", exact_times=True)
    (folder / "small.yaml").write_text(yaml.safe_dump({**small_scenario, "name": "small"}))
    lines = [f"{p},{p * (p + 1) / 2:g},{d},{k},{1 + 0.01 * p + 0.1 * d + 1e-4 * k}" for p, d, k in
             ((p, d, 300 * d) for p in (0, 16, 128, 512) for d in (1, 2, 4, 8, 16, 32))]  # fmt: skip
    (folder / "iterations.csv").write_text("P,A,D,K,milliseconds\n" + "\n".join(lines) + "\n")
    return {
        "trace": folder / "trace.csv", "small": folder / "small.yaml", "iterations": folder / "iterations.csv",
        "schedule": golden("07_output_one"), "server": real("measured/rtx4090_llama31_8b/vllm_run"), "out": folder,
    }  # fmt: skip


# The ways of working, each in a few seconds.
WAYS: dict[str, str] = {
    "simulate": "simulate {trace} --scenario {small}",
    "info": "trace info {trace}",
    "convert": "trace convert {trace} {out}/c.csv",
    "shape": "trace shape {trace} {out}/s.csv",
    "generate": "trace generate {out}/g.csv --days 1",
    "paper": "trace generate {out}/p.csv --model paper --like {trace} --days 1",
    "fit to iterations": "latency fit {iterations} --form hinge",
    "a schedule": "validate {schedule}",
    "policies": "policies",
    "scenarios": "scenarios",
    "one scenario": "scenarios default",
    "tune": "tune --scenario {small} --trials 3 --episodes 1 --load 1 --policy */jsq/vllm --out {out}/t.yaml",
    "grid": "tune --scenario {small} --grid --episodes 1 --load 1 --policy kv-threshold/jsq/vllm --out {out}/g.yaml",
    "capacity": "capacity --scenario {small} --episodes 1",
    "evaluate": "evaluate --scenario {small} --episodes 2 --load 1 --policy always/jsq/vllm --out {out}/e",
}


def options_of(parser: argparse.ArgumentParser, words: list[str]) -> list[argparse.Action]:
    """Return the options of the subcommand that some words name."""
    for word in words:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction) and word in action.choices:
                parser = action.choices[word]
                break
        else:
            break
    return [action for action in parser._actions if action.option_strings and action.dest not in ("help", "json")]


def sample(action: argparse.Action) -> list[str]:
    """Return an option with a value."""
    name = action.option_strings[-1]
    if action.nargs == 0:
        return [name]
    if action.choices:
        return [name, str(next(iter(action.choices)))]
    return [name, *SAMPLES.get(name, ["1" if action.type in (int, float) else "x.html"])]


@pytest.mark.parametrize("way", WAYS)
def test_an_option_is_read_or_refused(way, files, monkeypatch, capsys):
    monkeypatch.chdir(files["out"])
    words = WAYS[way].format(**files).split()
    arguments = make_parser().parse_args(words, namespace=Recording())
    arguments.given = set()
    arguments.__dict__["_read"] = set()
    assert arguments.run(arguments) in (0, None)
    read = arguments.__dict__["_read"]
    for action in options_of(make_parser(), words):
        if action.dest in read or action.option_strings[-1] in words:
            continue
        capsys.readouterr()
        assert main([*words, *sample(action)]) == 1, f"{way} ignores {action.option_strings[-1]}"
        told = capsys.readouterr().err
        assert action.option_strings[-1] in told, told
        assert len(told.splitlines()) == 1


REFUSED = [
    ("evaluate --both-ways", "--both-ways"),
    ("evaluate --ray --workers 2", "--workers"),
    ("train --processes 2", "--processes"),
    ("train --seeds 2 --ray --processes 2", "--processes"),
    ("train --tune 2 --ray", "--ray"),
    ("train --tune 2 --resume", "--resume"),
    ("train --tune 2 --processes 2", "--processes"),
    ("tune --grid --trials 5", "--trials"),
    ("tune --grid --seed 0", "--seed"),
    ("tune --settings 2", "--settings"),
    ("scenarios default --load 2", "--load"),
    ("scenarios --headroom --capacity", "--capacity"),
    ("scenarios --capacity", "--capacity"),
    ("validate {server} --latency llama-3.1-8b_rtx-4090_tp1 --engine reference", "--engine"),
    ("latency fit {iterations} --form hinge --layers 32", "layers"),
]


@pytest.mark.parametrize(("words", "option"), REFUSED, ids=[words for words, _ in REFUSED])
def test_options_that_belong_to_another_way_are_refused_at_once(words, option, files, capsys):
    """Whatever their value: the default, written out, is given too."""
    assert main(words.format(**files).split()) == 1
    told = capsys.readouterr().err
    assert option in told
    assert "no effect" in told
    assert len(told.splitlines()) == 1
