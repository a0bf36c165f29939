"""What transfers cost, against published measurements, and how copies share the bandwidth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burstenv.cluster import Cluster, ModeConfig, request_array
from burstenv.cluster.cluster_config import ClusterConfig, ReplicaConfig, resolve_cluster
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.errors import BurstenvError
from tests.cluster.small_clusters import LATENCY, replica, requests_at

NO_TIME = {name: 0.0 for name in type(LATENCY).model_fields if name.startswith(("h", "per_"))}
MODE = ModeConfig(name="one", max_num_batched_tokens=65536, max_num_seqs=8)
FREE: dict[str, Any] = {"base_ms": 0.0, "orchestration_ms": 0.0, "downtime_ms": 0.0, "slowdown": 0.0}


def steps_of(milliseconds: float) -> Any:
    """Iterations of one length."""
    return LATENCY.model_copy(update=NO_TIME | {"h1_ms": milliseconds})


def moved(kv_tokens: int, link: dict[str, Any], step_ms: float = 250.0, **transfers: Any) -> Cluster:
    """Serve one request on two idle replicas, and migrate it once, when ``kv_tokens`` tokens of KV are there."""
    specs = [replica(**{"num_blocks": 4096, "latency": steps_of(step_ms), **link}) for _ in range(2)]
    config = TransfersConfig(**transfers)
    cluster = Cluster(specs, (MODE,), transfers=config, migrate_period_s=1.5e-3 * step_ms)
    # At the first decision after the first token an iteration is in flight: it adds a token.
    cluster.load(0, requests_at(0.0, prompt=kv_tokens - 1, output=100))
    begun = False
    while not cluster.done(0):
        cluster.next_epoch(0)
        if cluster.decision_kind(0) == DecisionKind.ADMIT_AND_ROUTE:
            cluster.decide(0, 1, 0)
        elif not begun and not cluster.done(0):
            begun = cluster.migrate(0, 0, 1)
    assert cluster.transfer_counts(0)["migrations"] == 1
    assert cluster.records(0)["replica"][0] == 1
    return cluster


def of_model(model: str, link: str) -> dict[str, Any]:
    """The KV bytes of a shipped model, and a shipped link."""
    cluster = ClusterConfig(
        name="c", replicas=[ReplicaConfig(model=model, hardware="h100")], transfers=TransfersConfig(link=link)
    )
    spec = resolve_cluster(cluster)[0]
    return {"kv_bytes_per_token": spec.kv_bytes_per_token, "copy_bytes_per_s": spec.copy_bytes_per_s}


@pytest.mark.parametrize(
    ("model", "link", "tokens", "base_ms", "measured_ms", "within"),
    [
        ("llama-3-8b", "ethernet-200g", 1_000, 0.05, 5.29, 0.001),  # BLIS
        ("qwen3-8b", "ethernet-8x400g", 32_768, 0.4, 31.65, 0.09),  # Mooncake, measured
        ("qwen3-8b", "ethernet-8x400g", 8_192, 0.4, 8.84, 0.09),
        ("qwen3-8b", "ethernet-8x400g", 2_048, 0.4, 2.51, 0.09),
        ("llama-2-7b", "tcp-25g", 8_192, 0.4, 1_690.0, 0.03),  # blocking copy, Llumnix figure 10, measured
    ],
)
def test_a_copy_takes_as_long_as_was_published(model, link, tokens, base_ms, measured_ms, within):
    cluster = moved(tokens, of_model(model, link), **FREE | {"live": False, "base_ms": base_ms})
    counts = cluster.transfer_counts(0)
    assert 1000 * counts["still_s"] == pytest.approx(measured_ms, rel=within)
    assert counts["moved_gb"] * 1e9 == pytest.approx(tokens * of_model(model, link)["kv_bytes_per_token"])


def test_a_live_migration_stands_still_for_20_to_30_ms_however_long_the_request_is():
    """Llumnix, figure 10: LLaMA-7B over 2.5 GB/s with steps of 30 ms, flat from 256 to 8,192 tokens."""
    still_ms = [
        1000 * moved(tokens, of_model("llama-2-7b", "tcp-25g"), step_ms=30.0).transfer_counts(0)["still_s"]
        for tokens in (256, 1_024, 4_096, 8_192)
    ]
    assert min(still_ms) >= 15.0
    assert max(still_ms) <= 30.0


def test_recomputing_8192_tokens_on_an_a10_takes_two_seconds():
    """Llumnix, figure 10; the roofline of the A10 has no measurement behind it."""
    spec = resolve_cluster(ClusterConfig(name="c", replicas=[ReplicaConfig(model="llama-2-7b", hardware="a10")]))[0]
    assert spec.latency.lone_prefill_s(8192) == pytest.approx(2.0, rel=0.25)


def test_recomputing_in_place_of_a_copy_takes_two_seconds_too():
    """The same figure as a blocking migration by tokens: what the destination computes, and no link."""
    spec = resolve_cluster(ClusterConfig(name="c", replicas=[ReplicaConfig(model="llama-2-7b", hardware="a10")]))[0]
    cluster = moved(8192, {"latency": spec.latency}, **FREE | {"by": "tokens", "live": False})
    counts = cluster.transfer_counts(0)
    assert counts["still_s"] == pytest.approx(2.0, rel=0.25)
    assert counts["still_s"] == pytest.approx(spec.latency.lone_prefill_s(8192), rel=0.01)
    assert counts["moved_gb"] == 0.0


@pytest.mark.parametrize(("tokens", "rounds"), [(2_048, 2), (8_000, 2), (16_384, 3), (32_768, 3)])
def test_two_or_three_rounds_of_tokens_suffice(tokens, rounds):
    """50 us for each prompt token, steps of 25 ms: 8,000 tokens take 16 steps, fewer than ServerlessLLM's gap of 20."""
    link = {"latency": LATENCY.model_copy(update=NO_TIME | {"h0_ms": 25.0, "h2_ms_per_token": 0.05})}
    given = FREE | {"by": "tokens", "gap_tokens": 20}
    cluster = moved(tokens, link, step_ms=25.0, **given, max_stages=rounds)
    assert cluster.transfer_counts(0)["still_s"] <= 0.026  # the last round is one short iteration
    if rounds > 2:
        with pytest.raises(AssertionError):  # given up
            moved(tokens, link, step_ms=25.0, **given, max_stages=rounds - 1)


