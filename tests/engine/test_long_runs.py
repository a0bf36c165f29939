"""Counters that a long run would overflow start again, without effect on results."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.engine.decoders import MOST_STEPS
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.policies import parse_composite
from tests.cluster.small_clusters import assert_same_records, loaded, random_requests, replica


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("block_size", [16, 5])
def test_the_count_of_decode_steps_restarts(caching, block_size):
    requests = random_requests(np.random.default_rng(3), 300, 600, 60.0)
    spec = replica(num_blocks=2400 // block_size, block_size=block_size, prefix_caching=caching)
    record = parse_composite("always/round-robin/vllm").record(("vllm",))
    records = []
    for done_before in (0, MOST_STEPS - MOST_STEPS % block_size - 40 * block_size):  # the same phases
        cluster = loaded(requests, [spec])
        cluster.state.replicas["decode_step"] = done_before
        rollout(*cluster.state.arrays(), record, 0, UNLIMITED)
        records.append(cluster.records(0))
        assert cluster.state.replicas["decode_step"].max() < MOST_STEPS
    assert (records[0]["preemptions"] > 0).any()
    assert_same_records(*records)
