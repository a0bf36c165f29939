"""Queue orders and limits of batching modes in the engine."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import ADMIT, Cluster, ModeConfig, request_array
from tests.cluster.small_clusters import LATENCY, VLLM, loaded, random_requests, replica

PREFILL_S = LATENCY.lone_prefill_s(100)


def serve(requests: np.ndarray, mode: ModeConfig, **changes) -> np.ndarray:
    """Records after a single replica has served the requests under one mode."""
    cluster = loaded(requests, [replica(**changes)], modes=(mode,))
    while True:
        cluster.next_epoch(0)
        if cluster.done(0):
            return cluster.records(0)
        cluster.decide(0, ADMIT)


def start_order(records: np.ndarray) -> list[int]:
    return np.argsort(records["first_scheduled_s"], kind="stable").tolist()


def one_at_a_time(order: str) -> ModeConfig:
    return ModeConfig(name="m", max_num_batched_tokens=512, max_num_seqs=1, order=order)


def queue(prompt: list[int], output: int = 2) -> np.ndarray:
    """The first request holds the replica; the others arrive in turn while it runs."""
    n = len(prompt)
    requests = request_array(np.arange(n) * 0.001, np.array(prompt), np.full(n, output))
    requests["output_tokens"][0] = 50
    return requests


def test_fcfs_serves_in_order_of_arrival():
    assert start_order(serve(queue([10, 90, 30, 60]), one_at_a_time("fcfs"))) == [0, 1, 2, 3]


def test_shortest_prompt_goes_first_and_ties_by_arrival():
    records = serve(queue([400, 90, 30, 60, 30]), one_at_a_time("shortest-prompt"))
    assert start_order(records) == [0, 2, 4, 3, 1]


def test_shortest_predicted_goes_by_the_prediction():
    requests = queue([10, 10, 10, 10])
    requests["predicted_tokens"] = [1, 30, 10, 20]
    requests["output_tokens"][1:] = [1, 5, 9]  # the truth is the other way round
    assert start_order(serve(requests, one_at_a_time("shortest-predicted"))) == [0, 2, 3, 1]


def test_earliest_deadline_counts_arrival_objective_and_prefill():
    requests = queue([100, 100, 100, 500])
    # latest starts: arrival + objective - lone prefill (24 ms for 100 tokens; 61.5 ms for 500)
    requests["ttft_slo_s"] = [9.0, 5.0, 4.9, 4.92]
    assert start_order(serve(requests, one_at_a_time("earliest-deadline"))) == [0, 3, 2, 1]


def test_hopeless_requests_are_served_last():
    requests = queue([100] * 6)
    requests["ttft_slo_s"] = [9.0, 0.05, 8.0, 0.03, 7.0, 0.01]
    records = serve(requests, one_at_a_time("earliest-deadline"))
    # 1, 3 and 5 cannot make it by the time request 0 is through (1 s); among themselves by latest start
    order = start_order(records)
    assert order == [0, 4, 2, 5, 3, 1]
    late = records["first_token_s"] - records["arrival_s"] > records["ttft_slo_s"]
    assert late.tolist() == [False, True, False, True, False, True]


def test_a_waiting_request_turns_hopeless():
    requests = queue([100, 100, 100])
    requests["output_tokens"] = [60, 60, 2]
    # both can still make it when they arrive; after request 0 only request 2 can
    requests["ttft_slo_s"] = [9.0, 0.5, 3.0]
    assert start_order(serve(requests, one_at_a_time("earliest-deadline"))) == [0, 2, 1]
    assert start_order(serve(requests, one_at_a_time("fcfs"))) == [0, 1, 2]


def test_earliest_deadline_serves_requests_that_fcfs_misses():
    requests = queue([100] * 4)
    requests["output_tokens"] = [50, 40, 40, 2]
    requests["ttft_slo_s"] = [9.0, 0.2, 9.0, 1.5]
    in_time = {}
    for order in ("fcfs", "earliest-deadline"):
        records = serve(requests, one_at_a_time(order))
        in_time[order] = int((records["first_token_s"] - records["arrival_s"] <= records["ttft_slo_s"]).sum())
    assert in_time == {"fcfs": 2, "earliest-deadline": 3}


@pytest.mark.parametrize("order", ["fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline"])
def test_the_reported_queue_is_the_order_of_service(order):
    """`Cluster.waiting` is the order of service: its head is scheduled next."""
    rng = np.random.default_rng(0)
    requests = random_requests(rng, 60, 500, 1.0)
    cluster = Cluster([replica()], (one_at_a_time(order),), num_requests=60)
    cluster.load(0, requests)
    for k, arrival_s in enumerate(requests["arrival_s"]):
        cluster.advance(0, 0, float(arrival_s))
        cluster.submit(0, 0, k, float(arrival_s))
    checked = 0
    while cluster.waiting(0, 0):
        clock_s = cluster.boundary_s(0, 0)
        before = cluster.waiting(0, 0)
        if order == "earliest-deadline":  # a choice of the next request first sets the hopeless ones apart
            r = cluster.state.requests[0]
            latest_s = [
                r["arrival_s"][k] + r["ttft_slo_s"][k] - LATENCY.lone_prefill_s(int(r["prompt_tokens"][k]))
                for k in before
            ]
            before = [k for _, _, k in sorted((t < clock_s, t, k) for t, k in zip(latest_s, before, strict=True))]
        cluster.advance(0, 0, clock_s + 1e-9)
        gone = [k for k in before if k not in cluster.waiting(0, 0)]
        assert gone == before[: len(gone)]
        checked += len(gone)
    assert checked >= 30


def test_headroom_keeps_blocks_free_for_running_requests():
    n = 30
    requests = request_array(np.zeros(n), np.full(n, 64), np.full(n, 40))
    tight = serve(requests, VLLM, num_blocks=40)
    roomy = serve(requests, VLLM.model_copy(update={"headroom": 0.5}), num_blocks=40)
    assert tight["preemptions"].sum() > roomy["preemptions"].sum() == 0


def test_a_small_budget_cuts_prompts_into_chunks():
    requests = request_array(np.zeros(1), np.array([1000]), np.array([1]))
    cluster = loaded(requests, modes=(ModeConfig(name="m", max_num_batched_tokens=256, max_num_seqs=8),))
    cluster.next_epoch(0)
    cluster.decide(0, ADMIT)
    cluster.next_epoch(0)
    assert cluster.state.replicas[0, 0]["iterations"] == 4
    chunks = [(256, 0), (256, 256), (256, 512), (232, 768)]
    expected_s = sum(LATENCY.iteration_s(n, n * c + n * (n + 1) // 2, 0, 0, 1) for n, c in chunks)
    assert cluster.records(0)["first_token_s"][0] == pytest.approx(expected_s)
