"""A router's knowledge of cached prefixes matches the engine's hits, and a query changes no state."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv._jit.decorators import entry
from burstenv.cluster import request_array
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import REJECTED
from burstenv.engine.prefix_hits import prefix_hit_tokens
from tests.cluster.small_clusters import loaded, replica


@entry
def _hit_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, i, r, request_id
):  # fmt: skip
    arrays = Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes)
    return prefix_hit_tokens(engine_of(world_of(arrays, i), r), request_id)


def conversations(rng: np.random.Generator, n: int, gap_s: float) -> np.ndarray:
    """Turns of a few sessions, each prompt the whole conversation so far and a little more."""
    requests = request_array(np.arange(n) * gap_s, np.ones(n), rng.integers(1, 40, n))
    requests["session"] = rng.integers(-1, 4, n)
    known: dict[int, int] = {}
    for request in requests:
        session = int(request["session"])
        prompt = known.get(session, 0) + int(rng.integers(1, 60))
        request["prompt_tokens"] = prompt
        known[session] = prompt + int(request["output_tokens"]) if session >= 0 and prompt < 400 else 0
    return requests


@pytest.mark.parametrize("seed", range(5))
def test_an_idle_replica_finds_the_hits_reported_to_the_router(seed):
    requests = conversations(np.random.default_rng(seed), 60, gap_s=10.0)  # no request waits or overlaps with another
    cluster = loaded(requests, [replica(prefix_caching=True), replica(prefix_caching=True)], max_request_tokens=1024)
    told = []
    while (at_gateway := cluster.next_epoch(0)) >= 0:
        before = [array.tobytes() for array in cluster.state.arrays()]
        chosen = at_gateway % 3 % 2
        told.append(_hit_at(*cluster.state.arrays(), 0, chosen, at_gateway))
        assert [array.tobytes() for array in cluster.state.arrays()] == before
        cluster.decide(0, 1, chosen)
    records = cluster.records(0)
    assert (records["status"] < REJECTED).all()
    assert records["cached_tokens"].tolist() == told
    assert sum(told) > 1000


def test_without_prefix_caching_there_are_no_hits():
    cluster = loaded(conversations(np.random.default_rng(0), 20, gap_s=10.0))
    while (at_gateway := cluster.next_epoch(0)) >= 0:
        assert _hit_at(*cluster.state.arrays(), 0, 0, at_gateway) == 0
        cluster.decide(0, 1, 0)
