"""Files with a few wrong bytes: one sentence or the right rows, whichever way a file is read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from burstenv.workload import Trace, write_parquet
from burstenv.workload.formats import csv_table
from tests.workload.workload_files import mangled, read_or_sentence


@pytest.mark.parametrize("seed", range(6))
def test_mangled_dates_are_read_alike_by_both_parsers(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = random.Random(seed)
    zone, width = r.choice(["", "Z", "+00:00", "-05:30"]), r.choice([0, 3, 6, 7, 9]) if seed % 2 else None
    rows = []
    for k in range(1, 30):
        digits = "".join(r.choices("0123456789", k=r.randrange(10) if width is None else width))
        second = f"0{k % 7}{'.' if digits else ''}{digits}"
        rows.append(f"2024-05-{10 + k // 9:02d} 0{k % 9}:0{k % 3}:{second}{zone},{k},7")
    content = "\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows, ""]).encode()
    path = tmp_path / "trace.csv"
    kinds = set()
    for _ in range(100):
        path.write_bytes(mangled(r, content))
        found = []
        for threshold in (1 << 40, 0):
            monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
            trace = read_or_sentence(path)
            found.append(trace if isinstance(trace, str) else trace.arrival_s.tobytes() + trace.prompt_tokens.tobytes())
        assert found[0] == found[1], path.read_bytes()
        kinds.add(type(found[0]))
    assert kinds == {str, bytes}


@pytest.mark.parametrize("seed", range(3))
def test_mangled_json_lines_are_refused_or_read(seed: int, tmp_path: Path) -> None:
    r = random.Random(seed)
    rows = [
        f'{{"timestamp": {100 * k}, "input_length": {700 + k}, "output_length": 5, "hash_ids": [{k // 3}, {k + 90}]}}'
        for k in range(30)
    ]
    content = ("\n".join(rows) + "\n").encode()
    path = tmp_path / "trace.jsonl"
    accepted = 0
    for _ in range(200):
        path.write_bytes(mangled(r, content))
        found = read_or_sentence(path)
        if isinstance(found, str):
            assert found.startswith(f"{path}: ")
            assert "\n" not in found
            continue
        accepted += 1
        lines = [json.loads(line) for line in path.read_bytes().decode("utf-8-sig").split("\n") if line.strip()]
        served = [line for line in lines if line["output_length"] > 0]
        assert found.metadata["rows_read"] == len(lines)
        assert found.arrival_s.tolist() == [line["timestamp"] / 1000 for line in served]
        assert found.prompt_tokens.tolist() == [max(line["input_length"], 1) for line in served]
    assert 1 <= accepted < 190


def test_mangled_parquet_is_refused_or_read(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    r = random.Random(2)
    path = tmp_path / "trace.parquet"
    write_parquet(Trace.from_columns(np.arange(50.0), np.arange(1, 51), np.arange(1, 51)), path)
    content = path.read_bytes()
    refused = 0
    for _ in range(120):
        path.write_bytes(content[:4] + mangled(r, content[4:]))
        refused += isinstance(read_or_sentence(path), str)
    assert refused > 20
