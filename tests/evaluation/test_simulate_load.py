"""Replays brought to a rate, to a share of capacity, and to a utilisation of the cluster."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import ClusterConfig, resolve_cluster
from burstenv.config import parse
from burstenv.errors import BurstenvError
from burstenv.evaluation.offered_load import saturated_rate_per_s
from burstenv.evaluation.simulate import simulate
from burstenv.workload import DAY_S, Trace

POLICY = "always/jsq/vllm"
RATES = ("rate_per_s", "load", "utilisation")


def made_trace(sessions: bool = False) -> Trace:
    """Two days of 6,000 requests with prompts and responses of a few hundred tokens."""
    random = np.random.default_rng(8)
    count = 6000
    arrival = np.sort(random.random(count)) * 2 * DAY_S
    session = random.integers(0, 1500, count) if sessions else None
    return Trace.from_columns(
        arrival, random.integers(100, 900, count), random.integers(50, 350, count), session=session,
        log_type=random.integers(0, 2, count),
    )  # fmt: skip


@pytest.fixture(scope="module")
def trace() -> Trace:
    return made_trace()


def cluster(**options: object) -> ClusterConfig:
    values = {
        "name": "two", "prefix_caching": False, "asynchronous": False,
        "replicas": [{"model": "llama-2-7b", "hardware": "a100-80g", "count": 2, **options}]
    }  # fmt: skip
    return parse(ClusterConfig, values, "test")


def test_below_utilisation_1_queues_empty_and_above_they_grow(trace: Trace) -> None:
    lag, finished = {}, {}
    for utilisation in (0.5, 0.9, 1.3):
        result = simulate(trace, cluster(), POLICY, utilisation=utilisation, duration_s=1200.0)
        m = result.metrics
        assert m["rate_per_s"] == pytest.approx(utilisation * m["saturated_rate_per_s"], rel=0.02)
        first_s = result.records["arrival_s"][0]
        lag[utilisation] = (m["end_s"] - first_s) / m["span_s"]
        finished[utilisation] = np.mean(result.records["finish_s"] <= result.records["arrival_s"][-1])
    assert lag[0.5] < 1.02
    assert lag[0.9] < 1.05
    assert lag[1.3] == pytest.approx(1.3, rel=0.05)  # the work of 1.3 times the span takes 1.3 times as long
    assert finished[1.3] == pytest.approx(1 / 1.3, rel=0.05)
    assert finished[0.5] > 0.98


@pytest.mark.parametrize("utilisation", [0.3, 0.5, 0.8])
def test_with_one_request_at_a_time_utilisation_is_the_busy_share(trace: Trace, utilisation: float) -> None:
    # Without batching the work of a request does not depend on its company: offered work is time in iterations.
    equal = Trace.from_columns(trace.arrival_s, np.full(len(trace), 1000), np.full(len(trace), 250))
    one_fits = cluster(num_blocks=82, max_model_len=1280)  # of 16 tokens: a prompt and a half
    m = simulate(equal, one_fits, POLICY, utilisation=utilisation, duration_s=40_000.0).metrics
    assert m["busy_share"] == pytest.approx(utilisation, rel=0.05)
    batched = simulate(equal, cluster(), POLICY, utilisation=utilisation, duration_s=1200.0).metrics
    assert batched["busy_share"] > 0.9  # with it, engines are busy long before they are full


def test_the_saturated_rate_does_not_hang_on_the_seed_or_on_cached_prefixes(trace: Trace) -> None:
    specs = resolve_cluster(cluster())
    rates = [saturated_rate_per_s(trace, specs, seed) for seed in range(3)]
    assert max(rates) / min(rates) < 1.03
    turn = np.arange(4000) % 4  # sessions of four, every prompt all that was said before and more
    start_s = 40.0 * np.repeat(np.arange(1000), 4)
    order = np.argsort(start_s + 60.0 * turn, kind="stable")
    talking = Trace.from_columns(
        (start_s + 60.0 * turn)[order],
        (50 + turn * 450)[order],
        np.full(4000, 40),
        session=np.repeat(np.arange(1000), 4)[order],
    )
    caching = tuple(spec.model_copy(update={"prefix_caching": True}) for spec in specs)
    # Behind a backlog of minutes a turn finds the blocks of the one before gone: saturation does not count on caches.
    assert saturated_rate_per_s(talking, caching) == pytest.approx(saturated_rate_per_s(talking, specs), rel=0.05)


def test_a_load_of_1_attains_90_percent(trace: Trace) -> None:
    m = simulate(trace, cluster(), POLICY, load=1.0, duration_s=3000.0).metrics
    assert m["rate_per_s"] == pytest.approx(m["capacity_per_s"], rel=0.02)
    # 3,000 s on end are no 100-second windows that begin empty, so it is near 90 % only.
    assert 0.7 < m["attainment"] < 0.97
    assert simulate(trace, cluster(), POLICY, load=0.5, duration_s=3000.0).metrics["attainment"] > 0.97


@pytest.mark.parametrize("scaling", ["superpose", "compress"])
def test_a_rate_is_met_by_each_scaling_and_the_same_for_every_policy(trace: Trace, scaling: str) -> None:
    runs = [
        simulate(trace, cluster(), policy, rate_per_s=4.0, scaling=scaling, duration_s=600.0)
        for policy in (POLICY, "always/round-robin/sarathi-512")
    ]
    assert runs[0].metrics["offered"] == pytest.approx(2400, abs=3)
    assert runs[0].metrics["rate_per_s"] == pytest.approx(4.0, rel=0.02)
    for name in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert (runs[0].records[name] == runs[1].records[name]).all()


def test_thinning_and_plain_stretches(trace: Trace) -> None:
    thinned = simulate(trace, cluster(), POLICY, rate_per_s=0.01, scaling="thin").metrics
    assert thinned["offered"] == pytest.approx(0.01 * 2 * DAY_S, rel=0.1)
    stretch = simulate(trace, cluster(), POLICY, speed=10.0, duration_s=3600.0, seed=4).metrics
    assert stretch["span_s"] < 3600
    assert stretch["offered"] == pytest.approx(6000 * 36_000 / (2 * DAY_S), rel=0.15)


def test_without_a_load_the_clock_is_the_traces_own(trace: Trace) -> None:
    result = simulate(trace, cluster(), POLICY)
    assert (result.records["arrival_s"] == trace.arrival_s - trace.arrival_s[0]).all()
    assert result.metrics["first_arrival_s"] == trace.arrival_s[0]
    assert not {"capacity_per_s", "saturated_rate_per_s"} & set(result.metrics)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rate_per_s": 1.0, "load": 1.0}, "give one of .*, got rate_per_s and load"),
        ({"load": 1.0, "speed": 2.0}, "give one of .*, got load and speed"),
        ({"rate_per_s": -1.0}, "rate_per_s must be a finite number above 0"),
        ({"utilisation": float("nan")}, "utilisation must be a finite number above 0"),
        ({"rate_per_s": 1.0, "scaling": "stretch"}, "unknown scaling 'stretch'"),
        ({"scaling": "thin"}, "scaling needs one of"),
        ({"rate_per_s": 1.0, "scaling": "thin"}, "thinning cannot raise"),
        ({"rate_per_s": 1.0, "duration_s": 1e9}, "window_s must be above 0"),
        ({"duration_s": 1e9}, "duration_s must be above 0"),
    ],
)
def test_what_cannot_be_reached_is_refused_in_one_sentence(
    trace: Trace, options: dict[str, float], sentence: str
) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        simulate(trace, cluster(), POLICY, **options)  # type: ignore[arg-type]
