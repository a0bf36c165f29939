"""Decision epochs and what a decision does: deferrals, ticks, ties, batching modes, what is visible."""

from __future__ import annotations

import math

import numpy as np
import pytest

from burstenv.cluster import ADMIT, DEFER, REJECT, STATUS_NAMES, ModeConfig, request_array
from burstenv.cluster.records import CLASS, GATEWAY, MEMORY
from burstenv.engine.records import ENVIRONMENT, REPLICA, REQUEST
from burstenv.engine.spec import MODE, SPEC
from tests.cluster.small_clusters import (
    FAST,
    LATENCY,
    VLLM,
    assert_same_records,
    loaded,
    random_requests,
    replica,
    requests_at,
)

MODES = (VLLM, ModeConfig(name="small", max_num_batched_tokens=64, max_num_seqs=16, order="shortest-prompt"))


def status(cluster, request_id):
    return STATUS_NAMES[int(cluster.state.requests[0, request_id]["status"])]


def now_s(cluster):
    return float(cluster.state.environments[0]["now_s"])


def epochs(cluster, action=ADMIT):
    """(time, request) of every decision epoch, all decided alike."""
    out = []
    while True:
        request_id = cluster.next_epoch(0)
        if cluster.done(0):
            return out
        out.append((now_s(cluster), request_id))
        cluster.decide(0, action, replica=0, mode=0)


def test_arrivals_make_epochs_in_order():
    cluster = loaded(requests_at(0.0, 0.5, 0.5, 2.0))
    assert epochs(cluster) == [(0.0, 0), (0.5, 1), (0.5, 2), (2.0, 3)]
    assert cluster.state.environments[0]["offered"] == 4


def test_deferred_request_returns_after_defer_s():
    cluster = loaded(requests_at(1.0, 1.25), defer_s=0.75, max_defers=2)
    assert cluster.next_epoch(0) == 0
    cluster.decide(0, DEFER, 0, 0)
    assert status(cluster, 0) == "at_gateway"
    assert cluster.state.environments[0]["deferred"] == 1
    assert cluster.next_epoch(0) == 1
    cluster.decide(0, ADMIT, 0, 0)
    assert cluster.next_epoch(0) == 0
    assert now_s(cluster) == 1.75
    assert cluster.state.environments[0]["deferred"] == 0
    cluster.decide(0, DEFER, 0, 0)
    assert cluster.next_epoch(0) == 0
    assert now_s(cluster) == 2.5
    cluster.decide(0, ADMIT, 0, 0)
    cluster.next_epoch(0)
    assert cluster.done(0)
    record = cluster.records(0)[0]
    assert record["defers"] == 2
    assert record["first_scheduled_s"] >= 2.5  # it waited at the door, and its TTFT counts from arrival
    assert record["arrival_s"] == 1.0


def test_deferring_beyond_the_limit_is_a_rejection():
    cluster = loaded(requests_at(1.0), defer_s=0.5, max_defers=2)
    assert epochs(cluster, DEFER) == [(1.0, 0), (1.5, 0), (2.0, 0)]
    record = cluster.records(0)[0]
    assert STATUS_NAMES[record["status"]] == "rejected"
    assert record["finish_s"] == 2.0
    assert cluster.state.environments[0]["rejected"] == 1


def test_deferral_where_the_scenario_allows_none():
    cluster = loaded(requests_at(1.0), max_defers=0)
    assert epochs(cluster, DEFER) == [(1.0, 0)]
    assert status(cluster, 0) == "rejected"


def test_deferred_requests_come_back_in_the_order_they_left():
    cluster = loaded(requests_at(*(0.1 * k for k in range(20))), defer_s=5.0, max_defers=1)
    seen = epochs(cluster, DEFER)
    assert [k for _, k in seen] == [*range(20), *range(20)]
    for k in range(20):
        assert seen[20 + k][0] == pytest.approx(seen[k][0] + 5.0)


