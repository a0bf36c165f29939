"""A router's estimates from its observation, against hand computation."""

from __future__ import annotations

import pytest

from tests.policies.bench import Bench

# Llama-2-13B on an A100 (replica 0): 3,451 blocks, budget 2048; ms: max(19.37, 15.08 + 0.0899 n)
# + 3.86e-6 A + 4.06e-4 K + 0.0094 D + 0.011 sequences.


def test_idle_replica():
    got = Bench(prompt_tokens=500).estimates()
    assert got["fits"] == 1.0
    assert got["kv_demand"] == 0.0
    assert got["kv_demand_with"] == pytest.approx(32 / 3451)  # ceil(500 / 16)
    assert got["prefill_backlog_tokens"] == 0
    assert got["decode_iteration_s"] == pytest.approx(1e-3 * 19.37)


def test_kv_demand_counts_used_and_queued_blocks():
    bench = Bench(prompt_tokens=33)
    bench.replica(0, seen_free_blocks=3451 - 2000, seen_waiting_blocks=1600)
    got = bench.estimates()
    assert got["kv_demand"] == pytest.approx(3600 / 3451)
    assert got["kv_demand_with"] == pytest.approx(3603 / 3451)


def test_prefill_backlog_is_the_queues_and_the_one_begun():
    bench = Bench()
    bench.replica(0, seen_waiting_tokens=700, seen_prefill_tokens=55)
    assert bench.estimates()["prefill_backlog_tokens"] == 755


def test_decode_iteration_above_the_floor():
    bench = Bench()
    bench.replica(0, seen_running=100, seen_context_tokens=50_000)
    expected_ms = 15.08 + 0.0899 * 100 + 4.06e-4 * 50_000 + 0.0094 * 100 + 0.011 * 100
    assert bench.estimates()["decode_iteration_s"] == pytest.approx(1e-3 * expected_ms)


def test_expected_ttft_of_an_idle_replica_is_the_lone_prefill():
    for prompt in (10, 500, 1500):
        bench = Bench(prompt_tokens=prompt)
        lone_s = bench.cluster.specs[0].latency.lone_prefill_s(prompt)
        assert bench.estimates()["ttft_s"] == pytest.approx(lone_s, rel=1e-3)


def test_expected_ttft_by_hand():
    bench = Bench(prompt_tokens=500)
    bench.replica(0, seen_running=48, seen_context_tokens=20_000, seen_waiting_tokens=3000, seen_prefill_tokens=548)
    # 4,048 tokens in iterations of 2048 - 48: three of 1,349, each with the 48 decodes and a third of the attention
    iteration_ms = 15.08 + 0.0899 * (1349 + 48) + 3.86e-6 * (500 * 501 // 2 // 3) + 4.06e-4 * 20_000
    iteration_ms += 0.0094 * 48 + 0.011 * 49
    assert bench.estimates()["ttft_s"] == pytest.approx(1e-3 * 3 * iteration_ms)


def test_expected_ttft_below_the_floor_by_hand():
    bench = Bench(prompt_tokens=10)
    bench.replica(0, seen_running=10)
    iteration_ms = 19.37 + 3.86e-6 * 55 + 0.0094 * 10 + 0.011 * 11  # 15.08 + 0.0899 * 20 is below the floor
    assert bench.estimates()["ttft_s"] == pytest.approx(1e-3 * iteration_ms)


def test_missing_blocks_cost_waiting():
    bench = Bench(prompt_tokens=16 * 51, predicted_tokens=200.0)
    bench.replica(0, seen_free_blocks=50)
    without = bench.estimates()
    bench.replica(0, seen_free_blocks=51)
    enough = bench.estimates()
    # 1 of 3,451 blocks is missing: that share of the cache comes free after 200 decode iterations
    wait_s = (1 / 3451) * 200 * without["decode_iteration_s"]
    assert without["ttft_s"] - enough["ttft_s"] == pytest.approx(wait_s)
    # short outputs are taken as 64 tokens at least
    bench.replica(0, seen_free_blocks=50)
    bench.request(predicted_tokens=3.0)
    assert bench.estimates()["ttft_s"] - enough["ttft_s"] == pytest.approx(wait_s * 64 / 200)


def test_fits_leaves_room_for_the_whole_predicted_answer():
    bench = Bench()
    bench.replica(0, max_model_len=500)
    for prompt, predicted, expected in (
        (499, 1.0, 1.0), (499, 0.0, 1.0), (499, 1.5, 0.0), (500, 1.0, 0.0), (501, 1.0, 0.0), (400, 99.1, 1.0),
        (400, 100.1, 0.0), (1, 1e30, 0.0),
    ):  # fmt: skip
        bench.request(prompt_tokens=prompt, predicted_tokens=predicted)
        assert bench.estimates()["fits"] == expected