def test_tokens_are_computed_between_the_iterations_of_the_destination():
    """A batch stands still while 1,000 tokens are computed, 250 at a time, with an iteration between two of them."""
    latency = LATENCY.model_copy(update=NO_TIME | {"h0_ms": 100.0, "h2_ms_per_token": 1.0})  # 250 tokens: 0.25 s
    specs = [replica(num_blocks=4096, latency=latency) for _ in range(2)]
    mode = ModeConfig(name="one", max_num_batched_tokens=250, max_num_seqs=8)
    config = TransfersConfig(**FREE | {"by": "tokens", "live": False, "base_ms": 1.0})
    ends_s = []
    for migrates in (False, True):
        cluster = Cluster(specs, (mode,), transfers=config, migrate_period_s=1.55)
        cluster.load(0, request_array(np.zeros(2), np.array([990, 1]), np.array([100, 30])))
        for to in (0, 1):
            cluster.next_epoch(0)
            cluster.decide(0, 1, to)
        begun = not migrates
        while not cluster.done(0):
            cluster.next_epoch(0)
            begun = begun or cluster.migrate(0, 0, 1)
        assert cluster.transfer_counts(0)["migrations"] == migrates
        ends_s.append(cluster.records(0)["finish_s"][1])
    # The prompt takes 0.99 s, then 6 steps end before the request can leave: 996 tokens, 1 ms each.
    assert ends_s[0] == pytest.approx(3.0)
    assert ends_s[1] == pytest.approx(3.0 + 0.996)


def test_copies_share_the_bandwidth_of_both_ends():
    """Two copies of 1 s each from one replica, the second 0.5 s later: they end after 1.5 s and 2 s."""
    specs = [replica(num_blocks=400, latency=steps_of(100.0), kv_bytes_per_token=1_000_000, copy_bytes_per_s=1e9)] * 3
    config = TransfersConfig(**FREE | {"live": False, "at_once": 2})
    cluster = Cluster(specs, (MODE,), transfers=config, migrate_period_s=0.25)
    cluster.load(0, request_array(np.zeros(2), np.array([998, 998]), np.array([100, 100])))
    ends_s: dict[int, float] = {}
    while not cluster.done(0):
        cluster.next_epoch(0)
        now_s = float(cluster.state.environments[0]["now_s"])
        if cluster.decision_kind(0) == DecisionKind.ADMIT_AND_ROUTE:
            cluster.decide(0, 1, 0)
        elif now_s in (0.25, 0.75):
            assert cluster.migrate(0, 0, 1 if now_s == 0.25 else 2)
        for k, place in enumerate(cluster.records(0)["replica"]):
            if place > 0:
                ends_s.setdefault(k, now_s)
    # They leave at 0.3 s with 1,000 tokens and at 0.8 s with 1,005; alone until then, half each until 1.8 s is reached.
    assert sorted(ends_s.values()) == [2.0, 2.5]


def test_wrong_settings_are_one_sentence():
    with pytest.raises(BurstenvError, match="migrate_period_s needs transfers"):
        Cluster([replica()], migrate_period_s=0.1)
    cluster = Cluster([replica(), replica()], transfers=TransfersConfig(), migrate_period_s=0.1)
    cluster.load(0, requests_at(0.0))
    assert cluster.next_epoch(0) == 0
    for wrong in ({"source": 2}, {"destination": -1}, {"pick": 3}):
        with pytest.raises(BurstenvError, match=next(iter(wrong))):
            cluster.migrate(0, **{"source": 0, "destination": 1} | wrong)
    assert not cluster.migrate(0, 0, 0)
    cluster.decide(0, 1, 0)
    cluster.next_epoch(0)
    with pytest.raises(BurstenvError, match="about a migration"):
        cluster.decide(0, 1, 0)
    still = Cluster([replica()])
    with pytest.raises(BurstenvError, match="without transfers"):
        still.migrate(0, 0, 0)
    assert still.transfer_counts(0) is None