def test_a_return_at_the_time_of_an_arrival_goes_first():
    cluster = loaded(requests_at(0.0, 1.0), defer_s=1.0, max_defers=1)
    assert [cluster.next_epoch(0), cluster.decide(0, DEFER, 0, 0)][0] == 0
    assert cluster.next_epoch(0) == 0
    assert now_s(cluster) == 1.0
    cluster.decide(0, ADMIT, 0, 0)
    assert cluster.next_epoch(0) == 1


def test_ticks_fill_the_quiet():
    cluster = loaded(requests_at(0.2, 2.0, prompt=10, output=2), tick_s=0.5)
    seen = epochs(cluster)
    assert [k for _, k in seen] == [0, -1, -1, -1, 1]
    assert [t for t, _ in seen] == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.0])


def test_ticks_go_on_while_requests_are_served():
    cluster = loaded(requests_at(0.0, prompt=10, output=100), tick_s=0.5)
    seen = epochs(cluster)
    finish_s = float(cluster.records(0)["finish_s"][0])
    assert finish_s > 2.0
    ticks = [t for t, k in seen if k == -1]
    assert ticks == pytest.approx(np.arange(0.5, finish_s, 0.5))
    assert now_s(cluster) == finish_s  # the last step ends when the last request does


def test_a_tick_changes_a_mode_and_nothing_else():
    cluster = loaded(requests_at(5.0), modes=MODES, tick_s=1.0)
    assert cluster.next_epoch(0) == -1
    cluster.decide(0, REJECT, 0, 1)
    environment = cluster.state.environments[0]
    assert environment["offered"] == environment["rejected"] == 0
    record = cluster.state.replicas[0, 0]
    assert record["mode"] == 1
    assert record["token_budget"] == 64
    assert cluster.modes["max_num_seqs"][0, record["mode"]] == 16


def test_without_ticks_the_last_decision_drains():
    cluster = loaded(requests_at(0.0, 0.1, output=200))
    assert [k for _, k in epochs(cluster)] == [0, 1]
    records = cluster.records(0)
    assert {STATUS_NAMES[s] for s in records["status"]} == {"attained"}
    assert now_s(cluster) == records["finish_s"].max()


