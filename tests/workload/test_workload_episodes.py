from __future__ import annotations

import hashlib
import pickle

import numpy as np
import pytest

from burstenv.config import parse
from burstenv.errors import BurstenvError
from burstenv.workload import (
    DAY_S,
    DayRange,
    EpisodeConfig,
    EpisodeRequests,
    EpisodeSampler,
    Trace,
    split_by_days,
)

ARRAYS = ("arrival_s", "prompt_tokens", "output_tokens", "class_code", "model", "session", "turn")


def made_trace(days: int = 6, api_per_day: int = 2000, chats_per_day: int = 300) -> Trace:
    """Poisson chats in sessions of three, 30 s apart, and API requests in clumps of 20 within a second."""
    random = np.random.default_rng(3)
    chat = np.sort(random.random((days, chats_per_day)), axis=1) + np.arange(days)[:, None]
    starts = chat.ravel() * DAY_S * (1 - 1e-3 / days)
    chats = (starts[:, None] + [0, 30, 60]).ravel()
    clump = np.sort(random.random((days, api_per_day // 20)), axis=1) + np.arange(days)[:, None]
    calls = (clump.ravel()[:, None] * DAY_S + random.random((clump.size, 20))).ravel()
    arrival = np.concatenate([chats, calls])
    order = np.argsort(arrival)
    log_type = np.repeat([0, 1], [len(chats), len(calls)])[order]
    session = np.concatenate([np.repeat(np.arange(len(starts)), 3), np.full(len(calls), -1)])[order]
    count = np.arange(len(arrival))
    return Trace.from_columns(
        arrival[order], 1 + count % 500, 1 + count % 300, log_type=log_type, session=session, model=log_type
    )


@pytest.fixture(scope="module")
def trace() -> Trace:
    return made_trace()


def sampler(trace: Trace, days: DayRange | None = None, **options: object) -> EpisodeSampler:
    return EpisodeSampler(trace, days or DayRange(0, 6), EpisodeConfig(**options), split="train")  # type: ignore[arg-type]


def same(a: EpisodeRequests, b: EpisodeRequests) -> bool:
    return a.metadata == b.metadata and all(getattr(a, name).tobytes() == getattr(b, name).tobytes() for name in ARRAYS)


PINNED = [  # committed lists of episodes and rankings were made of these bytes: a change of them makes those anew
    ({"scaling": "superpose"}, 8.0, "69f8521503fce2cc"),
    ({"scaling": "superpose", "mix": {"conversation": 0.5, "api": 0.5}}, 0.021, "dbde275cf341ac39"),
    ({"scaling": "thin"}, 0.03, "73a242990e0c04c9"),
    ({"scaling": "compress", "mix": {"conversation": 0.5, "api": 0.5}}, 8.0, "dd8d385254f43cee"),
]


@pytest.mark.parametrize(("options", "rate_per_s", "pinned"), PINNED)
def test_episodes_of_all_versions_are_the_same_bytes(
    trace: Trace, options: dict[str, object], rate_per_s: float, pinned: str
) -> None:
    digest = hashlib.sha256()
    drawn_from = sampler(trace, **options, duration_s=600.0)
    for seed in (0, 7, 2**31 - 1):
        drawn = drawn_from.sample(seed, rate_per_s)
        assert len(drawn) > 0
        for name in (*ARRAYS, "previous", "think_s"):
            digest.update(getattr(drawn, name).tobytes())
    assert digest.hexdigest()[:16] == pinned


@pytest.mark.parametrize("scaling", ["superpose", "compress"])
def test_same_seed_same_bytes_whatever_was_drawn_before(trace: Trace, scaling: str) -> None:
    first, second = sampler(trace, scaling=scaling), sampler(trace, scaling=scaling)
    for seed in range(5):
        second.sample(seed + 100, 3.0)
    assert same(first.sample(4, 8.0), second.sample(4, 8.0))
    assert not same(first.sample(4, 8.0), first.sample(5, 8.0))


@pytest.mark.parametrize("scaling", ["superpose", "compress"])
def test_arrays_are_sorted_typed_and_inside_the_episode(trace: Trace, scaling: str) -> None:
    episode = sampler(trace, scaling=scaling).sample(1, 8.0)
    assert (np.diff(episode.arrival_s) >= 0).all()
    assert episode.arrival_s[0] >= 0
    assert episode.arrival_s[-1] < 180
    kinds = [getattr(episode, name).dtype.str[1:] for name in ARRAYS]
    assert kinds == ["f8", "i4", "i4", "i1", "i1", "i4", "i4"]
    assert len({len(getattr(episode, name)) for name in ARRAYS}) == 1
    assert episode.metadata["requests"] == len(episode)
    assert (episode.model == episode.class_code).all()  # so rows stayed together


@pytest.mark.parametrize("rate_per_s", [0.01, 0.4, 7.3])
def test_superposing_reaches_the_rate_in_the_mean(trace: Trace, rate_per_s: float) -> None:
    drawn = sampler(trace)
    rates = np.array([len(drawn.sample(seed, rate_per_s)) / 180 for seed in range(1500)])
    error = rates.std() / np.sqrt(len(rates))
    assert rates.mean() == pytest.approx(rate_per_s, abs=4 * error)
    assert error < 0.1 * rate_per_s


def test_the_mix_is_reached_in_the_mean(trace: Trace) -> None:
    drawn = sampler(trace, mix={"conversation": 0.3, "api": 0.7})
    classes = np.concatenate([drawn.sample(seed, 10.0).class_code for seed in range(300)])
    assert (classes == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert drawn.mix == {"conversation": 0.3, "api": 0.7}


def test_without_a_mix_the_composition_of_the_split_is_kept(trace: Trace) -> None:
    assert sampler(trace).mix["api"] == pytest.approx(2000 / 2900, abs=0.01)


def test_a_class_of_share_0_is_left_out(trace: Trace) -> None:
    episode = sampler(trace, mix={"conversation": 1.0, "api": 0.0}).sample(0, 5.0)
    assert set(episode.class_code.tolist()) == {0}


def test_superposing_keeps_bursts_and_think_times(trace: Trace) -> None:
    drawn = sampler(trace, mix={"conversation": 0.5, "api": 0.5})
    think, fano = [], {0: [], 1: []}
    for seed in range(40):
        episode = drawn.sample(seed, 4.0)
        for code in (0, 1):
            counts = np.bincount(episode.arrival_s[episode.class_code == code].astype(int), minlength=180)
            fano[code].append(counts.var() / counts.mean())
        chats = np.flatnonzero(episode.session >= 0)
        chats = chats[np.lexsort((episode.turn[chats], episode.session[chats]))]
        together = np.diff(episode.session[chats]) == 0
        think.append(np.diff(episode.arrival_s[chats])[together])
        assert (np.diff(episode.turn[chats])[together] == 1).all()
    assert np.concatenate(think) == pytest.approx(30.0, abs=1e-6)
    assert np.mean(fano[1]) > 5 * np.mean(fano[0])


def test_sessions_of_copies_are_distinct_and_numbered_from_0(trace: Trace) -> None:
    episode = sampler(trace, mix={"conversation": 1.0}).sample(2, 20.0)
    assert episode.metadata["copies"]["conversation"] > 100
    names, sizes = np.unique(episode.session, return_counts=True)
    assert names.tolist() == list(range(len(names)))
    assert sizes.max() <= 3


def test_thinning_keeps_or_drops_whole_conversations(trace: Trace) -> None:
    # Half a copy of the day, a window of the whole day: all three turns or none.
    drawn = sampler(trace, duration_s=DAY_S, mix={"conversation": 1.0})
    episode = drawn.sample(0, 0.5 * 900 / DAY_S)
    assert episode.metadata["copies"]["conversation"] == pytest.approx(0.5, rel=0.01)
    sizes = np.unique(episode.session, return_counts=True)[1]
    assert (sizes == 3).mean() > 0.95  # the rest straddles midnight or the window's edge
    assert len(sizes) == pytest.approx(150, rel=0.3)


def test_consecutive_seeds_cover_all_days_evenly(trace: Trace) -> None:
    drawn = sampler(trace)
    cycles = [[drawn.block_of(6 * cycle + place) for place in range(6)] for cycle in range(20)]
    assert all(sorted(cycle) == [0, 1, 2, 3, 4, 5] for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 15  # in an order drawn anew
    assert drawn.sample(17, 5.0).metadata["day"] == drawn.block_of(17)


def test_episodes_come_from_their_own_split_only(trace: Trace) -> None:
    splits = split_by_days(trace)
    prompts = {name: set() for name in splits}
    marked = Trace.from_columns(
        trace.arrival_s, 1 + trace.day, trace.output_tokens, log_type=trace.log_type, session=trace.session
    )
    for name, days in splits.items():
        for scaling in ("superpose", "compress"):
            drawn = EpisodeSampler(marked, days, EpisodeConfig(scaling=scaling))  # type: ignore[arg-type]
            for seed in range(12):
                prompts[name] |= set((drawn.sample(seed, 2.0).prompt_tokens - 1).tolist())
        assert prompts[name] == set(range(days.first_day, days.last_day))


def test_compressing_reaches_the_rate_exactly_with_consecutive_requests(trace: Trace) -> None:
    numbered = Trace.from_columns(trace.arrival_s, 1 + np.arange(len(trace)), trace.output_tokens)
    episode = sampler(numbered, scaling="compress").sample(3, 5.0)
    assert len(episode) == 900
    assert (np.diff(episode.prompt_tokens) == 1).all()
    first = episode.prompt_tokens[0] - 1
    original = trace.arrival_s[first : first + 900]
    stretched = original[0] + episode.arrival_s * episode.metadata["compression"]
    assert stretched == pytest.approx(original, abs=1e-5)


def test_compressing_with_a_mix(trace: Trace) -> None:
    episode = sampler(trace, scaling="compress", mix={"conversation": 0.25, "api": 0.75}).sample(3, 2.0)
    assert np.bincount(episode.class_code).tolist() == [90, 270]
    drawn = sampler(trace, scaling="compress", mix={"conversation": 1 / 3, "api": 2 / 3})
    assert [len(drawn.sample(0, rate)) for rate in (0.5, 1.0, 1.005, 2.006)] == [90, 180, 181, 361]


def test_days_with_too_few_requests_are_left_out_and_recorded(trace: Trace) -> None:
    thin = trace.where((trace.log_type == 0) | (trace.day != 2) | (np.arange(len(trace)) % 100 == 0))
    drawn = sampler(thin)
    assert drawn.days.tolist() == [0, 1, 3, 4, 5]
    assert list(drawn.metadata["ineligible_days"]) == [2]
    assert drawn.metadata["ineligible_days"][2].endswith("api requests")
    # Without that class in the mix the day is as good as any.
    assert len(sampler(thin, mix={"conversation": 1.0}).days) == 6


def test_long_requests_are_refused_by_name_or_dropped_and_counted(trace: Trace) -> None:
    total = trace.prompt_tokens + trace.output_tokens
    row = int(np.argmax(total > 700))
    with pytest.raises(BurstenvError, match=rf"request {row + 1} \(arrival .*more than max_total_tokens 700"):
        sampler(trace, max_total_tokens=700)
    drawn = sampler(trace, max_total_tokens=700, oversize="drop")
    assert drawn.metadata["dropped_oversize"] == int((total > 700).sum()) > 0
    episode = drawn.sample(0, 50.0)
    assert (episode.prompt_tokens + episode.output_tokens).max() <= 700
    assert episode.metadata["dropped_oversize"] == drawn.metadata["dropped_oversize"]


def test_a_sampler_survives_pickling(trace: Trace) -> None:
    drawn = sampler(trace)
    drawn.sample(0, 5.0)
    assert same(pickle.loads(pickle.dumps(drawn)).sample(3, 5.0), drawn.sample(3, 5.0))


def test_what_cannot_be_drawn_is_refused(trace: Trace) -> None:
    with pytest.raises(BurstenvError, match=r"spans 100 s, an episode needs at least 180 s"):
        sampler(Trace.from_columns([0, 100], [1, 1], [1, 1]))
    with pytest.raises(BurstenvError, match=r"train \(days 9 to 9\) holds no requests"):
        sampler(trace, DayRange(9, 10))
    with pytest.raises(BurstenvError, match=r"no day has at least 50 .*; day 0 has 20 conversation"):
        sampler(Trace.from_columns(np.arange(20) * 100, [1] * 20, [1] * 20))
    only_chats = trace.where(trace.log_type == 0)
    with pytest.raises(BurstenvError, match=r"holds no api requests, the mix asks for 0\.5"):
        sampler(only_chats, mix={"conversation": 0.5, "api": 0.5})
    drawn = sampler(trace, scaling="compress")
    with pytest.raises(BurstenvError, match="an episode compressed to this rate needs 180001"):
        drawn.sample(0, 1000.0)
    for rate_per_s in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BurstenvError, match="rate_per_s must be above 0"):
            drawn.sample(0, rate_per_s)
    with pytest.raises(BurstenvError, match="seed must be at least 0"):
        drawn.sample(-1, 1.0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"duration_s": 0}, "duration_s: input should be greater than or equal to"),
        ({"duration_s": 90_000}, "at most 86400"),
        ({"mix": {"chat": 1.0}}, "unknown class 'chat'; valid: conversation, api"),
        ({"mix": {"api": 0.5}}, "sum 1"),
        ({"mix": {}}, "sum 1"),
        ({"scaling": "stretch"}, "'superpose', 'compress' or 'thin'"),
        ({"rate": 1}, "unknown key 'rate'"),
    ],
)
def test_wrong_episode_configurations(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        parse(EpisodeConfig, values, "test")
