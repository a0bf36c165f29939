"""Tokens, sessions, prefixes, freeness, foresight: decisions worked out by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from burstenv.cluster import Cluster, request_array
from burstenv.envs.play.policy import player_of
from burstenv.policies import load_policy
from tests.cluster.small_clusters import VLLM, replica
from tests.policies.bench import Bench

ALL = slice(None)


def test_least_tokens_counts_queued_begun_and_held_tokens():
    bench = Bench()
    bench.replica(
        ALL,
        seen_waiting_tokens=[900, 0, 500, 0],
        seen_prefill_tokens=[0, 400, 0, 0],
        seen_context_tokens=[100, 700, 400, 1001],
    )
    assert bench.route("least-tokens") == 2  # 1,000; 1,100; 900; 1,001
    bench.replica(2, seen_waiting_tokens=600, seen_context_tokens=401)
    assert bench.route("least-tokens") == 0


def test_freeness_is_free_blocks_per_request():
    bench = Bench()
    bench.replica(
        ALL,
        seen_free_blocks=[1000, 3000, 500, 2000],
        seen_waiting_blocks=[0, 1000, 0, 0],
        seen_running=[10, 15, 4, 17],
        seen_waiting=[0, 5, 0, 0],
    )
    assert bench.route("freeness") == 2  # 100, 100, 125, 118
    bench.replica(3, seen_running=15)  # 133
    assert bench.route("freeness") == 3
    bench.replica(1, seen_waiting=0, seen_running=0, seen_waiting_blocks=0)  # idle: all that it has
    assert bench.route("freeness") == 1


def test_longest_queue_is_jsq_turned_round():
    rng = np.random.default_rng(0)
    for _ in range(30):
        bench = Bench()
        counts = rng.permutation(20)[:4]
        bench.replica(ALL, seen_waiting=counts // 2, seen_running=counts - counts // 2)
        assert bench.route("longest-queue") == int(np.argmax(counts))
        assert bench.route("jsq") == int(np.argmin(counts))


def test_sessions_stay_and_spread():
    bench = Bench()
    homes = []
    for session in range(2000):
        bench.request(session=session)
        bench.replica(ALL, seen_running=np.random.default_rng(session).integers(0, 50, 4))  # loads do not matter
        homes.append(bench.route("session-affinity"))
        assert bench.route("session-affinity") == homes[-1]
    assert [Counter(homes)[r] / 2000 for r in range(4)] == pytest.approx([0.25] * 4, abs=0.03)


def test_only_a_session_with_an_unfit_replica_moves():
    before, after = Bench(), Bench()
    after.replica(2, max_model_len=400)
    moved = 0
    for session in range(300):
        before.request(session=session)
        after.request(session=session)
        home, now = before.route("session-affinity"), after.route("session-affinity")
        assert now == home or home == 2
        moved += now != home
    assert moved > 40


def test_without_a_session_the_shortest_queue():
    bench = Bench(session=-1)
    bench.replica(ALL, seen_running=[3, 2, 1, 4])
    assert {bench.route("session-affinity") for _ in range(20)} == {2}


def test_dynamos_cost_by_hand_without_hits():
    bench = Bench(prompt_tokens=160)  # 10 blocks
    bench.replica(ALL, seen_free_blocks=3451, seen_waiting_tokens=[320, 0, 160, 0], seen_running=[0, 0, 0, 2])
    bench.replica(ALL, seen_free_blocks=[3451, 3431, 3446, 3437])
    # prefill 30, 10, 20, 10; decode 10, 30, 15, 24
    assert bench.route("kv-router") == 3  # 40, 40, 35, 34
    assert bench.route("kv-router(requests=1)") == 2  # 40, 40, 35, 36
    assert bench.route("kv-router(prefill=0)") == 0
    assert bench.route("kv-router(prefill=4)") == 3  # 130, 70, 95, 64
    assert {bench.route("kv-router(prefill=0.5)") for _ in range(50)} == {0, 2}  # 25, 35, 25, 29


CONVERSATION = 33  # requests; all except the first can share a prefix


def conversations(cluster_of: int, policy: str, gap_s: float = 5.0):
    """Three interleaved conversations on idle replicas with prefix caches; the records."""
    n = CONVERSATION
    requests = request_array(np.arange(n) * gap_s, 64 + 40 * (np.arange(n) // 3), np.full(n, 20))
    requests["session"] = np.arange(n) % 3
    specs = [replica(num_blocks=2000, prefix_caching=True) for _ in range(cluster_of)]
    cluster = Cluster(specs, (VLLM,), num_requests=n, max_request_tokens=1024)
    cluster.load(0, requests, 0)
    player_of(load_policy(policy), cluster).run()
    return cluster.records(0)


@pytest.mark.parametrize("rule", ["prefix-aware", "kv-router", "session-affinity"])
def test_conversations_go_where_their_prefix_is(rule):
    records = conversations(3, f"always/{rule}/vllm")
    for session in range(3):
        assert len(set(records["replica"][records["session"] == session])) == 1
    cached = {rule: conversations(3, f"always/{rule}/vllm")["cached_tokens"].sum() for rule in (rule, "random")}
    assert cached[rule] > 1.3 * cached["random"]


def test_prefix_aware_without_a_long_match_is_jsq():
    assert len(set(conversations(3, "always/prefix-aware(threshold=1)/vllm")["replica"])) == 3


def test_the_load_guard_gives_up_the_prefix():
    """All requests share one prefix, and the first is cached before the rest come: unguarded, they pile up there."""
    n = 60
    requests = request_array(np.arange(n) * 0.02, np.full(n, 300), np.full(n, 200))
    requests["arrival_s"][1:] += 1.0
    requests["session"] = 0
    spread = {}
    for guard in (2, 128):
        specs = [replica(num_blocks=2000, prefix_caching=True) for _ in range(3)]
        cluster = Cluster(specs, (VLLM,), num_requests=n, max_request_tokens=512)
        cluster.load(0, requests, 0)
        player_of(load_policy(f"always/prefix-aware(balance_abs={guard})/vllm"), cluster).run()
        spread[guard] = np.bincount(cluster.records(0)["replica"], minlength=3)
    assert spread[128].max() > 0.9 * n
    assert spread[2].max() < 0.5 * n


def test_foresight_sees_the_ends_of_running_requests():
    """Two full replicas: on one, the running requests end soon. Only the oracle can know."""
    n = 8
    requests = request_array(np.arange(n + 1) * 1e-3, np.full(n + 1, 700), np.full(n + 1, 500))
    requests["output_tokens"][1:n:2] = 60  # those on replica 1
    requests["arrival_s"][n] = 1.0
    for rule, expected in (("oracle-expected-ttft", {1}), ("expected-ttft", {0, 1})):
        chosen = set()
        for seed in range(12):
            specs = [replica(num_blocks=184), replica(num_blocks=184)]  # four of 700 tokens fit
            cluster = Cluster(specs, (VLLM,), num_requests=n + 1)
            cluster.load(0, requests, seed)
            for k in range(n):
                cluster.next_epoch(0)
                cluster.decide(0, 1, k % 2)
            cluster.next_epoch(0)
            for name in ("seen_free_blocks", "seen_running", "seen_context_tokens"):  # the published state is equal
                cluster.state.replicas[name][0, 1] = cluster.state.replicas[name][0, 0]
            chosen.add(player_of(load_policy(f"always/{rule}/vllm"), cluster).decision()[1])
        assert chosen == expected
