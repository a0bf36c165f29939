"""The gateway's queue: the compiled cluster equals the reference cluster, request by request and token by token."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import STATUS_NAMES, ClientsConfig
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.flow_config import (
    AT_ONCE,
    CONCURRENCY,
    DRR,
    FCFS,
    ROUND_ROBIN,
    UTILISATION,
    VTC,
    FlowConfig,
)
from burstenv.cluster.tenants import TenantTable
from tests.cluster.play import LOOPS, METRICS, PATIENCE, RETRIES, Play, episode, random_faults
from tests.cluster.small_clusters import replica
from tests.cluster.test_cluster_agrees import ENGINES, MODES, SIZES
from tests.random_examples import examples

RULES = (AT_ONCE, FCFS, ROUND_ROBIN, VTC, DRR)


class Counters:
    """Compares the counters of the tenants, and the queue, at every decision."""

    def __init__(self, play: Play):
        self._play = play
        self.waits = 0

    def __call__(self, at_gateway: int) -> None:
        play = self._play
        flow, environment = play.reference.flow, play.environment
        assert flow is not None
        self.waits += len(flow.queue)
        assert environment["queued"] == len(flow.queue)
        for found, tenant in zip(play.cluster.state.tenants(1), flow.tenants, strict=True):
            assert found["prompt_tokens"] == tenant.prompt_tokens
            assert found["output_tokens"] == tenant.output_tokens
            assert found["turn"] == tenant.turn
            assert np.isclose(found["lifted"], tenant.lifted, rtol=1e-12)
            assert np.isclose(found["granted"], tenant.granted, rtol=1e-12)
        waiting = Counter(int(play.cluster.tenant_of(1)[k]) for k in flow.queue)
        assert [int(t["waiting"]) for t in play.cluster.state.tenants(1)] == [
            waiting[k] for k in range(len(flow.tenants))
        ]


def random_queue(rng: np.random.Generator, rule: int) -> tuple[int, tuple[float, ...]]:
    """Draw the parameters of a rule; return both."""
    return rule, (
        float(rng.integers(2)), float(rng.choice([CONCURRENCY, UTILISATION])), float(rng.choice([0.5, 2.0, 5.0])),
        float(rng.choice([0.5, 2.0, 5.0])), float(rng.choice([0.3, 0.8])), float(rng.choice([0.2, 0.6, 1.0])),
        float(rng.choice([200.0, 1e9])), float(rng.choice([1.0, 300.0, 5_000.0])),
    )  # fmt: skip


def play(seed: int, config: ClientsConfig | None, engine: str, rule: int, faults: int = 0, **settings: Any) -> Play:
    """Play and compare one episode of three unequal replicas under random parameters of a rule."""
    rng = np.random.default_rng(seed)
    specs = [replica(**size, **ENGINES[engine]) for size in SIZES]
    span_s = float(rng.choice([1.5, 6.0]))
    requests, clients = episode(rng, config, 90, 700, span_s, 60)
    if rng.random() < 0.5:
        requests["priority"] = rng.integers(0, 3, len(requests))
    weights = rng.choice([0.5, 1.0, 2.0, 3.0], int(rng.integers(1, 6)))
    queue = random_queue(rng, rule)
    if faults:
        settings["faults"] = random_faults(rng, len(specs), span_s + 3.0, faults)
    result = Play(
        rng, specs, MODES, requests, config, clients, flow=FlowConfig(look_s=float(rng.choice([0.01, 0.13]))),
        tenants=TenantTable(tuple("abcdef"[: len(weights)]), weights), queue=queue,
        tenant=rng.integers(0, len(weights), len(requests)), best_effort=(False, bool(rng.integers(2))), **settings,
    )  # fmt: skip
    look = Counters(result)
    result.run(look)
    result.waits = look.waits
    result.compare_outcomes()
    return result


@examples(30)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    rule=st.sampled_from(RULES),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
    relays=st.booleans(),
)
def test_a_queue_is_what_is_written_down(seed, engine, rule, tick_s, metrics, relays):
    play(seed, None, engine, rule, tick_s=tick_s, metrics=metrics, relays=relays)


@examples(30)
@given(
    seed=st.integers(0, 2**20),
    patience=st.sampled_from(PATIENCE),
    retries=st.sampled_from(RETRIES),
    loop=st.sampled_from(LOOPS),
    engine=st.sampled_from(list(ENGINES)),
    rule=st.sampled_from(RULES),
    tick_s=st.sampled_from([None, 0.4]),
    metrics=st.sampled_from(METRICS),
)
def test_clients_leave_it_and_come_again(seed, patience, retries, loop, engine, rule, tick_s, metrics):
    config = ClientsConfig(patience=patience, retries=retries, closed_loop=loop)
    play(seed, config, engine, rule, tick_s=tick_s, metrics=metrics)


@examples(20)
@given(
    seed=st.integers(0, 2**20),
    engine=st.sampled_from(list(ENGINES)),
    rule=st.sampled_from(RULES),
    faults=st.sampled_from([1, 15]),
    recovery=st.sampled_from(["fail", "retry", "continue"]),
    metrics=st.sampled_from(METRICS),
)
def test_replicas_may_fail_behind_it(seed, engine, rule, faults, recovery, metrics):
    follows = RecoveryConfig(requests=recovery, limit=2)
    play(seed, None, engine, rule, faults, recovery=follows, metrics=metrics)


@pytest.mark.parametrize("rule", RULES[1:])
def test_the_cases_above_are_hard_ones(rule):
    """Requests wait, give up while they wait, are rejected after it, and are served."""
    seen: Counter[str] = Counter()
    config = ClientsConfig(patience=PATIENCE[2], closed_loop=LOOPS[1])
    for seed in range(6):
        result = play(seed, config, "vLLM's defaults", rule)
        seen["waits"] += result.waits
        seen.update(STATUS_NAMES[request.status] for request in result.reference.lifecycle.requests)
    assert seen["waits"] > 500, seen
    assert min(seen[name] for name in ("attained", "late", "rejected", "abandoned")) >= 5, seen
