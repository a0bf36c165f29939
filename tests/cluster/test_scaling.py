"""What decisions about the number of replicas do, in numbers worked out by hand; and that no request is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import ADMIT, STATUS_NAMES, Cluster
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.engine.enums import REPLICA_STATE_NAMES
from burstenv.errors import BurstenvError
from burstenv.policies import parse_composite
from burstenv.policies.scaling import SCALING_RULES
from tests.cluster.small_clusters import random_requests, replica, requests_at
from tests.cluster.test_faults import MODE, STEPS, fault

RULES = {rule.name: rule for rule in SCALING_RULES}
COLD_S = 2.0


def cluster_of(replicas: int = 3, **scaling: Any) -> Cluster:
    values = {"control_period_s": 1.0, "initial": 1, "cold_start": COLD_S, **scaling}
    return Cluster([replica(latency=STEPS)] * replicas, (MODE,), scaling=ScalingConfig(**values))


def states(cluster: Cluster) -> list[str]:
    return [REPLICA_STATE_NAMES[k] for k in cluster.state.replicas[0]["status"]]


def play(cluster: Cluster, requests: np.ndarray, asked: dict[float, Any], faults: Faults | None = None) -> Cluster:
    """Play an episode; requests go to the first replica that is up. ``asked``: replicas that are asked for, by time."""
    cluster.load(0, requests, faults=faults)
    cluster.next_epoch(0)
    while not cluster.done(0):
        if cluster.decision_kind(0) == DecisionKind.SCALE:
            now_s = float(cluster.state.environments["now_s"][0])
            if now_s in asked:
                cluster.scale(0, asked[now_s])
        else:
            up = states(cluster).index("active") if "active" in states(cluster) else 0
            cluster.decide(0, ADMIT, up)
        cluster.next_epoch(0)
    return cluster


def started(cluster: Cluster) -> float:
    """The duration of the only boot: up to a tenth from its mean."""
    boot_s = float(cluster.state.replicas[0]["boot_s"].max())
    assert 0.9 * COLD_S <= boot_s <= 1.1 * COLD_S
    return boot_s


def test_cost_runs_from_the_request_to_the_end_of_draining_and_idle_replicas_count():
    """Two are asked for at 1 s, one at 6 s; replica 0, idle by then, is off at once; 60 outputs last until 15 s."""
    cluster = play(cluster_of(), requests_at(0.0, 5.0, prompt=10, output=8), {1.0: 2, 6.0: 1})
    end_s = float(cluster.state.environments["now_s"][0])
    boots = started(cluster)
    replicas = cluster.state.replicas[0]
    assert list(replicas["boots"]) == [0, 1, 0]
    counts = cluster.fault_counts(0)
    # At 6 s replica 0 has the request of 5 s until 7 s, replica 1 none: that with the fewest is stopped.
    assert counts["replica_s"] == counts["gpu_s"] == end_s + (6.0 - 1.0)
    assert replicas["up_s"][1] == pytest.approx(5.0 - boots)
    assert counts["boots"] == 1
    assert states(cluster) == ["active", "off", "off"]


def test_a_stopped_replica_serves_what_it_has_and_is_off_then():
    requests = requests_at(0.0, 2.1, prompt=10, output=8)
    cluster = play(cluster_of(initial=2), requests, {1.0: [False, True, False]})
    assert [STATUS_NAMES[k] for k in cluster.records(0)["status"]] == ["attained"] * 2
    assert list(cluster.records(0)["replica"]) == [0, 1], "replica 0 takes no requests from 1 s on"
    assert cluster.state.replicas[0]["paid_s"][0] == 2.0, "the end of its only request"


def test_a_replica_that_drains_is_started_before_one_that_is_off():
    requests = requests_at(0.0, 2.5, prompt=10, output=12)
    cluster = play(cluster_of(initial=2), requests, {1.0: [False, True, False], 2.0: 2})
    assert states(cluster) == ["active", "active", "off"]
    assert cluster.fault_counts(0)["boots"] == 0


def test_draining_ends_with_its_limit_and_the_rest_comes_back():
    requests = requests_at(0.0, prompt=10, output=16)  # until 4 s
    cluster = play(cluster_of(initial=2, drain_s=1.5), requests, {1.0: [False, True, False]})
    assert cluster.state.replicas[0]["paid_s"][0] == 2.5
    assert cluster.fault_counts(0)["failovers"] == 1
    assert STATUS_NAMES[cluster.records(0)["status"][0]] == "attained"


@pytest.mark.parametrize(("asked", "serve"), [(0, 1), (2, 2), (3, 2)])
def test_a_number_is_kept_within_the_limits(asked, serve):
    cluster = cluster_of(most=2)
    cluster.load(0, requests_at(0.0, 3.0))
    assert cluster.next_epoch(0) == 0
    cluster.decide(0, ADMIT)
    cluster.next_epoch(0)
    assert cluster.decision_kind(0) == DecisionKind.SCALE
    cluster.scale(0, asked)
    assert cluster.state.replicas[0]["wanted"].sum() == serve


def test_without_cold_starts_the_oracle_has_what_each_period_needs():
    """The rate changes every 10 s; a replica serves 2 requests/s, and is there as soon as it is asked for."""
    rates = [2, 6, 4, 2, 6, 2]
    times = np.concatenate([10.0 * k + (np.arange(10 * rate) + 0.5) / rate for k, rate in enumerate(rates)])
    cluster = cluster_of(control_period_s=10.0, cold_start=0.0, replica_per_s=2.0, initial=1)
    cluster.scale_by(RULES["oracle-scaling"].code, [1.0, 10.0])
    cluster.load(0, requests_at(*times, prompt=10, output=2))
    serving = {}
    while cluster.next_epoch(0) >= 0:
        now_s = float(cluster.state.environments["now_s"][0])
        serving[math.floor(now_s / 10.0)] = states(cluster).count("active")
        cluster.decide(0, ADMIT, int(cluster.state.environments["decisions"][0]) % serving[math.floor(now_s / 10.0)])
    assert [serving[k] for k in range(6)] == [1, 3, 2, 1, 3, 1]


def test_a_cluster_that_may_scale_and_does_not_has_the_same_records():
    rng = np.random.default_rng(3)
    requests = random_requests(rng, 80, 400, 6.0)
    plain = Cluster([replica(latency=STEPS)] * 3, (MODE,))
    scaled = cluster_of(initial=None)
    scaled.scale_by(RULES["static"].code, [0.0])
    for cluster in (plain, scaled):
        cluster.load(0, requests)
        while (at := cluster.next_epoch(0)) >= 0:
            cluster.decide(0, ADMIT, at % 3)
    for name in ("status", "finish_s", "first_token_s", "replica"):
        assert plain.records(0)[name].tobytes() == scaled.records(0)[name].tobytes()


def test_an_undetected_crash_does_not_show_in_what_a_rule_asks_for():
    """The crashed replica has no requests; until it is detected it is stopped like any other, and taken for active."""
    faults = Faults.of([fault(0.5, FaultKind.CRASH, 1, detect_s=100.0, boot_s=1.0)])
    cluster = play(cluster_of(initial=2), requests_at(0.0, 4.0, prompt=10, output=8), {1.0: 1}, faults)
    assert REPLICA_STATE_NAMES[cluster.state.replicas[0]["known"][1]] == "draining"


@pytest.mark.parametrize(
    ("scaling", "wrong"),
    [
        ({"initial": 4}, "scaling.initial must be at most 3, the cluster's replicas, got 4"),
        ({"least": 2}, "scaling.initial must lie from least to most, 2 to 3, got 1"),
        ({"least": 3, "most": 2}, "least is 3, more than most, 2"),
    ],
)
def test_numbers_that_do_not_fit_are_an_error(scaling, wrong):
    with pytest.raises(BurstenvError, match=wrong):
        cluster_of(**scaling)


def test_what_cannot_be_decided_is_an_error():
    cluster = cluster_of()
    with pytest.raises(BurstenvError, match=r"set scaling\.replica_per_s"):
        cluster.scale_by(RULES["oracle-scaling"].code, [1.0, 10.0])
    with pytest.raises(BurstenvError, match="was made without scaling"):
        Cluster([replica()]).scale(0, 1)
    cluster.load(0, requests_at(3.0))
    assert cluster.next_epoch(0) == -1
    with pytest.raises(BurstenvError, match="about its replicas: call scale"):
        cluster.decide(0, ADMIT)
    for wrong in ([True], [2, 0, 0], [0.5, 0, 0]):
        with pytest.raises(BurstenvError, match="replicas must be a number, or 3 of True and False"):
            cluster.scale(0, wrong)


def test_a_composite_may_name_a_scaling_rule():
    policy = parse_composite("always/jsq/vllm/kpa(target=20)")
    assert policy.name == "always/jsq/vllm/kpa(target=20)"
    assert policy.scaling is not None
    assert policy.migration is None
    assert policy.scaling.named["target"] == 20.0
    assert parse_composite("always/jsq/vllm/oracle-scaling").oracle
    with pytest.raises(BurstenvError, match="unknown migration, scaling, placement, background or flow rule 'kap'"):
        parse_composite("always/jsq/vllm/kap")
