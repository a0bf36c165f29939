"""The benchmark's floor does what the engine does, one iteration at a time."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import load_cluster
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.evaluation.bench.engine import CLUSTER, PLAIN, VLLM, Replay, poisson_requests, session_requests
from burstenv.evaluation.bench.figures import page, row


@pytest.mark.parametrize("engine", [PLAIN, VLLM])
def test_stepping_gives_the_records_of_the_replay(engine):
    requests = poisson_requests(400, 20.0)
    specs = [spec.model_copy(update={"num_blocks": 400, **engine}) for spec in load_cluster(CLUSTER)[:3]]
    replay = Replay(specs, requests, "always/lmetric/vllm")
    assert replay.rate_per_s() > 0
    fast = replay.cluster.records(0)
    assert (fast["preemptions"] > 0).any()
    stepping = replay.stepped(len(requests))
    assert stepping.cluster.state.specs["general"].all()
    assert stepping.rate_per_s() > 0
    stepped = stepping.cluster.records(0)
    for name in ("replica", "status", "preemptions"):
        np.testing.assert_array_equal(fast[name], stepped[name])
    for name in ("first_token_s", "finish_s"):
        np.testing.assert_allclose(fast[name], stepped[name], rtol=1e-9)


def test_replicas_with_roles_and_migrations_are_timed_at_work():
    requests = poisson_requests(400, 12.0)
    specs = [spec.model_copy(update={"num_blocks": 400, **PLAIN}) for spec in load_cluster(CLUSTER)[:3]]
    roles = [spec.model_copy(update={"role": "decode" if k else "prefill"}) for k, spec in enumerate(specs)]
    apart = Replay(roles, requests, "always/lmetric/vllm", transfers=TransfersConfig(at_once=32))
    assert apart.rate_per_s() > 0
    several = np.count_nonzero(apart.cluster.records(0)["output_tokens"] > 1)
    assert apart.cluster.transfer_counts(0)["handed_over"] == several
    moving = Replay(specs, requests, "always/lmetric/vllm/llumnix", transfers=TransfersConfig(), migrate_period_s=0.1)
    assert moving.rate_per_s() > 0
    assert moving.cluster.transfer_counts(0)["migrations"] > 10


def test_sessions_go_on_from_their_last_total():
    requests = session_requests(600, 1.0)
    assert (np.diff(requests["arrival_s"]) >= 0).all()
    for session in np.unique(requests["session"])[:50]:
        turns = requests[requests["session"] == session]
        total = (turns["prompt_tokens"] + turns["output_tokens"])[:-1]
        assert ((turns["prompt_tokens"][1:] >= total) | (turns["prompt_tokens"][1:] == 4000)).all()


def test_a_page_has_a_table_for_each_group():
    text = page([row("A", "x", 200.0, "requests/s", "y", 100.0), row("B", "z", 1.0, "s", "w", 2.0)], "burstenv bench")
    assert text.count("| measurement | figure |") == 2
    assert "| x | 200 requests/s | y: 100 | 2 |" in text


def test_a_page_of_some_groups_keeps_the_others() -> None:
    whole = page([row("Engine", "a", 1.0, "x", "b", 2.0), row("Gateway", "c", 3.0, "ms", "d", 4.0)], "all")
    part = page([row("Engine", "a", 9.0, "x", "b", 2.0)], "some", whole)
    assert "| c | 3.0 ms | d: 4.0 | 0.75 |" in part
    assert "| a | 9.0 x | b: 2.0 | 4.5 |" in part
    assert "| a | 1.0 x" not in part
    assert page([row("Engine", "a", 9.0, "x", "b", 2.0)], "some", part) == part
