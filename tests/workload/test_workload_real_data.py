"""The readers, splits and sampler on real files."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.workload import EpisodeConfig, EpisodeSampler, read_trace, split_by_days, windowed_cv
from tests.shipped_files import golden, golden_cases, real


def test_gpt4_conversations_of_burstgpt_1() -> None:
    trace = read_trace(real("burstgpt_1_gpt4_conversation.csv"))
    assert len(trace) == 48_289
    assert len(trace.failures) == 0
    assert set(trace.model.tolist()) == {1}
    assert trace.prompt_tokens.mean() == pytest.approx(828.2, abs=0.1)
    assert trace.output_tokens.max() == 2048
    assert trace.metadata["first_timestamp_s"] == 118
    assert trace.describe()["days"] == 61


def test_first_rows_of_burstgpt_1_have_failures() -> None:
    trace = read_trace(real("burstgpt_1_first400.csv"))
    assert (len(trace), len(trace.failures)) == (383, 17)


def test_first_rows_of_burstgpt_3_have_sessions() -> None:
    trace = read_trace(real("burstgpt_3_first400.csv"))
    assert (len(trace), len(trace.failures)) == (399, 1)
    assert trace.describe()["sessions"] == 134  # of 135 ids; one has but a failure
    assert trace.turn.max() == 23
    assert ((trace.session < 0) == (trace.log_type == 1)).all()
    assert not np.isnan(trace.elapsed_s).any()


def test_an_api_week_is_burstier_than_conversation() -> None:
    api = windowed_cv(read_trace(real("burstgpt_2_gpt4_api_week.csv")).arrival_s)
    chat = windowed_cv(read_trace(real("burstgpt_1_gpt4_conversation.csv")).arrival_s)
    assert np.median(api) > 1.3 * np.median(chat)


def test_episodes_of_real_conversations() -> None:
    trace = read_trace(real("burstgpt_1_gpt4_conversation.csv"))
    days = split_by_days(trace)["test"]
    sampler = EpisodeSampler(trace, days, EpisodeConfig())
    assert sampler.days.tolist() == list(range(52, 61))
    rates = [len(sampler.sample(seed, 2.0)) / 180 for seed in range(200)]
    assert np.mean(rates) == pytest.approx(2.0, rel=0.03)


def test_every_golden_workload_is_read() -> None:
    for case in golden_cases():
        file = golden(case) / "workload.csv"
        trace = read_trace(file)
        assert len(trace) == len(file.read_text().splitlines()) - 1
    sessions = read_trace(golden("09_prefix_sessions") / "workload.csv")
    assert sessions.session.min() >= 0
    assert sessions.turn.max() >= 1
    assert sessions.metadata["ignored_columns"] == []
    assert set(sessions.prefix_tokens.tolist()) == {0, 70}
    assert ((sessions.prefix_id < 0) == (sessions.prefix_tokens == 0)).all()
    assert len(np.unique(read_trace(golden("06_priority") / "workload.csv").priority)) > 1
