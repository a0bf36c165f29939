"""Replicas with roles: the compiled cluster equals the reference cluster, and no block is lost or used twice."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv.cluster import ClientsConfig
from burstenv.cluster.transfer_config import TransfersConfig
from tests.cluster.play import CHANGES, LOOPS, METRICS, PATIENCE, Play, changing, episode
from tests.cluster.small_clusters import replica
from tests.cluster.test_cluster_agrees import MODES
from tests.cluster.test_transfers_agree import MOVING, QUICK, SIZES, SLOW, Conserved
from tests.random_examples import examples

ROLES = [
    ("prefill", "decode", "decode"),
    ("prefill", "prefill", "decode"),
    ("prefill", "mixed", "decode"),
    ("prefill", "flexible", "decode"),
    ("flexible", "flexible", "flexible"),
]
CONFIGS: list[dict[str, Any]] = [
    {"at_once": 4},
    {"at_once": 1, "hand_over": {"retry_ms": 3.0, "orchestration_ms": 0.0}},
    {"at_once": 8, "slowdown": 0.3, "hand_over": {"when_full": "local", "spare_tokens": 100}},
    {"at_once": 3, "hand_over": {"layerwise": True, "lease_s": 0.12}},
    {"at_once": 2, "base_ms": 0.0, "slowdown": 0.0, "hand_over": {"orchestration_ms": 0.0}},
    {"at_once": 4, "by": "tokens", "gap_tokens": 2},
]


def play(
    seed: int,
    config: ClientsConfig | None,
    engine: dict[str, Any],
    transfers: dict[str, Any],
    link: dict[str, Any],
    roles: tuple[str, ...],
    migrates: bool = False,
    changes: str = "none",
    switches: bool = False,
    **settings: Any,
) -> Play:
    """Play and compare one episode of three unequal replicas with random decisions about where requests decode."""
    rng = np.random.default_rng(seed)
    longest = min(size["num_blocks"] for size in SIZES) * 16
    specs = [
        replica(**size, **engine, **link, role=role, layers=8, max_model_len=longest)
        for size, role in zip(SIZES, roles, strict=True)
    ]
    span_s = float(rng.choice([1.5, 4.0]))
    requests, clients = episode(rng, config, 70, longest - 80, span_s, 60)
    settings |= changing(rng, changes, len(SIZES), span_s + 3.0)
    result = Play(
        rng, specs, MODES, requests, config, clients, odds=(0.05, 0.9, 0.05), transfers=TransfersConfig(**transfers),
        migrate_period_s=0.05 if migrates else None, switches_roles=switches, **settings,
    )  # fmt: skip
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
    roles=st.sampled_from(ROLES),
    migrates=st.booleans(),
    changes=st.sampled_from(CHANGES),
    switches=st.booleans(),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
@example(
    5502,
    None,
    {"prefix_caching": True},
    {"by": "tokens", "gap_tokens": 1, "base_ms": 0.0, "at_once": 3},
    SLOW,
    ("flexible", "flexible", "flexible"),
    True,
    "scaling and faults",
    True,
    0.4,
    METRICS[2],
)  # a decode run is cut at the end that a transfer waits for
def test_hand_overs_are_what_is_written_down(
    seed, config, engine, transfers, link, roles, migrates, changes, switches, tick_s, metrics
):
    play(seed, config, engine, transfers, link, roles, migrates, changes, switches, tick_s=tick_s, metrics=metrics)


@pytest.mark.parametrize("engine", [{}, {"asynchronous": True}, {"prefix_caching": True}])
def test_the_cases_above_are_hard_ones(engine):
    """Requests are handed over, stay, are preempted after both, and are given up on the way."""
    seen: Counter[str] = Counter()
    for seed in range(2):
        for transfers in CONFIGS:
            for roles in ROLES:
                result = play(seed, None, engine, transfers, SLOW, roles)
                seen.update({name: int(number) for name, number in result.cluster.transfer_counts(1).items()})
                seen["preempted"] += int((result.cluster.records(1)["preemptions"] > 0).sum())
    assert seen["handed_over"] >= 300, seen
    assert seen["stayed"] >= 100, seen
    assert seen["preempted"] >= 100, seen
    assert seen["aborted_timeout"] >= 3, seen
