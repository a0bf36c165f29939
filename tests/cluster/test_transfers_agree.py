"""KV blocks on the move: the compiled cluster equals the reference cluster, and no block is lost or used twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv.cluster import ClientsConfig
from burstenv.cluster.events import DecisionKind
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.transfer_config import AbortCause, Pick, TransfersConfig
from tests.cluster.play import CHANGES, LOOPS, METRICS, PATIENCE, Play, changing, episode
from tests.cluster.small_clusters import FAST, replica, requests_at
from tests.cluster.test_cluster_agrees import ENGINES, MODES
from tests.cluster.test_published_state import Look
from tests.random_examples import examples

SIZES: list[dict[str, Any]] = [{"num_blocks": 40}, {"num_blocks": 55, "latency": FAST}, {"num_blocks": 90}]
MOVING = list(ENGINES.values())
# 100 tokens in 0.1 s: an iteration takes 0.02 s. Not in whole milliseconds: a copy that ends when a control period
# does, but for rounding, would come before it or after it.
SLOW = {"kv_bytes_per_token": 500_000, "copy_bytes_per_s": 4.937e8}
QUICK = {"kv_bytes_per_token": 100_000, "copy_bytes_per_s": 1e10}
CONFIGS: list[dict[str, Any]] = [
    {},
    {"last_stage_blocks": 1, "max_stages": 2},
    {"live": False, "orchestration_ms": 0.0},
    {"at_once": 3, "slowdown": 0.5, "last_stage_blocks": 1},
    {"base_ms": 0.0, "orchestration_ms": 0.0, "downtime_ms": 0.0, "slowdown": 0.0},
    {"at_once": 2, "timeout_s": 0.12},
    {"by": "tokens", "slowdown": 0.0},
    {"by": "tokens", "gap_tokens": 1, "base_ms": 0.0, "at_once": 3},
    {"by": "tokens", "live": False, "at_once": 2, "timeout_s": 0.3},
]


class Conserved(Look):
    """Also counts the blocks of every replica: free ones, those of running requests, those set aside."""

    def __call__(self, at_gateway: int) -> None:
        super().__call__(at_gateway)
        for end in self.play.reference.replicas:
            used = [block for request in end.running for block in set(request.blocks)]
            aside = [block for blocks in end.set_aside.values() for block in blocks]
            assert len({*used, *aside}) + end.free_blocks == end.limits.num_blocks
            if not end.limits.prefix_caching:
                assert len({*used, *aside}) == len(used) + len(aside)


def play(
    seed: int,
    config: ClientsConfig | None,
    engine: dict[str, Any],
    transfers: dict[str, Any],
    link: dict[str, Any],
    changes: str = "none",
    **settings: Any,
) -> Play:
    """Play and compare one episode of three unequal replicas with random migrations."""
    rng = np.random.default_rng(seed)
    longest = min(size["num_blocks"] for size in SIZES) * 16
    specs = [replica(**size, **engine, **link, max_model_len=longest) for size in SIZES]
    span_s = float(rng.choice([1.5, 4.0]))
    requests, clients = episode(rng, config, 70, longest - 80, span_s, 60)
    settings |= changing(rng, changes, len(SIZES), span_s + 3.0)
    result = Play(
        rng, specs, MODES, requests, config, clients, odds=(0.05, 0.9, 0.05), transfers=TransfersConfig(**transfers),
        migrate_period_s=float(rng.choice([0.02, 0.07])), **settings,
    )  # fmt: skip
    result.cluster.set_worth([1.0, 3.0])
    result.run(Conserved(result))
    result.compare_outcomes()
    return result


@examples(40)
@given(
    seed=st.integers(0, 2**20),
    config=st.sampled_from([None, *(ClientsConfig(patience=PATIENCE[2], closed_loop=loop) for loop in LOOPS)]),
    engine=st.sampled_from(MOVING),
    transfers=st.sampled_from(CONFIGS),
    link=st.sampled_from([SLOW, QUICK]),
    changes=st.sampled_from(CHANGES),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
@example(2**20, ClientsConfig(patience=PATIENCE[2]), {}, {}, QUICK, "none", None, METRICS[0])  # a held-back one moves
@example(2, None, {}, CONFIGS[2], SLOW, "many faults", None, METRICS[0])  # a drain finds no room where it would move
@example(
    6267, None, {"prefix_caching": True}, {"by": "tokens", "slowdown": 0.0}, SLOW, "many faults", 0.4, METRICS[0]
)  # two replicas number iterations alike, one that left a request out and one that is lost with it
def test_transfers_are_what_is_written_down(seed, config, engine, transfers, link, changes, tick_s, metrics):
    play(seed, config, engine, transfers, link, changes, tick_s=tick_s, metrics=metrics)


def test_the_reference_shares_what_the_destination_has_cached():
    """Of two turns of a session the second has its prompt cached where the first one ran."""
    requests = requests_at(0.0, 3.4, prompt=320, output=20)
    requests["session"] = 7
    specs = [replica(prefix_caching=True, kv_bytes_per_token=1_000) for _ in range(2)]
    cluster = ReferenceCluster(specs, MODES, requests, transfers=TransfersConfig(), migrate_period_s=0.5)
    while (kind := cluster.next_epoch()) is not None:
        if kind == DecisionKind.MIGRATE:
            cluster.migrate(0, 1, Pick.SHORTEST)
        else:
            cluster.decide(1, 1 - cluster.at_gateway, 0)
    assert cluster.transfers.counts["done"] == 1
    assert 0 < cluster.transfers.moved_bytes <= 20_000  # not the 320 tokens of the prompt
    assert all(end.free_blocks == end.limits.num_blocks for end in cluster.replicas)


@pytest.mark.parametrize("engine", [{}, {"asynchronous": True}, {"prefix_caching": True}])
def test_the_cases_above_are_hard_ones(engine):
    """Migrations are done, and given up for every cause; requests that stood still go back, and are preempted there."""
    seen: Counter[str] = Counter()
    for changes in ("none", "many faults"):
        for seed in range(3):
            for transfers in CONFIGS:
                counts = play(seed, None, engine, transfers, SLOW, changes).cluster.transfer_counts(1)
                seen.update({name: int(number) for name, number in counts.items()})
    assert seen["migrations"] >= 100, seen
    for cause in AbortCause:
        assert seen[f"aborted_{cause.name.lower()}"] >= 3, (cause, seen)
