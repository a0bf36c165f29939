"""Every admission rule against a decision worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.policies import ADMISSION_RULES
from tests.policies.bench import Bench


def test_always_and_never():
    bench = Bench()
    bench.replica(0, seen_waiting=10_000, seen_free_blocks=0)
    assert bench.admit("always")
    assert not Bench().admit("never")


@pytest.mark.parametrize(("waiting", "admitted"), [(0, True), (15, True), (16, False), (17, False)])
def test_queue_cap(waiting, admitted):
    bench = Bench()
    bench.replica(0, seen_waiting=waiting)
    assert bench.admit("queue-cap") is admitted
    assert bench.admit("queue-cap", r=1)
    assert bench.admit("queue-cap(limit=17)") is (waiting < 17)


def test_token_bucket_refills():
    rule = "token-bucket(capacity_tokens=1000,refill_tokens_per_s=100)"
    bench = Bench(prompt_tokens=400)
    level = bench.memory["bucket_tokens"]

    def at(now_s: float) -> bool:
        bench.environment["now_s"] = now_s
        return bench.admit(rule)

    assert at(50.0)  # it starts full, at any time of the first request
    assert level[0] == 600
    assert at(50.0)
    assert level[0] == 200
    assert not at(50.0)  # a rejection takes no tokens
    assert level[0] == 200
    assert not at(51.999)
    assert at(52.001)  # 200 + 2.001 * 100 - 400
    assert level[0] == pytest.approx(0.1)
    assert at(1000.0)  # never above its capacity
    assert level[0] == 600


def test_token_bucket_takes_exactly_its_tokens():
    bench = Bench(prompt_tokens=1000)
    assert bench.admit("token-bucket(capacity_tokens=1000,refill_tokens_per_s=0)")
    assert bench.memory["bucket_tokens"][0] == 0
    bench.request(prompt_tokens=1)
    assert not bench.admit("token-bucket(capacity_tokens=1000,refill_tokens_per_s=0)")


def test_token_bucket_is_the_clusters():
    bench = Bench(prompt_tokens=600)
    rule = "token-bucket(capacity_tokens=1000,refill_tokens_per_s=1)"
    assert bench.admit(rule, r=0)
    assert not bench.admit(rule, r=3)


def test_predicted_deadline():
    bench = Bench(prompt_tokens=1500, arrival_s=10.0, ttft_slo_s=1.0)
    ttft_s = bench.estimates()["ttft_s"]
    for waited_s in np.linspace(0, 1.2, 13):
        bench.environment["now_s"] = 10.0 + waited_s
        for slack in (0.5, 1.0, 3.0):
            expected = ttft_s <= slack * (10.0 + 1.0 - (10.0 + waited_s))
            assert bench.admit(f"predicted-deadline(slack={slack})") == expected
    bench.environment["now_s"] = 11.5  # the objective is missed already
    assert not bench.admit("predicted-deadline(slack=1000)")


def test_predicted_deadline_depends_on_the_replica():
    bench = Bench(prompt_tokens=1500, ttft_slo_s=0.1)
    # 1,500 tokens take about 155 ms on an A100 (replica 0), 56 ms on an H100 (replica 2)
    assert not bench.admit("predicted-deadline(slack=1)", r=0)
    assert bench.admit("predicted-deadline(slack=1)", r=2)


@pytest.mark.parametrize(("free", "queued", "admitted"), [(3451, 3451, True), (3450, 3451, False), (0, 0, True)])
def test_kv_threshold(free, queued, admitted):
    bench = Bench(prompt_tokens=4000)  # the prompt itself does not count
    bench.replica(0, seen_free_blocks=free, seen_waiting_blocks=queued)
    assert bench.admit("kv-threshold") is admitted


def test_kv_threshold_with_a_limit():
    bench = Bench()
    bench.replica(0, seen_free_blocks=3451 - 2761)  # 0.80006 of the cache
    assert not bench.admit("kv-threshold(limit=0.8)")
    bench.replica(0, seen_free_blocks=3451 - 2760)
    assert bench.admit("kv-threshold(limit=0.8)")


def test_size_aware_kv():
    # 1.25 - 0.2 * 0.5 - 0.3 * 0.5 = 1.0 for a prompt of 500 and a predicted output of 500: 3,451 blocks,
    # the prompt takes 32 of them
    bench = Bench(prompt_tokens=500, predicted_tokens=500.0)
    bench.replica(0, seen_free_blocks=3451 - 3418)
    assert bench.admit("size-aware-kv")
    bench.replica(0, seen_waiting_blocks=2)
    assert not bench.admit("size-aware-kv")
    bench.request(predicted_tokens=490.0)
    assert bench.admit("size-aware-kv")
    bench.request(prompt_tokens=600)
    assert not bench.admit("size-aware-kv")
    assert bench.admit("size-aware-kv(prompt=0)")


@pytest.mark.parametrize("rule", [rule.name for rule in ADMISSION_RULES if not rule.oracle])
def test_only_the_published_state_counts(rule):
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = Bench(3), Bench(3)
        seen = {"seen_waiting": rng.integers(0, 32), "seen_free_blocks": rng.integers(0, 3451)}
        seen["seen_waiting_blocks"] = rng.integers(0, 2000)
        for bench in (a, b):
            bench.replica(0, **seen)
        b.replica(0, waiting=rng.integers(0, 32), free_blocks=0, waiting_blocks=9999, running=77)
        b.request(output_tokens=4000)
        assert a.admit(rule) == b.admit(rule)
