"""What faults do to requests and replicas, in numbers worked out by hand; and that no policy can know too early."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import ADMIT, STATUS_NAMES, Cluster, ModeConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.engine.enums import REPLICA_STATE_NAMES
from burstenv.errors import BurstenvError
from tests.cluster.small_clusters import LATENCY, replica, requests_at

STEP_S = 0.25  # of every iteration: exact in binary, as are most times below
STEPS = LATENCY.model_copy(
    update={name: 0.0 for name in type(LATENCY).model_fields if name.startswith(("h", "per_"))}
    | {"h1_ms": 1000 * STEP_S}
)
MODE = ModeConfig(name="vllm", max_num_batched_tokens=512, max_num_seqs=32)


def fault(time_s: float, kind: FaultKind, r: int = 0, **more: Any) -> dict[str, Any]:
    return {"time_s": time_s, "kind": kind, "replica": r, "duration_s": math.inf, **more}


def played(
    arrivals: np.ndarray, rows: list[dict[str, Any]], choices: list[int], replicas: int = 2, **recovery: Any
) -> Cluster:
    """Play an episode; decision number k sends its request to replica ``choices[k]``, the last one ever after."""
    specs = [replica(latency=STEPS) for _ in range(replicas)]
    cluster = Cluster(specs, (MODE,), recovery=RecoveryConfig(**recovery))
    cluster.load(0, arrivals, faults=Faults.of(rows))
    made = 0
    while cluster.next_epoch(0) >= 0:
        cluster.decide(0, ADMIT, choices[min(made, len(choices) - 1)])
        made += 1
    return cluster


def states(cluster: Cluster, field: str = "status") -> list[str]:
    return [REPLICA_STATE_NAMES[k] for k in cluster.state.replicas[0][field]]


# One request of 10 prompt tokens and 8 outputs at 0: tokens at 0.25, 0.5, ..., 2.0. Replica 0 crashes at 1.1, after its
# fourth token, which is known at 1.6; replica 1 then needs as many iterations as outputs are missing.
CRASH = fault(1.1, FaultKind.CRASH, detect_s=0.5, repair_s=1.0, boot_s=2.0)


@pytest.mark.parametrize(
    ("recovery", "status", "finish_s", "produced", "discarded"),
    [
        ("continue", "attained", 1.6 + 4 * STEP_S, 8, 0),
        ("retry", "attained", 1.6 + 8 * STEP_S, 8, 4),
        ("fail", "faulted", 1.6, 4, 0),
    ],
)
def test_a_crash_takes_the_requests_with_its_detection(recovery, status, finish_s, produced, discarded):
    cluster = played(requests_at(0.0, prompt=10, output=8), [CRASH], [0, 1], requests=recovery)
    request, counts = cluster.records(0)[0], cluster.fault_counts(0)
    assert STATUS_NAMES[request["status"]] == status
    assert request["finish_s"] == finish_s
    assert request["first_token_s"] == STEP_S, "streamed tokens stay delivered"
    assert request["produced_tokens"] == produced
    assert counts["discarded_tokens"] == discarded
    assert counts["refilled_tokens"] == 14, "ten of the prompt, four outputs"
    assert (counts["faults"], counts["failovers"], counts["faulted"]) == (1, status != "faulted", status == "faulted")


def test_the_gap_of_a_crash_counts_in_the_time_per_token():
    requests = requests_at(0.0, prompt=10, output=8)
    requests["tpot_slo_s"] = 0.26  # 0.25 without a fault; (2.6 - 0.25) / 7 with it
    assert STATUS_NAMES[played(requests, [], [0]).records(0)["status"][0]] == "attained"
    assert STATUS_NAMES[played(requests, [CRASH], [0, 1]).records(0)["status"][0]] == "late"


@pytest.mark.parametrize(("limit", "status"), [(0, "faulted"), (1, "faulted"), (2, "attained")])
def test_a_request_comes_back_at_most_so_often(limit, status):
    rows = [fault(t, FaultKind.CRASH, r, detect_s=0.0, boot_s=9.0) for t, r in ((0.6, 0), (1.1, 1))]
    cluster = played(requests_at(0.0, prompt=10, output=8), rows, [0, 1, 2], replicas=3, limit=limit)
    assert STATUS_NAMES[cluster.records(0)["status"][0]] == status
    assert cluster.fault_counts(0)["failovers"] == min(limit, 2)


@pytest.mark.parametrize(
    ("hang_s", "detect_s", "finish_s"),
    [(0.7, 5.0, 2.7), (5.0, 0.5, 1.6 + 4 * STEP_S)],
    ids=["over before it is detected: a pause", "detected before it is over: as a crash"],
)
def test_a_hang_is_a_pause_or_a_loss(hang_s, detect_s, finish_s):
    rows = [fault(1.1, FaultKind.HANG, duration_s=hang_s, detect_s=detect_s, boot_s=1.0)]
    cluster = played(requests_at(0.0, prompt=10, output=8), rows, [0, 1])
    assert cluster.records(0)["finish_s"][0] == pytest.approx(finish_s, abs=1e-12)


def test_a_slow_spell_stretches_the_part_of_the_gpu_alone():
    """An iteration is 0.25 s of the GPU and 0.05 s of the host; the one at 0.3 begins in a spell of three times."""
    spec = replica(latency=STEPS.model_copy(update={"per_iteration_ms": 50.0}))
    cluster = Cluster([spec], (MODE,), recovery=RecoveryConfig())
    rows = [fault(0.25, FaultKind.SLOW, factor=3.0, duration_s=0.4)]
    cluster.load(0, requests_at(0.0, prompt=10, output=4), faults=Faults.of(rows))
    while cluster.next_epoch(0) >= 0:
        cluster.decide(0, ADMIT)
    assert cluster.records(0)["finish_s"][0] == pytest.approx(0.3 + (3 * 0.25 + 0.05) + 2 * 0.3)


def test_a_warned_replica_serves_what_it_has_and_is_replaced():
    """Warned at 0.6 for 1 s: the request of five outputs ends by then, that of eight comes back."""
    requests = requests_at(0.0, 0.0, prompt=10, output=5)
    requests["output_tokens"][1] = 8
    cluster = played(requests, [fault(0.6, FaultKind.SPOT, duration_s=1.0, repair_s=2.0, boot_s=3.0)], [0, 0, 1])
    assert [STATUS_NAMES[k] for k in cluster.records(0)["status"]] == ["attained", "attained"]
    assert list(cluster.records(0)["replica"]) == [0, 1]
    assert states(cluster) == ["down", "active"]
    assert cluster.state.replicas[0]["paid_s"][0] == 1.6


def test_a_stopped_replica_drains_and_a_started_one_boots():
    rows = [fault(0.6, FaultKind.STOP, 0, duration_s=9.0), fault(3.0, FaultKind.START, 0, boot_s=1.5)]
    cluster = played(requests_at(0.0, 0.7, 3.1, 4.6, prompt=10, output=8), rows, [0])
    statuses = [STATUS_NAMES[k] for k in cluster.records(0)["status"]]
    assert statuses == ["attained", "rejected", "rejected", "attained"], "draining or booting it takes no requests"
    record = cluster.state.replicas[0][0]
    assert record["paid_s"] == 2.0 + 1.5, "to its last answer, and from the begin of the boot to its end"
    assert record["boots"] == 1


def test_draining_ends_with_its_limit():
    cluster = played(
        requests_at(0.0, prompt=10, output=8), [fault(0.6, FaultKind.STOP, 0, duration_s=0.5)], [0, 1]
    )  # fmt: skip
    assert states(cluster) == ["off", "active"]
    assert cluster.records(0)["finish_s"][0] == pytest.approx(1.1 + 4 * STEP_S)


def test_a_restarted_replica_has_an_empty_prefix_cache():
    """The second turn finds the first one's blocks, unless the replica crashed between them."""
    requests = requests_at(0.0, 8.0, prompt=64, output=2)
    requests["session"] = 5
    requests["prompt_tokens"][1] = 80
    for rows, cached in ([], 64), ([fault(2.0, FaultKind.CRASH, boot_s=1.0)], 0):
        cluster = Cluster([replica(latency=STEPS, prefix_caching=True)], (MODE,), recovery=RecoveryConfig())
        cluster.load(0, requests, faults=Faults.of(rows))
        while cluster.next_epoch(0) >= 0:
            cluster.decide(0, ADMIT)
        assert cluster.records(0)["cached_tokens"][1] == cached


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.HANG])
def test_until_it_is_detected_a_fault_shows_in_no_state(kind):
    cluster = Cluster([replica(latency=STEPS)] * 2, (MODE,), recovery=RecoveryConfig())
    arrivals = requests_at(*np.arange(12) / 4, prompt=10, output=8)
    cluster.load(0, arrivals, faults=Faults.of([fault(1.1, kind, detect_s=1, boot_s=9)]))
    known = []
    while cluster.next_epoch(0) >= 0:
        known.append((float(cluster.state.environments["now_s"][0]), states(cluster, "known")[0]))
        cluster.decide(0, ADMIT, 0 if known[-1][1] == "active" else 1)
    assert {state for now_s, state in known if now_s < 2.1} == {"active"}
    assert {state for now_s, state in known if now_s > 2.1} == {"booting"}


