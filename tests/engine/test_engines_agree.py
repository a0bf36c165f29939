"""The compiled engine equals the reference: same iterations, same preemptions, same times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv.cluster.cluster import Cluster, request_array
from burstenv.cluster.cluster_config import ModeConfig, ReplicaSpec
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.hardware.latency.hinge import HingeLatency
from tests.random_examples import examples

LATENCY = HingeLatency(
    h0_ms=19.37,
    h1_ms=15.08,
    h2_ms_per_token=0.0899,
    h3_ms_per_pair=3.86e-6,
    h4_ms_per_context_token=4.06e-4,
    h5_ms_per_decode=0.0094,
    per_iteration_ms=1.2,
    per_sequence_ms=0.0044,
)
ORDERS = (
    "fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline", "longest-prompt", "oracle-shortest",
)  # fmt: skip


@st.composite
def cases(draw):
    block_size = draw(st.sampled_from([1, 3, 4, 16, 32]))
    num_blocks = draw(st.integers(4, 200))
    capacity = num_blocks * block_size
    modes = []
    for k in range(draw(st.integers(1, 3))):
        seqs = draw(st.integers(1, 40))
        budget = draw(st.integers(seqs, max(seqs, draw(st.sampled_from([seqs, 64, 256, 2048])))))
        order = draw(st.sampled_from(ORDERS))
        modes.append(
            ModeConfig(
                name=f"m{k}",
                max_num_batched_tokens=budget,
                max_num_seqs=seqs,
                order=order,
                hopeless=draw(st.sampled_from(["last", "drop"])) if order == "earliest-deadline" else "last",
                headroom=draw(st.sampled_from([0.0, 0.0, 0.05, 0.3])),
            )
        )
    return {
        "block_size": block_size,
        "num_blocks": num_blocks,
        "max_model_len": draw(st.integers(max(2, capacity // 3), capacity)),
        "modes": modes,
        "requests": draw(st.integers(1, 80)),
        "seed": draw(st.integers(0, 2**31)),
        "reserve": draw(st.booleans()),
        "gap_s": draw(st.sampled_from([0.0, 0.001, 0.02, 0.2, 2.0])),
        "output_scale": draw(st.sampled_from([1, 8, 60, 400])),
        "changes": draw(st.integers(0, 12)),
        "asynchronous": draw(st.booleans()),
        "prefix_caching": draw(st.booleans()),
    }


def draw_streams(rng, requests, case):
    """Draw sessions whose turns continue each other, and shared prefixes; return session, prefix and its tokens."""
    n, size = len(requests), case["block_size"]
    session, prefix = np.full(n, -1), np.full(n, -1)
    tokens = np.zeros(n, int)
    if not case["prefix_caching"]:
        return session, prefix, tokens
    sessions, shared = int(rng.integers(1, 12)), rng.integers(1, 5 * size + 2, 3)
    turns: dict[int, int] = {}
    share_of_sessions, share_of_prefixes = rng.choice([0.0, 0.6, 1.0]), rng.choice([0.0, 0.4, 1.0])
    repeats = rng.random() < 0.3  # turns of one session with the same prompt: many copies of a block
    for k in range(n):
        if rng.random() < share_of_sessions:
            session[k] = rng.integers(sessions)
            if not repeats:
                requests["prompt_tokens"][k] += turns.get(session[k], 0)
            turns[session[k]] = int(requests["prompt_tokens"][k] + requests["output_tokens"][k]) % 300
        if rng.random() < share_of_prefixes:
            prefix[k] = rng.integers(3)
            tokens[k] = shared[prefix[k]]
    numbers: dict[tuple, int] = {}
    for k in range(n):  # a block is that of the prefix, or of all before it
        alone = ("request", k) if session[k] < 0 else ("session", session[k])
        for name, key in (("prefix_stream", ("prefix", prefix[k])), ("stream", (alone, prefix[k], tokens[k]))):
            requests[name][k] = numbers.setdefault(key, len(numbers))
    requests["session"], requests["prefix_tokens"] = session, tokens
    return session, prefix, tokens


def run_both(case):
    rng = np.random.default_rng(case["seed"])
    n = case["requests"]
    arrival_s = np.cumsum(rng.exponential(1.0, n) * case["gap_s"])
    if rng.random() < 0.5:
        arrival_s = np.floor(arrival_s / 0.05) * 0.05  # ties
    prompt = np.maximum(1, (rng.lognormal(3.0, 1.5, n)).astype(int))
    output = 1 + rng.integers(0, case["output_scale"], n)
    spec = ReplicaSpec(
        name="r",
        model="m",
        hardware="h",
        tensor_parallel=1,
        num_blocks=case["num_blocks"],
        block_size=case["block_size"],
        max_model_len=case["max_model_len"],
        reserve_full_prompt=case["reserve"],
        default_max_num_batched_tokens=2048,
        default_max_num_seqs=256,
        latency=LATENCY,
        asynchronous=case["asynchronous"],
        prefix_caching=case["prefix_caching"],
    )
    cluster = Cluster([spec], case["modes"], num_requests=n)
    requests = request_array(arrival_s, prompt, output)
    requests["predicted_tokens"] = rng.integers(1, 50, n)
    requests["ttft_slo_s"] = rng.choice([0.02, 0.3, 5.0], n)
    session, prefix, prefix_tokens = draw_streams(rng, requests, case)
    prompt = requests["prompt_tokens"]
    cluster.load(0, requests)
    limits = []
    for mode in case["modes"]:
        resolved = spec.resolve(mode)
        limits.append(
            EngineLimits(
                num_blocks=spec.num_blocks,
                block_size=spec.block_size,
                max_model_len=spec.max_model_len,
                max_num_batched_tokens=resolved["token_budget"],
                max_num_seqs=resolved["max_num_seqs"],
                order=resolved["order"],
                drops_hopeless=resolved["drops_hopeless"],
                headroom_blocks=resolved["headroom_blocks"],
                reserve_full_prompt=spec.reserve_full_prompt,
                asynchronous=spec.asynchronous,
                prefix_caching=spec.prefix_caching,
            )
        )
    reference = ReferenceReplica(limits[0], LATENCY)
    ours = [
        ReferenceRequest(
            k,
            float(arrival_s[k]),
            int(prompt[k]),
            int(output[k]),
            predicted_tokens=float(requests["predicted_tokens"][k]),
            ttft_slo_s=float(requests["ttft_slo_s"][k]),
            session=None if session[k] < 0 else int(session[k]),
            prefix=None if prefix[k] < 0 else int(prefix[k]),
            prefix_tokens=int(prefix_tokens[k]),
        )
        for k in range(n)
    ]
    events = [(float(t), 0, k) for k, t in enumerate(arrival_s)]
    horizon = float(arrival_s[-1]) + 1.0
    events += [(float(rng.uniform(0, horizon)), 1, int(rng.integers(len(limits)))) for _ in range(case["changes"])]
    replica = cluster.state.replicas[0, 0:1]
    for time_s, kind, what in sorted(events):
        reference.advance(time_s)
        cluster.advance(0, 0, time_s)
        if kind == 0:
            reference.submit(ours[what], time_s)
            cluster.submit(0, 0, what, time_s)
        else:
            reference.set_limits(limits[what], time_s)
            cluster.set_mode(0, 0, what, time_s)
        assert 0 <= replica["free_blocks"][0] <= spec.num_blocks
        assert replica["seen_running"][0] >= 0
    # An iteration cap stands in for the real scheduler's livelock without the full-prompt check.
    reference.advance(horizon + 1e4)
    cluster.advance(0, 0, horizon + 1e4)
    return cluster, reference, ours


def check(case):
    cluster, reference, ours = run_both(case)
    replica = cluster.state.replicas[0, 0]
    started = len(reference.iterations) + len(reference.in_flight)
    assert replica["iterations"] == started
    assert replica["preemptions"] == sum(r.preemptions for r in ours)
    for record, want in zip(cluster.records(0), ours, strict=True):
        assert record["preemptions"] == want.preemptions, want
        assert record["recomputed_tokens"] == want.recomputed_tokens
        if case["prefix_caching"] and want.cached_tokens is not None:
            assert record["cached_tokens"] == want.cached_tokens, want
        for name in ("first_scheduled_s", "first_token_s", "finish_s"):
            expected = getattr(want, name)
            got = float(record[name])
            if expected is None:
                assert math.isnan(got), (want, name)
            else:
                assert math.isclose(got, expected, rel_tol=1e-9, abs_tol=1e-12), (want, name, got)


# A decoder at the end of its shared prefix contests one of its stream that has had its step already.
CONTESTED_LATE = {
    "block_size": 16, "num_blocks": 70, "max_model_len": 373, "requests": 73, "seed": 194, "reserve": False,
    "gap_s": 0.0, "output_scale": 60, "changes": 0, "asynchronous": False, "prefix_caching": True,
    "modes": [ModeConfig(name="m0", max_num_batched_tokens=35, max_num_seqs=21, order="earliest-deadline")],
}  # fmt: skip


@examples(150)
@given(cases())
@example(CONTESTED_LATE)
@example({**CONTESTED_LATE, "asynchronous": True})
def test_random_workloads_and_modes_agree(case):
    check(case)


@pytest.mark.parametrize("seed", range(20))
def test_preemption_storms_agree(seed):
    check(
        {
            "block_size": 4,
            "num_blocks": 60,
            "max_model_len": 200,
            "modes": [
                ModeConfig(name="a", max_num_batched_tokens=64, max_num_seqs=40),
                ModeConfig(name="b", max_num_batched_tokens=16, max_num_seqs=16, order="earliest-deadline"),
            ],
            "requests": 120,
            "seed": seed,
            "reserve": seed % 2 == 0,
            "gap_s": 0.01,
            "output_scale": 60,
            "changes": 6,
            "asynchronous": seed % 4 >= 2,
            "prefix_caching": seed % 8 >= 4,
        }
    )
