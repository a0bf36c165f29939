"""Writing traces: what is written is read back."""

from __future__ import annotations

import builtins
import gzip
import importlib
from pathlib import Path
from typing import Any

import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import read_parquet, read_trace, write_burstgpt, write_parquet, write_plain
from burstenv.workload.formats.convert import convert
from tests.shipped_files import real
from tests.workload.test_traces_formats import conversations, same


@pytest.mark.parametrize("name", ["burstgpt_1_first400.csv", "burstgpt_3_first400.csv", "burstgpt_2_gpt4_api_week.csv"])
def test_official_rows_are_written_and_read_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    trace = read_trace(real(name), jitter_seed=4)
    for file in ("out.csv", "out.csv.gz"):
        write_burstgpt(trace, tmp_path / file)
        back = read_trace(tmp_path / file, jitter_seed=4)
        assert same(back, trace)
        assert {**back.metadata, "source": ""} == {**trace.metadata, "source": ""}
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == real(name).read_text().splitlines()[0]


def test_exact_times_and_plain_are_lossless_where_the_schema_has_a_place(tmp_path: Path) -> None:
    trace = conversations()
    write_burstgpt(trace, tmp_path / "b.csv", exact_times=True)
    assert same(read_trace(tmp_path / "b.csv"), trace, "priority", "prefix_id", "prefix_tokens")
    write_plain(trace, tmp_path / "p.csv")
    back = read_trace(tmp_path / "p.csv")
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "log_type", "session", "turn", "priority",
                 "prefix_id", "prefix_tokens"):  # fmt: skip
        assert getattr(back, name).tolist() == getattr(trace, name).tolist()


def test_parquet_is_lossless(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    trace = conversations()
    write_parquet(trace, tmp_path / "t.parquet")
    back = read_trace(tmp_path / "t.parquet")
    assert same(back, trace)
    assert back.metadata["rows_read"] == 9


def test_damaged_parquet_gets_one_sentence(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    parquet = importlib.import_module("pyarrow.parquet")
    good = tmp_path / "t.parquet"
    write_parquet(conversations(), good)
    content = good.read_bytes()
    bad = tmp_path / "bad.parquet"
    for damaged in (content[:40], content[:-9], b"PAR1", b"PAR1" + b"\0" * 60 + b"PAR1"):
        bad.write_bytes(damaged)
        with pytest.raises(BurstenvError, match=r"bad\.parquet: "):
            read_trace(bad)
    table = parquet.read_table(good)
    wrong = {
        "missing": table.drop(["output_tokens"]),
        "need numbers": table.set_column(1, "prompt_tokens", pyarrow.array(["1"] * 9)),
        "values are missing": table.set_column(1, "prompt_tokens", pyarrow.array([None] + [1] * 8)),
        "sorted by arrival": table.set_column(0, "arrival_s", pyarrow.array([9.0, 1, 2, 3, 4, 5, 6, 7, 8])),
        "whole number from 1": table.set_column(1, "prompt_tokens", pyarrow.array([0.5] * 9)),
        "unknown value": table.set_column(4, "class", pyarrow.array(["x"] * 9)),
    }
    for sentence, changed in wrong.items():
        parquet.write_table(changed, bad)
        with pytest.raises(BurstenvError, match=sentence):
            read_parquet(bad)


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from burstenv.workload.formats import parquet_table as module

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(module, "import_module", absent)
    assert builtins.__import__ is not absent
    with pytest.raises(BurstenvError, match=r"pip install 'burstenv\[parquet\]'"):
        write_parquet(conversations(), tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


def test_convert_says_what_a_format_has_no_place_for(tmp_path: Path) -> None:
    trace = conversations()
    left = {to: convert(trace, tmp_path / f"x.{to}", to).left_out for to in ("burstgpt", "plain", "mooncake")}  # type: ignore[arg-type]
    assert left["burstgpt"] == ("the fractions of seconds", "the priorities", "the shared prefixes")
    assert left["plain"] == ("2 failures", "the models", "the elapsed times")
    assert "2 failures" in left["mooncake"]
    assert convert(trace, tmp_path / "x.csv.gz").format == "burstgpt"
    assert gzip.decompress((tmp_path / "x.csv.gz").read_bytes()).startswith(b"Timestamp,Session ID")
    with pytest.raises(BurstenvError, match="its ending names no format"):
        convert(trace, tmp_path / "x.txt")
    with pytest.raises(BurstenvError, match="cannot be written"):
        convert(trace, tmp_path / "x.csv.gz" / "y.csv")
    with pytest.raises(BurstenvError, match="block_tokens must be a whole number"):
        convert(trace, tmp_path / "y.jsonl", block_tokens=0)
    assert not (tmp_path / "y.jsonl").exists()
