"""Every routing rule against a decision worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from burstenv.policies import ROUTING_RULES
from tests.policies.bench import Bench

NAMES = [rule.name for rule in ROUTING_RULES]
DEPLOYABLE = [rule.name for rule in ROUTING_RULES if not rule.oracle]
SCORED = ["jsq", "least-kv", "vllm-dp", "lmetric", "expected-ttft"]
ALL = slice(None)


def shares(bench: Bench, rule: str, draws: int = 4000) -> np.ndarray:
    counts = Counter(bench.route(rule) for _ in range(draws))
    return np.array([counts[r] / draws for r in range(4)])


def test_jsq_counts_waiting_and_running():
    bench = Bench()
    bench.replica(ALL, seen_waiting=[3, 0, 2, 5], seen_running=[5, 10, 5, 0])
    assert bench.route("jsq") == 3
    bench.replica(3, seen_waiting=8)
    assert bench.route("jsq") == 2


def test_vllm_dp_weighs_waiting_four_times():
    bench = Bench()
    bench.replica(ALL, seen_waiting=[3, 0, 2, 5], seen_running=[0, 13, 5, 0])  # 12, 13, 13, 20
    assert bench.route("vllm-dp") == 0
    bench.replica(0, seen_running=2)  # 14
    bench.replica(1, seen_running=12)
    assert bench.route("vllm-dp") == 1


def test_least_kv_counts_the_queue():
    bench = Bench()
    bench.replica(ALL, seen_free_blocks=[3451, 3000, 1000, 2900], seen_waiting_blocks=[800, 100, 0, 0])
    assert {bench.route("least-kv") for _ in range(50)} == {1, 3}  # 800, 451 + 100, 2451, 551
    bench.replica(3, seen_waiting_blocks=1)
    assert {bench.route("least-kv") for _ in range(50)} == {1}


def test_lmetric_is_tokens_times_requests():
    bench = Bench(prompt_tokens=500)
    bench.replica(
        ALL,
        seen_waiting=[1, 2, 0, 3],
        seen_running=[9, 3, 21, 0],
        seen_waiting_tokens=[300, 1500, 0, 2500],
        seen_prefill_tokens=[0, 100, 50, 500],
    )
    # (300+500)*10 = 8,000; 2,100*5 = 10,500; 550*21 = 11,550; 3,500*3 = 10,500
    assert bench.route("lmetric") == 0
    bench.request(prompt_tokens=2000)  # 23,000; 18,000; 43,050; 15,000
    assert bench.route("lmetric") == 3


def test_expected_ttft_takes_the_smallest_estimate():
    rng = np.random.default_rng(0)
    for _ in range(50):
        bench = Bench(prompt_tokens=int(rng.integers(1, 4000)))
        bench.replica(
            ALL,
            seen_waiting=rng.integers(0, 20, 4),
            seen_running=rng.integers(0, 60, 4),
            seen_waiting_tokens=rng.integers(0, 9000, 4),
            seen_context_tokens=rng.integers(0, 50_000, 4),
            seen_free_blocks=rng.integers(0, 3451, 4),
            seen_waiting_blocks=rng.integers(0, 900, 4),
        )
        expected = int(np.argmin([bench.estimates(r)["ttft_s"] for r in range(4)]))
        assert bench.route("expected-ttft") == expected


def test_expected_ttft_prefers_the_faster_gpu_when_all_are_idle():
    assert set(Bench(seed).route("expected-ttft") for seed in range(50)) == {2, 3}


def test_round_robin_cycles():
    bench = Bench()
    assert [bench.route("round-robin") for _ in range(9)] == [0, 1, 2, 3, 0, 1, 2, 3, 0]


def test_round_robin_passes_over_a_replica_that_cannot_serve():
    bench = Bench(prompt_tokens=500)
    bench.replica(1, max_model_len=500)
    assert [bench.route("round-robin") for _ in range(6)] == [0, 2, 3, 0, 2, 3]


def test_random_is_uniform():
    assert shares(Bench(), "random") == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("rule", ["jsq", "least-kv", "vllm-dp", "lmetric", "power-of-two"])
def test_ties_of_all_are_broken_evenly(rule):
    assert shares(Bench(), rule) == pytest.approx([0.25] * 4, abs=0.03)


@pytest.mark.parametrize("rule", SCORED)
def test_ties_of_two_are_broken_evenly(rule):
    bench = Bench()
    # replicas 1 and 3 are the same and the best in every respect
    bench.replica(slice(0, 4, 2), seen_waiting=5, seen_running=9, seen_waiting_tokens=4000, seen_waiting_blocks=800)
    for name in ("h0_s", "h1_s", "h2_s", "h3_s", "h4_s", "h5_s", "token_budget"):
        bench.replica(3, **{name: bench.fields_of(name)[1]})
    assert shares(bench, rule) == pytest.approx([0, 0.5, 0, 0.5], abs=0.03)


def test_power_of_two_takes_the_less_loaded_of_a_random_pair():
    bench = Bench()
    bench.replica(ALL, seen_waiting=[0, 1, 2, 3])
    # the six pairs are equally likely: the best of all wins three, the next two, the next one, the worst none
    assert shares(bench, "power-of-two", 6000) == pytest.approx([3 / 6, 2 / 6, 1 / 6, 0], abs=0.03)


def test_power_of_two_of_two_is_the_less_loaded():
    bench = Bench(num_replicas=2)
    bench.replica(ALL, seen_running=[4, 3])
    assert {bench.route("power-of-two") for _ in range(100)} == {1}


@pytest.mark.parametrize("rule", NAMES)
def test_one_replica_leaves_no_choice(rule):
    bench = Bench(num_replicas=1)
    assert {bench.route(rule) for _ in range(10)} == {0}


@pytest.mark.parametrize("rule", NAMES)
def test_a_replica_that_cannot_serve_is_never_chosen(rule):
    bench = Bench(prompt_tokens=500)
    bench.replica(slice(0, 3), max_model_len=500)
    # the only one that can is the worst in every other respect
    bench.replica(3, seen_waiting=90, seen_running=90, seen_waiting_tokens=90_000, seen_waiting_blocks=6000)
    bench.replica(3, seen_free_blocks=0)
    assert {bench.route(rule) for _ in range(200)} == {3}


@pytest.mark.parametrize("rule", NAMES)
def test_without_a_fitting_replica_some_replica_is_chosen(rule):
    bench = Bench(prompt_tokens=500)
    bench.replica(ALL, max_model_len=400)
    assert {bench.route(rule) for _ in range(50)} <= {0, 1, 2, 3}


@pytest.mark.parametrize("rule", NAMES)
def test_the_same_seed_routes_alike(rule):
    runs = [[bench.route(rule) for _ in range(50)] for bench in (Bench(7), Bench(7), Bench(8))]
    assert runs[0] == runs[1]
    if rule in ("random", "jsq", "power-of-two"):
        assert runs[0] != runs[2]


@pytest.mark.parametrize("rule", DEPLOYABLE)
def test_only_the_published_state_counts(rule):
    """A change of hidden state while an iteration is in flight changes no decision."""
    a, b = Bench(3), Bench(3)
    for bench in (a, b):
        bench.replica(ALL, seen_waiting=[1, 2, 0, 3], seen_running=[9, 3, 21, 0])
    b.replica(ALL, waiting=[50, 0, 7, 1], running=[0, 70, 3, 9], free_blocks=[0, 100, 3000, 5], prefill_id=0)
    b.replica(ALL, waiting_tokens=[9, 9000, 1, 0], waiting_blocks=[1, 900, 1, 0], iteration_end_s=[9, 8, 7, 6])
    b.request(output_tokens=3)
    assert [a.route(rule) for _ in range(20)] == [b.route(rule) for _ in range(20)]
