"""Answers that a replica would cut: rules, masks and features show them, and they earn nothing."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import STATUS_NAMES, request_array
from burstenv.envs.play.policy import player_of
from burstenv.evaluation.metrics import episode_metrics
from burstenv.policies import ROUTING_RULES, load_policy
from burstenv.policies.view import View
from tests.cluster.small_clusters import loaded, replica

SIZES = ({"num_blocks": 20}, {"num_blocks": 100})  # 320 and 1,600 tokens


def long_answers(n: int = 24) -> np.ndarray:
    requests = request_array(np.arange(n) * 0.2, np.full(n, 100), np.full(n, 500))
    requests["session"] = np.arange(n) % 3
    return requests


@pytest.mark.parametrize("rule", [rule.name for rule in ROUTING_RULES])
def test_every_rule_sends_an_answer_to_a_replica_that_holds_all_of_it(rule):
    cluster = loaded(long_answers(), [replica(prefix_caching=True, **size) for size in SIZES])
    cluster.see_log()
    player_of(load_policy(f"always/{rule}/vllm"), cluster, 0).run()
    assert (cluster.records(0)["replica"] == 1).all()
    assert cluster.state.environments[0]["length_capped"] == 0


@pytest.mark.parametrize("rule", [rule.name for rule in ROUTING_RULES])
def test_without_a_replica_for_the_answer_those_that_accept_the_prompt_are_choices(rule):
    requests = long_answers()
    requests["prompt_tokens"] = 400
    requests["predicted_tokens"] = requests["output_tokens"] = 2000
    cluster = loaded(requests, [replica(**size) for size in SIZES])
    cluster.see_log()
    player_of(load_policy(f"always/{rule}/vllm"), cluster, 0).run()
    assert (cluster.records(0)["replica"] == 1).all()
    assert cluster.state.environments[0]["length_capped"] == len(requests)


def test_a_cut_answer_is_counted_and_earns_nothing():
    cluster = loaded(long_answers(), [replica(**size) for size in SIZES])
    fits = []
    while cluster.next_epoch(0) >= 0:
        view = View(cluster, 0, ("vllm",), {}, oracle=False)
        fits.append([r.fits for r in view.replicas])
        assert all(r.accepts for r in view.replicas)
        assert view.least(lambda r: r.index).index == 1
        cluster.decide(0, 1, 0)
    records = cluster.records(0)
    assert fits == [[False, True]] * len(records)
    assert {STATUS_NAMES[s] for s in records["status"]} == {"length_capped"}
    assert (records["produced_tokens"] == 220).all()
    metrics = episode_metrics(records, 5.0)
    assert metrics["length_capped"] == metrics["failed"] == metrics["offered"] == len(records)
    assert metrics["attained"] == metrics["token_weighted_attainment"] == 0
    assert metrics["ttft_s_mean"] is None
