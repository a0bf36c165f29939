"""Queue time, inter-token latency and cost of a replay, against its own records."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cli.main import main
from burstenv.evaluation.pareto_page import front
from burstenv.evaluation.simulate import simulate
from burstenv.workload import Trace


@pytest.fixture(scope="module")
def replay():
    random = np.random.default_rng(0)
    arrivals = np.sort(random.uniform(0.0, 2.0, 24))
    trace = Trace.from_columns(arrivals, random.integers(200, 2000, 24), random.integers(1, 40, 24))
    return simulate(trace, "mixed-x2", "always/round-robin/vllm")


def test_queue_time_is_that_of_the_records(replay):
    waited = replay.records["first_scheduled_s"] - replay.records["arrival_s"]
    assert replay.metrics["queue_s_mean"] == pytest.approx(waited.mean())
    assert replay.metrics["queue_s_p99"] == pytest.approx(np.quantile(waited, 0.99))
    assert 0.0 <= replay.metrics["queue_s_p50"] <= replay.metrics["ttft_s_p50"]


def test_inter_token_latency_counts_every_gap_once(replay):
    many = replay.records[replay.records["output_tokens"] > 1]
    between_s = many["finish_s"] - many["first_token_s"]
    gaps = many["output_tokens"] - 1
    assert replay.metrics["itl_s_mean"] == pytest.approx(between_s.sum() / gaps.sum())
    tpot = (between_s / gaps).mean()
    assert replay.metrics["tpot_s_mean"] == pytest.approx(tpot)  # a mean over requests, another number


def test_cost_is_of_all_gpus_from_the_first_arrival_on(replay):
    m = replay.metrics
    duration_s = m["end_s"] - replay.records["arrival_s"].min()
    assert m["gpus"] == 2
    assert m["gpu_hours"] == pytest.approx(2 * duration_s / 3600)
    assert m["gpu_s_per_attained"] == pytest.approx(2 * duration_s / m["attained"])


def test_they_are_printed(tmp_path, capsys):
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{k},100,10\n" for k in range(8)))
    assert main(["simulate", str(trace), "--cluster", "mixed-x2"]) == 0
    printed = capsys.readouterr().out
    assert "queue mean" in printed
    assert "inter-token latency" in printed
    assert "2 GPUs: " in printed


def test_the_front_holds_what_no_other_beats_in_both():
    points = {
        "slow, best": (9.0, 0.9),
        "fast": (1.0, 0.5),
        "beaten": (2.0, 0.4),
        "equal": (1.0, 0.4),
        "middle": (3.0, 0.7),
    }
    assert front(points) == ["fast", "middle", "slow, best"]


def test_policies_are_drawn_on_one_page(tmp_path, capsys):
    trace, page = tmp_path / "trace.csv", tmp_path / "front.html"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{k},100,10\n" for k in range(8)))
    asked = ["simulate", str(trace), "--cluster", "mixed-x2", "--pareto", str(page), "--policy", "always/jsq/vllm"]
    assert main(asked) == 1
    assert "--pareto compares policies" in capsys.readouterr().err
    assert main([*asked, "--policy", "always/random/vllm"]) == 0
    assert page.read_text().count("always/<wbr>random/<wbr>vllm") >= 1
