"""The generated trace against the published figures of BurstGPT (facts named in burstgpt-default.yaml)."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import GeneratorConfig, Trace, generate, load_workload, windowed_cv
from burstenv.workload.generator.api import requests_by_hour
from burstenv.workload.generator.conversation import draw_turns
from burstenv.workload.trace import COLUMNS

HOURS = 60 * 24


def config() -> GeneratorConfig:
    generator = load_workload().generator
    assert generator is not None
    return generator


def hourly(arrival_s: np.ndarray) -> np.ndarray:
    return np.bincount((arrival_s // 3600).astype(int), minlength=HOURS)


def quantiles(values: np.ndarray) -> list[float]:
    return [float(values.mean()), *(float(v) for v in np.percentile(values, [50, 90, 99]))]


def test_same_seed_same_bytes() -> None:
    first, again, other = (generate(config(), 2, seed) for seed in (5, 5, 6))
    for name in COLUMNS:
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.failures.arrival_s.tobytes() == again.failures.arrival_s.tobytes()
    assert len(first) != len(other)


def test_a_generated_trace_is_a_valid_trace(default_trace: Trace) -> None:
    columns = {name: getattr(default_trace, name) for name in COLUMNS}
    checked = Trace.from_columns(**columns, failures=default_trace.failures)
    assert len(checked) == default_trace.metadata["requests"]
    assert default_trace.arrival_s[-1] < 60 * 86_400
    assert default_trace.prompt_tokens.max() == 16_384
    assert default_trace.output_tokens.max() <= 4_096
    assert (np.diff(default_trace.arrival_s) > 0).all()


def test_every_day_of_the_default_trace_has_both_classes(default_trace: Trace) -> None:
    for code in (0, 1):
        assert np.bincount(default_trace.day[default_trace.log_type == code], minlength=60).min() >= 50


def test_requests_of_a_job_share_the_template_up_to_their_own_part(default_trace: Trace) -> None:
    generator = config()
    assert generator.api is not None
    sharing = generator.model_copy(update={"api": generator.api.model_copy(update={"own_part_sigma": 0.5})})
    trace = generate(sharing, 3, 3)
    plain = generate(generator, 3, 3)
    for name in set(COLUMNS) - {"prefix_id", "prefix_tokens"}:
        assert getattr(trace, name).tobytes() == getattr(plain, name).tobytes(), name
    assert (plain.prefix_id == -1).all()
    api = trace.where((trace.log_type == 1) & (trace.prefix_id >= 0))
    assert not trace.prefix_tokens[trace.log_type == 0].any()
    assert (api.prefix_tokens <= api.prompt_tokens).all()
    jobs, of = np.unique(api.prefix_id, return_inverse=True)
    longest = np.array([api.prefix_tokens[of == j].max() for j in range(len(jobs))])
    middle = np.array([np.median(api.prompt_tokens[of == j]) for j in range(len(jobs))])
    spread = np.array([np.log(api.prompt_tokens[of == j]).std() for j in range(len(jobs))])
    large = np.bincount(of) >= 50
    assert longest[large] / middle[large] == pytest.approx(1.0 - spread[large] / 0.5, abs=0.12)


def test_requests_per_day(default_trace: Trace) -> None:
    chats = np.count_nonzero(default_trace.log_type == 0) / 60
    assert chats == pytest.approx(3 * 2124, rel=0.15)
    assert (len(default_trace) / 60 - chats) == pytest.approx(20_910, rel=0.25)


def test_conversation_lengths(default_trace: Trace) -> None:
    chat = default_trace.where(default_trace.log_type == 0)
    assert quantiles(chat.prompt_tokens) == pytest.approx([953, 517, 2354, 5630], rel=0.20)
    assert quantiles(chat.output_tokens) == pytest.approx([272, 187, 669, 1067], rel=0.25)
    for model, prompt, output in ((0, 785, 198), (1, 1304, 427)):
        rows = chat.model == model
        assert chat.prompt_tokens[rows].mean() == pytest.approx(prompt, rel=0.15)
        assert chat.output_tokens[rows].mean() == pytest.approx(output, rel=0.10)
    assert (chat.model == 1).mean() == pytest.approx(0.324, abs=0.03)


def test_conversation_prompts_grow_with_the_turns(default_trace: Trace) -> None:
    chat = default_trace.where(default_trace.log_type == 0)
    assert chat.prompt_tokens[chat.turn == 0].mean() == pytest.approx(170, rel=0.10)
    assert chat.prompt_tokens[chat.turn > 0].mean() == pytest.approx(1199, rel=0.15)
    assert (chat.turn > 0).mean() == pytest.approx(0.761, abs=0.02)
    before, after = consecutive_turns(chat)
    less_total = chat.prompt_tokens[after] - chat.prompt_tokens[before] - chat.output_tokens[before]
    assert (less_total >= 0).mean() == pytest.approx(0.726, abs=0.04)
    assert np.median(less_total) == pytest.approx(24, abs=5)


def test_response_is_not_monotone_in_the_prompt_and_has_two_humps(default_trace: Trace) -> None:
    chat = default_trace.where(default_trace.log_type == 0)
    fifths = np.array_split(chat.output_tokens[np.argsort(chat.prompt_tokens, kind="stable")], 5)
    first, second, third, fourth, last = (float(part.mean()) for part in fifths)
    assert first > 1.2 * second  # GPT-4 of BurstGPT_1: 258, 172, 215, 281, 416
    assert second < third < fourth < last
    log = np.log(chat.output_tokens)
    centred = log - log.mean()
    skew, kurtosis = (np.mean(centred**k) / log.std() ** k for k in (3, 4))
    assert (skew**2 + 1) / kurtosis > 0.4  # Sarle's coefficient; 0.33 for a normal, 0.608 in the data


def consecutive_turns(chat: Trace) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((chat.turn, chat.session))
    follows = (np.diff(chat.session[order]) == 0) & (np.diff(chat.turn[order]) == 1)
    return order[:-1][follows], order[1:][follows]


def test_turns_per_session() -> None:
    turns = draw_turns(config().conversation.turns, np.random.default_rng(0), 400_000)
    assert turns.mean() == pytest.approx(4.18, rel=0.05)
    assert np.percentile(turns, [50, 75, 90]).tolist() == [2, 4, 9]
    assert np.percentile(turns, 99) == pytest.approx(31, abs=2)
    shares = [(turns == k).mean() for k in range(1, 6)]
    assert shares == pytest.approx([0.355, 0.204, 0.119, 0.076, 0.051], abs=0.004)
    assert turns.max() == 436


def test_think_times(default_trace: Trace) -> None:
    chat = default_trace.where(default_trace.log_type == 0)
    before, after = consecutive_turns(chat)
    gap = chat.arrival_s[after] - chat.arrival_s[before]
    assert (gap > 0).all()
    assert np.percentile(gap, [10, 25, 50, 75, 90, 99]) == pytest.approx([20, 42, 131, 533, 2340, 78_903], rel=0.10)
    assert (gap < 60).mean() == pytest.approx(0.327, abs=0.02)
    assert (gap < 300).mean() == pytest.approx(0.660, abs=0.02)


def test_conversation_follows_the_day_and_the_week(default_trace: Trace) -> None:
    by_hour = hourly(default_trace.arrival_s[default_trace.log_type == 0]).reshape(60, 24)
    profile = by_hour.mean(axis=0)
    assert profile.max() / profile.min() == pytest.approx(34.8, rel=0.20)  # its quietest hour has 200 requests
    assert profile.max() / profile.mean() == pytest.approx(2.36, rel=0.05)
    assert int(profile.argmax()) in (15, 16)
    weekend = np.isin(np.arange(60) % 7, [3, 4])
    share = by_hour[weekend].sum(axis=1).mean() / by_hour[~weekend].sum(axis=1).mean()
    assert share == pytest.approx(0.515, abs=0.1)  # 1,520 and 2,950 per day in BurstGPT_1


# Burst starts of BurstGPT_3 by hour of day (sessions cut at pauses above 600 s), per day: published.
WEEKDAY_BURSTS = [20.923, 11.026, 6.551, 3.808, 2.551, 2.013, 2.513, 3.936, 13.154, 65.615, 96.756, 84.667,
    33.756, 48.962, 87.949, 102.846, 106.423, 81.603, 43.167, 45.244, 50.526, 46.795, 41.474, 32.167]  # fmt: skip
WEEKEND_BURSTS = [15.125, 9.844, 4.969, 3.125, 2.094, 1.25, 1.344, 2.25, 5.812, 19.031, 30.562, 33.438,
    19.156, 22.25, 35.031, 43.875, 48.625, 39.344, 24.25, 27.625, 35.125, 36.969, 33.125, 26.5]  # fmt: skip


def test_bursts_of_conversation_follow_the_published_hours_of_weekdays_and_weekends(default_trace: Trace) -> None:
    chat = default_trace.where(default_trace.log_type == 0)
    order = np.lexsort((chat.arrival_s, chat.session))
    time, session = chat.arrival_s[order], chat.session[order]
    start = time[np.concatenate([[True], (np.diff(session) != 0) | (np.diff(time) > 600)])]
    weekend = np.isin(start // 86_400 % 7, [3, 4])
    for rows, published, days in ((~weekend, WEEKDAY_BURSTS, 43), (weekend, WEEKEND_BURSTS, 17)):
        share = np.bincount((start[rows] % 86_400 // 3600).astype(int), minlength=24) / rows.sum()
        # The mean over the bursts of how far their hour is off, relatively: the target is 10 %.
        assert np.abs(share - np.array(published) / sum(published)).sum() < 0.10
        assert rows.sum() / days / 3 == pytest.approx(sum(published), rel=0.10)


def test_api_is_on_half_of_the_time_and_few_hours_carry_much(default_trace: Trace) -> None:
    requests = hourly(default_trace.arrival_s[default_trace.log_type == 1])
    assert (requests > 10).mean() == pytest.approx(0.493, abs=0.06)
    assert np.sort(requests)[-14:].sum() / requests.sum() == pytest.approx(0.203, abs=0.06)
    assert np.sort(requests)[-144:].sum() / requests.sum() == pytest.approx(0.649, abs=0.06)


def test_api_hours_in_the_long_run() -> None:
    on, requests = requests_by_hour(config().api, 4000, np.random.default_rng(1))
    assert on.mean() == pytest.approx(0.493, abs=0.03)
    edges = np.flatnonzero(np.diff(on.astype(int))) + 1
    runs = [(bool(run[0]), len(run)) for run in np.split(on, edges)]
    on_runs, off_runs = ([length for kind, length in runs if kind is wanted] for wanted in (True, False))
    assert np.mean(on_runs) == pytest.approx(7.4, rel=0.10)
    assert np.median(on_runs) == 3
    assert np.mean(off_runs) == pytest.approx(7.6, rel=0.15)
    assert np.median(off_runs) in (4, 5)
    assert np.percentile(requests, [75, 90, 95, 99]) == pytest.approx([836, 2513, 4050, 11238], rel=0.15)
    assert np.sort(requests)[-len(on) // 100 :].sum() / requests.sum() == pytest.approx(0.203, abs=0.02)


def test_api_is_bursty_and_conversation_is_not(default_trace: Trace) -> None:
    # Measured as published: on whole seconds, the resolution of the official clock.
    api = windowed_cv(np.floor(default_trace.arrival_s[default_trace.log_type == 1]))
    chat = windowed_cv(np.floor(default_trace.arrival_s[default_trace.log_type == 0]))
    assert np.percentile(api, [10, 50, 90]) == pytest.approx([0.67, 1.50, 5.22], rel=0.10)
    assert (api > 1).mean() == pytest.approx(0.725, abs=0.07)
    assert np.percentile(chat, [10, 50, 90]) == pytest.approx([0.77, 0.92, 1.12], rel=0.07)


def test_api_lengths(default_trace: Trace) -> None:
    api = default_trace.where(default_trace.log_type == 1)
    assert quantiles(api.prompt_tokens) == pytest.approx([457, 326, 794, 3141], rel=0.15)
    mean, p50, p90, p99 = quantiles(api.output_tokens)
    assert mean == pytest.approx(68.9, rel=0.25)
    assert p50 == pytest.approx(14, abs=3)
    assert p90 == pytest.approx(111, rel=0.20)
    assert p99 == pytest.approx(804, rel=0.20)
    assert (api.model == 1).mean() == pytest.approx(0.14, abs=0.03)


def test_neighbouring_api_requests_are_near_identical(default_trace: Trace) -> None:
    log = np.log(default_trace.prompt_tokens[default_trace.log_type == 1].astype(float))
    assert np.median(np.abs(np.diff(log))) < 0.25 * np.median(np.abs(log[1000:] - log[:-1000]))


def test_failures_by_class_are_kept_aside(default_trace: Trace) -> None:
    for code, share in ((0, 0.0079), (1, 0.0756)):
        failed = np.count_nonzero(default_trace.failures.log_type == code)
        assert failed / (failed + np.count_nonzero(default_trace.log_type == code)) == pytest.approx(share, rel=0.1)
    assert default_trace.metadata["failures"] == len(default_trace.failures)
    assert (np.diff(default_trace.failures.arrival_s) >= 0).all()
    odds = []
    for model in (0, 1):  # of BurstGPT_3, ChatGPT 7.74 % and GPT-4 4.52 % (nearly all of them API)
        rows = (default_trace.log_type == 1) & (default_trace.model == model)
        failed = (default_trace.failures.log_type == 1) & (default_trace.failures.model == model)
        odds.append(failed.sum() / rows.sum())
    assert odds[1] / odds[0] == pytest.approx(0.564, rel=0.15)


def test_failures_come_in_spikes(default_trace: Trace) -> None:
    served = hourly(default_trace.arrival_s[default_trace.log_type == 1])
    failed = hourly(default_trace.failures.arrival_s[default_trace.failures.log_type == 1])
    busy = served >= 100
    share = failed[busy] / (failed[busy] + served[busy])
    assert np.percentile(share, 95) > 4 * np.percentile(share, 50) > 0
    quiet, crowded = (served[busy] < np.median(served[busy])), (served[busy] > np.quantile(served[busy], 0.9))
    assert failed[busy][crowded].sum() / served[busy][crowded].sum() > 1.3 * (
        failed[busy][quiet].sum() / served[busy][quiet].sum()
    )


def test_out_of_range_arguments() -> None:
    with pytest.raises(BurstenvError, match="days must be a whole number of at least 1"):
        generate(config(), 0, 0)
    with pytest.raises(BurstenvError, match="seed must be a whole number of at least 0"):
        generate(config(), 1, -1)
