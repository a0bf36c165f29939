"""Transfers between replicas that fail, stand still and drain: what becomes of the request, and of the blocks."""

from __future__ import annotations

from typing import Any

import pytest

from burstenv.cluster import Cluster
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.engine.enums import ACTIVE
from burstenv.errors import BurstenvError
from tests.cluster.small_clusters import VLLM, replica, requests_at

SLOW = {"kv_bytes_per_token": 1_000_000, "copy_bytes_per_s": 1e8}  # 100 tokens in 1 s
QUICK = {"kv_bytes_per_token": 100_000, "copy_bytes_per_s": 1e10}
LOST = {"detect_s": 0.5, "repair_s": 100.0, "boot_s": 1.0}


def played(
    specs: list, requests: Any, faults: list[dict], to: dict[int, int], migrate_at_s: float | None = None, **recovery
) -> Cluster:
    """Play requests that go to replica 0, decode where ``to`` says if they are prefilled, and migrate from 0 to 1."""
    cluster = Cluster(
        specs, (VLLM,), transfers=TransfersConfig(at_once=4), migrate_period_s=migrate_at_s,
        recovery=RecoveryConfig(**recovery),
    )  # fmt: skip
    cluster.load(0, requests, faults=Faults.of(faults))
    at = cluster.next_epoch(0)
    decided = 0
    while not cluster.done(0):
        kind = cluster.decision_kind(0)
        if kind == DecisionKind.MIGRATE:
            if decided == 0:
                decided += cluster.migrate(0, 0, 1)
        elif kind == DecisionKind.PLACE_DECODE:
            cluster.decide(0, 1, to.pop(at) if at in to else 2)
        else:
            cluster.decide(0, 1, int(cluster.state.replicas[0]["known"][0] != ACTIVE))
        at = cluster.next_epoch(0)
    for record, spec in zip(cluster.state.replicas[0], specs, strict=True):
        assert record["free_blocks"] == spec.num_blocks
        assert record["reserved_blocks"] == record["held_blocks"] == record["transfers"] == 0
    return cluster


@pytest.mark.parametrize("lost", ["source", "destination"])
def test_a_transfer_ends_with_either_end(lost):
    """The copy takes a second from 0.5 s on; at 1 s one end crashes, and 0.5 s later that is known."""
    crash = {"time_s": 1.0, "replica": int(lost == "destination"), "kind": FaultKind.CRASH, **LOST}
    requests = requests_at(0.0, prompt=100, output=100)
    plain = played([replica(**SLOW)] * 2, requests, [], {})
    cluster = played([replica(**SLOW)] * 2, requests, [crash], {}, 0.5)
    counts = cluster.transfer_counts(0)
    assert (counts["migrations_begun"], counts["migrations"], counts["aborted_lost"]) == (1, 0, 1)
    assert cluster.fault_counts(0)["failovers"] == (lost == "source")
    finish_s, undisturbed_s = (float(one.records(0)["finish_s"][0]) for one in (cluster, plain))
    if lost == "destination":  # it has decoded on, 1 % slower while blocks were on their way
        assert undisturbed_s < finish_s < 1.02 * undisturbed_s
    else:
        assert finish_s > undisturbed_s + 0.4


def test_a_copy_stands_still_with_a_hung_replica_and_goes_on_with_it():
    """Meanwhile the request decodes on: 35 tokens in 0.7 s, which take 0.35 s more to copy while it stands still."""
    hang = {"time_s": 1.0, "replica": 1, "kind": FaultKind.HANG, "duration_s": 0.7, "detect_s": 5.0}
    requests = requests_at(0.0, prompt=100, output=200)
    runs = [played([replica(**SLOW)] * 2, requests, faults, {}, 0.5) for faults in ([], [hang])]
    assert [run.transfer_counts(0)["migrations"] for run in runs] == [1, 1]
    smooth_s, hung_s = (float(run.records(0)["finish_s"][0]) for run in runs)
    assert hung_s - smooth_s == pytest.approx(0.35, abs=0.1)


@pytest.mark.parametrize("kind", [FaultKind.STOP, FaultKind.SPOT])
def test_a_draining_replica_hands_its_requests_over(kind):
    """Ten requests have 20 s to go; the replica has 2 s. With ``migrate`` none is lost, and none computed again."""
    warning = {"time_s": 1.0, "replica": 0, "kind": kind, "duration_s": 2.0, "repair_s": 100.0}
    requests = requests_at(*[0.0] * 10, prompt=100, output=1_000)
    waits, moves = (
        played([replica(num_blocks=1_000, **QUICK)] * 2, requests, [warning], {}, drain=drain)
        for drain in ("wait", "migrate")
    )
    assert waits.fault_counts(0)["failovers"] == 10
    assert moves.fault_counts(0)["failovers"] == moves.fault_counts(0)["refilled_tokens"] == 0
    assert moves.transfer_counts(0)["migrations"] == 10
    assert moves.records(0)["finish_s"].max() < waits.records(0)["finish_s"].max()
    if kind == FaultKind.STOP:  # it is off, and costs nothing, as soon as it is empty
        assert moves.state.replicas[0]["paid_s"][0] < 2.5 < waits.state.replicas[0]["paid_s"][0]


@pytest.mark.parametrize("when_s", [0.15, 0.4], ids=["on its way", "there"])
def test_a_prefilled_request_outlives_its_decode_replica(when_s):
    """It is decided about again while the prefill replica has its KV; later it is computed anew."""
    specs = [replica(role=role, **SLOW) for role in ("prefill", "decode", "decode")]
    crash = {"time_s": when_s, "replica": 1, "kind": FaultKind.CRASH, **(LOST | {"detect_s": 0.1})}
    cluster = played(specs, requests_at(0.0, prompt=20, output=50), [crash], {0: 1})
    counts = cluster.transfer_counts(0)
    on_its_way = when_s < 0.3
    assert counts["aborted_lost"] == on_its_way
    assert cluster.fault_counts(0)["failovers"] == (not on_its_way)
    assert counts["handed_over"] == 1 + (not on_its_way)
    assert cluster.records(0)["finish_s"][0] > 1.0


def test_draining_by_migration_needs_transfers():
    with pytest.raises(BurstenvError, match="drain: migrate needs a cluster with transfers"):
        Cluster([replica()], recovery=RecoveryConfig(drain="migrate"))
