"""What each scaling keeps and changes, as the table in burstenv/workload/shaping/scaling.py says."""

from __future__ import annotations

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
    read_trace,
    windowed_cv,
)
from burstenv.workload.conversations import think_times
from burstenv.workload.shaping.mixing import mix
from burstenv.workload.shaping.rates import mean_rate_per_s, scale_to_rate
from burstenv.workload.shaping.scaling import compress, superpose, thin
from tests.shipped_files import real


@pytest.fixture(scope="module")
def trace() -> Trace:
    """Four days of chats by day and clumped API requests, with failures; 3,000 chats and 8,000 calls a day."""
    random = np.random.default_rng(5)
    days = 4
    hour = np.repeat(np.arange(24 * days), 1)
    by_day = 1.0 + np.cos(2 * np.pi * (hour % 24 - 15) / 24)  # highest at 15 h, none at 3 h
    starts = np.concatenate([3600 * (h + random.random(random.poisson(42 * level))) for h, level in enumerate(by_day)])
    gaps = random.lognormal(4.5, 1.0, (len(starts), 2))
    chats = (starts[:, None] + np.cumsum(np.c_[np.zeros(len(starts)), gaps], axis=1)).ravel()
    session = np.repeat(np.arange(len(starts)), 3)
    clumps = random.random(days * 400) * days * DAY_S
    calls = (clumps[:, None] + random.exponential(0.5, (len(clumps), 20)).cumsum(axis=1)).ravel()
    arrival = np.concatenate([chats, calls])
    order = np.argsort(arrival)
    kind = np.repeat([0, 1], [len(chats), len(calls)])[order]
    failed = np.sort(random.choice(calls, 2000))
    return Trace.from_columns(
        arrival[order],
        random.integers(1, 2000, len(arrival)),
        random.integers(1, 300, len(arrival)),
        log_type=kind,
        model=kind,
        session=np.concatenate([session, np.full(len(calls), -1)])[order],
        failures=Failures(failed, np.ones(len(failed), np.int8), np.ones(len(failed), np.int8)),
    )


def cv(values: np.ndarray) -> float:
    return float(values.std() / values.mean())


def counts(trace: Trace, width_s: float, code: int | None = None) -> np.ndarray:
    times = trace.arrival_s if code is None else trace.arrival_s[trace.log_type == code]
    times = times - trace.arrival_s[0]
    return np.bincount((times / width_s).astype(int))[:-1]


def fano(trace: Trace, width_s: float, code: int | None = None) -> float:
    values = counts(trace, width_s, code)
    return float(values.var() / values.mean())


def gaps_within(trace: Trace) -> np.ndarray:
    """Submission to next submission of the same session, sorted."""
    rows = np.flatnonzero(trace.session >= 0)
    rows = rows[np.lexsort((trace.turn[rows], trace.session[rows]))]
    together = np.diff(trace.session[rows]) == 0
    return np.sort(np.diff(trace.arrival_s[rows])[together])


def test_compressing_divides_every_time_and_keeps_what_is_relative(trace: Trace) -> None:
    fast = compress(trace, 100.0)
    assert mean_rate_per_s(fast) == pytest.approx(100 * mean_rate_per_s(trace))
    assert cv(np.diff(fast.arrival_s)) == pytest.approx(cv(np.diff(trace.arrival_s)), rel=1e-6)
    assert fano(fast, 0.6) == pytest.approx(fano(trace, 60.0), rel=0.01)
    assert gaps_within(fast) == pytest.approx(gaps_within(trace) / 100, rel=1e-6)
    assert (np.diff(fast.arrival_s) >= 0).all()
    assert len(fast.failures) == len(trace.failures)
    assert np.ptp(fast.failures.arrival_s) == pytest.approx(np.ptp(trace.failures.arrival_s) / 100)
    assert (fast.prompt_tokens == trace.prompt_tokens).all()


def test_compressing_divides_think_times(trace: Trace) -> None:
    elapsed = np.where(trace.session >= 0, 3.0, np.nan)
    timed = Trace.from_columns(
        trace.arrival_s, trace.prompt_tokens, trace.output_tokens, session=trace.session, elapsed_s=elapsed
    )
    for recorded in (timed, trace):  # and where it is estimated, too
        before, after = think_times(recorded), think_times(compress(compress(recorded, 2.0), 4.0))
        assert after == pytest.approx(before / 8.0, abs=1e-5, nan_ok=True)
        assert np.nanmax(before) > 100


