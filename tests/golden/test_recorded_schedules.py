"""Both engines against recorded schedules of the real vLLM scheduler, in every field of every row."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.recorded_case import RecordedCase, read_case
from burstenv.evaluation.validation.recorded_rows import (
    ITERATION_FIELDS,
    MAY_BE_BLANK,
    REQUEST_FIELDS,
    SHARE_FIELDS,
    Recording,
    Row,
    first_difference,
)
from burstenv.evaluation.validation.recorded_schedule import validate_case
from burstenv.evaluation.validation.replay import replay_fast, replay_reference
from tests.shipped_files import golden, golden_cases

CASES = {
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
ENGINES = {"reference": replay_reference, "fast": replay_fast}


@cache
def played(name: str) -> tuple[RecordedCase, dict[str, Recording]]:
    case = read_case(golden(name))
    return case, {engine: replay(case) for engine, replay in ENGINES.items()}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_a_recorded_schedule_is_met(name: str, engine: str) -> None:
    assert validate_case(golden(name), engine) == (CASES[name], None)


def test_every_recorded_schedule_is_in_the_table() -> None:
    assert golden_cases() == list(CASES)


def falsified_values(value: Any, kind: str) -> Iterator[Any]:
    """Wrong values in the place of a right one."""
    if value is None:
        yield 0
    elif kind == "whole":
        yield from (value + 1, value - 1)
    elif kind == "seconds":
        yield from (value + max(1e-6 * value, 1e-9), value - max(1e-6 * value, 1e-9))
    elif kind == "text":
        yield from ("new" if value == "running" else "running", "")
    else:
        yield [*value, value[-1] if value else 0]
        if value:
            yield from ([], value[1:], value[:-1])
        if len(value) > 1:
            yield value[::-1]


def falsified_rows(row: Row, fields: dict[str, str]) -> Iterator[tuple[str, Row]]:
    """A row with one field after the other made wrong; of an iteration, each share as well."""
    for name, kind in fields.items():
        values = list(falsified_values(row[name], kind))
        if kind == "shares" and row[name]:
            first, *others = row[name]
            values = [v for v in values if v != row[name]]
            values += [[false, *others] for _, false in falsified_rows(first, SHARE_FIELDS)]
        if name in MAY_BE_BLANK and row[name] is not None:
            values.append(None)
        for value in values:
            yield name, {**row, name: value}


def falsifications(recording: Recording) -> Iterator[tuple[str, Recording]]:
    """A recording with one thing after the other made wrong."""
    for what, fields in (("iterations", ITERATION_FIELDS), ("requests", REQUEST_FIELDS)):
        rows = getattr(recording, what)
        eventful = [k for k, row in enumerate(rows) if row.get("preempted") or row.get("num_preemptions")]
        places = {0, len(rows) // 2, len(rows) - 1, *eventful[:1], *eventful[-1:]}
        for k in sorted(places):
            for name, row in falsified_rows(rows[k], fields):
                yield f"{what} {k}: {name}", replace(recording, **{what: (*rows[:k], row, *rows[k + 1 :])})
        yield f"{what}: the last one gone", replace(recording, **{what: rows[:-1]})
        yield f"{what}: the first one gone", replace(recording, **{what: rows[1:]})
        yield f"{what}: the last one twice", replace(recording, **{what: (*rows, rows[-1])})
        yield f"{what}: none", replace(recording, **{what: ()})


@pytest.mark.parametrize("name", CASES)
def test_every_falsification_of_a_recording_is_refused(name: str) -> None:
    case, replays = played(name)
    count = 0
    for what, false in falsifications(case.recording):
        for engine, replay in replays.items():
            assert first_difference(false, replay) is not None, (engine, what)
        count += 1
    assert count > 200


def rewrite(file: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text("\n".join(change((folder / file).read_text().splitlines())) + "\n")


def in_record(number: int, **values: Any) -> Callable[[list[str]], list[str]]:
    return lambda lines: [
        json.dumps({**json.loads(line), **values}) if k == number else line for k, line in enumerate(lines)
    ]


def in_config(**values: Any) -> Callable[[Path], None]:
    return rewrite("config.json", lambda lines: [json.dumps({**json.loads("".join(lines)), **values})])


FALSIFIED_FILES = {
    "a list is emptied": (rewrite("iterations.jsonl", in_record(7, running=[])), "iteration 7: running"),
    "a time is shifted": (rewrite("iterations.jsonl", in_record(9, t_sched=0.0)), "iteration 9: t_sched"),
    "the last iteration is gone": (rewrite("iterations.jsonl", lambda lines: lines[:-1]), "replayed"),
    "a block more is free": (rewrite("iterations.jsonl", in_record(3, free_before=1)), "iteration 3: free_before"),
    "a request row is gone": (rewrite("requests.csv", lambda lines: lines[:-1]), "request 79: recorded 79 requests"),
    "another limit": (in_config(max_num_seqs=8), "iteration "),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("what", FALSIFIED_FILES)
def test_falsified_files_are_refused(tmp_path: Path, what: str, engine: str) -> None:
    falsify, sentence = FALSIFIED_FILES[what]
    folder = copied("06_priority", tmp_path)
    falsify(folder)
    assert sentence in str(validate_case(folder, engine)[1])


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden(name), tmp_path / name))


WRONG_FILES = {
    "a length beyond the cache": (in_config(max_model_len=10**6), "max_model_len 1000000 does not fit"),
    "a missing key": (
        rewrite("config.json", lambda lines: [line for line in lines if "block_size" not in line]),
        "'block_size' is missing",
    ),
    "a missing coefficient": (in_config(latency={"c0": 1.0, "c1": 0.0, "c2": 0.0, "c4": 0.0}), "c3"),
    "a budget below the sequences": (in_config(max_num_batched_tokens=8), "below max_num_seqs"),
    "an unknown key": (in_config(max_num_sequences=8), "unknown key 'max_num_sequences'; valid keys: num_gpu_blocks, "),
    "an unknown coefficient": (in_config(latency={"c5": 1.0}), "latency"),
    "a key that appears twice": (rewrite("config.json", lambda lines: ['{"block_size": 16,', *lines[1:]]), "twice"),
    "a switch that is a word": (in_config(async_scheduling="no"), "async_scheduling"),
    "a number that is a word": (in_config(max_num_seqs="8"), "max_num_seqs"),
    "an unknown policy": (in_config(policy="lifo"), "policy"),
    "a cut recording": (in_config(max_iterations=906), "cut at max_iterations 906"),
    "an unknown column": (rewrite("workload.csv", lambda lines: [lines[0] + ",slo", *[x + ",1" for x in lines[1:]]]),
                          "unknown field 'slo'; valid: arrival_s, "),
    "a priority of 2^63": (rewrite("workload.csv", lambda lines: [*lines[:2], f"0.1,1,1,,{2**63},,0", *lines[3:]]),
                           "row 2: priority is '9223372036854775808', expected a whole number from"),
    "a field of an iteration too many": (rewrite("iterations.jsonl", in_record(0, extra=1)), "unknown field 'extra'"),
    "a text for a number": (rewrite("iterations.jsonl", in_record(0, tokens="4")), "line 1: .*tokens is '4'"),
    "a row too short": (rewrite("requests.csv", lambda lines: [*lines[:3], "2,0.1", *lines[4:]]), "row 3: 2 values"),
    "no requests": (lambda folder: (folder / "requests.csv").unlink(), "requests.csv: no such file"),
} | {
    f"a rule that no engine has: {name}": (in_config(**{name: 2}), f"{name} is a scheduling rule")
    for name in ("prefill_schedule_interval", "max_num_active_seqs", "max_num_scheduled_tokens")
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG_FILES)
def test_wrong_files_get_one_sentence(tmp_path: Path, what: str) -> None:
    change, sentence = WRONG_FILES[what]
    folder = copied("06_priority", tmp_path)
    change(folder)
    with pytest.raises(BurstenvError, match=sentence) as error:
        read_case(folder)
    assert "\n" not in str(error.value)
