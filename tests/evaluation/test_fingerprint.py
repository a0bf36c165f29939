"""Shipped data are recognised on any machine: last bits do not count, anything else does and is said."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import yaml

from burstenv.agents.baseline import said_of_tuned
from burstenv.agents.config import AgentConfig
from burstenv.cli import main
from burstenv.config import load, read_yaml, shipped
from burstenv.envs import scenario_draws
from burstenv.envs.scenario import load_scenario
from burstenv.evaluation.bound.headroom import best_composite
from burstenv.evaluation.episode_lists import compare_with_list
from burstenv.evaluation.fingerprint import Fingerprint, trace_columns
from burstenv.evaluation.tuning.tuned_policies import shipped_tuned
from burstenv.workload.workload_config import load_trace, load_workload


def last_bits(columns, towards):
    """Return a dataclass of columns with every float one last bit up, down, or either way."""
    random = np.random.default_rng(0)
    changed = {}
    for field in fields(columns):
        values = getattr(columns, field.name)
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            ends = random.choice([-np.inf, np.inf], len(values)) if towards is None else np.full(len(values), towards)
            moved = np.where(values > 0, np.nextafter(values, ends), values)
            changed[field.name] = np.maximum.accumulate(moved) if field.name == "arrival_s" else moved
    return replace(columns, **changed)


@pytest.fixture(scope="module")
def trace():
    return load_trace(load_workload("burstgpt-templates"))


def with_trace(monkeypatch, name, trace):
    monkeypatch.setattr(scenario_draws, "load_trace", lambda workload: trace)
    return load_scenario(read_yaml(shipped("scenarios")[name]))


@pytest.mark.parametrize("towards", [np.inf, -np.inf, None])
@pytest.mark.parametrize("name", ["default", "retrying"])
def test_what_is_shipped_is_used_where_the_last_bits_differ(name, towards, trace, monkeypatch):
    other = replace(last_bits(trace, towards), failures=last_bits(trace.failures, towards))
    assert (other.arrival_s != trace.arrival_s).mean() > 0.9
    assert (np.round(other.arrival_s, 6) != np.round(trace.arrival_s, 6)).any()  # rounding alone would not do
    scenario = with_trace(monkeypatch, name, other)
    tuned, said = shipped_tuned(scenario.config, scenario.trace)
    assert (tuned is not None, said) == (True, "")
    assert best_composite(scenario, scenario.config.load, 1) == (tuned.at(scenario.config.load), True, "")
    for split in ("validation", "test"):
        assert compare_with_list(scenario, split, range(9)) == ([], "")
    assert said_of_tuned(load(AgentConfig, "agents", "joint"), scenario) == ""


def longer(trace):
    prompt = trace.prompt_tokens.copy()
    prompt[len(prompt) // 2] += 1
    return replace(trace, prompt_tokens=prompt)


def swapped(trace):
    output = trace.output_tokens.copy()
    output[[0, -1]] = output[[-1, 0]]
    assert output[0] != output[-1]
    return replace(trace, output_tokens=output)


@pytest.mark.parametrize(
    "change",
    [longer, swapped, lambda trace: trace.shift(1e-4), lambda trace: trace.between(0, 4e6)],
)
def test_another_trace_is_refused_in_a_sentence(change, trace, monkeypatch):
    scenario = with_trace(monkeypatch, "default", change(trace))
    tuned, said = shipped_tuned(scenario.config, scenario.trace)
    assert tuned is None
    assert said.startswith("The tuned composites shipped for scenario default are not used, because the trace is ano")
    assert "although the trace is another one" in said_of_tuned(load(AgentConfig, "agents", "joint"), scenario)


def test_no_time_is_near_the_edge_of_a_cell():
    """Times anywhere, in ties and at round numbers too, may move by a hundred nanoseconds."""
    random = np.random.default_rng(1)
    for times in (random.random(5000) * 6e6, np.repeat(np.arange(100.0), 7), np.round(random.random(3000) * 100, 3)):
        counts = random.integers(0, 9, len(times))
        found = Fingerprint.of([times, np.full(len(times), np.inf)], [counts])
        for shift_s in (1e-7, -1e-7):
            assert found.fits([times + shift_s, np.full(len(times), np.inf)], [counts])
        order = random.permutation(len(times))
        assert found.fits([times[order], np.full(len(times), np.inf)], [counts[order]])
        assert not found.fits([times, np.full(len(times), np.inf)], [counts[::-1]])
        assert not found.fits([times, np.full(len(times), 5.0)], [counts])


def test_no_row_of_a_trace_is_lost_on_the_digest(trace):
    times, numbers = trace_columns(trace.between(0.0, 1e5))
    assert Fingerprint.of(times, numbers).requests == len(times[0]) > 1000


def test_the_first_lines_of_output_and_report_say_what_is_not_used(tmp_path, capsys):
    """A scenario that only bears the name of a shipped one."""
    values = read_yaml(shipped("scenarios")["default"])
    values["episode"]["duration_s"] = 20
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    command = ["evaluate", "--scenario", str(tmp_path / "mine.yaml"), "--policy", "always/random/vllm"]
    assert main([*command, "--episodes", "1", "--load", "1", "--workers", "1", "--out", str(tmp_path / "out")]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert "tuned composites shipped for scenario default are not used, because the scenario differs" in first
    assert "not those committed for scenario default" in second
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert text.index("are not used, because") < text.index("reaches")