def test_thinning_keeps_whole_sessions_their_think_times_and_the_daily_wave(trace: Trace) -> None:
    kept = thin(trace, 0.3, seed=2)
    assert len(kept) / len(trace) == pytest.approx(0.3, abs=0.01)
    assert len(kept.failures) / len(trace.failures) == pytest.approx(0.3, abs=0.03)
    before = {session: times for session, times in sessions(trace)}
    for session, times in sessions(kept):
        assert before[session] == times  # all turns, at the very same times
    hourly = counts(kept, 3600.0, 0)[: 24 * 3], counts(trace, 3600.0, 0)[: 24 * 3]
    assert np.corrcoef(*hourly)[0, 1] > 0.9
    # Calls have no session: their clumps become sparser, and so closer to a Poisson process.
    assert fano(trace, 60.0, 1) == pytest.approx(20, rel=0.3)
    assert fano(kept, 60.0, 1) == pytest.approx(1 + 0.3 * (fano(trace, 60.0, 1) - 1), rel=0.15)


def sessions(trace: Trace) -> list[tuple[int, tuple[float, ...]]]:
    """Sessions by their third prompt length and turn times, so that renumbering does not matter."""
    rows = np.flatnonzero(trace.session >= 0)
    rows = rows[np.lexsort((trace.turn[rows], trace.session[rows]))]
    cut = np.flatnonzero(np.diff(trace.session[rows])) + 1
    groups = np.split(rows, cut)
    return [(int(trace.session[group[0]]), tuple(trace.arrival_s[group].tolist())) for group in groups]


def test_superposing_keeps_time_scales_lowers_the_cv_and_flattens_the_day(trace: Trace) -> None:
    laid = superpose(trace, 20, seed=1)
    assert mean_rate_per_s(laid) == pytest.approx(20 * mean_rate_per_s(trace), rel=0.01)
    assert laid.span_s == pytest.approx(trace.span_s, rel=0.01)
    assert len(laid) == 20 * len(trace)  # every copy holds every request once
    assert len(laid.failures) == 20 * len(trace.failures)
    for width_s in (1.0, 60.0):
        assert fano(laid, width_s, 1) == pytest.approx(fano(trace, width_s, 1), rel=0.1)
    assert cv(np.diff(laid.arrival_s)) < 0.5 * cv(np.diff(trace.arrival_s))
    assert cv(counts(laid, 3600.0, 0)) < 0.35 * cv(counts(trace, 3600.0, 0))
    # Think times stay, but for the sessions cut at the seam: at most a handful a copy.
    mine, theirs = gaps_within(laid), gaps_within(trace)
    assert len(mine) == pytest.approx(20 * len(theirs), rel=0.002)
    assert np.percentile(mine, [10, 50, 90]) == pytest.approx(np.percentile(theirs, [10, 50, 90]), rel=0.01)
    sizes = np.bincount(laid.session[laid.session >= 0])
    assert sizes.max() == 3
    assert (sizes == 3).mean() > 0.99


def test_context_stays_with_its_session(trace: Trace) -> None:
    growing = np.where(trace.session >= 0, 100 + 500 * trace.turn, 7)
    grown = Trace.from_columns(trace.arrival_s, growing, np.full(len(trace), 400), session=trace.session)
    for scaled in (superpose(grown, 3.5), compress(grown, 9), thin(grown, 0.5)):
        rows = np.flatnonzero(scaled.session >= 0)
        rows = rows[np.lexsort((scaled.turn[rows], scaled.session[rows]))]
        together = np.diff(scaled.session[rows]) == 0
        assert together.sum() > 1000
        assert (np.diff(scaled.turn[rows])[together] == 1).all()
        total = (scaled.prompt_tokens + scaled.output_tokens)[rows]
        assert (scaled.prompt_tokens[rows][1:][together] >= total[:-1][together]).all()


def test_a_part_of_a_copy_is_thinned(trace: Trace) -> None:
    assert len(superpose(trace, 0.25, seed=4)) == pytest.approx(0.25 * len(trace), rel=0.03)
    laid = superpose(trace, 2.5, seed=4)
    assert len(laid) == pytest.approx(2.5 * len(trace), rel=0.01)
    assert len(laid.failures) == pytest.approx(2.5 * len(trace.failures), rel=0.05)


def test_a_window_of_many_copies(trace: Trace) -> None:
    window = superpose(trace, 300, seed=3, window_s=600.0)
    assert window.span_s < 600
    assert len(window) / 600 == pytest.approx(300 * mean_rate_per_s(trace), rel=0.1)
    assert window.failures.arrival_s.max() < trace.arrival_s[0] + 600


