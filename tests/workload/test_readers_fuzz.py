"""Mutated files of every format: one sentence or a sound trace, the same by every way of reading it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import Trace, read_trace, write_parquet
from burstenv.workload.formats import csv_table
from burstenv.workload.trace import COLUMNS, MAX_TOKENS
from tests.random_examples import examples
from tests.workload.test_reading_options import COLUMNS as MAPPED
from tests.workload.test_reading_options import FORMATS
from tests.workload.workload_files import mangled

MUTATIONS = examples(60).max_examples  # of each format and way of reading
UNITS = (None, None, "s", "ms", "ns", "iso")


def contents(name: str, tmp_path: Path) -> bytes:
    """Return a valid file."""
    if name in FORMATS:
        return FORMATS[name][0]
    path = tmp_path / "valid.parquet"
    if name == "own parquet":
        trace = Trace.from_columns(np.arange(30.0), np.arange(1, 31), np.arange(1, 31), session=np.arange(30) % 4)
        write_parquet(trace, path)
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(
            {
                "Timestamp": np.arange(30), "Session ID": ["", "a", None] * 10, "Elapsed time": [1.5, None, 2.0] * 10,
                "Model": ["GPT-4", "ChatGPT", "x"] * 10, "Request tokens": np.arange(30),
                "Response tokens": [3, 0, 5] * 10,
                "Total tokens": np.arange(30), "Log Type": ["API log", "Conversation log", "API log"] * 10,
            }
        ).to_parquet(path)  # fmt: skip
    return path.read_bytes()


def outcome(path: Path, **options: Any) -> str | bytes:
    """Return the sentence that refuses a file, or a sound trace's bytes."""
    try:
        trace = read_trace(path, **options)
    except BurstenvError as error:
        sentence = str(error)
        assert sentence.startswith(f"{path}: "), sentence
        assert "\n" not in sentence
        return sentence
    assert (np.diff(trace.arrival_s) >= 0).all()
    assert np.isfinite(trace.arrival_s).all()
    for tokens in (trace.prompt_tokens, trace.output_tokens):
        assert 1 <= tokens.min() <= tokens.max() <= MAX_TOKENS
    assert trace.metadata["requests"] == len(trace) > 0
    assert len(trace) + len(trace.failures) == trace.metadata["rows_read"]
    return b"".join(getattr(trace, name).tobytes() for name in COLUMNS)


@pytest.mark.parametrize("name", [*FORMATS, "own parquet", "parquet"])
def test_mutated_files_are_refused_in_a_sentence_or_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    r = random.Random(f"{name} {MUTATIONS}")
    valid = contents(name, tmp_path)
    path = tmp_path / "trace.txt"
    kinds = set()
    for _ in range(MUTATIONS):
        content = mangled(r, valid)
        path.write_bytes(content)
        options: dict[str, Any] = {"sort": r.random() < 0.7, "time_unit": r.choice(UNITS)}
        if name == "mapped":
            options["columns"] = MAPPED
        found = []
        for threshold in (1 << 40, 0):
            monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
            found.append(outcome(path, **options))
        assert found[0] == found[1], (content, options)
        kinds.add(type(found[0]))
    assert str in kinds
