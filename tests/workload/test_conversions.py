"""All pairs of formats: what a conversion does not keep, it says, and what it says is lost is lost."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from burstenv.workload import Failures, Trace, read_trace
from burstenv.workload.formats.convert import convert
from burstenv.workload.trace import COLUMNS

FILES = {"burstgpt": "t.csv", "plain": "t.csv", "mooncake": "t.jsonl", "parquet": "t.parquet"}
# What a phrase of Conversion.left_out is about.
SUBJECTS = {
    "seconds": "arrival_s", "clock": "arrival_s", "failures": "failures", "the models": "model", "classes": "log_type",
    "elapsed": "elapsed_s", "priorities": "priority", "prefixes": "prefix", "sessions of": "session", "turns (": "turn",
}  # fmt: skip


def everything(whole_seconds: bool = False, long: bool = True) -> Trace:
    """Return a trace that has all that a trace can have; with short prompts, blocks tell nothing."""
    r = np.random.default_rng(4)
    n = 60
    arrival = np.sort(r.uniform(3.0, 90.0, n))
    session = np.where(np.arange(n) % 4 == 3, -1, np.arange(n) % 9)
    scale = 40 if long else 1
    prompt = scale * (20 + 40 * (np.arange(n) // 9))  # later turns hold the earlier ones
    names, session = np.unique(session, return_inverse=True)
    session = session.astype(int) - (names[0] == -1)
    prefix = np.where(session >= 0, session % 3, -1)
    return Trace.from_columns(
        np.floor(arrival) if whole_seconds else arrival, prompt, np.full(n, 7),
        model=np.arange(n) % 3, log_type=np.arange(n) % 2, session=session, priority=np.arange(n) % 5 - 2,
        elapsed_s=np.where(np.arange(n) % 2, np.nan, 1.25), prefix_id=prefix,
        prefix_tokens=np.where(prefix >= 0, 64, 0),
        failures=Failures(np.array([4.5, 60.25]), np.array([0, 1], np.int8), np.array([1, 0], np.int8)),
    )  # fmt: skip


def plain_requests() -> Trace:
    """Return a trace that every format can hold: whole seconds from 0 on, nothing else."""
    return Trace.from_columns(np.arange(20.0), np.arange(1, 21), np.arange(1, 21))


def cut_sessions() -> Trace:
    """Return the second half of conversations, whose turns do not begin at 0."""
    return everything().between(45.0, 80.0)


TRACES = {
    "everything": everything,
    "whole seconds": lambda: everything(True),
    "short prompts": lambda: everything(long=False),
    "plain requests": plain_requests, "cut sessions": cut_sessions,
}  # fmt: skip


def differing(first: Trace, second: Trace) -> set[str]:
    """Return in what two traces differ; sessions and prefixes may be numbered otherwise."""
    found = {
        name
        for name in COLUMNS
        if not name.startswith(("session", "prefix"))
        and getattr(first, name).tobytes() != getattr(second, name).tobytes()
    }
    if not np.array_equal(_renumbered(first.session), _renumbered(second.session)):
        found.add("session")
    tokens = np.array_equal(first.prefix_tokens, second.prefix_tokens)
    if not tokens or not np.array_equal(_renumbered(first.prefix_id), _renumbered(second.prefix_id)):
        found.add("prefix")
    if len(first.failures) != len(second.failures) or any(
        getattr(first.failures, name).tobytes() != getattr(second.failures, name).tobytes()
        for name in ("arrival_s", "model", "log_type", "prompt_tokens", "elapsed_s")
    ):
        found.add("failures")
    return found


def _renumbered(values: np.ndarray) -> list[int]:
    known: dict[int, int] = {}
    return [-1 if value < 0 else known.setdefault(value, len(known)) for value in values.tolist()]


@pytest.mark.parametrize("kind", TRACES)
@pytest.mark.parametrize(("source", "target"), list(itertools.product(FILES, FILES)))
def test_round_trips_are_exact_or_the_loss_is_said(source: str, target: str, kind: str, tmp_path: Path) -> None:
    if "parquet" in (source, target):
        pytest.importorskip("pyarrow")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    options = {"block_tokens": 16} if source == "mooncake" else {}
    first = convert(TRACES[kind](), tmp_path / "a" / FILES[source], source, **options)
    trace = read_trace(first.path)
    done = convert(trace, tmp_path / "b" / FILES[target], target)
    again = read_trace(done.path)
    said = {subject for phrase in done.left_out for word, subject in SUBJECTS.items() if word in phrase}
    assert all(any(word in phrase for word in SUBJECTS) for phrase in done.left_out)
    lost = differing(trace, again)
    if "session" in said:
        lost.discard("turn")  # which count along with the sessions
    if "arrival_s" in said and target == "burstgpt":
        lost.discard("failures")  # the times of which are cut too
    assert lost <= said, (done.left_out, lost)
    if target == "parquet":
        assert said == set()
    assert said <= lost | {"turn"}, (done.left_out, lost)