@pytest.mark.parametrize("scaling", ["superpose", "compress", "thin"])
def test_reaching_a_rate(trace: Trace, scaling: str) -> None:
    rate_per_s = 0.4 * mean_rate_per_s(trace)
    assert mean_rate_per_s(scale_to_rate(trace, rate_per_s, scaling, seed=1)) == pytest.approx(rate_per_s, rel=0.03)
    if scaling == "thin":
        with pytest.raises(BurstenvError, match="thinning cannot raise"):
            scale_to_rate(trace, 10.0, scaling)
    else:
        assert mean_rate_per_s(scale_to_rate(trace, 3.0, scaling)) == pytest.approx(3.0, rel=0.03)


@pytest.mark.parametrize("scaling", ["superpose", "compress", "thin"])
def test_reaching_a_rate_for_a_length_of_time(trace: Trace, scaling: str) -> None:
    rate_per_s = {"superpose": 5.0, "compress": 5.0, "thin": 0.5 * mean_rate_per_s(trace)}[scaling]
    made = [scale_to_rate(trace, rate_per_s, scaling, seed, duration_s=3600.0) for seed in range(8)]
    starts = {float(m.arrival_s[0]) for m in made}
    for m in made:
        assert m.span_s < 3600
        assert len(m.failures) > 0
    assert np.mean([len(m) for m in made]) == pytest.approx(3600 * rate_per_s, rel=0.2)
    if scaling == "compress":
        assert {len(m) for m in made} == {18_000}
    if scaling == "superpose":
        assert [len(m) for m in made] == pytest.approx([18_000] * 8, rel=0.005)
    if scaling == "thin":
        assert len(starts) == 8


def test_the_same_seed_gives_the_same_bytes(trace: Trace) -> None:
    for make in (lambda seed: superpose(trace, 1.5, seed), lambda seed: thin(trace, 0.5, seed)):
        assert make(3).arrival_s.tobytes() == make(3).arrival_s.tobytes()
        assert make(3).arrival_s.tobytes() != make(4).arrival_s.tobytes()


def test_what_was_done_is_in_the_metadata(trace: Trace) -> None:
    made = thin(superpose(trace, 2), 0.5)
    assert [step.split()[0] for step in made.metadata["steps"]] == ["superpose", "thin"]
    assert made.metadata["requests"] == len(made)
    assert made.metadata["failures"] == len(made.failures)


def test_mixing_keeps_hours_of_day_and_sessions_apart(trace: Trace) -> None:
    later = trace.where(trace.log_type == 0).shift(40 * DAY_S)
    laid = mix([trace, later])
    ends = min(trace.arrival_s[-1], later.arrival_s[-1] - 40 * DAY_S)
    assert len(laid) == pytest.approx(len(trace) + len(later), abs=20)
    assert laid.arrival_s[-1] == pytest.approx(ends, abs=400)
    assert np.bincount(laid.session[laid.session >= 0]).max() == 3
    assert len(laid.failures) == pytest.approx(2 * len(trace.failures), abs=20)  # where() leaves failures as they are
    assert (np.diff(laid.arrival_s) >= 0).all()
    wave = counts(laid, 3600.0, 0)[:72], counts(trace, 3600.0, 0)[:72]
    assert np.corrcoef(*wave)[0, 1] > 0.99


def test_mixing_by_rates_and_by_shares(trace: Trace) -> None:
    chats, calls = trace.where(trace.log_type == 0), trace.where(trace.log_type == 1)
    laid = mix([chats, calls], rates_per_s=[0.02, 0.3])
    span_s = laid.span_s
    assert (laid.log_type == 0).sum() / span_s == pytest.approx(0.02, rel=0.05)
    assert (laid.log_type == 1).sum() / span_s == pytest.approx(0.3, rel=0.05)
    even = mix([chats, calls], shares=[0.5, 0.5], seed=3)
    assert (even.log_type == 0).mean() == pytest.approx(0.5, abs=0.01)
    assert len(even) == pytest.approx(len(trace), rel=0.02)


def test_whole_seconds_make_no_ties_however_far_they_are_compressed(trace: Trace, tmp_path) -> None:  # type: ignore[no-untyped-def]
    rows = [
        f"{int(t)},GPT-4,{p},{o},{p + o},API log"
        for t, p, o in zip(trace.arrival_s, trace.prompt_tokens, trace.output_tokens, strict=True)
    ]
    path = tmp_path / "seconds.csv"
    header = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"
    path.write_text("\n".join([header, *rows]) + "\n")
    assert (np.diff(np.floor(trace.arrival_s)) == 0).sum() > 1000  # the file has ties
    assert (np.diff(compress(read_trace(path), 100).arrival_s) > 0).all()
    assert (np.diff(superpose(read_trace(path), 5).arrival_s) > 0).all()


