"""Fine-tuning on replicas that fail, start, stop or slow down, and behind a queue, in numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from burstenv.cluster import ADMIT, Cluster, request_array
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.cluster.flow_config import FCFS, FlowConfig
from burstenv.cluster.scaling.config import ScalingConfig
from burstenv.config import parse
from burstenv.engine.background_rule import PAUSED, BackgroundRule
from tests.cluster.small_clusters import replica
from tests.cluster.test_faults import MODE, STEPS, fault

STEP_TOKENS = 256  # that a step trains, in 0.25 s: as long as any iteration
END_S = 10.45  # the only request comes at 10.2 to replica 1, for one iteration

CRASH = [fault(1.1, FaultKind.CRASH, detect_s=0.5, repair_s=1.0, boot_s=2.0)]  # serves again at 4.6
STOP = fault(1.1, FaultKind.STOP)


def job(**changes: Any) -> BackgroundConfig:
    """The job of replica 0, in steps of 0.25 s."""
    given = {"step_tokens": STEP_TOKENS, "memory_gb": 0.0, "replicas": [0], **changes}
    return parse(BackgroundConfig, given, "background")


def trained(
    requests: np.ndarray, choices: list[int], rows: list[dict[str, Any]], rule: BackgroundRule,
    asynchronous: bool = False, **changes: Any,
) -> list[float]:  # fmt: skip
    """Play an episode; return the steps trained, the time of steps apart [s] and the steps lost on replica 0."""
    specs = [replica(latency=STEPS, layers=2, asynchronous=asynchronous) for _ in range(2)]
    cluster = Cluster(specs, (MODE,), recovery=RecoveryConfig(), background=job(**changes))
    cluster.background_by(rule)
    cluster.load(0, requests, faults=Faults.of(rows))
    made = 0
    while cluster.next_epoch(0) >= 0:
        cluster.decide(0, ADMIT, choices[min(made, len(choices) - 1)])
        made += 1
    assert cluster.state.environments[0]["now_s"] == pytest.approx(END_S)
    tokens, apart_s, _, lost = cluster.trained(0)[0]
    return [tokens / STEP_TOKENS, apart_s, lost / STEP_TOKENS]


@pytest.mark.parametrize(
    ("rows", "where", "steps", "apart_s", "lost"),
    [
        ([], "step", 41, 10.25, 0),
        (CRASH, "step", 4 + 23, 1.1 + 5.75, 0),  # what was under way at 1.1 was never counted
        (CRASH, "layer", 4 + 23.25, 1.1 + 5.8125, 0.25),  # at 1.1 a quarter of the fifth step was
        ([fault(1.1, FaultKind.HANG, duration_s=0.3, detect_s=1.0)], "step", 40, 10.0, 0),
        ([fault(1.1, FaultKind.HANG, duration_s=3.0, detect_s=0.5, repair_s=1.0, boot_s=2.0)], "step", 27, 6.85, 0),
        # The fifth step ends at 1.4, three take 0.5 s each, and the ninth ends 0.15 s after the spell.
        ([fault(1.1, FaultKind.SLOW, duration_s=2.0, factor=2.0)], "step", 9 + 28, 10.25, 0),
        ([fault(0.0, FaultKind.PACE, factor=4.0)], "step", 10, 10.0, 0),
        # Warned, it ends its fifth step; it is lost at 2.1, and its replacement serves at 5.1.
        ([fault(1.1, FaultKind.SPOT, duration_s=1.0, repair_s=3.0, boot_s=1.0)], "step", 5 + 21, 1.25 + 5.25, 0),
        ([STOP], "step", 4, 1.1, 0),
        ([STOP], "layer", 4, 1.1, 0.25),
        ([STOP, fault(3.0, FaultKind.START, boot_s=1.0)], "step", 4 + 25, 1.1 + 6.25, 0),
    ],
)
def test_an_idle_replica(rows, where, steps, apart_s, lost):
    requests = request_array(np.array([10.2]), np.array([10]), np.array([1]))
    found = trained(requests, [1], rows, BackgroundRule(), interruptible=where)
    assert found == pytest.approx([steps, apart_s, lost])


@pytest.mark.parametrize(
    ("tokens", "asynchronous", "steps", "lost"),
    [
        (256, False, 4, 1),  # each iteration shares a whole step: the fifth is under way at 1.1
        (256, True, 4, 2),  # and the sixth is scheduled already
        (192, False, 3, 0.75),  # three quarters of a step each: 3.75 with the fifth
    ],
)
def test_shared_iterations_that_are_cut(tokens, asynchronous, steps, lost):
    """A request decodes on replica 0 until the crash, then on replica 1."""
    requests = request_array(np.array([0.0, 10.2]), np.array([10, 10]), np.array([8, 1]))
    found = trained(requests, [0, 1], CRASH, BackgroundRule(PAUSED, tokens), asynchronous, cost=1.0)
    assert found == pytest.approx([steps, 0.0, lost])


def test_a_queue_at_the_gateway_leaves_replicas_idle_for_the_job():
    """With one request in flight at a time the replica trains in between, and requests wait in front of it."""
    requests = request_array(np.arange(8) * 0.1, np.full(8, 10), np.full(8, 4))
    outcomes = {}
    for in_flight in (1.0, 1000.0):
        cluster = Cluster([replica(latency=STEPS)], (MODE,), background=job(), flow=FlowConfig(look_s=0.01))
        cluster.flow_by(FCFS, (0.0, 0.0, in_flight, 5.0, 0.8, 1.0, 1e9, 1.0))
        cluster.load(0, requests)
        while cluster.next_epoch(0) >= 0:
            cluster.decide(0, ADMIT, 0)
        outcomes[in_flight] = cluster.trained(0)[0, 0] / STEP_TOKENS
    assert outcomes[1000.0] < outcomes[1.0]


def test_a_replica_joins_the_job_when_it_is_active():
    """Of two replicas the second is asked for at 1 s, serves at 1.9 to 2.1 s, and trains from then on."""
    scaling = ScalingConfig(control_period_s=1.0, cold_start=1.0, initial=1, least=1)
    specs = [replica(latency=STEPS) for _ in range(2)]
    cluster = Cluster(specs, (MODE,), scaling=scaling, background=job(replicas=None))
    cluster.load(0, request_array(np.array([0.0, 10.2]), np.array([10, 10]), np.array([1, 1])))
    while not cluster.done(0):
        at_gateway = cluster.next_epoch(0)
        if cluster.state.environments[0]["scaling"]:
            cluster.scale(0, 2)
        elif at_gateway >= 0:
            cluster.decide(0, ADMIT, 0)
    ready_s = float(cluster.state.replicas[0, 1]["ready_s"])
    assert 1.9 <= ready_s <= 2.1
    assert cluster.trained(0)[1, 0] / STEP_TOKENS == math.floor((END_S - ready_s) / 0.25)
