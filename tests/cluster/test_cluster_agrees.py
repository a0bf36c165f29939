"""A cluster driven through its front door equals reference replicas fed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from burstenv.cluster import ADMIT, Cluster, ModeConfig, ReplicaSpec
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from tests.cluster.small_clusters import FAST, LATENCY, random_requests, replica

MODES = (
    ModeConfig(name="a", max_num_batched_tokens=256, max_num_seqs=24),
    ModeConfig(name="b", max_num_batched_tokens=40, max_num_seqs=8, order="earliest-deadline", headroom=0.1),
)
SPECS = [
    replica(num_blocks=30),
    replica(num_blocks=55, latency=FAST, max_model_len=500),
    replica(num_blocks=90, latency=LATENCY),
]
DEFER_S, MAX_DEFERS = 0.3, 2


def limits_of(spec: ReplicaSpec, mode: ModeConfig) -> EngineLimits:
    resolved = spec.resolve(mode)
    return EngineLimits(
        num_blocks=spec.num_blocks,
        block_size=spec.block_size,
        max_model_len=spec.max_model_len,
        max_num_batched_tokens=resolved["token_budget"],
        max_num_seqs=resolved["max_num_seqs"],
        order=resolved["order"],
        headroom_blocks=resolved["headroom_blocks"],
        reserve_full_prompt=spec.reserve_full_prompt,
    )


@pytest.mark.parametrize("seed", range(30))
def test_a_cluster_is_its_replicas(seed):
    rng = np.random.default_rng(seed)
    n = 120
    requests = random_requests(rng, n, 700, float(rng.choice([2.0, 8.0])))
    requests["output_tokens"] = 1 + rng.geometric(1 / 80, n)
    # Environment 1 of 2, so that nothing works by starting at index 0.
    cluster = Cluster(SPECS, MODES, num_envs=2, num_requests=n, defer_s=DEFER_S, max_defers=MAX_DEFERS, tick_s=0.7)
    cluster.load(0, requests[:5])
    cluster.load(1, requests)
    ours = [
        ReferenceRequest(
            k, float(r["arrival_s"]), int(r["prompt_tokens"]), int(r["output_tokens"]),
            predicted_tokens=float(r["predicted_tokens"]), ttft_slo_s=float(r["ttft_slo_s"]),
        )
        for k, r in enumerate(requests)
    ]  # fmt: skip
    reference = [ReferenceReplica(limits_of(spec, MODES[0]), spec.latency) for spec in SPECS]
    defers = np.zeros(n, int)
    rejected = []
    while True:
        door = cluster.next_epoch(1)
        if cluster.done(1):
            break
        now_s = float(cluster.state.environments[1]["now_s"])
        for engine in reference:
            engine.advance(now_s)
        admission, r, mode = (int(rng.choice(k, p=p)) for k, p in ((3, [0.1, 0.8, 0.1]), (3, None), (2, None)))
        cluster.decide(1, admission, r, mode)
        if cluster.state.replicas[1, r]["mode"] == mode:
            wanted = limits_of(SPECS[r], MODES[mode])
            if reference[r].limits != wanted:
                reference[r].set_limits(wanted, now_s)
        if door < 0:
            continue
        if admission == ADMIT:
            reference[r].submit(ours[door], now_s)
        elif admission == 2 and defers[door] < MAX_DEFERS:
            defers[door] += 1
        else:
            rejected.append(door)
    for engine in reference:
        engine.advance(math.inf)
    records = cluster.records(1)
    assert records["preemptions"].sum() > 0
    assert np.array_equal(records["defers"], defers)
    assert sorted(np.flatnonzero(records["status"] == 6)) == sorted(rejected)
    for record, want in zip(records, ours, strict=True):
        assert record["preemptions"] == want.preemptions
        assert record["recomputed_tokens"] == want.recomputed_tokens
        for name in ("first_scheduled_s", "first_token_s", "finish_s"):
            expected = getattr(want, name)
            if expected is not None:
                assert math.isclose(float(record[name]), expected, rel_tol=1e-9, abs_tol=1e-12), name
            elif name != "finish_s" or want.id not in rejected:  # a rejection is settled when it is decided
                assert math.isnan(record[name]), name
    for r, engine in enumerate(reference):
        assert cluster.state.replicas[1, r]["iterations"] == len(engine.iterations)
