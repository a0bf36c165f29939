"""Rows of the arena: copied into a row of another room they mean the same, and empty pages stay empty."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest

from burstenv.cluster import Cluster, load_cluster
from burstenv.engine.arena import PAGE, _copy_pages
from burstenv.envs.scenario import ROOM_TOKENS, load_scenario

STATM = Path("/proc/self/statm")


@pytest.mark.parametrize("length", [5, PAGE, 3 * PAGE + 7])
def test_pages_are_copied_over_whatever_was_there(length):
    random = np.random.default_rng(length)
    for empty_source, empty_target in ((0.0, 0.0), (0.5, 0.5), (1.0, 0.0), (0.0, 1.0)):
        rows = []
        for empty in (empty_source, empty_target):
            row = random.integers(1, 9, length).astype(np.int32)
            for page in range(0, length, PAGE):
                if random.random() < empty:
                    row[page : page + PAGE] = 0
            rows.append(row)
        source, target = rows
        _copy_pages(source, target)
        assert np.array_equal(source, target)


def resident_bytes() -> int:
    """The pages of this process that are in memory now; its peak would hide what is below it."""
    if not STATM.exists():
        pytest.skip("the pages in use are known on Linux alone")
    return int(STATM.read_text().split()[1]) * mmap.PAGESIZE


def test_room_for_more_requests_touches_no_page_that_was_not_in_use():
    cluster = Cluster(load_cluster("default"), num_envs=64, num_requests=16, max_request_tokens=4096)
    whole = cluster.state.arenas.nbytes
    before = resident_bytes()
    cluster.state.grow_requests(4_000)
    assert resident_bytes() - before < 0.1 * whole


def test_a_scenario_without_a_longest_request_has_room_for_those_of_its_trace(small_scenario):
    """A replica alone would take half a million tokens, of which 64 environments could not hold the tables."""
    episode = {k: v for k, v in small_scenario["episode"].items() if k != "max_total_tokens"}
    scenario = load_scenario({**small_scenario, "cluster": "default", "episode": episode})
    longest = int((scenario.trace.prompt_tokens + scenario.trace.output_tokens).max())
    assert scenario.longest_tokens > 10 * ROOM_TOKENS
    assert scenario.room_tokens == max(longest, ROOM_TOKENS)
    assert scenario.make_cluster(64).state.layout.table_size == -(-scenario.room_tokens // 16)
