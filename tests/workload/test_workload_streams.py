"""Tables, fitted streams and the paper's models: what goes in comes out again."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from burstenv.config import parse
from burstenv.errors import BurstenvError
from burstenv.workload import Trace, WorkloadConfig, generate, load_workload, windowed_cv
from burstenv.workload.fidelity.holdout import days_of_part, other_part, part_of
from burstenv.workload.fidelity.statistics import groups_of, ks, measure, sessions_of
from burstenv.workload.generator.basics import Drift, FailureConfig, QuantileTable
from burstenv.workload.generator.failures import draw_failures
from burstenv.workload.generator.fit import Fit, fit, fit_lines
from burstenv.workload.generator.fit_sessions import fit_failures, fit_turns
from burstenv.workload.generator.fit_tables import table_of_counts, table_of_values
from burstenv.workload.generator.fit_yaml import workload_yaml
from burstenv.workload.generator.paper import WINDOW_S, GammaWindows, Zipf, generate_paper
from burstenv.workload.generator.stream import alike_scores
from burstenv.workload.generator.stream_config import Alike


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def source() -> Trace:
    """Three weeks of the default workload: both models, both classes, sessions and failures."""
    generator = load_workload().generator
    assert generator is not None
    return generate(generator, 21, 0)


@pytest.fixture(scope="module")
def found(source: Trace) -> Fit:
    return fit(source)


@pytest.fixture(scope="module")
def again(found: Fit) -> Trace:
    return generate(found.config, 42, 1)


def test_a_table_keeps_the_distribution_of_whole_numbers_atoms_included() -> None:
    values = np.concatenate([np.full(3000, 7), np.full(2000, 1), np.rint(random().lognormal(5, 1.5, 5000)).clip(1)])
    table = table_of_counts(values)
    drawn = np.rint(table.draw(random(1), 100_000))
    assert (drawn == 7).mean() == pytest.approx((values == 7).mean(), abs=0.006)
    assert (drawn == 1).mean() == pytest.approx((values == 1).mean(), abs=0.006)
    assert ks(np.sort(values), np.sort(drawn)) < 0.012
    assert drawn.max() <= values.max()
    assert len(table.q) < 60


def test_tables_of_one_value() -> None:
    assert set(np.rint(table_of_counts(np.array([5])).draw(random(), 100))) == {5}
    assert set(table_of_values(np.array([2.5, 2.5])).draw(random(), 100)) == {2.5}


def test_the_tail_of_a_table_keeps_its_frequency() -> None:
    values = random().pareto(1.5, 50_000) * 100 + 1
    drawn = table_of_values(values).draw(random(1), 400_000)
    for level in (0.99, 0.999):
        assert (drawn > np.quantile(values, level)).mean() == pytest.approx(1 - level, rel=0.25)


def test_mean_of_a_table() -> None:
    table = QuantileTable(q=(0.0, 0.5, 0.99), value=(1.0, 2.0, 50.0))
    assert table.mean() == pytest.approx(table.draw(random(), 400_000).mean(), rel=0.01)


def test_alike_scores_are_standard_normal_and_near_within_a_job() -> None:
    new_job = random().random(200_000) < 1 / 50
    score = alike_scores(Alike(job=0.5, repeat=0.6, spread=0.1), new_job, random(1))
    assert score.mean() == pytest.approx(0, abs=0.05)
    assert score.std() == pytest.approx(1, abs=0.03)
    lag_one = np.corrcoef(score[1:], score[:-1])[0, 1]
    assert lag_one == pytest.approx(0.99 * 0.98 * (0.5 + 0.5 * 0.6), abs=0.03)


def test_a_fit_is_deterministic_and_its_yaml_is_a_workload(source: Trace, found: Fit) -> None:
    assert fit(source).config == found.config
    text = workload_yaml(found, "a trace", days=3, seed=5)
    config = parse(WorkloadConfig, yaml.safe_load(text), "fitted.yaml")
    assert config.generator == found.config
    assert (config.kind, config.days, config.seed) == ("generated", 3, 5)
    assert max(len(line) for line in text.splitlines()) <= 125


def test_a_fit_has_a_stream_for_each_model_and_class(found: Fit) -> None:
    names = [(stream.log_type, stream.model) for stream in found.config.streams]
    assert names == [(c, m) for c in ("conversation", "api") for m in ("ChatGPT", "GPT-4")]
    assert [stream.sessions is not None for stream in found.config.streams] == [True, True, False, False]
    assert [stream.arrivals.on_off is not None for stream in found.config.streams] == [False, False, True, True]
    assert found.config.streams[0].arrivals.weekend_days == (3, 4)
    assert "sessions" in "\n".join(fit_lines(found))


def test_what_is_generated_from_a_fit_has_the_lengths_it_was_fitted_to(source: Trace, again: Trace) -> None:
    for group in groups_of(source):
        a, b = measure(source, group), measure(again, group)
        limit = 0.03 if group.log_type == 0 else 0.08  # API lengths come in jobs: three weeks hold few
        assert ks(a.prompt_tokens, b.prompt_tokens) < limit, group.name
        assert ks(a.output_tokens, b.output_tokens) < limit, group.name


def test_what_is_generated_from_a_fit_has_its_sessions(source: Trace, again: Trace) -> None:
    (turns, think), (turns_again, think_again) = (sessions_of(t.session, t.arrival_s) for t in (source, again))
    assert turns_again.mean() == pytest.approx(turns.mean(), rel=0.10)
    shares = [50, 75, 90, 99]
    assert np.percentile(turns_again, shares) == pytest.approx(np.percentile(turns, shares), rel=0.1)
    levels = [10, 25, 50, 75, 90, 99]
    assert np.percentile(think_again, levels) == pytest.approx(np.percentile(think, levels), rel=0.10)
    assert (again.turn[again.session >= 0] > 0).mean() == pytest.approx(0.76, abs=0.03)


def test_what_is_generated_from_a_fit_has_its_bursts_and_its_days(source: Trace, again: Trace) -> None:
    chat, api = groups_of(source)[0], groups_of(source)[3]
    for group, tolerance in ((chat, 0.10), (api, 0.15)):
        a = measure(source, group)
        b = measure(again, group, cv_window_s=a.cv_window_s)
        assert np.percentile(b.cv, [10, 50, 90]) == pytest.approx(np.percentile(a.cv, [10, 50, 90]), rel=tolerance)
    a, b = measure(source, chat), measure(again, chat)
    assert np.abs(a.hour_of_day - b.hour_of_day).sum() < 0.10
    assert b.failure_share == pytest.approx(a.failure_share, rel=0.15)


def test_the_same_seed_gives_the_same_bytes_and_scaling_gives_more(found: Fit) -> None:
    one, same = generate(found.config, 2, 7), generate(found.config, 2, 7)
    assert one.arrival_s.tobytes() == same.arrival_s.tobytes()
    assert one.prompt_tokens.tobytes() == same.prompt_tokens.tobytes()
    tripled = generate(found.config.scaled(3.0), 2, 7)
    chats = [np.count_nonzero(t.log_type == 0) for t in (one, tripled)]
    assert chats[1] / chats[0] == pytest.approx(3, rel=0.25)
    Trace.from_columns(
        tripled.arrival_s, tripled.prompt_tokens, tripled.output_tokens, session=tripled.session, turn=tripled.turn
    )


def test_a_small_stream_is_left_out_and_too_little_is_refused() -> None:
    time = np.arange(40) * 60.0
    model = np.array([0] * 35 + [1] * 5)
    trace = Trace.from_columns(time, np.full(40, 10), np.full(40, 5), model=model)
    assert fit(trace).left_out == {"conversation GPT-4": 5}
    with pytest.raises(BurstenvError, match="no model and log type has 20 requests"):
        fit(trace.between(0, 600))
    with pytest.raises(BurstenvError, match="no request to fit"):
        fit(trace.between(0, 0.0))


def test_days_held_out_are_not_taken_for_silence(source: Trace) -> None:
    even = part_of(source, "even-weeks")
    with_days = fit(even, days=days_of_part(source, "even-weeks")).config.streams[0]
    assert with_days.arrivals.on_off is None
    assert with_days.arrivals.per_day == pytest.approx(fit(source).config.streams[0].arrivals.per_day, rel=0.25)


def test_parts_divide_a_trace(source: Trace) -> None:
    for unit in ("weeks", "days", "rows"):
        halves = [part_of(source, f"{parity}-{unit}") for parity in ("even", "odd")]
        assert sum(len(half) for half in halves) == len(source)
        assert sum(len(half.failures) for half in halves) == len(source.failures)
        assert other_part(f"even-{unit}") == f"odd-{unit}"
    assert days_of_part(source, "odd-weeks").tolist() == list(range(7, 14))  # type: ignore[union-attr]
    assert part_of(source, "all") is source
    assert other_part("all") == "all"
    with pytest.raises(BurstenvError, match="unknown part 'weeks'"):
        part_of(source, "weeks")
    with pytest.raises(BurstenvError, match="has no request"):
        part_of(source.between(0, 1000), "odd-weeks")


def test_turns_have_the_tail_they_were_drawn_with() -> None:
    turns = np.ceil((1 - random().random(100_000)) ** (-1 / 1.8)).astype(int)
    fitted = fit_turns(turns)
    assert fitted.tail_exponent == pytest.approx(1.8, rel=0.05)
    assert fitted.share[0] == pytest.approx((turns == 1).mean(), abs=1e-5)


def test_failures_are_fitted_as_they_are_drawn() -> None:
    days, rates = 200, random().lognormal(4, 1, 200 * 24)
    hour = np.repeat(np.arange(days * 24), random(1).poisson(rates))
    time = (hour + random(2).random(len(hour))) * 3600
    config = FailureConfig(share=0.05, drift=Drift(sigma=0.8, correlation_h=5), load_exponent=0.5)
    failed, _ = draw_failures(config, time, np.zeros(len(time), np.int8), days, random(3))
    counts = [np.bincount((t // 3600).astype(int), minlength=days * 24) for t in (failed, time)]
    fitted = fit_failures(*counts)
    assert fitted.share == pytest.approx(0.05, rel=0.03)
    assert fitted.load_exponent == pytest.approx(0.5, abs=0.12)
    assert fitted.drift.sigma == pytest.approx(0.8, abs=0.12)
    assert 2.5 < fitted.drift.correlation_h < 10


def test_no_failures_and_no_requests() -> None:
    assert fit_failures(np.zeros(48, int), np.full(48, 10)) == FailureConfig(share=0.0)
    none, _ = draw_failures(FailureConfig(share=0.5), np.empty(0), np.empty(0, np.int8), 1, random())
    assert len(none) == 0


def test_zipf_is_fitted_by_maximum_likelihood() -> None:
    drawn = Zipf(1.3, 5, 4000).draw(random(), 50_000)
    fitted = Zipf.fit(drawn)
    assert fitted.exponent == pytest.approx(1.3, abs=0.02)
    assert fitted.least == 5
    assert drawn.max() <= 4000


def test_gamma_windows_keep_rate_and_burstiness() -> None:
    gaps = random().gamma(0.25, 4 * 0.5, 100_000)  # CV 2, one request each half second
    time = np.cumsum(gaps)
    fitted = GammaWindows.fit(time, 0.0, float(time[-1]))
    assert np.median(fitted.shape) == pytest.approx(0.25, rel=0.15)
    drawn = fitted.draw(1, random(1))
    assert len(drawn) == pytest.approx(len(time), rel=0.03)
    assert (np.diff(drawn) >= 0).all()
    assert np.median(windowed_cv(drawn, WINDOW_S)) == pytest.approx(np.median(windowed_cv(time, WINDOW_S)), rel=0.1)


def test_the_papers_models_keep_counts_and_lose_sessions(source: Trace) -> None:
    made = generate_paper(source, 0)
    assert len(made) == pytest.approx(len(source), rel=0.02)
    assert made.session.max() == -1
    assert len(made.failures) == 0
    assert generate_paper(source, 0).prompt_tokens.tobytes() == made.prompt_tokens.tobytes()
    assert len(generate_paper(source, 0, days=42)) == pytest.approx(2 * len(source), rel=0.02)
    with pytest.raises(BurstenvError, match="no requests"):
        generate_paper(source.between(0, 0.0), 0)


def test_a_generator_needs_a_part() -> None:
    with pytest.raises(BurstenvError, match="at least one of conversation, api and streams"):
        parse(
            WorkloadConfig,
            {"kind": "generated", "days": 1, "generator": {"max_prompt_tokens": 10, "max_output_tokens": 10}},
            "x.yaml",
        )
