"""Every option of reading takes effect or is an error, whatever the format; units are known or asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import Trace, read_trace, write_parquet
from burstenv.workload.formats import csv_table
from tests.workload.workload_files import EIGHT, PLAIN

COLUMNS = {"arrival_s": "when", "prompt_tokens": "in", "output_tokens": "out"}
TIMES = [5, 3, 9, 3, 4]  # seconds, rows out of order


def _csv(header: str, row: Any) -> bytes:
    return "\n".join([header, *(row(k, time) for k, time in enumerate(TIMES))]).encode()


def _lines(unit: int, **more: Any) -> bytes:
    rows = [
        {"timestamp": time * unit, "input_length": 100 + k, "output_length": 7, "hash_ids": [k // 2], **more}
        for k, time in enumerate(TIMES)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


# Each format's content, the unit it has by itself, whether another unit can be asked for.
FORMATS: dict[str, tuple[bytes, str, bool]] = {
    "burstgpt": (_csv(EIGHT, lambda k, t: f"{t}.5,{'ab'[k % 2]},,GPT-4,{100 + k},7,{107 + k},API log"), "s", False),
    "plain": (_csv(PLAIN, lambda k, t: f"{t},{100 + k},7"), "s", False),
    "azure": (
        _csv("TIMESTAMP,ContextTokens,GeneratedTokens", lambda k, t: f"2024-05-10 00:00:0{t},{100 + k},7"),
        "iso", False,
    ),
    "servegen": (_csv("timestamp,input_tokens,output_tokens", lambda k, t: f"{t},{100 + k},7"), "s", False),
    "vidur": (_csv("arrived_at,num_prefill_tokens,num_decode_tokens", lambda k, t: f"{t},{100 + k},7"), "s", False),
    "splitwise": (_csv("arrival_timestamp,prompt_size,token_size", lambda k, t: f"{t},{100 + k},7"), "s", False),
    "mooncake": (_lines(1000), "ms", True),
    "qwen": (_lines(1, chat_id=1, parent_chat_id=-1, turn=1), "s", True),
    "mapped": (_csv("when,in,out", lambda k, t: f"{t},{100 + k},7"), "s", True),
}  # fmt: skip
SECONDS_OF = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _read(path: Path, name: str, **options: Any) -> Trace:
    return read_trace(path, columns=COLUMNS if name == "mapped" else None, **options)


@pytest.mark.parametrize("name", FORMATS)
def test_unsorted_rows_are_an_error_that_names_the_option_that_sorts_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace.txt"
    path.write_bytes(FORMATS[name][0])
    with pytest.raises(BurstenvError, match=r"row 2: .* earlier .*--sort .*sorts them"):
        _read(path, name)
    for threshold in (1 << 40, 0):
        monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
        trace = _read(path, name, sort=True)
        assert np.floor(trace.arrival_s).tolist() == sorted(TIMES)
        assert trace.prompt_tokens.tolist() == [101, 103, 104, 100, 102]  # rows of one time in the order of the file
        assert trace.metadata["out_of_order"] == 2


def test_a_sorted_file_and_an_unsorted_one_read_with_sort_are_the_same_trace(tmp_path: Path) -> None:
    lines = FORMATS["burstgpt"][0].decode().split("\n")
    unsorted, ordered = tmp_path / "unsorted.csv", tmp_path / "sorted.csv"
    unsorted.write_text("\n".join(lines))
    ordered.write_text("\n".join([lines[0], *sorted(lines[1:], key=lambda line: float(line.split(",")[0]))]))
    first, second = read_trace(unsorted, sort=True), read_trace(ordered)
    for column in ("arrival_s", "prompt_tokens", "session", "turn", "model", "log_type"):
        assert getattr(first, column).tobytes() == getattr(second, column).tobytes(), column


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns", "iso"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_time_unit_takes_effect_or_is_an_error(name: str, unit: str, tmp_path: Path) -> None:
    content, own, free = FORMATS[name]
    path = tmp_path / "trace.txt"
    path.write_bytes(content)
    first = _read(path, name, sort=True).arrival_s
    assert np.floor(first).tolist() == sorted(TIMES)
    if unit == own or (free and unit != "iso"):
        factor = 1.0 if unit == own else SECONDS_OF[unit] / SECONDS_OF[own]
        assert _read(path, name, sort=True, time_unit=unit).arrival_s == pytest.approx(first * factor, rel=1e-12)
    else:
        with pytest.raises(BurstenvError, match=r"trace.txt: "):
            _read(path, name, sort=True, time_unit=unit)


def test_fractions_of_milliseconds_are_a_question(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 0.5, "input_length": 3, "output_length": 1}\n')
    with pytest.raises(BurstenvError, match=r"row 1: key 'timestamp': 0\.5 is no whole number.*--time-unit"):
        read_trace(path)
    assert read_trace(path, time_unit="s").arrival_s.tolist() == [0.5]
    assert read_trace(path, time_unit="ms").arrival_s.tolist() == [0.0005]


def test_columns_are_no_option_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(FORMATS["mooncake"][0])
    with pytest.raises(BurstenvError, match="JSON lines have keys, not columns"):
        read_trace(path, columns=COLUMNS)


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("mooncake", "qwen")])
def test_parquet_of_the_same_columns_is_the_same_trace(name: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    source, path = tmp_path / "trace.csv", tmp_path / "trace.parquet"
    source.write_bytes(FORMATS[name][0])
    frame = pandas.read_csv(source)
    if name == "azure":
        frame["TIMESTAMP"] = pandas.to_datetime(frame["TIMESTAMP"])
    frame.to_parquet(path)
    if name == "plain":
        path.unlink()
        pytest.skip("Parquet of these columns is burstenv's own, see below")
    with pytest.raises(BurstenvError, match=r"row 2: column .* is earlier"):
        _read(path, name)
    first, second = _read(source, name, sort=True), _read(path, name, sort=True)
    for column in ("arrival_s", "prompt_tokens", "output_tokens", "session", "turn", "model", "log_type"):
        assert getattr(first, column).tobytes() == getattr(second, column).tobytes(), column
    assert first.metadata["duplicates"] == second.metadata["duplicates"]


def test_parquet_of_others_is_refused_with_row_and_column(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "trace.parquet"
    good = {"timestamp": [1, 2, 3], "input_tokens": [4, 5, 6], "output_tokens": [7, 8, 9]}
    wrong = {
        "input_tokens": ([4, -5, 6], "row 2: column 'input_tokens': need a whole number"),
        "output_tokens": ([7, 8.5, 9], "row 2: column 'output_tokens': need a whole number"),
        "timestamp": ([1.0, None, 3.0], "row 2: column 'timestamp': is blank"),
    }
    for name, (values, sentence) in wrong.items():
        pandas.DataFrame({**good, name: values}).to_parquet(path)
        with pytest.raises(BurstenvError, match=sentence):
            read_trace(path)
    pandas.DataFrame({"a": [1], "b": [2]}).to_parquet(path)
    with pytest.raises(BurstenvError, match=r"unknown header 'a,b'.*--columns"):
        read_trace(path)


def test_own_parquet_is_sorted_where_asked(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "trace.parquet"
    write_parquet(Trace.from_columns([1.0, 2.0, 3.0], [4, 5, 6], [1, 1, 1], session=[0, 1, 0]), path)
    table = parquet.read_table(path)
    parquet.write_table(table.take(pa.array([2, 0, 1])), path)
    with pytest.raises(BurstenvError, match="rows sorted by arrival"):
        read_trace(path)
    trace = read_trace(path, sort=True)
    assert trace.arrival_s.tolist() == [1.0, 2.0, 3.0]
    assert trace.turn.tolist() == [0, 0, 1]
