"""Both engines against recorded schedules of the real vLLM scheduler, iteration by iteration."""

from __future__ import annotations

import json

import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.recorded_schedule import (
    first_difference,
    first_fast_difference,
    read_case,
    replay_fast,
    replay_reference,
    validate_case,
)
from tests.shipped_files import golden

REFERENCE_CASES = {
    "01_light": 937,
    "02_heavy_preempt": 1232,
    "02b_heavy_preempt_async": 1248,
    "02c_heavy_no_full_isl": 1242,
    "02d_heavy_watermark": 1260,
    "03_long_chunked": 531,
    "03b_long_threshold": 546,
    "04_bursts": 158,
    "05_many_short": 74,
    "06_priority": 906,
    "07_output_one": 80,
    "08_kv_limit": 2025,
    "09_prefix_sessions": 818,
    "09b_prefix_sessions_async": 824,
    "09c_prefix_off": 821,
    "11_prio_budget_restore": 417,
}
ASYNCHRONOUS = ("02b_heavy_preempt_async", "09b_prefix_sessions_async")


@pytest.mark.parametrize("name", REFERENCE_CASES)
def test_reference_is_identical(name):
    case = read_case(golden(name))
    replayed = replay_reference(case)
    assert first_difference(list(case.iterations), replayed) is None
    assert len(replayed) == REFERENCE_CASES[name]


@pytest.mark.parametrize("name", [name for name in REFERENCE_CASES if name not in ASYNCHRONOUS])
def test_fast_engine_is_identical(name):
    case = read_case(golden(name))
    assert first_fast_difference(list(case.iterations), replay_fast(case)) is None


@pytest.mark.parametrize("name", REFERENCE_CASES)
def test_fast_engine_serves_every_request_at_the_same_times(name):
    assert validate_case(golden(name), "fast") == (REFERENCE_CASES[name], None)


def test_a_changed_recording_is_noticed(tmp_path):
    source = golden("04_bursts")
    for name in ("config.json", "workload.csv", "iterations.jsonl"):
        (tmp_path / name).write_text((source / name).read_text())
    lines = (tmp_path / "iterations.jsonl").read_text().splitlines()
    record = json.loads(lines[7])
    record["free_after"] += 1
    lines[7] = json.dumps(record)
    (tmp_path / "iterations.jsonl").write_text("\n".join(lines))
    case = read_case(tmp_path)
    assert first_difference(list(case.iterations), replay_reference(case)).startswith("iteration 7: free_after")
    assert first_fast_difference(list(case.iterations), replay_fast(case)).startswith("iteration 7: free_after")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(max_model_len=10**6), "max_model_len 1000000 does not fit"),
        (lambda c: c.pop("block_size"), "block_size"),
        (lambda c: c["latency"].pop("c3"), "c3"),
        (lambda c: c.update(max_num_batched_tokens=8), "below max_num_seqs"),
    ],
)
def test_wrong_configurations_get_one_sentence(tmp_path, change, message):
    source = golden("04_bursts")
    for name in ("config.json", "workload.csv", "iterations.jsonl"):
        (tmp_path / name).write_text((source / name).read_text())
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BurstenvError, match=message):
        read_case(tmp_path)
