"""Columnar copies: the same trace, found again, never in the way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from burstenv.workload import Trace, cache_folder, read_trace, write_burstgpt
from burstenv.workload import cache as module
from burstenv.workload.cache import content_hash, load_cached, save_cached
from burstenv.workload.formats import reader
from burstenv.workload.trace import COLUMNS, FAILURE_COLUMNS
from tests.workload.test_traces_formats import conversations


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSTENV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BURSTENV_CACHE", raising=False)
    monkeypatch.delenv("BURSTENV_CACHE_GIB", raising=False)
    monkeypatch.setattr(reader, "CACHED_FROM_BYTES", 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    write_burstgpt(conversations(), path)
    return path


def same(a: Trace, b: Trace) -> bool:
    return a.metadata == b.metadata and all(
        getattr(x, n).tobytes() == getattr(y, n).tobytes() and getattr(x, n).dtype == getattr(y, n).dtype
        for x, y, names in ((a, b, COLUMNS), (a.failures, b.failures, FAILURE_COLUMNS))
        for n in names
    )


def copies() -> list[Path]:
    return sorted(cache_folder().glob("trace-*.columns"))


def test_a_file_is_parsed_once_and_then_read_from_the_copy(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = read_trace(file)
    assert cache_folder() == file.parent / "data" / "cache"
    assert len(copies()) == 1
    monkeypatch.setattr(reader, "_read", lambda *_: pytest.fail("parsed again"))
    assert same(read_trace(file), first)
    moved = file.rename(file.parent / "data" / "trace.csv")
    assert read_trace(moved).metadata["source"] == str(moved)  # the content is the key


def test_another_seed_content_or_map_is_another_copy(file: Path) -> None:
    seeds = [read_trace(file, jitter_seed=seed).arrival_s[0] for seed in (0, 1)]
    assert seeds[0] != seeds[1]
    assert len(copies()) == 2
    text = file.read_text()
    file.write_text(text.replace(",1000,300,1300,", ",1001,300,1301,"))
    os.utime(file, ns=(0, 0))
    assert read_trace(file).prompt_tokens[0] == 1001
    columns = {"arrival_s": "Timestamp", "prompt_tokens": "Total tokens", "output_tokens": "Response tokens"}
    assert read_trace(file, columns=columns).prompt_tokens[0] == 1301
    assert len(copies()) == 4
    assert read_trace(file, cache=False).prompt_tokens[0] == 1001


def test_the_hash_is_remembered_while_size_and_time_stay(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = content_hash(file)
    assert found == module.file_sha256(file)
    with monkeypatch.context() as patch:
        patch.setattr(module, "file_sha256", lambda _: pytest.fail("hashed again"))
        assert content_hash(file) == found
    file.write_text(file.read_text() + "\n")
    assert content_hash(file) == module.file_sha256(file) != found
    for note in cache_folder().glob("seen-*.json"):
        for damage in ("", "[]", '{"sha256": 5}', "{", note.read_text().replace("mtime", "xtime")):
            note.write_text(damage)
            assert content_hash(file) == module.file_sha256(file)


def test_damaged_copies_are_ignored_and_replaced(file: Path) -> None:
    first = read_trace(file)
    (copy,) = copies()
    good = copy.read_bytes()
    for place in range(0, len(good), 97):  # every byte counts: the checksums notice
        damaged = bytearray(good)
        damaged[place] ^= 0x10
        copy.write_bytes(damaged)
        assert same(read_trace(file), first)
    for content in (b"", good[:100], good[:-30]):
        copy.write_bytes(content)
        assert same(read_trace(file), first)
        assert copy.read_bytes() == good


def test_a_place_that_cannot_be_written_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = file.parent / "blocked"
    blocked.write_text("in the way")
    monkeypatch.setenv("BURSTENV_CACHE", str(blocked / "cache"))
    assert len(read_trace(file)) == 7

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("BURSTENV_CACHE", str(file.parent / "other"))
    monkeypatch.setattr(module, "_write_arrays", full)
    assert len(read_trace(file)) == 7
    assert copies() == []
    assert not list(cache_folder().glob(".*"))  # nothing half-written either


def test_the_least_recently_used_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    trace = Trace.from_columns(np.arange(1000), random.integers(1, 99, 1000), random.integers(1, 99, 1000))
    save_cached({"k": 0}, trace)
    size = copies()[0].stat().st_size
    monkeypatch.setenv("BURSTENV_CACHE_GIB", str(3.5 * size / 2**30))
    for k in range(1, 3):
        save_cached({"k": k}, trace)
    for k in range(3):
        (path,) = [p for p in copies() if p == module._file_of({"k": k})]
        os.utime(path, (k, k))
    assert load_cached({"k": 0}) is not None  # used now: k = 1 is the oldest
    save_cached({"k": 3}, trace)
    assert [load_cached({"k": k}) is not None for k in range(4)] == [True, False, True, True]
    monkeypatch.setenv("BURSTENV_CACHE_GIB", "0.0000001")
    save_cached({"k": 4}, trace)
    assert load_cached({"k": 4}) is None


def test_constant_columns_take_no_room() -> None:
    trace = Trace.from_columns(np.arange(50_000), np.arange(50_000) % 900 + 1, np.arange(50_000) % 90 + 1)
    save_cached({"k": 0}, trace)
    assert copies()[0].stat().st_size < 50_000 * 16 * 1.05  # three columns of 8 + 4 + 4 bytes
    found = load_cached({"k": 0})
    assert found is not None
    assert same(found, trace)