FAULTS = (FaultKind.CRASH, FaultKind.HANG, FaultKind.SLOW, FaultKind.SPOT)


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize(("elsewhere", "hit"), [(0, []), (1, [1])])
def test_a_fault_hits_a_replica_that_is_up(kind, elsewhere, hit):
    """Replica 0 is off from 0.5 on; a fault of it is none, or that of the next one that is up."""
    rows = [
        fault(0.5, FaultKind.STOP),
        fault(1.0, kind, elsewhere=elsewhere, factor=3.0, duration_s=50.0, detect_s=60.0),
    ]
    cluster = Cluster([replica(latency=STEPS)] * 3, (MODE,), recovery=RecoveryConfig())
    cluster.load(0, requests_at(2.0, prompt=10, output=8), faults=Faults.of(rows))
    cluster.next_epoch(0)
    counts, replicas = cluster.fault_counts(0), cluster.state.replicas[0]
    assert counts is not None
    assert counts["faults"] == len(hit)
    changed = [r for r in (1, 2) if states(cluster)[r] != "active" or replicas["slowdown"][r] > 0.0]
    assert changed == hit
    assert states(cluster)[0] == "off"
    assert replicas["slowdown"][0] == 0.0


@pytest.mark.parametrize("tick_s", [None, 1.0])
def test_a_replica_that_is_down_for_ever_ends_its_requests(tick_s):
    """The crash at 1.1 is never detected: when nothing else is to come, the requests there fail."""
    cluster = Cluster([replica(latency=STEPS)] * 2, (MODE,), recovery=RecoveryConfig(), tick_s=tick_s)
    rows = [fault(1.1, FaultKind.CRASH, detect_s=math.inf)]
    cluster.load(0, requests_at(0.0, 1.5, 2.0, prompt=10, output=8), faults=Faults.of(rows))
    at_gateway = cluster.next_epoch(0)
    while not cluster.done(0):
        cluster.decide(0, ADMIT, max(at_gateway, 0) % 2)
        at_gateway = cluster.next_epoch(0)
        assert cluster.state.environments["now_s"][0] < 20.0
    assert [STATUS_NAMES[k] for k in cluster.records(0)["status"]] == ["failed", "attained", "failed"]


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"time_s": -1.0}, "time_s must be a finite time of at least 0, got -1"),
        ({"replica": 2}, "replica must be 0 to 1, got 2"),
        ({"kind": 9}, "kind must be 0 to 6, got 9"),
        ({"factor": 0.0}, "factor must be a number of at least 0.001, got 0"),
        ({"detect_s": math.nan}, "detect_s must be a number of at least 0, got nan"),
    ],
)
def test_faults_that_cannot_be_played_are_an_error(row, wrong):
    cluster = Cluster([replica()] * 2, recovery=RecoveryConfig())
    with pytest.raises(BurstenvError, match=f"fault 0 of the episode: {wrong}"):
        cluster.load(0, requests_at(0.0), faults=Faults.of([row]))
    with pytest.raises(BurstenvError, match="made without faults"):
        Cluster([replica()] * 2).load(0, requests_at(0.0), faults=Faults.of([row]))


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ({"tim_s": 1.0}, "unknown field of fault 0 'tim_s'; did you mean time_s"),
        ({"time_s": "soon"}, "fault 0: time_s must be a number, got 'soon'"),
        ({"replica": 2**40}, "fault 0: replica must be a number"),
    ],
)
def test_rows_that_are_no_faults_are_an_error(row, wrong):
    with pytest.raises(BurstenvError, match=wrong):
        Faults.of([row])


def test_the_faults_of_an_episode_are_faults():
    with pytest.raises(BurstenvError, match=r"must be Faults or None, got \[\]"):
        Cluster([replica()], recovery=RecoveryConfig()).load(0, requests_at(0.0), faults=[])
