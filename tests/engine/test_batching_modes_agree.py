"""Batching modes beyond vLLM V1's: the compiled engine equals the reference, and each follows its definition."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import ADMIT, Cluster, ModeConfig, request_array
from burstenv.engine.enums import REJECTED
from burstenv.evaluation.validation.recorded_case import RecordedCase
from tests.cluster.small_clusters import LATENCY, loaded, random_requests, replica
from tests.engine.test_full_engine_agrees import cases, check
from tests.random_examples import examples


@st.composite
def mode_cases(draw) -> RecordedCase:
    """A random configuration under a random combination of rules."""
    case = draw(cases())
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    order = draw(
        st.sampled_from(["fcfs", "fair", "mlfq", "shortest-predicted", "oracle-shortest", "longest-prompt"])
        | st.just("earliest-deadline")
    )
    batch = draw(st.sampled_from(["mixed", "prefill-first", "whole-prompts"]))
    budget = case.limits.max_num_batched_tokens
    if batch != "mixed":
        budget = max(budget, case.limits.max_model_len + case.limits.max_num_seqs)
    limits = replace(
        case.limits,
        order=order,
        batch=batch,
        max_num_batched_tokens=budget,
        memory=draw(st.sampled_from(["as-needed", "projected", "reserved", "oracle-projected", "oracle-reserved"])),
        reserve_tokens=draw(st.sampled_from([1, 20, 200])),
        drops_hopeless=order == "earliest-deadline" and draw(st.booleans()),
        deferral_s=draw(st.sampled_from([0.0, 0.05, 1.0])) if order == "fcfs" else 0.0,
        fair_by=draw(st.sampled_from(["class", "session"])),
        quantum_s=draw(st.sampled_from([0.0062, 0.0065, 0.02])),
        starve_s=draw(st.sampled_from([0.05, 0.5, 50.0])),
    )
    requests = tuple(
        replace(
            request,
            class_code=int(rng.integers(2)),
            predicted_tokens=float(np.float32(max(1.0, request.output_tokens * rng.lognormal(0.0, 0.5)))),
            ttft_slo_s=float(np.float32(rng.choice([0.02, 0.3, 5.0]))),
        )
        for request in case.requests
    )
    return replace(case, limits=limits, requests=requests)


@examples(150)
@given(mode_cases())
def test_random_modes_agree(case):
    check(case)


# -- definitions -------------------------------------------------------------------------------------------------


def serve(requests: np.ndarray, mode: ModeConfig, **changes) -> tuple[np.ndarray, Cluster]:
    """Records after a single replica has served the requests under one mode."""
    cluster = loaded(requests, [replica(**changes)], modes=(mode,))
    while True:
        cluster.next_epoch(0)
        if cluster.done(0):
            return cluster.records(0), cluster
        cluster.decide(0, ADMIT)


def test_prefill_first_stalls_decodes_and_mixed_batches_do_not():
    """One request decodes when a long prompt arrives: its gap is a whole prefill, and the new TTFT the least."""
    requests = request_array(np.array([0.0, 0.5]), np.array([10, 1500]), np.array([60, 2]))
    decode_s = LATENCY.iteration_s(0, 0, 1, 40, 1)
    alone_s = LATENCY.lone_prefill_s(1500)
    first, _ = serve(requests, ModeConfig(name="m", batch="prefill-first"))
    chunked, _ = serve(requests, ModeConfig(name="m", max_num_batched_tokens=128, max_num_seqs=8))
    wait_s = first["first_token_s"][1] - 0.5
    assert alone_s < wait_s <= alone_s + 1.1 * decode_s  # the iteration that was under way, and its own
    assert chunked["first_token_s"][1] > first["first_token_s"][1]
    # the decoder loses exactly the whole prefill under prefill-first
    lone, _ = serve(requests[:1], ModeConfig(name="m", batch="prefill-first"))
    assert first["finish_s"][0] - lone["finish_s"][0] == pytest.approx(alone_s, rel=0.2)


def test_a_whole_prompt_of_any_length_is_one_iteration():
    requests = request_array(np.array([0.0]), np.array([3000]), np.array([1]))
    for batch in ("prefill-first", "whole-prompts"):
        _, cluster = serve(requests, ModeConfig(name="m", batch=batch, max_num_batched_tokens=256, max_num_seqs=8))
        assert cluster.state.replicas[0, 0]["iterations"] == 1


def test_orca_reserves_for_the_longest_output():
    """A hundred requests of 100 + 20 tokens on 3,200 tokens of cache: reserving 400 outputs lets six in at once."""
    n = 100
    requests = request_array(np.zeros(n), np.full(n, 100), np.full(n, 20))
    most = {}
    for memory in ("as-needed", "reserved", "oracle-reserved"):
        mode = ModeConfig(name="m", batch="whole-prompts", memory=memory, reserve_tokens=400)
        records, _ = serve(requests, mode)
        steps = [(t, 1) for t in records["first_scheduled_s"]] + [(t, -1) for t in records["finish_s"]]
        level = np.cumsum([change for _, change in sorted(steps)])
        most[memory] = int(level.max())
        assert memory == "as-needed" or records["preemptions"].sum() == 0
    assert most["reserved"] == 3200 // 512  # 500 tokens are 32 blocks of 16
    assert most["oracle-reserved"] == 200 // 8
    assert most["as-needed"] > most["oracle-reserved"]


@pytest.mark.parametrize("seed", range(6))
def test_a_true_projection_never_preempts_and_packs_more_than_a_reservation(seed):
    rng = np.random.default_rng(seed)
    n = 80
    requests = request_array(np.sort(rng.uniform(0, 2, n)), rng.integers(10, 300, n), rng.integers(1, 400, n))
    requests["predicted_tokens"] = np.maximum(1, requests["output_tokens"] * rng.lognormal(0, 0.7, n))
    results = {}
    for memory in ("as-needed", "projected", "oracle-projected", "oracle-reserved"):
        records, _ = serve(requests, ModeConfig(name="m", order="oracle-shortest", memory=memory))
        results[memory] = (int(records["preemptions"].sum()), float(records["finish_s"].max()))
    assert results["as-needed"][0] > 0
    assert results["oracle-projected"][0] == 0
    assert results["projected"][0] < results["as-needed"][0]
    assert results["oracle-projected"][1] < results["oracle-reserved"][1] * 1.001


def test_hopeless_requests_are_rejected_and_cost_nothing():
    n = 6
    requests = request_array(np.arange(n) * 0.001, np.full(n, 100), np.full(n, 2))
    requests["output_tokens"][0] = 50
    requests["ttft_slo_s"] = [9.0, 0.05, 8.0, 0.03, 7.0, 0.01]
    one = {"max_num_batched_tokens": 512, "max_num_seqs": 1, "order": "earliest-deadline"}
    last, _ = serve(requests, ModeConfig(name="m", **one))
    drop, cluster = serve(requests, ModeConfig(name="m", hopeless="drop", **one))
    assert drop["status"][[1, 3, 5]].tolist() == [REJECTED] * 3
    assert np.isnan(drop["first_scheduled_s"][[1, 3, 5]]).all()
    assert np.isfinite(drop["finish_s"]).all()
    kept = [0, 2, 4]
    assert drop["first_token_s"][kept] == pytest.approx(last["first_token_s"][kept])
    assert int(cluster.state.environments[0]["rejected"]) == 3
    assert drop["finish_s"][kept].max() < last["finish_s"].max()


def test_rejecting_hopeless_requests_serves_more_in_time():
    in_time = {"last": 0, "drop": 0}
    for seed in range(12):
        requests = random_requests(np.random.default_rng(seed), 150, 500, 3.0)
        for hopeless in in_time:
            mode = ModeConfig(name="m", order="earliest-deadline", hopeless=hopeless, max_num_seqs=16)
            records, _ = serve(requests, mode)
            ttft_s = records["first_token_s"] - records["arrival_s"]
            in_time[hopeless] += int((ttft_s <= records["ttft_slo_s"]).sum())
    assert in_time["drop"] > in_time["last"]


def served(records: np.ndarray, until_s: float) -> np.ndarray:
    """Prompt + 2 x output tokens of each class that had been served by a time, outputs spread evenly."""
    started = records["first_scheduled_s"] <= until_s
    share = np.clip((until_s - records["first_token_s"]) / (records["finish_s"] - records["first_token_s"]), 0.0, 1.0)
    outputs = np.where(records["first_token_s"] <= until_s, 1 + share * (records["output_tokens"] - 1), 0.0)
    work = started * (records["prompt_tokens"] + 2.0 * outputs)
    return np.array([work[records["class_code"] == c].sum() for c in (0, 1)])


def test_fair_serves_two_greedy_clients_alike_for_any_requests():
    """Class 1 sends four times as much from the beginning; both are always waiting."""
    rng = np.random.default_rng(0)
    n = 500
    requests = request_array(np.arange(n) * 1e-3, rng.integers(50, 400, n), rng.integers(20, 120, n))
    requests["class_code"] = rng.random(n) < 0.8
    gaps = {}
    for order in ("fcfs", "fair"):
        records, _ = serve(requests, ModeConfig(name="m", order=order, max_num_seqs=12), num_blocks=600)
        until_s = min(records["first_scheduled_s"][records["class_code"] == c].max() for c in (0, 1))
        work = served(records, 0.9 * until_s)
        gaps[order] = abs(work[0] - work[1])
    # VTC's bound on the difference is 2 max(w_p L_in, w_q M), here with M = 9,600 tokens; in fact far less
    assert gaps["fair"] < 2 * 2 * 9600
    assert gaps["fair"] < 0.15 * gaps["fcfs"]


def test_idleness_accumulates_no_credit():
    """A late client gets the same service as the other from then on, without catching up."""
    n = 300
    requests = request_array(np.zeros(n), np.full(n, 100), np.full(n, 40))
    requests["class_code"][150:] = 1
    requests["arrival_s"][150:] = 3.0
    records, _ = serve(requests, ModeConfig(name="m", order="fair", max_num_seqs=8))
    late = records["first_scheduled_s"] > 3.2
    begin = np.sort(records["first_scheduled_s"][late])[40]
    by_class = [
        int((late & (records["first_scheduled_s"] <= begin) & (requests["class_code"] == c)).sum()) for c in (0, 1)
    ]
    assert abs(by_class[0] - by_class[1]) <= 6


def test_skip_join_lets_short_prompts_by_until_the_long_ones_starve():
    n = 200
    requests = request_array(np.arange(n) * 0.02, np.full(n, 40), np.full(n, 25))
    requests["prompt_tokens"][::10] = 1500
    one = {"order": "mlfq", "max_num_seqs": 4, "quantum_s": 0.025}
    waits = {}
    for starve_s in (1e6, 2.0):
        records, _ = serve(requests, ModeConfig(name="m", starve_s=starve_s, **one))
        wait_s = records["first_scheduled_s"] - records["arrival_s"]
        waits[starve_s] = (wait_s[::10].mean(), np.delete(wait_s, np.s_[::10]).mean())
    fcfs, _ = serve(requests, ModeConfig(name="m", max_num_seqs=4))
    wait_s = fcfs["first_scheduled_s"] - fcfs["arrival_s"]
    assert waits[1e6][1] < np.delete(wait_s, np.s_[::10]).mean()  # the short ones gain,
    assert waits[1e6][0] > wait_s[::10].mean()  # the long ones pay,
    assert waits[2.0][0] < waits[1e6][0]  # and less once starvation counts


def test_a_deferral_bound_gathers_prefills():
    """Decodes are interrupted in bursts: fewer iterations have a prefill, and no request waits much past the bound."""
    rng = np.random.default_rng(0)
    n = 120
    requests = request_array(np.cumsum(rng.exponential(0.05, n)), np.full(n, 200), np.full(n, 60))
    starts, waits = {}, {}
    for bound_s in (0.0, 0.5):
        records, _ = serve(requests, ModeConfig(name="m", deferral_s=bound_s), num_blocks=2000)
        starts[bound_s] = len(set(records["first_scheduled_s"].tolist()))
        waits[bound_s] = records["first_scheduled_s"] - records["arrival_s"]
    assert starts[0.5] < 0.4 * starts[0.0]
    assert waits[0.5].max() < 0.5 + 0.5
    assert waits[0.0].max() < 0.2


def test_longest_prompt_first_is_the_floor_and_the_shortest_true_output_the_ceiling():
    rng = np.random.default_rng(1)
    n = 200
    requests = request_array(np.sort(rng.uniform(0, 4, n)), rng.integers(10, 1500, n), rng.integers(1, 100, n))
    requests["predicted_tokens"] = np.maximum(1, requests["output_tokens"] * rng.lognormal(0, 0.5, n))
    ttft_s, e2e_s = {}, {}
    for order in ("longest-prompt", "fcfs", "shortest-prompt", "shortest-predicted", "oracle-shortest"):
        records, _ = serve(requests, ModeConfig(name="m", order=order, max_num_seqs=8))
        ttft_s[order] = float((records["first_token_s"] - records["arrival_s"]).mean())
        e2e_s[order] = float((records["finish_s"] - records["arrival_s"]).mean())
    assert ttft_s["longest-prompt"] > ttft_s["fcfs"] > ttft_s["shortest-prompt"]
    assert e2e_s["fcfs"] > e2e_s["shortest-predicted"] > e2e_s["oracle-shortest"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hopeless": "drop"}, "hopeless: drop needs order: earliest-deadline, got fcfs"),
        ({"deferral_s": 1.0, "order": "fair"}, "deferral_s needs order: fcfs, got fair"),
    ],
)
def test_rules_that_do_not_go_together(values, message):
    with pytest.raises(ValueError, match=message):
        ModeConfig(name="m", **values)
