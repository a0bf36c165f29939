"""Invariants of reading and cutting under random traces."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from burstenv.workload import DAY_S, DayRange, EpisodeConfig, EpisodeSampler, Trace, read_trace

ROW = st.tuples(
    st.floats(0, 1e6, allow_nan=False),
    st.integers(1, 10_000_000),
    st.integers(1, 10_000_000),
    st.integers(-1, 3),
)


@given(st.lists(ROW, min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_a_plain_file_reads_back_as_it_was_written(rows: list[tuple[float, int, int, int]]) -> None:
    rows.sort(key=lambda row: row[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv"
        lines = [f"{t!r},{p},{o},{'' if s < 0 else f's{s}'}" for t, p, o, s in rows]
        path.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens,session_id", *lines]))
        trace = read_trace(path)
    assert trace.arrival_s.tolist() == [row[0] for row in rows]
    assert trace.prompt_tokens.tolist() == [row[1] for row in rows]
    assert trace.output_tokens.tolist() == [row[2] for row in rows]
    seen: dict[int, int] = {}
    for (_, _, _, session), number, turn in zip(rows, trace.session, trace.turn, strict=True):
        assert (number < 0) == (session < 0)
        if session >= 0:
            assert turn == seen.get(session, 0)
            seen[session] = turn + 1


@given(st.integers(0, 2**32), st.floats(0.01, 30), st.floats(10, DAY_S), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_superposed_episode_is_made_of_shifted_copies_of_one_day(
    seed: int, rate_per_s: float, duration_s: float, origin: int
) -> None:
    random = np.random.default_rng(origin)
    arrival = np.sort(random.random(240) * 3 * DAY_S)
    session = random.integers(-1, 20, 240)
    trace = Trace.from_columns(arrival, 1 + np.arange(240), 1 + np.arange(240), session=session)
    sampler = EpisodeSampler(trace, DayRange(0, 3), EpisodeConfig(duration_s=duration_s))
    # Keep the union of copies small enough to look at.
    episode = sampler.sample(seed, min(rate_per_s, 3000 / duration_s))
    row = episode.prompt_tokens - 1
    assert (row == episode.output_tokens - 1).all()
    assert (trace.day[row] == episode.metadata["day"]).all()
    assert (np.diff(episode.arrival_s) >= 0).all()
    assert ((episode.arrival_s >= 0) & (episode.arrival_s < duration_s)).all()
    assert ((episode.session < 0) == (session[row] < 0)).all()
    for number in range(int(episode.session.max(initial=-1)) + 1):
        own = episode.session == number
        assert len(set(session[row[own]].tolist())) == 1  # one conversation of the trace ...
        assert len(set(row[own].tolist())) == np.count_nonzero(own)  # ... and of one copy
        shift = arrival[row[own]] - episode.arrival_s[own]
        assert np.ptp(shift) < 1e-6
