"""The compiled cluster equals the reference cluster: same decisions, same outcomes, same times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from burstenv.cluster import STATUS_NAMES, ClientsConfig, ModeConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import RECOVERIES
from tests.cluster.play import LOOPS, METRICS, PATIENCE, RETRIES, Play, episode, random_faults
from tests.cluster.small_clusters import FAST, replica
from tests.cluster.test_published_state import Look
from tests.random_examples import examples

MODES = (
    ModeConfig(name="a", max_num_batched_tokens=256, max_num_seqs=24),
    ModeConfig(name="b", max_num_batched_tokens=40, max_num_seqs=8, order="earliest-deadline", headroom=0.1),
    ModeConfig(name="c", max_num_batched_tokens=96, max_num_seqs=6, order="shortest-prompt"),
    ModeConfig(name="d", max_num_batched_tokens=96, max_num_seqs=6, order="earliest-deadline", hopeless="drop"),
    ModeConfig(name="e", max_num_batched_tokens=6, max_num_seqs=6),  # holds decoders back
)
SIZES: list[dict[str, Any]] = [
    {"num_blocks": 30},
    {"num_blocks": 55, "latency": FAST, "max_model_len": 500},
    {"num_blocks": 90},
]
ENGINES: dict[str, dict[str, Any]] = {
    "fast": {},
    "prefix caching": {"prefix_caching": True},
    "asynchronous": {"asynchronous": True},
    "unchunked": {"chunked_prefill": False},  # under some modes, long prompts can never be scheduled
    "vLLM's defaults": {"prefix_caching": True, "asynchronous": True},
}


def play(seed: int, config: ClientsConfig | None, engine: str, faults: int = 0, **settings: Any) -> Play:
    """Play and compare one episode of three unequal replicas, with so many faults."""
    rng = np.random.default_rng(seed)
    specs = [replica(**size, **ENGINES[engine]) for size in SIZES]
    span_s = float(rng.choice([1.5, 6.0]))
    requests, clients = episode(rng, config, 90, 700, span_s, 60)
    if faults:
        settings["faults"] = random_faults(rng, len(specs), span_s + 3.0, faults)
    result = Play(rng, specs, MODES, requests, config, clients, **settings)
    result.run(Look(result) if faults else None)
    result.compare_outcomes()
    return result


@examples(50)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    tick_s=st.sampled_from([None, 0.4]),
    batching_period_s=st.sampled_from([0.0, 0.5]),
    metrics=st.sampled_from(METRICS),
)
def test_a_cluster_is_what_is_written_down(seed, engine, tick_s, batching_period_s, metrics):
    play(seed, None, engine, tick_s=tick_s, batching_period_s=batching_period_s, metrics=metrics)


@examples(75)
@given(
    seed=st.integers(0, 2**20),
    patience=st.sampled_from(PATIENCE),
    retries=st.sampled_from(RETRIES),
    loop=st.sampled_from(LOOPS),
    engine=st.sampled_from(list(ENGINES)),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
@example(
    100_000, PATIENCE[2], RETRIES[2], LOOPS[2], "asynchronous", None, METRICS[0]
)  # withdrawn with a chunk in flight
def test_clients_are_what_is_written_down(seed, patience, retries, loop, engine, tick_s, metrics):
    config = ClientsConfig(patience=patience, retries=retries, closed_loop=loop)
    play(seed, config, engine, tick_s=tick_s, metrics=metrics)


@examples(50)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    faults=st.sampled_from([1, 4, 15, 60]),
    recovery=st.sampled_from(RECOVERIES),
    limit=st.sampled_from([0, 1, 3]),
    warm_s=st.sampled_from([0.0, 0.5]),
    clients=st.booleans(),
    patience=st.sampled_from(PATIENCE),
    loop=st.sampled_from(LOOPS),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
    take_back_s=st.sampled_from([0.0, 0.15, 0.83]),  # no multiple of a tick: a tie would be up to rounding
)  # a decoder that was held back fills a block that a request admitted beside it shares
@example(255_278, "vLLM's defaults", 15, "fail", 0, 0.0, False, None, None, 0.4, METRICS[0], 0.8)
# the last event is of a request that was to be taken back, but its replica has begun with it
@example(9543, "unchunked", 1, "retry", 1, 0.0, False, None, None, None, METRICS[0], 0.83)
def test_faults_and_scaling_are_what_is_written_down(
    seed, engine, faults, recovery, limit, warm_s, clients, patience, loop, tick_s, metrics, take_back_s
):
    follows = RecoveryConfig(requests=recovery, limit=limit, warm_factor=2.0, warm_s=warm_s)
    retries = {"max_retries": 2, "base_s": 0.1, "after": ["rejection", "abandonment", "fault"]}
    config = ClientsConfig(patience=patience, retries=retries, closed_loop=loop) if clients else None
    play(seed, config, engine, faults, recovery=follows, tick_s=tick_s, metrics=metrics, take_back_s=take_back_s)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_cases_above_are_hard_ones(engine):
    """Everything that can happen does happen in them."""
    retries = {"max_retries": 1, "base_s": 0.1, "after": ["rejection", "abandonment", "upstream_failure"]}
    config = ClientsConfig(patience=PATIENCE[2], retries=retries, closed_loop=LOOPS[1])
    seen: dict[str, int] = dict.fromkeys([*STATUS_NAMES, "preemptions", "defers", "again"], 0)
    for seed in range(8):
        result = play(seed, config, engine)
        for request in result.reference.lifecycle.requests:
            status = STATUS_NAMES[request.status]
            seen[status] += 1
            seen["again"] += request.attempts > 1 and status in ("attained", "late")
            seen["defers"] += request.defers
        seen["preemptions"] += int(result.cluster.state.replicas[1]["preemptions"].sum())
    for name in ("attained", "late", "rejected", "failed", "abandoned", "unsent", "preemptions", "defers", "again"):
        assert seen[name] >= 5, (name, seen)
