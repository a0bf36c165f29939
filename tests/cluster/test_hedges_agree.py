"""Requests that are sent to a second replica: the compiled cluster does what the reference cluster says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import ClientsConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES
from burstenv.cluster.scaling.config import ScalingConfig
from tests.cluster.play import LOOPS, METRICS, PATIENCE, Play, episode, random_faults
from tests.cluster.small_clusters import replica
from tests.cluster.test_cluster_agrees import ENGINES, SIZES
from tests.cluster.test_published_state import MODES, Look
from tests.random_examples import examples

RETRIES = {"max_retries": 2, "base_s": 0.1, "after": ["rejection", "abandonment", "fault"]}
GATEWAYS: list[dict[str, Any]] = [
    {"gateways": 1, "relays": True},
    {"gateways": 1, "relays": False},
    {"gateways": 2, "relays": True, "split": "hash"},
]


def play(
    seed: int,
    engine: str,
    faults: int = 4,
    recovery: str = "continue",
    config: ClientsConfig | None = None,
    scales: bool = False,
    modes: int = 4,
    **settings: Any,
) -> Play:
    """Play and compare one episode of three unequal replicas; a fifth of the answers have one token."""
    rng = np.random.default_rng(seed)
    follows = RecoveryConfig(requests=recovery, limit=2, warm_factor=2.0, warm_s=0.5)
    changes: dict[str, Any] = {"recovery": follows}
    if scales:
        changes = {
            "scaling": ScalingConfig(control_period_s=0.4, cold_start=0.3, drain_s=0.5, initial=2, recovery=follows)
        }
    specs = [replica(**size, **ENGINES[engine]) for size in SIZES]
    span_s = float(rng.choice([1.5, 6.0]))
    requests, clients = episode(rng, config, 90, 700, span_s, 60)
    requests["output_tokens"][rng.random(len(requests)) < 0.2] = 1
    result = Play(
        rng, specs, [MODES[k] for k in rng.integers(len(MODES), size=modes)], requests, config, clients,
        faults=random_faults(rng, len(specs), span_s + 3.0, faults), odds=(0.05, 0.9, 0.05), sends_twice=True,
        **changes, **settings,
    )  # fmt: skip
    result.run(Look(result))
    result.compare_outcomes()
    return result


@examples(40)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    faults=st.sampled_from([0, 1, 4, 15]),
    recovery=st.sampled_from(RECOVERIES),
    clients=st.booleans(),
    patience=st.sampled_from(PATIENCE),
    loop=st.sampled_from(LOOPS),
    scales=st.booleans(),
    modes=st.sampled_from([1, 4]),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
    gateways=st.sampled_from(GATEWAYS),
    take_back_s=st.sampled_from([0.02, 0.11, 0.31]),
    most_resends=st.sampled_from([1, 3]),
)
def test_second_copies_are_what_is_written_down(
    seed, engine, faults, recovery, clients, patience, loop, scales, modes, tick_s, metrics, gateways, take_back_s,
    most_resends,
):  # fmt: skip
    if metrics["count_sent"] and gateways["gateways"] > 1:
        metrics = METRICS[0]
    config = ClientsConfig(patience=patience, retries=RETRIES, closed_loop=loop) if clients else None
    play(
        seed, engine, faults, recovery, config, scales, modes, tick_s=tick_s, metrics=metrics, take_back_s=take_back_s,
        most_resends=most_resends, **gateways,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_the_cases_above_are_hard_ones(engine):
    """Copies are sent and cancelled in the middle of their prompts, and go on where the first replica is lost."""
    sent = wasted = lost = 0
    for seed in range(6):
        result = play(seed, engine, 8, take_back_s=0.1)
        counts = result.cluster.fault_counts(1)
        assert counts is not None
        sent, wasted = sent + counts["hedges"], wasted + (counts["hedged_tokens"] > 0)
        lost += counts["faults"]
    assert sent > 60
    assert wasted >= 3
    assert lost > 15
