"""Every rate has a window and is defined for every trace: bursts, single requests, work that outlasts its arrivals."""

from __future__ import annotations

import csv
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import burstenv  # noqa: F401
from burstenv.cli.main import main
from burstenv.evaluation.simulate import simulate, write_records
from burstenv.workload import Trace
from burstenv.workload.describe import describe, describe_lines

BURSTS = {
    "one request": [3.0],
    "four at an instant": [5.0] * 4,
    "two a second apart": [0.0, 1.0],
    "many in a tenth of a second": [k / 1000 for k in range(100)],
}


@pytest.mark.parametrize("name", BURSTS)
def test_rates_of_bursts(name: str, tmp_path: Path) -> None:
    times = BURSTS[name]
    trace = Trace.from_columns(times, [100] * len(times), [20] * len(times))
    span_s = times[-1] - times[0]
    expected = None if span_s == 0 else len(times) / span_s
    described = describe(trace)
    assert described["rate_per_s"] == expected
    assert ("one instant" if expected is None else "from the first to the last") in "\n".join(describe_lines(described))
    result = simulate(trace, None, "always/jsq/vllm")
    m, records = result.metrics, result.records
    assert m["rate_per_s"] == (None if expected is None else pytest.approx(expected))
    window_s = records["finish_s"].max() - records["arrival_s"].min()
    assert m["goodput_per_s"] == pytest.approx(m["attained"] / window_s)
    assert m["total_tokens_per_s"] == pytest.approx(120 * len(times) / window_s)

    path = tmp_path / "burst.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{t},100,20\n" for t in times))
    env = gym.make("BurstGPT-v0")
    description = env.reset(seed=0, options={"trace": str(path)})[1]["episode_description"]
    assert description["rate_per_s"] == (None if expected is None else pytest.approx(expected))
    assert description["span_s"] == pytest.approx(span_s)


def test_the_command_says_the_window_or_that_there_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "burst.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "0,100,20\n" * 4)
    assert main(["simulate", str(path), "--rate-per-s", "2"]) == 1  # there is no rate to bring to another
    assert "two instants" in capsys.readouterr().err
    assert main(["simulate", str(path)]) == 0
    out = capsys.readouterr().out
    assert "no rate, because all arrive at one instant" in out
    assert "until the last answer" in out


def test_records_hold_cached_and_generated_tokens(tmp_path: Path) -> None:
    trace = Trace.from_columns(
        np.arange(4.0) * 5, [640] * 4, [8] * 4, prefix_id=[0] * 4, prefix_tokens=[512] * 4
    )  # fmt: skip
    result = simulate(trace, None, "always/jsq/vllm")
    path = tmp_path / "records.csv"
    write_records(result.records, path)
    rows = list(csv.DictReader(path.open()))
    assert sum(int(row["cached_tokens"]) for row in rows) == result.metrics["cached_tokens"]
    assert [int(row["generated_tokens"]) for row in rows] == [8] * 4


def test_models_that_no_replica_runs_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path = tmp_path / "models.csv"
    path.write_text(f"{header}\n1,GPT-4,50,5,55,API log\n3,llama-3-70b,50,5,55,API log\n4,mine,50,5,55,API log\n")
    assert main(["simulate", str(path)]) == 0
    assert "models of the trace that no replica runs: GPT-4, mine;" in capsys.readouterr().out
