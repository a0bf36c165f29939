"""The official files: published figures, held against files; names; the data directory."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import OFFICIAL, WorkloadConfig, load_trace, read_trace
from burstenv.workload.official.files import (
    OfficialFile,
    check,
    check_file,
    check_lines,
    choose,
    data_directory,
    locate,
    totals,
)
from tests.shipped_files import real
from tests.workload.workload_files import SIX

HEADS = ("burstgpt_1_first400.csv", "burstgpt_3_first400.csv")


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSTENV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BURSTENV_CACHE", raising=False)


def counted(path: Path) -> dict[str, float]:
    """Count a BurstGPT file with the csv module alone."""
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    stamps = [float(row["Timestamp"]) for row in rows]
    gaps = [b - a for a, b in itertools.pairwise(stamps)]
    served = [row for row in rows if int(row["Response tokens"]) > 0]
    request = [int(row["Request tokens"]) for row in served]
    response = [int(row["Response tokens"]) for row in served]
    seen: set[tuple[str, ...]] = set()
    unique = 0
    for row in rows:
        key = tuple(row.values())
        if key not in seen:
            seen.add(key)
            unique += int(row["Request tokens"]) + int(row["Response tokens"]) if row in served else 0
    found: dict[str, float] = {
        "rows": len(rows),
        "rows_thousands": round(len(rows) / 1000, 1),
        "served": len(served),
        "failures": len(rows) - len(served),
        "duplicates": len(rows) - len(seen),
        "first_timestamp_s": stamps[0],
        "last_timestamp_s": stamps[-1],
        "largest_gap_s": max(gaps),
        "gaps_over_1h": sum(gap > 3600 for gap in gaps),
        "out_of_order": sum(gap < 0 for gap in gaps),
        "total_mismatches": sum(
            int(r["Total tokens"]) != int(r["Request tokens"]) + int(r["Response tokens"]) for r in rows
        ),
        "with_session": sum(bool(row.get("Session ID")) for row in rows),
        "max_request_tokens": max(int(row["Request tokens"]) for row in rows),
        "max_response_tokens": max(response),
        "max_total_tokens": max(int(row["Request tokens"]) + int(row["Response tokens"]) for row in rows),
        "unique_total_tokens": unique,
        "request_tokens_mean": round(statistics.mean(request), 2),
        "response_tokens_p50": statistics.median(response),
        "rows_per_hour": round(len(rows) / ((stamps[-1] - stamps[0]) / 3600), 1),
    }
    for column, names in (("Model", ("ChatGPT", "GPT-4")), ("Log Type", ("API log", "Conversation log"))):
        for name in names:
            found[name] = sum(row[column] == name for row in rows)
    return found


@pytest.mark.parametrize("name", HEADS)
def test_the_totals_of_real_heads_are_those_of_an_independent_count(name: str) -> None:
    path = real(name)
    expected = counted(path)
    trace = read_trace(path)
    found = totals(trace)
    assert {key: found[key] for key in expected} == expected
    published = {key: (value, "counted") for key, value in expected.items()}
    file = OfficialFile("head", name, "v0", path.stat().st_size, None, published)
    checks = check(file, trace, path.stat().st_size)
    assert all(c.agrees for c in checks)
    assert len(checks) == len(expected) + 1
    for key in expected:  # every single figure is really looked at
        wrong = dataclasses.replace(file, published={**published, key: (expected[key] + 1, "wrong")})
        assert [c.what for c in check(wrong, trace) if not c.agrees] == [key]


def test_the_published_figures_are_consistent() -> None:
    assert len(OFFICIAL) == 6
    for name, file in OFFICIAL.items():
        p = {key: value for key, (value, _) in file.published.items()}
        if "ChatGPT" in p:
            assert p["ChatGPT"] + p["GPT-4"] == p["rows"]
            assert p["API log"] + p["Conversation log"] == p["rows"]
        if name.endswith("without-fails"):
            whole = {key: value for key, (value, _) in OFFICIAL[name.removesuffix("-without-fails")].published.items()}
            assert p["failures"] == 0
            if "failures" in whole and "rows" in whole:
                assert whole["rows"] - whole["failures"] == p["rows"]
            hours = (p["last_timestamp_s"] - p["first_timestamp_s"]) / 3600
            assert p["rows"] / hours == pytest.approx(p["rows_per_hour"], abs=0.06)
        assert set(p) <= set(totals(read_trace(_two_rows(data_directory()))))
    failed = {name: OFFICIAL[name].published for name in ("burstgpt-1", "burstgpt-3")}
    assert failed["burstgpt-1"]["failures"][0] / failed["burstgpt-1"]["rows"][0] == pytest.approx(0.017796, abs=1e-6)
    assert failed["burstgpt-3"]["failures"][0] / failed["burstgpt-3"]["rows"][0] == pytest.approx(0.0726, abs=5e-5)


def _two_rows(folder: Path, name: str = "BurstGPT_1.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"{SIX}\n5,ChatGPT,4,3,7,API log\n9,GPT-4,4,0,4,Conversation log\n")
    return path


def test_an_official_name_is_looked_for_in_the_data_directory(tmp_path: Path) -> None:
    with pytest.raises(BurstenvError, match=r"burstgpt-1: BurstGPT_1\.csv is not in .*trace download burstgpt-1'"):
        read_trace("burstgpt-1")
    with pytest.raises(BurstenvError, match="trace download burstgpt-3-without-fails"):
        load_trace(WorkloadConfig(kind="file", path="burstgpt-3-without-fails"))
    path = _two_rows(tmp_path / "data")
    assert locate("burstgpt-1") == path
    assert len(read_trace("burstgpt-1")) == 1
    assert len(load_trace(WorkloadConfig(kind="file", path="burstgpt-1"))) == 1
    assert locate("other.csv") == Path("other.csv")


def test_a_compressed_official_file_will_do(tmp_path: Path) -> None:
    import gzip

    path = _two_rows(tmp_path / "data", "BurstGPT_3.csv")
    (tmp_path / "data" / "BurstGPT_3.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert len(read_trace("burstgpt-3")) == 1


def test_a_file_under_an_official_name_is_held_against_the_published_figures(tmp_path: Path) -> None:
    trace = read_trace(_two_rows(tmp_path / "data"))
    checks = {c.what: c for c in check_file(trace)}
    assert not checks["bytes"].agrees
    assert not checks["sha256"].agrees
    assert (checks["rows"].published, checks["rows"].found) == (1_429_737, 2)
    assert checks["first_timestamp_s"].agrees
    text = "\n".join(check_lines(list(checks.values())))
    assert "published figures: 2 of 7 agree" in text
    assert "DIFFERS (readme)" in text
    assert check_file(read_trace(_two_rows(tmp_path, "mine.csv"))) == []


def test_choosing_files() -> None:
    assert [f.name for f in choose("all")] == ["burstgpt-1", "burstgpt-2", "burstgpt-3"]
    assert [f.file for f in choose("burstgpt-2", True)] == ["BurstGPT_without_fails_2.csv"]
    assert choose("burstgpt-2-without-fails", True) == choose("burstgpt-2-without-fails")
    with pytest.raises(BurstenvError, match="unknown trace 'burstgpt-4'; valid: burstgpt-1, burstgpt-1-without-fails"):
        choose("burstgpt-4")


@pytest.mark.skipif(sys.platform != "linux", reason="the places of Linux")
def test_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_directory() == tmp_path / "data"
    monkeypatch.delenv("BURSTENV_DATA")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert data_directory() == tmp_path / "xdg" / "burstenv"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_directory() == tmp_path / ".local" / "share" / "burstenv"
