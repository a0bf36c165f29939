"""Priorities of a trace reach the batching mode that orders by them."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster import ClusterConfig
from burstenv.config import parse
from burstenv.evaluation.simulate import simulate
from burstenv.workload import Trace


@pytest.mark.parametrize("asynchronous", [False, True])
def test_urgent_requests_do_not_wait_behind_the_backlog(asynchronous: bool) -> None:
    """200 requests of 1,300 tokens come at once to a cache for 18 of them; ten urgent ones come one each second."""
    arrival_s = np.concatenate([np.arange(200) / 1000, 1.0 + np.arange(10)])
    urgent = np.arange(210) >= 200
    trace = Trace.from_columns(
        arrival_s, np.where(urgent, 200, 1000), np.where(urgent, 20, 300), priority=np.where(urgent, 0, 10)
    )
    replica = {"model": "llama-2-13b", "hardware": "a100-80g", "num_blocks": 1500}
    cluster = parse(
        ClusterConfig,
        {"name": "one", "replicas": [replica], "asynchronous": asynchronous, "prefix_caching": False},
        "test",
    )
    ttft_s = {}
    for mode in ("vllm", "priority"):
        records = simulate(trace, cluster, f"always/jsq/{mode}").records
        ttft_s[mode] = (records["first_token_s"] - records["arrival_s"])[urgent]
    # A place comes free when one of 18 ends: each runs for several seconds, so one ends in less than a second.
    assert ttft_s["priority"].max() < 3.0
    assert ttft_s["priority"].mean() < 1.0
    assert ttft_s["vllm"].min() > 20.0
