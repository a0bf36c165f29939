"""The tables form: interpolation, and the compiled engine on the same numbers as the reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burstenv._jit.decorators import entry
from burstenv.cluster import Cluster, ModeConfig, request_array
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.engine.timing import decode_context_cost_s, decode_fixed_cost_s, iteration_time_s
from burstenv.errors import BurstenvError
from burstenv.hardware.latency.entry import load_latency, parse_latency
from burstenv.hardware.latency.tables import TablesLatency
from tests.cluster.small_clusters import replica

VALUES: dict[str, Any] = {
    "kind": "tables",
    "dense": {"tokens": [1, 10, 100], "ms": [10.0, 11.0, 20.0], "ms_per_token_beyond": 0.5},
    "head": {"sequences": [1, 5], "ms": [1.0, 1.4]},
    "prefill_attention": {"tokens": [10, 20], "ms": [1.0, 3.0], "ms_per_context_token": [0.1, 0.2]},
    "decode_attention": {"decodes": [1, 4], "ms": [0.5, 2.0], "ms_per_context_token": [0.01, 0.04]},
    "mixed_attention": {
        "decodes": [1, 4],
        "mean_context_tokens": [100, 200],
        "ms": [[1.0, 2.0], [4.0, 8.0]],
        "ms_per_prefill_token": [0.1, 0.4],
    },
}
SMALL = TablesLatency.model_validate(VALUES)
MEASURED = [
    load_latency(name).with_overhead(0.2, 0.01)
    for name in ("llama-3.1-8b_rtx-4090_tp1", "llama-3.1-8b_rtx-pro-6000_tp1")
]


@pytest.mark.parametrize(
    ("batch", "expected_ms"),
    [
        # P, A, D, K, sequences; dense + head + attention
        ((0, 0, 1, 100, 1), 10.0 + 1.0 + 0.5 + 0.01 * 100),  # at every knot
        ((0, 0, 4, 400, 4), 10.0 + 3 / 9 + 1.3 + 2.0 + 0.04 * 400),
        ((0, 0, 2, 100, 2), 10.0 + 1 / 9 + 1.1 + 1.0 + 0.02 * 100),  # between knots
        ((10, 55, 0, 0, 1), 11.0 + 1.0 + 1.0 + 0.1 * 5.5),
        ((15, 300, 0, 0, 1), 11.5 + 1.0 + 2.0 + 0.15 * 20),
        ((15, 300, 1, 150, 2), 11.6 + 1.1 + 2.0 + 0.15 * 20 + 1.5 + 0.1 * 15),  # mixed, between contexts
        ((10, 55, 2, 200, 3), 11.2 + 1.2 + 1.0 + 0.55 + 2.0 + 0.2 * 10),  # mixed, between decodes
        ((10, 55, 2, 400, 3), 11.2 + 1.2 + 1.0 + 0.55 + 4.0 + 0.2 * 10),
        ((200, 200, 0, 0, 1), 20.0 + 0.5 * 100 + 1.0 + 39.0 + 2.0),  # beyond the last dense and prefill knots
        ((0, 0, 7, 70, 7), 10.0 + 6 / 9 + 1.6 + 3.5 + 0.04 * 70),  # beyond the last decodes: g1 stays
        ((10, 55, 1, 50, 2), 11.1 + 1.1 + 1.0 + 0.55 + 1.0 + 0.1 * 10),  # below the first context: constant
        ((5, 15, 0, 0, 1), 10.0 + 4 / 9 + 1.0 + 1.0 + 0.1 * 3),  # below the first chunk: constant
    ],
)
def test_by_hand(batch, expected_ms):
    assert SMALL.iteration_s(*batch) == pytest.approx(expected_ms * 1e-3, rel=1e-12)


def test_host_overhead_is_on_top():
    plain, loaded = SMALL.iteration_s(0, 0, 3, 300, 3), SMALL.with_overhead(0.5, 0.1).iteration_s(0, 0, 3, 300, 3)
    assert loaded - plain == pytest.approx(0.8e-3)


def test_a_prefill_alone_and_a_prefill_token():
    assert SMALL.lone_prefill_s(20) == SMALL.iteration_s(20, 210, 0, 0, 1)
    dense_ms, base_ms = 0.5, 0.2  # beyond the knots
    assert SMALL.prefill_token_s() == pytest.approx((dense_ms + base_ms) * 1e-3)


@entry
def _times_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, batches, out
):  # fmt: skip
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    engine = engine_of(world_of(arrays, 0), 0)
    for i in range(len(batches)):
        p, a, d, k, n = batches[i, 0], batches[i, 1], batches[i, 2], batches[i, 3], batches[i, 4]
        out[i, 0] = iteration_time_s(engine, p, a, d, k, n)
        out[i, 1] = decode_fixed_cost_s(engine, d) + decode_context_cost_s(engine, d) * k


@pytest.mark.parametrize("latency", [SMALL, *MEASURED], ids=["small", "rtx-4090", "rtx-pro-6000"])
def test_the_compiled_times_are_the_same(latency):
    cluster = Cluster([replica(latency=latency)])
    rng = np.random.default_rng(1)
    batches = np.zeros((2000, 5), np.int64)
    for row in batches:
        p = int(rng.choice([0, 1, int(np.exp(rng.uniform(0, 9)))]))
        d = int(rng.choice([0, 1, int(np.exp(rng.uniform(0, 7)))])) if p else int(np.exp(rng.uniform(0, 7)))
        row[:] = p, p * int(rng.integers(1, 3000)), d, d * int(np.exp(rng.uniform(0, 9.5))), d + (p > 0)
    out = np.zeros((len(batches), 2))
    _times_at(*cluster.state.arrays(), batches, out)
    for row, (whole_s, decode_s) in zip(batches.tolist(), out.tolist(), strict=True):
        assert whole_s == pytest.approx(latency.iteration_s(*row), rel=1e-12), row
        if row[0] == 0:
            assert decode_s == pytest.approx(whole_s, rel=1e-15), row
    assert cluster.state.specs["floor_s"][0] == latency.iteration_s(1, 1, 0, 0, 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    which=st.integers(0, 1),
    budget=st.sampled_from([24, 256, 2048]),
    blocks=st.sampled_from([30, 150, 1000]),
    order=st.sampled_from(["fcfs", "shortest-prompt", "earliest-deadline"]),
    gap_s=st.sampled_from([0.0, 0.02, 0.5]),
)
def test_the_engines_agree(seed, which, budget, blocks, order, gap_s):
    latency, rng, n = MEASURED[which], np.random.default_rng(seed), 40
    spec = replica(latency=latency, num_blocks=blocks)
    mode = ModeConfig(name="m", max_num_batched_tokens=budget, max_num_seqs=24, order=order)
    arrival_s = np.cumsum(rng.exponential(1.0, n) * gap_s)
    prompt = np.clip(rng.lognormal(4.5, 1.3, n).astype(int), 1, spec.max_model_len - 1)
    requests = request_array(arrival_s, prompt, 1 + rng.integers(0, 150, n), ttft_slo_s=0.5)
    cluster = Cluster([spec], [mode], num_requests=n)
    cluster.load(0, requests)
    limits = EngineLimits(
        num_blocks=blocks,
        block_size=16,
        max_model_len=spec.max_model_len,
        max_num_batched_tokens=budget,
        max_num_seqs=24,
        order=order,
    )
    reference = ReferenceReplica(limits, latency)
    ours = [
        ReferenceRequest(
            k, float(r["arrival_s"]), int(r["prompt_tokens"]), int(r["output_tokens"]), ttft_slo_s=0.5
        )
        for k, r in enumerate(requests)
    ]  # fmt: skip
    for request in ours:
        reference.advance(request.arrival_s)
        cluster.advance(0, 0, request.arrival_s)
        reference.submit(request, request.arrival_s)
        cluster.submit(0, 0, request.id, request.arrival_s)
    reference.advance(math.inf)
    cluster.advance(0, 0, math.inf)
    for record, want in zip(cluster.records(0), ours, strict=True):
        assert record["preemptions"] == want.preemptions
        for name in ("first_scheduled_s", "first_token_s", "finish_s"):
            assert math.isclose(float(record[name]), getattr(want, name), rel_tol=1e-9), name


def test_tables_and_hinges_share_a_cluster():
    cluster = Cluster([replica(), replica(latency=MEASURED[0])])
    assert cluster.state.specs["latency_kind"].tolist() == [0, 1]
    assert not cluster.state.specs["dense_s"][0].any()
    assert cluster.state.specs["dense_s"][1].any()


def changed(table: str, key: str, value: Any) -> dict[str, Any]:
    return {**VALUES, table: {**VALUES[table], key: value}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (changed("dense", "ms", [10.0, math.nan, 20.0]), ["dense.ms.1", "nan"]),
        (changed("dense", "ms", [10.0, -1.0, 20.0]), ["dense.ms.1", "-1.0"]),
        (changed("dense", "tokens", [1, 100, 10]), ["dense", "tokens must increase"]),
        (changed("dense", "ms", [10.0, 11.0]), ["dense", "one value for each of the 3 tokens, got 2"]),
        (changed("head", "sequences", list(range(1, 40))), ["head", "2 to 12 knots, got 39"]),
        (changed("mixed_attention", "ms", [[1.0, 2.0], [4.0]]), ["mixed_attention", "each of the 2", "got 1"]),
        (changed("decode_attention", "ms_per_context_token", [0.01, -0.04]), ["decode_attention", "-0.04"]),
        (changed("dense", "token", [1]), ["unknown key", "dense.token"]),
        ({k: v for k, v in VALUES.items() if k != "head"}, ["key 'head' is missing"]),
        ({**VALUES, "kind": "table"}, ["kind is 'table'", "hinge, tables"]),
    ],
)
def test_impossible_tables_are_refused(values, words):
    with pytest.raises(BurstenvError) as error:
        parse_latency(values, "mine.yaml")
    message = str(error.value)
    assert "\n" not in message
    for word in ["mine.yaml", *words]:
        assert word in message


def test_a_misspelt_entry_gets_a_hint():
    with pytest.raises(BurstenvError, match=r"did you mean llama-3\.1-8b_rtx-4090_tp1"):
        load_latency("llama-3.1-8b_rtx4090_tp1")
    with pytest.raises(BurstenvError, match=r"none\.yaml: no such file"):
        load_latency("none.yaml")
