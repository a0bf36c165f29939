"""Saturation, early rejection, the moving limit, tiers, foresight: decisions worked out by hand."""

from __future__ import annotations

import numpy as np

from burstenv.cluster import Cluster, request_array
from burstenv.engine.enums import REJECTED
from burstenv.envs.play.policy import player_of
from burstenv.policies import load_policy
from tests.cluster.small_clusters import VLLM, replica
from tests.policies.bench import Bench

ALL = slice(None)


def test_kv_saturation_is_the_mean_over_replicas():
    bench = Bench()
    # max(queue / 5, KV / 0.8): 0.8, 1.25 (all blocks used), 0, 1.8: mean 0.9625
    bench.replica(ALL, seen_waiting=[4, 0, 0, 9], seen_free_blocks=[3451, 0, 3451, 3451])
    assert bench.admit("kv-saturation", r=3)  # for any chosen replica
    bench.replica(0, seen_waiting=5)  # 1.0: mean 1.0125
    assert not bench.admit("kv-saturation", r=2)
    assert bench.admit("kv-saturation(limit=1.02)")
    assert bench.admit("kv-saturation(queue=10)")
    assert bench.admit("kv-saturation(kv=1)")


def test_early_rejection_uses_the_coming_tpot():
    bench = Bench(prompt_tokens=500, ttft_slo_s=60.0, tpot_slo_s=0.03)
    bench.replica(0, seen_running=60, seen_context_tokens=40_000)
    # A decode iteration of the 60 takes about 38 ms, 8 ms beyond the objective
    assert 0.036 < bench.estimates()["decode_iteration_s"] < 0.042
    patient = "early-rejection(decode_s=1000,ttft_slack=4,tpot_slack=1)"
    assert not bench.admit(patient)
    assert bench.admit(patient.replace("tpot_slack=1", "tpot_slack=1.5"))
    # if requests decode for little longer than the prefill takes, most of them are gone by then
    ttft_s = bench.estimates()["ttft_s"]
    assert bench.admit(f"early-rejection(decode_s={1.2 * ttft_s:.6f},ttft_slack=4,tpot_slack=1)")
    # those that wait now will decode by then, and count
    bench.replica(0, seen_waiting=120)
    assert not bench.admit(f"early-rejection(decode_s={1.2 * ttft_s:.6f},ttft_slack=4,tpot_slack=1)")


def test_early_rejection_uses_the_ttft():
    bench = Bench(prompt_tokens=1500, ttft_slo_s=0.1, tpot_slo_s=1.0)  # 155 ms on an idle A100
    assert not bench.admit("early-rejection(ttft_slack=1)")
    assert bench.admit("early-rejection(ttft_slack=2)")


def test_aimd_halves_and_creeps():
    bench = Bench(num_replicas=4)
    rule = "aimd(start=10,increase=1,decrease=0.5,period_s=2)"
    limit = bench.memory["concurrency_limit"]

    def at(now_s: float, first_tokens: int, in_time: int) -> bool:
        bench.environment["now_s"] = now_s
        bench.environment["first_tokens"] = first_tokens
        bench.environment["first_in_time"] = in_time
        return bench.admit(rule)

    bench.replica(ALL, seen_waiting=[1, 2, 3, 4], seen_running=[5, 5, 5, 10])  # 35 in all
    assert at(5.0, 0, 0)
    assert limit[0] == 40
    assert at(6.9, 50, 10)  # the window is not over
    assert limit[0] == 40
    assert not at(7.0, 100, 90)  # 10 % late
    assert limit[0] == 20
    assert not at(9.0, 200, 190)  # all 100 of this window were in time, the limit binds
    assert limit[0] == 24
    assert not at(11.0, 300, 285)  # 5 of 100 late: just good enough
    assert limit[0] == 28
    bench.replica(ALL, seen_waiting=0, seen_running=3)  # 12, less than half of the limit: no evidence
    assert at(13.0, 400, 385)
    assert limit[0] == 28
    for k in range(40):  # never below one request a replica
        at(15.0 + 2 * k, 500 + 100 * k, 385)
    assert limit[0] == 4


def test_aimd_keeps_ttft_within_its_objective_and_always_does_not():
    """At twice the replica's prefill rate, the limit keeps most admitted requests in time."""
    rng = np.random.default_rng(0)
    n = 1500
    requests = request_array(np.cumsum(rng.exponential(0.06, n)), np.full(n, 900), np.full(n, 20), ttft_slo_s=1.0)
    in_time = {}
    for policy in ("always/jsq/vllm", "aimd/jsq/vllm"):
        cluster = Cluster([replica(num_blocks=4000)], (VLLM,), num_requests=n)
        cluster.load(0, requests)
        player_of(load_policy(policy), cluster).run()
        records = cluster.records(0)
        in_time[policy] = int((records["first_token_s"] - records["arrival_s"] <= 1.0).sum())
        if policy.startswith("aimd"):
            admitted = records["status"] != REJECTED
            assert in_time[policy] > 0.6 * admitted.sum()
    assert in_time["aimd/jsq/vllm"] > 4 * in_time["always/jsq/vllm"]


def test_tiers_are_rejected_in_order():
    conversation, api = Bench(class_code=0), Bench(class_code=1)
    for fullest, keeps in ((32, (True, True)), (33, (True, False)), (128, (True, False)), (129, (False, False))):
        for bench in (conversation, api):
            bench.replica(2, seen_running=fullest - 1, seen_waiting=1)
        assert (conversation.admit("tier-shedding"), api.admit("tier-shedding")) == keeps
    for bench in (conversation, api):
        bench.replica(2, seen_running=40)
    assert not conversation.admit("tier-shedding(shed=0)")
    assert api.admit("tier-shedding(shed=0)")


def test_foresight_is_size_aware_with_the_truth():
    bench = Bench(prompt_tokens=500, predicted_tokens=500.0, output_tokens=500)
    bench.replica(0, seen_free_blocks=3451 - 3419)  # just above the limit for an output of 500
    for output in (0, 490, 500, 510, 4000):
        bench.request(output_tokens=output)
        with_truth = bench.admit("oracle-size-aware-kv")
        bench.request(predicted_tokens=float(output))
        assert with_truth == bench.admit("size-aware-kv")
        bench.request(predicted_tokens=500.0)


def test_never_is_a_floor_and_oracles_are_marked():
    floors = {rule for rule in ("never", "always") if load_policy(f"{rule}/jsq/vllm").floor}
    assert floors == {"never"}
    assert load_policy("oracle-size-aware-kv/jsq/vllm").oracle
    assert not load_policy("size-aware-kv/jsq/vllm").oracle
