from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import (
    DAY_S,
    DayRange,
    EpisodeConfig,
    EpisodeSampler,
    Failures,
    Trace,
    split_by_days,
    split_for_episodes,
    windowed_cv,
)


def small() -> Trace:
    failures = Failures(np.array([15.0, 35.0]), np.zeros(2, np.int8), np.array([0, 1], np.int8))
    return Trace.from_columns(
        [10, 20, 30, 40],
        [1, 2, 3, 4],
        [5, 6, 7, 8],
        log_type=[0, 1, 0, 1],
        session=[7, -1, 7, -1],
        failures=failures,
        metadata={"source": "small"},
    )


def test_importing_the_package_does_not_import_pandas() -> None:
    code = "import sys, burstenv.workload; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_columns_have_the_documented_types() -> None:
    trace = small()
    kinds = {name: getattr(trace, name).dtype.str[1:] for name in ("arrival_s", "prompt_tokens", "turn")}
    assert kinds == {"arrival_s": "f8", "prompt_tokens": "i4", "turn": "i4"}
    assert trace.model.dtype == trace.log_type.dtype == np.int8
    assert trace.elapsed_s.dtype == np.float32
    assert np.isnan(trace.elapsed_s).all()


def test_turns_count_within_sessions() -> None:
    trace = Trace.from_columns(range(6), [1] * 6, [1] * 6, session=[3, 0, 3, -1, 0, 3])
    assert trace.turn.tolist() == [0, 0, 1, 0, 1, 2]


def test_a_trace_prints_as_one_line() -> None:
    assert repr(small()) == "<Trace of 4 requests over 0.00 days from small>"


def test_between_takes_requests_and_failures_of_a_half_open_window() -> None:
    part = small().between(20, 40)
    assert part.arrival_s.tolist() == [20, 30]
    assert part.failures.arrival_s.tolist() == [35]
    assert part.metadata["requests"] == 2
    assert part.metadata["steps"] == ["between 20 s and 40 s: kept 2 of 4 requests"]


def test_where_and_shift() -> None:
    trace = small()
    api = trace.where(trace.log_type == 1)
    assert api.prompt_tokens.tolist() == [2, 4]
    assert len(api.failures) == 2
    moved = trace.shift(-10)
    assert moved.arrival_s.tolist() == [0, 10, 20, 30]
    assert moved.failures.arrival_s.tolist() == [5, 25]
    assert trace.arrival_s[0] == 10
    with pytest.raises(BurstenvError, match="before 0 s"):
        trace.shift(-11)
    with pytest.raises(BurstenvError, match="one boolean for each of 4"):
        trace.where(np.array([1, 0, 1, 0]))


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"arrival_s": [0, 2, 1]}, "row 3: column 'arrival_s': need rows sorted"),
        ({"arrival_s": [0, np.nan, 1]}, "row 2: column 'arrival_s': need a finite time"),
        ({"prompt_tokens": [1, 0, 1]}, "row 2: column 'prompt_tokens': need a whole number from 1"),
        ({"output_tokens": [1, 1, 1.5]}, "row 3: column 'output_tokens'"),
        ({"output_tokens": [1, 1]}, r"shape \(2,\)"),
        ({"model": [0, 3, 0]}, "row 2: column 'model'"),
        ({"session": [0, -2, 0]}, "row 2: column 'session'"),
        ({"elapsed_s": [0, -2, 0]}, "row 2: column 'elapsed_s'"),
    ],
)
def test_from_columns_names_the_row_and_column(columns: dict[str, list[float]], sentence: str) -> None:
    good = {"arrival_s": [0, 1, 2], "prompt_tokens": [1, 1, 1], "output_tokens": [1, 1, 1]}
    with pytest.raises(BurstenvError, match=sentence):
        Trace.from_columns(**{**good, **columns})  # type: ignore[arg-type]


def test_describe_counts_by_class() -> None:
    figures = small().describe()
    assert figures["requests"] == 4
    assert figures["failure_share"] == pytest.approx(2 / 6)
    assert figures["classes"]["api"]["prompt_tokens"]["mean"] == 3
    assert figures["classes"]["conversation"]["failures"] == 1
    assert figures["rate_per_s"] == pytest.approx(4 / 30)


def test_windowed_cv_tells_regular_poisson_and_bursty_apart() -> None:
    random = np.random.default_rng(0)
    regular = windowed_cv(np.arange(0.0, 3000.0, 3.0))
    poisson = windowed_cv(np.cumsum(random.exponential(3.0, 100_000)))
    bursty = windowed_cv(np.cumsum(random.gamma(0.1, 30.0, 100_000)))
    assert regular == pytest.approx(0.0, abs=1e-9)
    assert np.median(poisson) == pytest.approx(1.0, abs=0.03)
    assert np.median(bursty) > 2


def of_days(days: list[int]) -> Trace:
    return Trace.from_columns([day * DAY_S + 1 for day in days], [1] * len(days), [1] * len(days))


def test_splits_are_whole_days_in_order_without_gap_or_overlap() -> None:
    splits = split_by_days(of_days(list(range(5, 25))))
    assert splits == {"train": DayRange(5, 19), "validation": DayRange(19, 22), "test": DayRange(22, 25)}


