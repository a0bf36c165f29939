"""What rules do when replicas are lost: with a request in the middle of its answer, and with the replicas left.

Iterations take 0.25 s. The request of 10 prompt tokens and 8 outputs has a TTFT objective of 0.5 s, which it meets on
replica 0. That crashes at 1.1, after four tokens, and the request is back at the gateway at 1.6.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from burstenv.cluster import ADMIT, REJECT, STATUS_NAMES, Cluster
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import Faults
from burstenv.envs.play.policy import player_of
from burstenv.policies import View, load_policy
from tests.cluster.small_clusters import replica, requests_at
from tests.cluster.test_faults import CRASH, MODE, STEPS


def interrupted(*sizes: int, predicted: float = 8.0) -> Cluster:
    """Return a cluster of replicas of these model lengths at the moment at which the request is back."""
    specs = [replica(latency=STEPS, max_model_len=size, num_blocks=60) for size in sizes]
    cluster = Cluster(specs, (MODE,), recovery=RecoveryConfig())
    requests = requests_at(0.0, prompt=10, output=8)
    requests["ttft_slo_s"], requests["tpot_slo_s"], requests["predicted_tokens"] = 0.5, 1.0, predicted
    cluster.load(0, requests, faults=Faults.of([CRASH]))
    cluster.next_epoch(0)
    cluster.decide(0, ADMIT, 0)
    assert cluster.next_epoch(0) == 0
    assert cluster.state.environments["now_s"][0] == 1.6
    return cluster


@pytest.mark.parametrize("admission", ["predicted-deadline", "early-rejection"])
def test_a_deadline_for_the_first_token_is_none_once_it_is_out(admission):
    cluster = interrupted(480, 480)
    admitted, chosen, _ = player_of(load_policy(f"{admission}/jsq/vllm"), cluster).decision()
    assert (admitted, chosen) == (ADMIT, 1)
    assert View(cluster, 0, ("vllm",), {}, False).request.ttft_left_s == math.inf
    cluster.decide(0, admitted, chosen)
    cluster.next_epoch(0)
    assert STATUS_NAMES[cluster.records(0)["status"][0]] == "attained"


@pytest.mark.parametrize("routing", ["jsq", "random", "round-robin", "expected-ttft"])
def test_a_replica_holds_the_part_of_the_answer_that_is_there(routing):
    """Four tokens are there, two were predicted: 15 tokens at least, more than replica 1 takes."""
    cluster = interrupted(480, 14, 480, predicted=2.0)
    assert player_of(load_policy(f"always/{routing}/vllm"), cluster).decision()[1] == 2
    view = View(cluster, 0, ("vllm",), {}, False)
    assert [one.fits for one in view.replicas] == [False, False, True]
    assert [one.accepts for one in view.replicas] == [False, False, True]
    assert (view.request.streamed_tokens, view.predicted_answer_tokens) == (4, 5)


def test_the_part_of_the_answer_that_is_there_is_computed_anew():
    """It is load like a prompt: 14 tokens, of which a replica of 60 blocks holds one block."""
    cluster = interrupted(480, 480)
    own = View(cluster, 0, ("vllm",), {}, False).replicas[1].kv_demand_with
    cluster.state.requests["prompt_tokens"][0] = 13  # 17 tokens, two blocks
    assert View(cluster, 0, ("vllm",), {}, False).replicas[1].kv_demand_with == pytest.approx(2 * own)


def test_a_replica_that_is_lost_does_not_count_as_empty():
    """Ten requests wait on each of the two that are left, and ten count as full; the mean of all three is less."""
    cluster = Cluster([replica(latency=STEPS)] * 3, (MODE,), recovery=RecoveryConfig())
    cluster.load(0, requests_at(*np.full(21, 2.0), prompt=10, output=8), faults=Faults.of([{**CRASH, "boot_s": 99.0}]))
    player = player_of(load_policy("kv-saturation(queue=10)/round-robin/vllm"), cluster)
    decisions = []
    while cluster.next_epoch(0) >= 0:
        decisions.append(player.decision())
        cluster.decide(0, *decisions[-1])
    assert [admission for admission, _, _ in decisions] == [ADMIT] * 20 + [REJECT]
    assert {chosen for _, chosen, _ in decisions} == {1, 2}
