"""Selections, conversations and recorded failures: alone, and as episodes show them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from burstenv.config import parse
from burstenv.errors import BurstenvError
from burstenv.workload import (
    DAY_S,
    DayRange,
    EpisodeConfig,
    EpisodeSampler,
    Failures,
    Trace,
    load_trace,
    load_workload,
    read_trace,
)
from burstenv.workload.conversations import context_growth, link_turns, think_times
from burstenv.workload.failures.rates import failure_rates
from burstenv.workload.shaping.selection import SelectConfig, select
from tests.shipped_files import real

from .test_workload_episodes import made_trace

ARRAYS = ("arrival_s", "prompt_tokens", "output_tokens", "class_code", "model", "session", "turn")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return made_trace()


@pytest.fixture(scope="module")
def failing(trace: Trace) -> Trace:
    """The same with 300 API failures a day, all of them from 6 to 7 h, and lengths that tell the hour."""
    hour = (trace.arrival_s % DAY_S // 3600).astype(int)
    times = np.concatenate([day * DAY_S + 6 * 3600 + np.arange(300) * 12.0 for day in range(6)])
    failed = Failures(times, np.full(len(times), 2, np.int8), np.ones(len(times), np.int8))
    return Trace.from_columns(
        trace.arrival_s, 1000 * (1 + hour) + trace.log_type, np.full(len(trace), 9), log_type=trace.log_type,
        session=trace.session, model=trace.log_type, failures=failed,
    )  # fmt: skip


def sampler(trace: Trace, **options: object) -> EpisodeSampler:
    return EpisodeSampler(trace, DayRange(0, 6), EpisodeConfig(**options), split="train")  # type: ignore[arg-type]


# The served part of an episode may never change under a seed: the capacities in the scenarios rest on it.
@pytest.mark.parametrize(("scaling", "digest"), [("superpose", "d85822d4a978a593"), ("compress", "bd2eebe48ff94f81")])
def test_episodes_are_what_they_were(trace: Trace, scaling: str, digest: str) -> None:
    drawn = sampler(trace, scaling=scaling, mix={"conversation": 0.6, "api": 0.4})
    found = hashlib.sha256()
    for seed in range(6):
        for rate_per_s in (0.004, 0.3, 12.0):
            episode = drawn.sample(seed, rate_per_s)
            for name in ARRAYS:
                found.update(getattr(episode, name).tobytes())
            assert not episode.upstream_failed.any()
    assert found.hexdigest()[:16] == digest


def test_linking_turns() -> None:
    session, previous = link_turns(np.array([7, -1, 3, 7, 3, 9, 7]))
    assert session.tolist() == [1, -1, 0, 1, 0, 2, 1]
    assert previous.tolist() == [-1, -1, -1, 0, 2, -1, 3]
    assert [array.tolist() for array in link_turns(np.array([-1, -1]))] == [[-1, -1], [-1, -1]]
    assert [len(array) for array in link_turns(np.empty(0, np.int64))] == [0, 0]


def test_think_times_are_gaps_less_the_recorded_service() -> None:
    trace = Trace.from_columns(
        [0.0, 5.0, 40.0, 41.0, 60.0], [9] * 5, [100, 1, 100, 1, 1], model=[0, 0, 1, 0, 0],
        session=[0, -1, 0, 1, 0], elapsed_s=[12.0, 1.0, 30.0, 1.0, 1.0],
    )  # fmt: skip
    # Row 2 follows row 0 (40 - 12); row 4 follows row 2, whose answer came only at 70: sent at once.
    assert think_times(trace) == pytest.approx([np.nan, np.nan, 28.0, np.nan, 0.0], nan_ok=True)
    silent = Trace.from_columns(
        trace.arrival_s, trace.prompt_tokens, trace.output_tokens, model=trace.model, session=trace.session
    )
    # Estimated: 1.10 s + 100 x 10.9 ms for ChatGPT, 0.28 s + 100 x 36 ms for GPT-4.
    expected = [np.nan, np.nan, 40 - 2.19, np.nan, 20 - 3.88]
    assert think_times(silent) == pytest.approx(expected, nan_ok=True)


def test_think_times_and_context_of_the_first_rows_of_file_3() -> None:
    trace = read_trace(real("burstgpt_3_first400.csv"), jitter_seed=0)
    think_s = think_times(trace)
    think_s = think_s[~np.isnan(think_s)]
    # facts: n = 259, p25/50/75/90 = 40/116/377/1,372 s over rows with fails; jitter moves each by less than a second
    assert len(think_s) == pytest.approx(259, abs=1)
    assert np.percentile(think_s, [25, 50, 75, 90]) == pytest.approx([40, 116, 377, 1372], rel=0.03)
    growth, beyond = context_growth(trace)
    assert np.median(beyond) == pytest.approx(24, abs=2)
    assert (beyond >= 0).mean() == pytest.approx(0.726, abs=0.01)
    assert (growth >= beyond).all()


@pytest.mark.parametrize("scaling", ["superpose", "compress", "thin"])
def test_episodes_link_turns_and_carry_think_times(trace: Trace, scaling: str) -> None:
    rate = 0.02 if scaling == "thin" else 6.0
    duration = DAY_S / 2 if scaling == "thin" else 600.0
    drawn = sampler(trace, scaling=scaling, duration_s=duration, mix={"conversation": 0.2, "api": 0.8})
    episode = drawn.sample(3, rate * 0.3)
    linked = np.flatnonzero(episode.previous >= 0)
    before = episode.previous[linked]
    assert len(linked) > 20
    assert (before < linked).all()
    assert (episode.session[before] == episode.session[linked]).all()
    assert (episode.turn[linked] == episode.turn[before] + 1).all()
    assert len(np.unique(before)) == len(before)  # none has two followers
    assert (np.isnan(episode.think_s) == (episode.previous < 0)).all()
    gap_s = (episode.arrival_s[linked] - episode.arrival_s[before]).mean()
    clock = 30.0 / gap_s  # every turn of this trace follows after 30 s; each class is compressed by its own factor
    assert (clock == pytest.approx(1.0)) == (scaling != "compress")
    served_s = (1.10 + 0.0109 * episode.output_tokens[before]) / clock
    assert episode.think_s[linked] == pytest.approx(gap_s - served_s, rel=1e-6, abs=1e-5)


def test_an_episode_may_open_inside_a_conversation(trace: Trace) -> None:
    episode = sampler(trace, mix={"conversation": 1.0}).sample(1, 20.0)
    opening = (episode.session >= 0) & (episode.previous < 0)
    assert (episode.turn[opening] > 0).any()  # earlier turns lie before the window: nothing of it is cached
    assert (episode.turn[opening] == 0).any()
    firsts = np.unique(episode.session, return_index=True)[1]
    assert (episode.previous[firsts] == -1).all()


def test_context_goes_on_inside_superposed_sessions(trace: Trace) -> None:
    prompt = np.where(trace.session >= 0, 10 + 60 * trace.turn, 5)
    grown = Trace.from_columns(
        trace.arrival_s, prompt, np.full(len(trace), 50), log_type=trace.log_type, session=trace.session
    )
    episode = sampler(grown).sample(2, 30.0)
    linked = np.flatnonzero(episode.previous >= 0)
    total = episode.prompt_tokens + episode.output_tokens
    assert len(linked) > 300
    assert (episode.prompt_tokens[linked] >= total[episode.previous[linked]]).all()


def test_thin_is_superpose_below_one_copy(trace: Trace) -> None:
    options = {"duration_s": 3600.0, "mix": {"conversation": 0.3, "api": 0.7}}
    a = sampler(trace, scaling="thin", **options).sample(4, 0.01)
    b = sampler(trace, scaling="superpose", **options).sample(4, 0.01)
    assert all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ARRAYS)
    with pytest.raises(BurstenvError, match=r"carries 0\.01042 conversation requests/s, thinning cannot raise it to 3"):
        sampler(trace, scaling="thin", **options).sample(4, 10.0)


def test_recorded_failures_lie_over_an_unchanged_episode(failing: Trace) -> None:
    without, recorded = (sampler(failing, duration_s=3600.0, upstream_failures=which) for which in ("none", "recorded"))
    found = 0
    for seed in range(8):
        plain, laid = without.sample(seed, 2.0), recorded.sample(seed, 2.0)
        served = ~laid.upstream_failed
        for name in (
            "arrival_s",
            "prompt_tokens",
            "output_tokens",
            "class_code",
            "model",
            "session",
            "turn",
            "think_s",
        ):
            assert getattr(laid, name)[served].tobytes() == getattr(plain, name).tobytes()
        assert (np.diff(laid.arrival_s) >= 0).all()
        failed = laid.upstream_failed
        assert laid.metadata["upstream_failed"] == failed.sum()
        assert (laid.class_code[failed] == 1).all()
        assert (laid.prompt_tokens[failed] == 7001).all()  # lengths of API requests of the same hour
        assert (laid.model[failed] == 2).all()  # the model is the failure's own
        assert (laid.previous[failed] == -1).all()
        assert (laid.session[failed] == -1).all()
        found += int(failed.sum())
        linked = np.flatnonzero(laid.previous >= 0)
        assert (laid.session[linked] == laid.session[laid.previous[linked]]).all()
    copies = 2.0 * (2000 / 2900) / (2000 / DAY_S)  # 300 failures a day in each copy, seen through a window of an hour
    assert found / 8 == pytest.approx(copies * 300 / 24, rel=0.1)


@pytest.mark.parametrize("scaling", ["thin", "compress"])
def test_recorded_failures_are_scaled_as_requests_are(failing: Trace, scaling: str) -> None:
    options = {
        "scaling": scaling,
        "duration_s": DAY_S if scaling == "thin" else 3600.0,
        "upstream_failures": "recorded",
    }
    rate = 0.5 * 2900 / DAY_S if scaling == "thin" else 2.0
    episodes = [sampler(failing, **options).sample(seed, rate) for seed in range(12)]
    failed = np.concatenate([episode.upstream_failed for episode in episodes])
    assert failed.sum() / (~failed).sum() == pytest.approx(300 / 2900, rel=0.15)
    for episode in episodes:
        assert episode.arrival_s[-1] < options["duration_s"]
        assert set(episode.prompt_tokens[episode.upstream_failed].tolist()) <= {7001}


def test_selecting_by_every_key(failing: Trace) -> None:
    kept = select(failing, parse(SelectConfig, {"class": "api", "days": [1, 2.5]}, "test"))
    assert (kept.log_type == 1).all()
    assert kept.arrival_s[0] >= DAY_S
    assert kept.arrival_s[-1] < 2.5 * DAY_S
    assert len(kept.failures) == 600
    assert kept.metadata["requests"] == len(kept)
    chats = select(failing, parse(SelectConfig, {"log_type": ["Conversation log"]}, "test"))
    assert len(chats.failures) == 0
    assert len(chats) == (failing.log_type == 0).sum()
    assert len(select(failing, parse(SelectConfig, {"model": ["ChatGPT", "GPT-4"]}, "test"))) == len(failing)
    assert select(failing, SelectConfig()) is failing
    with pytest.raises(BurstenvError, match=r"no request is left by select \(model other\)"):
        select(failing, parse(SelectConfig, {"model": "other"}, "test"))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": "gpt4"}, "unknown model 'gpt4'"),
        ({"class": "chat"}, "unknown class 'chat'"),
        ({"log_type": []}, "log_type"),
        ({"days": [3, 3]}, "0 <= first < last"),
        ({"day": 3}, "unknown key 'day'"),
    ],
)
def test_wrong_selections(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        parse(SelectConfig, values, "test")


def test_failure_rates_count_by_hour_and_class(failing: Trace) -> None:
    rates = failure_rates(failing)
    assert rates.submitted.sum() == len(failing) + len(failing.failures)
    assert rates.failed.sum() == len(failing.failures)
    assert rates.hourly.shape == (2, len(rates.hour_start_s))
    assert rates.rate == pytest.approx([0.0, 300 / 2300])
    six = rates.hour_start_s / 3600 % 24 == 6
    assert (rates.failed[1][six] == 300).all()
    assert rates.failed[1][~six].sum() == 0
    assert rates.by_hour_of_day[1].argmax() == 6
    assert rates.by_hour_of_day[0].tolist() == [0.0] * 24
    assert rates.summary()["api"]["failed"] == 1800


def test_the_interval_of_a_failure_rate_is_by_days() -> None:
    # 40 days of 100 requests: 5 failures on each, or all 200 on two of the days.
    served = np.sort(np.concatenate([day * DAY_S + np.arange(100) * 800.0 for day in range(40)]))
    even = np.concatenate([day * DAY_S + np.arange(5) * 9000.0 for day in range(40)])
    spells = np.concatenate([day * DAY_S + np.arange(100) * 800.0 for day in (11, 30)])
    found = []
    for failed in (even, spells):
        code = np.zeros(len(failed), np.int8)
        trace = Trace.from_columns(served, np.ones(4000), np.ones(4000), failures=Failures(failed, code, code))
        rates = failure_rates(trace)
        assert rates.rate[0] == pytest.approx(200 / 4200)
        found.append(rates.rate_high[0] - rates.rate_low[0])
        assert np.isnan(rates.rate[1])
    assert found[0] < 1e-6  # the same on every day
    assert found[1] > 0.05  # as independent trials it would be 0.013
    one_day = failure_rates(Trace.from_columns([0.0, 1.0], [1, 1], [1, 1]))
    assert one_day.rate[0] == 0
    assert one_day.rate_high[0] == pytest.approx(0.658, abs=0.001)  # Wilson, 0 of 2


def test_failure_rates_of_the_first_rows_of_file_1() -> None:
    rates = failure_rates(read_trace(real("burstgpt_1_first400.csv")))
    assert rates.failed.sum() == 17
    assert rates.submitted.sum() == 400


def test_a_workload_selects(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "w.yaml"
    path.write_text("kind: generated\ndays: 4\nseed: 1\nselect: {class: api, model: GPT-4, days: [1, 3]}\n")
    trace = load_trace(load_workload(path))
    assert set(trace.log_type.tolist()) == {1}
    assert set(trace.model.tolist()) == {1}
    assert set(trace.failures.log_type.tolist()) <= {1}
    assert DAY_S <= trace.arrival_s[0] < trace.arrival_s[-1] < 3 * DAY_S
    assert "class api" in trace.metadata["steps"][-1]
    path.write_text("kind: generated\ndays: 4\nselect: {klass: api}\n")
    with pytest.raises(BurstenvError, match=r"unknown key 'select.klass'; valid keys: model, log_type, class, days"):
        load_workload(path)