def test_empty_days_do_not_count_towards_the_shares() -> None:
    splits = split_by_days(of_days([0, 1, 50, 51, 52, 53, 54, 55, 90, 91]), (0.6, 0.2, 0.2))
    assert splits == {"train": DayRange(0, 54), "validation": DayRange(54, 90), "test": DayRange(90, 92)}


def test_ramp_up_days_are_left_out() -> None:
    splits = split_by_days(of_days(list(range(10))), skip_ramp_up_days=6)
    assert splits["train"] == DayRange(6, 8)
    assert splits["test"] == DayRange(9, 10)


def test_every_split_gets_a_day_when_there_are_three() -> None:
    assert [len(part) for part in split_by_days(of_days([0, 1, 2])).values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("days", "options", "sentence"),
    [
        ([0, 0, 4], {}, "2 distinct days with requests, a split .* needs at least 3"),
        ([0, 1, 2, 3], {"skip_ramp_up_days": 2}, "2 distinct days with requests after skipping 2"),
        ([0, 1, 2], {"fractions": (0.5, 0.5, 0.5)}, "three positive shares with sum 1"),
        ([0, 1, 2], {"skip_ramp_up_days": -1}, "at least 0"),
    ],
)
def test_impossible_splits_are_refused(days: list[int], options: dict, sentence: str) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        split_by_days(of_days(days), **options)


FRACTIONS = (0.7, 0.15, 0.15)
SHORT: dict[str, tuple[list[tuple[float, float, int]], float, int]] = {
    # stretches of (from_s, to_s, requests), length of an episode, blocks expected
    "an hour": ([(65_700, 69_300, 4000)], 100.0, 20),
    "ten minutes": ([(0, 600, 600)], 100.0, 6),
    "over midnight": ([(DAY_S - 1800, DAY_S + 1800, 4000)], 100.0, 20),
    "sparse": ([(0, 3600, 400)], 100.0, 8),  # 50 requests each, the fewest that can be drawn from
    "two full days": ([(0, 2 * DAY_S, 9000)], 180.0, 20),
}


def of_stretches(stretches: list[tuple[float, float, int]], log_type: int | None = None) -> Trace:
    random = np.random.default_rng(1)
    arrival = np.concatenate([np.linspace(low, high, count, endpoint=False) for low, high, count in stretches])
    count = len(arrival)
    return Trace.from_columns(
        arrival, random.integers(10, 500, count), random.integers(10, 500, count),
        log_type=None if log_type is None else np.full(count, log_type),
    )  # fmt: skip


@pytest.mark.parametrize("case", SHORT)
def test_a_trace_of_less_than_three_days_is_split_by_blocks_of_its_span(case: str) -> None:
    stretches, duration_s, count = SHORT[case]
    trace = of_stretches(stretches, 1)
    episode = EpisodeConfig(duration_s=duration_s)
    ranges = split_for_episodes(trace, FRACTIONS, 0, episode)
    assert sum(len(part) for part in ranges.values()) == count
    assert ranges["train"].start_s == trace.arrival_s[0]
    assert ranges["train"].end_s == ranges["validation"].start_s
    assert ranges["validation"].end_s == ranges["test"].start_s
    assert ranges["test"].end_s > trace.arrival_s[-1]
    assert all(part.block_s >= duration_s for part in ranges.values())
    drawn_from: list[set[int]] = []
    for split, part in ranges.items():
        sampler = EpisodeSampler(trace, part, episode, split=split)
        assert sampler.metadata["block_s"] == part.block_s < DAY_S
        drawn = [sampler.sample(seed, 2.0) for seed in range(4)]
        assert np.mean([len(one) for one in drawn]) == pytest.approx(2.0 * duration_s, rel=0.3)
        rows = {tuple(row) for one in drawn for row in zip(one.prompt_tokens, one.output_tokens, strict=True)}
        inside = (trace.arrival_s >= part.start_s) & (trace.arrival_s < part.end_s)
        assert rows <= set(zip(trace.prompt_tokens[inside], trace.output_tokens[inside], strict=True))
        drawn_from.append(set(np.flatnonzero(inside)))
    assert sum(map(len, drawn_from)) == len(trace)
    assert len(set.union(*drawn_from)) == len(trace)


def test_three_days_are_split_by_days() -> None:
    trace = of_stretches([(0, 3 * DAY_S, 3000)])
    assert split_for_episodes(trace, FRACTIONS, 0, EpisodeConfig()) == split_by_days(trace, FRACTIONS)


@pytest.mark.parametrize("stretches", [[(0.0, 200.0, 500)], [(0.0, 3600.0, 100)]])
def test_what_is_too_short_to_split_names_the_ways_round(stretches: list[tuple[float, float, int]]) -> None:
    with pytest.raises(BurstenvError, match=r"3\s+blocks of 100 s.*duration_s.*burstenv simulate.*'trace'.*trace fit"):
        split_for_episodes(of_stretches(stretches), FRACTIONS, 0, EpisodeConfig(duration_s=100.0))
