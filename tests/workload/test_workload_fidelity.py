"""The statistics of a trace, how two traces are compared, and the shipped fits beside real rows held out."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import Trace, generate, load_workload, read_trace
from burstenv.workload.fidelity.holdout import days_of_part, part_of
from burstenv.workload.fidelity.statistics import (
    acf,
    choose_cv_window,
    clock_of,
    fano,
    groups_of,
    ks,
    measure,
    on_whole_seconds,
)
from burstenv.workload.fidelity.table import FLOOR, compare, fidelity_lines
from burstenv.workload.generator.fit import fit
from burstenv.workload.generator.paper import Zipf, generate_paper
from tests.shipped_files import real

CONVERSATIONS = "burstgpt_1_gpt4_conversation.csv"
API_WEEK = "burstgpt_2_gpt4_api_week.csv"


def uniform(count: int, days: int, seed: int = 0) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).random(count) * days * 86_400)


def test_ks_of_samples_with_ties() -> None:
    assert ks(np.array([1, 1, 2]), np.array([1, 2, 2])) == pytest.approx(1 / 3)
    assert ks(np.array([5, 5, 5]), np.array([5, 5])) == 0
    assert ks(np.array([1, 2]), np.array([3, 4])) == 1
    assert np.isnan(ks(np.array([]), np.array([1])))


def test_ks_is_the_largest_difference_at_any_value() -> None:
    random = np.random.default_rng(3)
    a, b = np.sort(random.integers(0, 30, 500)), np.sort(random.integers(0, 40, 300))
    brute = max(abs((a <= value).mean() - (b <= value).mean()) for value in range(41))
    assert ks(a, b) == pytest.approx(brute)


def test_fano_factors_of_poisson_and_of_pairs() -> None:
    poisson = uniform(50_000, 10)
    for width_s in (1.0, 60.0, 3600.0):
        assert fano(poisson, width_s, 10) == pytest.approx(1, abs=0.15)
    assert fano(np.sort(np.repeat(uniform(5000, 10), 2)), 1.0, 10) == pytest.approx(2, abs=0.1)


def test_acf_of_a_daily_wave() -> None:
    wave = (np.tile(np.arange(24) < 12, 20) * 10).astype(np.int64)
    assert acf(wave, 24) == pytest.approx(0.95, abs=0.01)
    assert acf(wave, 12) == pytest.approx(-0.975, abs=0.01)
    assert np.isnan(acf(np.ones(10, np.int64), 1))


def test_sparse_traces_get_wider_windows() -> None:
    assert [choose_cv_window(uniform(count, 2)) for count in (2 * 86_400, 2 * 1_500, 2 * 500)] == [300, 1200, 3600]


def test_a_trace_seen_through_whole_seconds() -> None:
    trace = Trace.from_columns(uniform(1000, 1), np.ones(1000), np.ones(1000))
    seen = on_whole_seconds(trace)
    assert clock_of(trace) == 0
    assert clock_of(seen) == 1
    assert (np.floor(seen.arrival_s) == np.floor(trace.arrival_s)).all()
    assert (np.diff(seen.arrival_s) >= 0).all()


def test_groups_are_classes_and_their_models(default_trace: Trace) -> None:
    names = [group.name for group in groups_of(default_trace)]
    assert names == [
        "conversation", "conversation ChatGPT", "conversation GPT-4", "api", "api ChatGPT", "api GPT-4",
    ]  # fmt: skip


def test_comparison_finds_what_differs_and_only_that(default_trace: Trace) -> None:
    reference = default_trace.between(0, 14 * 86_400)
    longer = Trace.from_columns(
        reference.arrival_s,
        reference.prompt_tokens * 2,
        reference.output_tokens,
        model=reference.model,
        log_type=reference.log_type,
        session=reference.session,
        failures=reference.failures,
    )
    result = compare(reference, {"longer": longer})
    assert result.figure("api", "prompt tokens, p50").errors["longer"] == pytest.approx(1.0)
    assert result.figure("api", "prompt tokens, distribution").errors["longer"] > 0.3
    for figure in result.figures:
        if not figure.statistic.startswith(("prompt", "response given")):
            assert figure.errors["longer"] == 0, figure
    assert any("!" in line for line in fidelity_lines(result))


def test_classes_that_a_candidate_lacks_are_not_available(default_trace: Trace) -> None:
    reference = default_trace.between(0, 3 * 86_400)
    chats = reference.where(reference.log_type == 0)
    result = compare(reference, {"chats": chats}, floor=True)
    assert np.isnan(result.figure("api", "prompt tokens, distribution").errors["chats"])
    assert FLOOR in result.figure("api", "prompt tokens, distribution").errors
    assert "n/a" in "\n".join(fidelity_lines(result))
    assert result.as_json()["figures"]


def test_what_cannot_be_compared_is_refused(default_trace: Trace) -> None:
    with pytest.raises(BurstenvError, match="no requests"):
        compare(default_trace.between(0, 0.0), {"B": default_trace})
    with pytest.raises(BurstenvError, match="both called 'A'"):
        compare(default_trace, {"A": default_trace})
    with pytest.raises(BurstenvError, match="no group of the reference has 20 requests"):
        compare(Trace.from_columns(np.arange(10.0), np.ones(10), np.ones(10)), {"B": default_trace})


def test_groups_of_a_handful_are_left_out() -> None:
    model = np.array([0] * 90 + [1] * 10)
    trace = Trace.from_columns(uniform(100, 1), np.ones(100), np.ones(100), model=model)
    assert compare(trace, {"same": trace}).left_out == {"conversation GPT-4": 10}


def test_conversations_fitted_to_even_weeks_meet_every_target_on_the_odd_weeks() -> None:
    """Weeks alternate because the service drifts: medians of the last two weeks are twice those before."""
    trace = read_trace(real(CONVERSATIONS))
    even = part_of(trace, "even-weeks")
    made = generate(fit(even, days=days_of_part(trace, "even-weeks")).config, 120, 0)
    result = compare(trace, {"ours": made, "paper": generate_paper(even, 0)}, part="odd-weeks", floor=True)
    for figure in result.figures:
        if figure.target is not None:
            assert figure.errors["ours"] <= figure.target, figure
    for tokens in ("prompt", "response"):
        errors = result.figure("conversation", f"{tokens} tokens, distribution").errors
        assert errors["ours"] < errors[FLOOR] + 0.02  # a fresh sample of the service is no nearer
        assert 0.17 < errors["paper"] < 0.33


def test_api_lengths_fitted_to_even_rows_meet_the_odd_rows() -> None:
    """Rows alternate because one week of bursts has a handful of jobs: alternate days are 0.35 apart themselves."""
    trace = read_trace(real(API_WEEK))
    even = part_of(trace, "even-rows")
    made = generate(fit(even).config, 365, 0)
    result = compare(trace, {"ours": made, "paper": generate_paper(even, 0)}, part="odd-rows", floor=True)
    for tokens in ("prompt", "response"):
        errors = result.figure("api", f"{tokens} tokens, distribution").errors
        assert errors["ours"] <= 0.05
        assert errors["paper"] > 0.12
        assert errors[FLOOR] > 0.3


def test_api_bursts_of_the_fitted_week() -> None:
    trace = read_trace(real(API_WEEK))
    result = compare(trace, {"ours": generate(fit(trace).config, 180, 0)})
    for level in (10, 50, 90):
        assert result.figure("api", f"inter-arrival CV in 5 min, p{level}").errors["ours"] <= 0.10
    assert result.figure("api", "Fano factor, 1 min").errors["ours"] < 0.25


def test_the_shipped_fits_are_those_of_the_rows() -> None:
    for name, path in (("fitted-gpt4-conversation", CONVERSATIONS), ("fitted-gpt4-api", API_WEEK)):
        shipped = load_workload(name).generator
        assert shipped is not None
        (stream,), (again,) = shipped.streams, fit(read_trace(real(path))).config.streams
        assert stream.lengths == again.lengths
        # The gaps' table is found by simulation, so another numpy may find it a little differently.
        gaps = {"interarrival_cv": again.arrivals.interarrival_cv}
        assert stream.arrivals.model_copy(update=gaps) == again.arrivals
        measured, found = stream.arrivals.interarrival_cv.mean(), again.arrivals.interarrival_cv.mean()
        assert measured == pytest.approx(found, rel=0.1)


def test_zipf_exponents_of_the_real_rows_are_the_published_ones() -> None:
    trace = read_trace(real(CONVERSATIONS))
    assert Zipf.fit(trace.prompt_tokens).exponent == pytest.approx(1.022, abs=0.001)
    assert Zipf.fit(trace.output_tokens).exponent == pytest.approx(0.703, abs=0.001)
    api = read_trace(real(API_WEEK))
    assert Zipf.fit(api.prompt_tokens).exponent == pytest.approx(0.942, abs=0.001)
    assert Zipf.fit(api.output_tokens).exponent == pytest.approx(0.616, abs=0.001)


@pytest.mark.parametrize("name", ["burstgpt_1_first400.csv", "burstgpt_3_first400.csv"])
def test_the_official_heads_are_fitted_within_their_own_noise(name: str) -> None:
    """Four hundred rows: their even and odd sessions or rows are further apart than the fit is from them."""
    trace = read_trace(real(name))
    result = compare(trace, {"ours": generate(fit(trace).config, 60, 0)})
    a, b = part_of(trace, "even-rows"), part_of(trace, "odd-rows")
    noise = 1.36 * np.sqrt(1 / len(a) + 1 / len(b))  # 95 % of the KS of two halves of independent rows
    for tokens in ("prompt", "response"):
        assert result.figure("conversation", f"{tokens} tokens, distribution").errors["ours"] < noise


def test_think_times_and_turns_of_the_default_meet_the_published_sessions_of_burstgpt_3(default_trace: Trace) -> None:
    """Published by issao/lbsim and diegohommer/tcc-offloading-ai-edge over all 233,617 conversation rows."""
    statistics = measure(default_trace, groups_of(default_trace)[0])
    shares = [float((statistics.turns == k).mean()) for k in range(1, 11)]
    published = [0.355, 0.204, 0.119, 0.076, 0.051, 0.037, 0.028, 0.021, 0.018, 0.013]
    assert shares == pytest.approx(published, rel=0.10)
    assert np.percentile(statistics.turns, [50, 75, 90, 99]) == pytest.approx([2, 4, 9, 31], rel=0.10)
    levels = [10, 25, 50, 75, 90, 99]
    assert np.percentile(statistics.think_s, levels) == pytest.approx([20, 42, 131, 533, 2340, 78_903], rel=0.10)
    within = statistics.think_s[statistics.think_s <= 600]
    published_within = [12, 17, 32, 76, 188, 358, 458, 566]
    assert np.percentile(within, [5, 10, 25, 50, 75, 90, 95, 99]) == pytest.approx(published_within, rel=0.10)


PUBLISHED_LENGTHS = {  # quantiles 0.5, 0.9 and 0.99 of all rows of BurstGPT_3 (issao/lbsim)
    (0, "prompt_tokens"): (517, 2354, 5630),
    (0, "output_tokens"): (187, 669, 1067),
    (1, "prompt_tokens"): (326, 794, 3141),
    (1, "output_tokens"): (14, 111, 804),
}


def test_lengths_of_the_default_are_near_the_published_distributions(default_trace: Trace) -> None:
    """The rows of BurstGPT_3 are not here: the distance is taken at the quantiles that are published."""
    for (code, name), values in PUBLISHED_LENGTHS.items():
        tokens = getattr(default_trace, name)[default_trace.log_type == code]
        below = [float((tokens <= value).mean()) for value in values]
        assert below == pytest.approx([0.5, 0.9, 0.99], abs=0.05), (code, name)
