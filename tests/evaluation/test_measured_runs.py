"""Replaying measured servers: the real ones, and a made-up one whose truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.measured_run import METRICS, STATISTICS, read_run, validate_run
from burstenv.evaluation.validation.server import ServerOptions
from burstenv.hardware.host import OverheadConfig
from burstenv.hardware.latency.entry import load_latency
from burstenv.hardware.latency.fit import fit_profile
from tests.shipped_files import real

SHIPPED = {
    "rtx4090_llama31_8b": "llama-3.1-8b_rtx-4090_tp1",
    "rtxpro6000_llama31_8b": "llama-3.1-8b_rtx-pro-6000_tp1",
}
LATENCY = "llama-3.1-8b_rtx-4090_tp1"
KNOWN = ServerOptions(latency=LATENCY)
WALL_S, ENGINE_S = 1.7e9, 5000.0  # the two clocks at the first arrival


@pytest.mark.parametrize("server", SHIPPED)
def test_a_real_server_is_met(server, tmp_path):
    folder = real(f"measured/{server}")
    fit = fit_profile(folder / "profile")
    (tmp_path / "fitted.yaml").write_text(fit.yaml())
    validation = validate_run(folder / "vllm_run", tmp_path / "fitted.yaml")
    print("\n".join(validation.lines()))
    assert validation.within(5.0, ("mean",))
    assert validation.within(10.0)


@pytest.mark.parametrize(("folder", "name"), SHIPPED.items())
def test_shipped_entries_are_the_fits_of_their_profiles(folder, name):
    fit, shipped = fit_profile(real(f"measured/{folder}") / "profile"), load_latency(name)
    assert fit.name == name
    for batch in ((0, 0, 20, 10_000, 20), (600, 180_300, 30, 21_000, 31), (2048, 3_000_000, 0, 0, 2)):
        assert shipped.iteration_s(*batch) == pytest.approx(fit.entry.iteration_s(*batch), rel=1e-4)


def write_run(folder: Path, latency: str = LATENCY, meta: dict[str, Any] | None = None) -> Path:
    """A run as the replica itself would serve it: nothing to disagree about."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    limits = EngineLimits(
        num_blocks=800, block_size=16, max_model_len=4096, max_num_batched_tokens=1024, max_num_seqs=32,
        prefix_caching=True, asynchronous=True,
    )  # fmt: skip
    overhead = OverheadConfig()
    entry = load_latency(latency).with_overhead(overhead.per_iteration_ms, overhead.per_sequence_ms)
    engine = ReferenceReplica(limits, entry)
    arrival_s = np.concatenate([[0.0], np.sort(rng.uniform(0, 8, 59))])
    requests = [
        ReferenceRequest(k, float(t), int(rng.integers(20, 1500)), 1 if k == 7 else int(rng.integers(2, 300)))
        for k, t in enumerate(arrival_s)
    ]
    engine.run(requests)
    assert sum(request.preemptions for request in requests) > 0
    lines = []
    for request in requests:
        assert request.first_scheduled_s is not None
        assert request.first_token_s is not None
        assert request.finish_s is not None
        lines.append(
            {
                "request_id": f"bench-{request.id}",
                "input_toks": request.prompt_tokens,
                "output_toks": request.output_tokens,
                "arrival_time": WALL_S + request.arrival_s,
                "queued_ts": ENGINE_S + request.arrival_s + (0.0 if request.id == 0 else 0.004),
                "scheduled_ts": ENGINE_S + request.first_scheduled_s,
                "first_token_ts": ENGINE_S + request.first_token_s,
                "last_token_ts": ENGINE_S + request.finish_s,
            }
        )
    (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    values = {
        "model": "meta-llama/Llama-3.1-8B",
        "engine_kwargs": {"max_num_seqs": 32, "max_num_batched_tokens": 1024, "max_model_len": 4096},
        "kv_cache": {"num_gpu_blocks": 801, "block_size": 16, "enable_prefix_caching": True},
        **(meta or {}),
    }
    (folder / "meta.json").write_text(json.dumps(values))
    return folder


def test_a_run_of_the_engine_itself_is_met_exactly(tmp_path):
    validation = validate_run(write_run(tmp_path / "run"), LATENCY)
    assert validation.requests == 60
    assert validation.preemptions > 0
    assert [(row.metric, row.statistic) for row in validation.rows] == [(m, s) for m in METRICS for s in STATISTICS]
    assert max(abs(row.error_percent) for row in validation.rows) < 1e-3
    assert len(validation.measured["TPOT"]) == 59  # one request has a single token
    assert validation.within(0.001)
    assert json.loads(json.dumps(validation.values()))["rows"][0]["metric"] == "TTFT"


def test_another_latency_is_found_out(tmp_path):
    validation = validate_run(write_run(tmp_path / "run"), "llama-3.1-8b_rtx-pro-6000_tp1")
    assert not validation.within(20.0)
    tpot = next(row for row in validation.rows if (row.metric, row.statistic) == ("TPOT", "mean"))
    assert tpot.error_percent == pytest.approx(100 * (tpot.simulated_s / tpot.measured_s - 1))
    assert tpot.error_percent < -20
    assert any(f"{tpot.error_percent:+.1f} %" in line for line in validation.lines())


@pytest.mark.parametrize("ending", [".png", ".html"])
def test_the_distributions_are_drawn(tmp_path, ending):
    pytest.importorskip("matplotlib")
    out = tmp_path / "deep" / f"cdf{ending}"
    validation = validate_run(write_run(tmp_path / "run"), LATENCY, out)
    assert validation.figure == out
    start = out.read_bytes()[:40]
    assert start.startswith(b"\x89PNG" if ending == ".png" else b"<!doctype html>")
    assert [path.name for path in out.parent.iterdir()] == [out.name]  # nothing unfinished is left


def test_a_picture_needs_a_known_ending(tmp_path):
    with pytest.raises(BurstenvError, match=r"ends in \.png"):
        validate_run(write_run(tmp_path / "run"), LATENCY, tmp_path / "cdf.bmp")


def test_what_the_engine_resolved_comes_before_what_it_was_given(tmp_path):
    meta = {
        "resolved_config": {
            "scheduler_config": {"max_num_seqs": 48, "async_scheduling": False, "scheduler_reserve_full_isl": False},
            "cache_config": {"enable_prefix_caching": False, "num_gpu_blocks": 7, "block_size": 32},
            "model_config": {"max_model_len": 2048},
        }
    }
    limits = read_run(write_run(tmp_path / "run", meta=meta), KNOWN).limits
    assert (limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len) == (48, 1024, 2048)
    assert (limits.asynchronous, limits.reserve_full_prompt) == (False, False)
    assert (limits.num_blocks, limits.block_size, limits.prefix_caching) == (800, 16, True)  # as measured


def test_blocks_that_are_not_recorded_follow_from_memory(tmp_path):
    meta: dict[str, Any] = {"kv_cache": None, "hardware": {"device_name": "NVIDIA GeForce RTX 4090"}}
    meta["engine_kwargs"] = {"max_num_seqs": 256, "max_num_batched_tokens": 2048, "gpu_memory_utilization": 0.9}
    run = read_run(write_run(tmp_path / "a", meta=meta), KNOWN)
    assert run.limits.num_blocks == pytest.approx(2587, rel=0.02)  # as a real server had
    assert any("memory of rtx-4090" in note for note in run.notes)
    run = read_run(write_run(tmp_path / "b", meta={"kv_cache": None}), KNOWN)
    assert run.limits.num_blocks > 10**6
    assert any("assumed to hold all" in note for note in run.notes)


def test_the_clocks_are_aligned_at_the_request_queued_soonest(tmp_path):
    run = read_run(write_run(tmp_path / "run"), KNOWN)
    assert run.arrival_s[0] == 0.0
    assert run.server.tensor_parallel == 1
    again = validate_run(tmp_path / "run", LATENCY)
    assert again.measured["TTFT"] == pytest.approx(run.first_token_s - run.arrival_s)


def spoil(folder: Path, name: str, text: str, line: int | None = None) -> None:
    path = folder / name
    if line is not None:
        lines = path.read_text().splitlines()
        lines[line - 1] = text
        text = "\n".join(lines)
    path.write_text(text)


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("meta.json", "{", None, ["meta.json: line 1: not valid JSON"]),
        ("meta.json", "[]", None, ["meta.json: expected a JSON object"]),
        (
            "meta.json",
            '{"engine_kwargs": {"max_num_seqs": "many"}}',
            None,
            ["meta.json", "max_num_seqs must be"],
        ),
        ("requests.jsonl", "", None, ["requests.jsonl: no requests"]),
        ("requests.jsonl", "nonsense", 3, ["requests.jsonl: line 3"]),
        ("requests.jsonl", '{"input_toks": 5}', 4, ["line 4", "output_toks"]),
        (
            "requests.jsonl",
            '{"input_toks": 5, "output_toks": 5, "arrival_time": 1, "queued_ts": 3, "first_token_ts": 2, '
            '"last_token_ts": 4}',
            2,
            ["line 2", "in the order"],
        ),
        (
            "requests.jsonl",
            '{"input_toks": 5, "output_toks": 5, "arrival_time": 1, "queued_ts": 1, "first_token_ts": NaN, '
            '"last_token_ts": 4}',
            2,
            ["line 2", "NaN is no number"],
        ),
    ],
)
def test_a_bad_run_gets_one_sentence(tmp_path, name, text, line, words):
    folder = write_run(tmp_path / "run")
    spoil(folder, name, text, line)
    with pytest.raises(BurstenvError) as error:
        read_run(folder, KNOWN)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_missing_files_and_requests_too_long(tmp_path):
    with pytest.raises(BurstenvError, match=r"meta\.json: no such file"):
        validate_run(tmp_path, LATENCY)
    folder = write_run(tmp_path / "run", meta={"kv_cache": {"num_gpu_blocks": 11, "block_size": 16}})
    with pytest.raises(BurstenvError, match=r"does not fit the engine \(10 KV blocks of 16, model length 160\)"):
        validate_run(folder, LATENCY)


def test_a_latency_of_another_tensor_parallelism_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", meta={"engine_kwargs": {"tensor_parallel_size": 2}})
    with pytest.raises(BurstenvError, match=r"is of tensor parallelism 1, the run .*run of 2"):
        validate_run(folder, LATENCY)


def test_a_latency_of_another_model_is_remarked_on(tmp_path):
    folder = write_run(tmp_path / "run", meta={"model": "Qwen/Qwen3-8B"})
    assert "the latency is of llama-3.1-8b, the run of qwen3-8b" in validate_run(folder, LATENCY).notes