def test_simultaneous_arrivals_form_one_batch():
    cluster = loaded(requests_at(1.0, 1.0, 1.0, prompt=50))
    epochs(cluster)
    records = cluster.records(0)
    assert (records["first_scheduled_s"] == 1.0).all()
    expected = 1.0 + LATENCY.iteration_s(150, 3 * 50 * 51 // 2, 0, 0, 3)
    assert records["first_token_s"] == pytest.approx([expected] * 3)


def test_lone_request_takes_its_time():
    cluster = loaded(requests_at(1.0, prompt=100, output=4))
    epochs(cluster)
    (record,) = cluster.records(0)
    first_s = 1.0 + LATENCY.lone_prefill_s(100)
    assert record["first_token_s"] == pytest.approx(first_s)
    # the k-th decode reads the prompt, the outputs before it and its own token
    decodes_s = sum(LATENCY.iteration_s(0, 0, 1, 100 + k, 1) for k in (1, 2, 3))
    assert record["finish_s"] == pytest.approx(first_s + decodes_s)
    assert cluster.state.replicas[0, 0]["iterations"] == 4
    assert cluster.state.replicas[0, 0]["busy_s"] == pytest.approx(record["finish_s"] - 1.0)


@pytest.mark.parametrize(
    ("ttft_slo_s", "tpot_slo_s", "expected"),
    [(1.0, 1.0, "attained"), (0.001, 1.0, "late"), (1.0, 0.001, "late")],
)
def test_both_objectives_decide(ttft_slo_s, tpot_slo_s, expected):
    requests = requests_at(0.0)
    requests["ttft_slo_s"] = ttft_slo_s
    requests["tpot_slo_s"] = tpot_slo_s
    cluster = loaded(requests)
    epochs(cluster)
    assert status(cluster, 0) == expected


def test_objectives_are_met_with_equality():
    probe = loaded(requests_at(0.0))
    epochs(probe)
    (record,) = probe.records(0)
    requests = requests_at(0.0)
    requests["ttft_slo_s"] = np.nextafter(np.float32(record["first_token_s"]), np.float32(np.inf))
    requests["tpot_slo_s"] = np.nextafter(
        np.float32((record["finish_s"] - record["first_token_s"]) / 9), np.float32(np.inf)
    )
    cluster = loaded(requests)
    epochs(cluster)
    assert status(cluster, 0) == "attained"


def test_one_output_token_has_no_tpot():
    requests = requests_at(0.0, output=1)
    requests["tpot_slo_s"] = 0.0
    cluster = loaded(requests)
    epochs(cluster)
    assert status(cluster, 0) == "attained"
    (record,) = cluster.records(0)
    assert record["finish_s"] == record["first_token_s"]


def test_a_prompt_without_room_for_an_output_fails_and_a_long_output_is_cut():
    specs = [replica(max_model_len=200)]
    requests = request_array(np.zeros(3), np.array([200, 199, 150]), np.array([5, 5, 500]), tpot_slo_s=1.0)
    cluster = loaded(requests, specs)
    epochs(cluster)
    assert [status(cluster, k) for k in range(3)] == ["failed", "length_capped", "length_capped"]
    assert cluster.state.environments[0]["failed"] == 3
    assert cluster.state.environments[0]["length_capped"] == 2
    assert cluster.state.environments[0]["attained"] == 0
    assert np.isfinite(cluster.records(0)["finish_s"]).all()
    assert cluster.records(0)["target_tokens"].tolist()[1:] == [1, 50]
    assert cluster.records(0)["produced_tokens"].tolist()[1:] == [1, 50]
    assert math.isnan(cluster.records(0)["first_token_s"][0])


def test_a_decision_sees_the_state_before_the_iteration_in_flight():
    cluster = loaded(requests_at(1.0, 1.001, 1.5))
    seen = cluster.state.replicas[0, 0:1]
    cluster.next_epoch(0)
    cluster.decide(0, ADMIT, 0, 0)
    assert seen["seen_waiting"][0] == 1  # what was sent is known to the sender
    cluster.next_epoch(0)
    assert seen["in_flight"][0] == 1
    assert seen["running"][0] == 1
    assert seen["seen_running"][0] == 0
    assert seen["seen_waiting"][0] == 1
    assert seen["seen_waiting_tokens"][0] == 100
    assert seen["seen_free_blocks"][0] == 200
    cluster.decide(0, ADMIT, 0, 0)
    assert seen["seen_waiting"][0] == 2
    assert seen["seen_waiting_blocks"][0] == 14
    cluster.next_epoch(0)
    assert seen["seen_waiting"][0] == 0
    assert seen["seen_running"][0] == cluster.state.replicas[0, 0]["running"]


def test_batching_period_holds_a_mode():
    cluster = loaded(requests_at(0.0, 1.0, 1.9, 2.0, 2.5, 4.0), modes=MODES, batching_period_s=2.0)
    wanted = [1, 0, 0, 0, 1, 1]
    held = []
    for mode in wanted:
        cluster.next_epoch(0)
        cluster.decide(0, ADMIT, 0, mode)
        held.append(int(cluster.state.replicas[0, 0]["mode"]))
    # set at 0.0; kept at 1.0 and 1.9; free again at 2.0; kept at 2.5; free at 4.0
    assert held == [1, 1, 1, 0, 0, 1]


def test_batching_period_is_each_replicas_own():
    cluster = loaded(requests_at(0.0, 0.5, 1.0), [replica(), replica()], modes=MODES, batching_period_s=2.0)
    for r, mode in ((0, 1), (1, 1), (0, 0)):
        cluster.next_epoch(0)
        cluster.decide(0, REJECT, r, mode)
    assert cluster.state.replicas[0]["mode"].tolist() == [1, 1]


def test_a_decision_sets_the_mode_of_its_replica_only():
    cluster = loaded(requests_at(0.0, 1.0), [replica(), replica(latency=FAST)], modes=MODES)
    cluster.next_epoch(0)
    cluster.decide(0, ADMIT, 1, 1)
    assert cluster.state.replicas[0]["mode"].tolist() == [0, 1]
    assert cluster.records(0)["replica"].tolist() == [1, -1]


def test_recent_traffic_averages():
    cluster = loaded(requests_at(0.0, 5.0, prompt=300))
    environment = cluster.state.environments[0]
    cluster.next_epoch(0)
    assert environment["rate_fast_per_s"] == pytest.approx(1 / 5)
    assert environment["token_rate_per_s"] == pytest.approx(300 / 5)
    cluster.decide(0, REJECT, 0, 0)
    cluster.next_epoch(0)
    assert environment["rate_fast_per_s"] == pytest.approx(math.exp(-1) / 5 + 1 / 5)
    assert environment["rate_slow_per_s"] == pytest.approx(math.exp(-5 / 60) / 60 + 1 / 60)


def test_equal_states_are_equal_bytes():
    """Records have no holes between fields, which copies would fill with whatever is in memory."""
    for record in (REQUEST, REPLICA, ENVIRONMENT, MEMORY, CLASS, SPEC, MODE, GATEWAY):
        assert sum(record.fields[name][0].itemsize for name in record.names) == record.itemsize


def test_an_episode_without_requests_is_done_at_once():
    cluster = loaded(requests_at(0.0)[:0])
    assert cluster.next_epoch(0) == -1
    assert cluster.done(0)


@pytest.mark.parametrize("tick_s", [None, 0.7])
def test_clone_and_restore_go_on_exactly_alike(tick_s):
    rng = np.random.default_rng(4)
    specs = [replica(num_blocks=60), replica(num_blocks=90, latency=FAST)]
    requests = random_requests(rng, 120, 500, 6.0)
    requests["output_tokens"] = 150
    cluster = loaded(requests, specs, modes=MODES, defer_s=0.3, max_defers=1, tick_s=tick_s)
    actions = rng.integers(0, [3, 2, 2], (2000, 3))

    def go(start):
        for admission, r, mode in actions[start:]:
            cluster.next_epoch(0)
            if cluster.done(0):
                break
            cluster.decide(0, int(admission), int(r), int(mode))
        return cluster.records(0), cluster.state.replicas.copy(), cluster.state.environments.copy()

    for k in range(90):
        cluster.next_epoch(0)
        cluster.decide(0, *(int(x) for x in actions[k]))
    saved = cluster.state.clone()
    first = go(90)
    assert cluster.done(0)
    assert first[1]["preemptions"].sum() > 0
    cluster.state.restore(saved)
    assert not cluster.done(0)
    for a, b in zip(first, go(90), strict=True):
        assert_same_records(a, b)
    cluster.rewind(0, len(requests))
    for a, b in zip(first, go(0), strict=True):
        assert_same_records(a, b)


def test_a_clone_is_not_touched_by_its_origin():
    cluster = loaded(requests_at(0.0, 1.0))
    cluster.next_epoch(0)
    saved = cluster.state.clone()
    before = [array.copy() for array in saved.arrays()]
    epochs(cluster)
    for a, b in zip(before, saved.arrays(), strict=True):
        if a.dtype.names:
            assert_same_records(a, b)
        else:
            assert np.array_equal(a, b)


def test_longer_episodes_grow_the_state():
    cluster = loaded(requests_at(*np.arange(10) * 0.1), num_requests=4)
    assert cluster.state.requests.shape[1] >= 10
    assert len(epochs(cluster)) == 10
    assert (cluster.records(0)["status"] == STATUS_NAMES.index("attained")).all()


def test_one_output_token_with_open_objectives_is_attained():
    cluster = loaded(requests_at(0.0, output=1))  # request_array: objectives infinite
    cluster.next_epoch(0)
    cluster.decide(0, ADMIT, 0, 0)
    cluster.next_epoch(0)
    assert STATUS_NAMES[int(cluster.records(0)["status"][0])] == "attained"