def test_every_scaling_spreads_whole_seconds_first_whatever_they_come_from(trace: Trace) -> None:
    seconds = Trace.from_columns(np.floor(trace.arrival_s), trace.prompt_tokens, trace.output_tokens)
    ties = (np.diff(seconds.arrival_s) == 0).sum()
    assert ties > 1000
    for made in (
        compress(seconds, 100),
        superpose(seconds, 2.5),
        scale_to_rate(seconds, 5.0, "compress", duration_s=60.0),
        scale_to_rate(seconds, 5.0, "superpose", duration_s=60.0),
    ):
        assert (np.diff(made.arrival_s) > 0).all()
    assert (compress(seconds, 100).prompt_tokens == trace.prompt_tokens).all()  # the order of the file is kept
    for scaling in ("superpose", "compress"):
        sampler = EpisodeSampler(seconds, DayRange(0, 4), EpisodeConfig(scaling=scaling))  # type: ignore[arg-type]
        assert (np.diff(sampler.sample(1, 20.0).arrival_s) > 0).all()
    sparse = Trace.from_columns([0.0, 3.0, 9.0], [1] * 3, [1] * 3)  # whole, but without ties: as it is
    assert compress(sparse, 3).arrival_s.tolist() == [0.0, 1.0, 3.0]


def test_real_api_rows_keep_their_windowed_cv_when_superposed_in_time_scales_below_it() -> None:
    trace = read_trace(real("burstgpt_2_gpt4_api_week.csv"))
    assert (np.diff(compress(trace, 100).arrival_s) > 0).all()
    median = np.median(windowed_cv(trace.arrival_s))
    assert np.median(windowed_cv(compress(trace, 100).arrival_s, 3.0)) == pytest.approx(median, rel=0.1)
    assert np.median(windowed_cv(superpose(trace, 200, window_s=3600.0).arrival_s)) < 0.9 * median


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda t: compress(t, 0), "factor must be a finite number above 0"),
        (lambda t: compress(t, float("nan")), "factor must be a finite number above 0"),
        (lambda t: thin(t, 1.1), "share must be above 0 and at most 1"),
        (lambda t: thin(t, 0.5, -1), "seed must be a whole number of at least 0"),
        (lambda t: thin(t, 1e-9), "leaves none of"),
        (lambda t: superpose(t, 0), "copies must be a finite number above 0"),
        (lambda t: superpose(t, 1e6), "more than 200,000,000; give a shorter window_s"),
        (lambda t: superpose(t, 2, window_s=1e9), "window_s must be above 0 and at most"),
        (lambda t: superpose(Trace.from_columns([1.0], [1], [1]), 2), "at two instants"),
        (lambda t: scale_to_rate(t, 1.0, "stretch"), "unknown scaling 'stretch'"),
        (lambda t: scale_to_rate(t, -1.0), "rate_per_s must be a finite number above 0"),
        (lambda t: scale_to_rate(t, 1.0, "thin"), "thinning cannot raise it to 1; use superpose or compress"),
        (
            lambda t: scale_to_rate(t, 0.01, "thin", duration_s=1e9),
            "duration_s must be above 0 and at most the trace's",
        ),
        (lambda t: scale_to_rate(t, 10.0, "compress", duration_s=1e6), "need 10,000,001; use superpose or a shorter"),
        (lambda t: scale_to_rate(t, 1.0, duration_s=1e9), "window_s must be above 0 and at most the trace's"),
        (lambda t: scale_to_rate(t, 1e6, duration_s=1e4), "count from 1 to 200,000,000, got 10000000000"),
        (lambda t: scale_to_rate(t, 1.0, duration_s=0), "duration_s must be a finite number above 0"),
        (lambda t: mix([]), "at least one trace"),
        (lambda t: mix([t], shares=[1.0], rates_per_s=[1.0]), "not both"),
        (lambda t: mix([t, t], rates_per_s=[1.0]), "one rate or share for each of 2 traces"),
        (lambda t: mix([t], shares=[0.5]), "have sum 1"),
        (lambda t: mix([t.between(0, 3600), t.between(7200, 9000)]), "no time in common"),
    ],
)
def test_wrong_arguments_get_one_sentence(trace: Trace, make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(BurstenvError, match=sentence):
        make(trace)
