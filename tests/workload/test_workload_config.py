from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from burstenv.config import parse
from burstenv.errors import BurstenvError
from burstenv.workload import Trace, WorkloadConfig, cache_folder, load_trace, load_workload
from burstenv.workload import workload_config as module
from burstenv.workload.trace import COLUMNS
from tests.workload.workload_files import PLAIN


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSTENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_CACHED_FROM_REQUESTS", 1000)
    forget()


def forget() -> None:
    """Forget what is kept in memory, so that traces are read from disk or made again."""
    module._generated.cache_clear()
    module._selected.cache_clear()


def small(seed: int = 0) -> WorkloadConfig:
    return WorkloadConfig(kind="generated", days=1, seed=seed)


def same(a: Trace, b: Trace) -> bool:
    return a.metadata == b.metadata and all(
        getattr(a, name).tobytes() == getattr(b, name).tobytes() and getattr(a, name).dtype == getattr(b, name).dtype
        for name in COLUMNS
    )


def test_the_shipped_default() -> None:
    config = load_workload()
    assert config.kind == "generated"
    assert config.days == 60
    assert config.fractions == (0.70, 0.15, 0.15)
    assert config.generator is not None


def test_a_workload_without_a_generator_uses_the_shipped_one() -> None:
    explicit = WorkloadConfig(kind="generated", days=1, seed=0, generator=load_workload().generator)
    assert load_trace(small()) is load_trace(explicit)


def test_a_trace_is_generated_once_and_then_read_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_trace(small())
    assert load_trace(small()) is made
    assert [path.suffix for path in cache_folder().iterdir()] == [".columns"]
    forget()
    monkeypatch.setattr(module, "generate", lambda *_: pytest.fail("generated again"))
    assert same(load_trace(small()), made)
    assert len(load_trace(small()).failures) == len(made.failures)


def test_other_seeds_days_and_parameters_are_other_traces() -> None:
    generator = load_workload().generator
    assert generator is not None
    shorter = generator.model_copy(update={"max_prompt_tokens": 1000})
    configs = [
        small(0),
        small(1),
        WorkloadConfig(kind="generated", days=2),
        WorkloadConfig(kind="generated", days=1, generator=shorter),
    ]
    assert len({load_trace(config).prompt_tokens.tobytes() for config in configs}) == 4
    assert len(list(cache_folder().iterdir())) == 4


def test_a_damaged_cache_file_is_replaced() -> None:
    made = load_trace(small())
    (file,) = cache_folder().iterdir()
    for content in (b"", b"not a zip", file.read_bytes()[:-100]):
        file.write_bytes(content)
        forget()
        assert same(load_trace(small()), made)
        assert file.stat().st_size > 1000


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_trace(small())
    blocked = tmp_path / "a_file"
    blocked.write_text("in the way")
    monkeypatch.setenv("BURSTENV_CACHE", str(blocked / "cache"))
    forget()
    assert same(load_trace(small()), made)


def test_a_failed_write_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("burstenv.workload.cache._write_arrays", full_disk)
    assert len(load_trace(small())) > 1000
    assert list(cache_folder().iterdir()) == []


def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(f"{PLAIN}\n0,1,1\n")
    config = WorkloadConfig(kind="file", path=str(path))
    first = load_trace(config)
    assert load_trace(config) is first
    path.write_text(f"{PLAIN}\n0,1,1\n5,2,2\n")
    assert len(load_trace(config)) == 2


def test_the_jitter_seed_reaches_the_reader(write: Callable[..., Path]) -> None:
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path = write(header, "1,GPT-4,4,3,7,API log")
    times = {load_trace(WorkloadConfig(kind="file", path=str(path), jitter_seed=seed)).arrival_s[0] for seed in (0, 1)}
    assert len(times) == 2


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"kind": "file"}, "a workload of kind 'file' needs 'path'"),
        ({"kind": "file", "path": "x.csv", "days": 3}, "belong to kind 'generated'"),
        ({"kind": "generated"}, "needs 'days'"),
        ({"kind": "generated", "days": 3, "path": "x"}, "belongs to kind 'file'"),
        ({"kind": "generated", "days": 0}, "days: input should be greater than or equal to 1"),
        ({"kind": "generated", "days": 3, "fractions": [1, 1, 1]}, "three positive shares"),
        ({"kind": "generated", "days": 3, "jitter": 1}, "unknown key 'jitter'; valid keys: kind, days"),
    ],
)
def test_wrong_workloads_get_one_sentence(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        parse(WorkloadConfig, values, "test")


def changed(**values: object) -> dict[str, object]:
    generator = load_workload().generator
    assert generator is not None
    dumped = generator.model_dump()
    for path, value in values.items():
        section, key = path.split("__")
        dumped[section][key] = value
    return {"kind": "generated", "days": 1, "generator": dumped}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("conversation__weekday_starts", [1.0] * 23, "24 numbers"),
        ("conversation__weekend_days", [7], "days from 0 to 6"),
        ("conversation__think_time_s", {"q": [0, 1], "value": [1, 2]}, r"within \[0, 1\)"),
        ("conversation__think_time_s", {"q": [0, 0.5], "value": [2, 1]}, "never fall"),
        ("conversation__think_time_s", {"q": [0, 0.5], "value": [2]}, "pair up"),
        ("conversation__turns", {"share": [0.9, 0.2], "tail_exponent": 2, "maximum": 9}, "sum at most 1"),
        ("api__on_start_share", [1.5] * 24, "at most 1"),
        ("api__scale", 0, r"api\.scale: input should be greater than or equal to"),
        ("api__rate", 1, "unknown key 'generator.api.rate'"),
    ],
)
def test_wrong_generator_parameters(path: str, value: object, sentence: str) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        parse(WorkloadConfig, changed(**{path: value}), "test")


def test_a_missing_file() -> None:
    with pytest.raises(BurstenvError, match=r"absent\.csv: no such file"):
        load_trace(WorkloadConfig(kind="file", path="absent.csv"))
