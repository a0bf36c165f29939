"""The compiled clients do what the plain ones do: same epochs, same outcomes, same times."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burstenv.cluster import STATUS_NAMES, ClientsConfig, Cluster, ModeConfig, draw_clients
from tests.cluster.client_reference import World
from tests.cluster.small_clusters import FAST, random_requests, replica
from tests.random_examples import examples

MODES = (
    ModeConfig(name="a", max_num_batched_tokens=256, max_num_seqs=24),
    ModeConfig(name="b", max_num_batched_tokens=40, max_num_seqs=8, order="earliest-deadline", headroom=0.1),
    ModeConfig(name="c", max_num_batched_tokens=96, max_num_seqs=6, order="shortest-prompt"),
)
SIZES: list[dict[str, Any]] = [
    {"num_blocks": 30},
    {"num_blocks": 55, "latency": FAST, "max_model_len": 500},
    {"num_blocks": 90},
]
DEFER_S, MAX_DEFERS = 0.3, 2
PATIENCE: list[dict[str, Any] | None] = [
    None,
    {"seconds": 0.4},
    {"kind": "exponential", "seconds": 1.0},
    {"kind": "lognormal", "ttft_multiple": 3.0, "sigma": 1.0},
]
RETRIES: list[dict[str, Any] | None] = [
    None,
    {},
    {"max_retries": 4, "base_s": 0.1, "jitter": 1.0, "after": ["rejection", "abandonment", "upstream_failure"]},
]
LOOPS: list[dict[str, Any] | None] = [None, {}, {"after_failure": "go_on"}]
ENGINES: dict[str, dict[str, Any]] = {
    "fast": {},
    "prefix caching": {"prefix_caching": True},
    "asynchronous": {"asynchronous": True},
}


def sessions(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The turn before of each request, -1 for two thirds of them, and think times, some of them none at all."""
    previous = np.full(n, -1, np.int32)
    free = set(range(n))
    for k in range(1, n):
        if rng.random() < 0.35 and (candidates := [j for j in range(max(0, k - 20), k) if j in free]):
            previous[k] = rng.choice(candidates)
            free.discard(int(previous[k]))
    think_s = np.where(previous >= 0, rng.choice([0.0, 0.05, 0.7], n) * rng.random(n), np.nan)
    return previous, think_s


def play(seed: int, config: ClientsConfig, engine: str, tick_s: float | None, n: int = 90) -> tuple[World, Cluster]:
    """Drive both through the same decisions, epoch by epoch; returns them at the end."""
    rng = np.random.default_rng(seed)
    specs = [replica(**size, **ENGINES[engine]) for size in SIZES]
    requests = random_requests(rng, n, 700, float(rng.choice([1.5, 6.0])))
    requests["output_tokens"] = 1 + rng.geometric(1 / 60, n)
    previous, think_s = sessions(rng, n)
    head = np.arange(n)  # sessions share their first turn's number
    for k in range(n):
        head[k] = head[previous[k]] if previous[k] >= 0 else k
    requests["session"] = np.where(np.bincount(head, minlength=n)[head] > 1, head, -1)
    clients = draw_clients(
        config, requests, seed, previous, think_s, rng.random(n) < 0.1, horizon_s=float(rng.choice([4.0, math.inf]))
    )
    # Environment 1 of 2, so that nothing works by starting at index 0; made too small, so that it grows.
    cluster = Cluster(
        specs, MODES, num_envs=2, num_requests=7, defer_s=DEFER_S, max_defers=MAX_DEFERS, tick_s=tick_s, clients=config,
        max_request_tokens=1600,
    )  # fmt: skip
    cluster.load(0, requests[:5], 0, draw_clients(config, requests[:5], 0))
    cluster.next_epoch(0)
    cluster.load(1, requests, seed, clients)
    world = World(
        specs, MODES, config, clients, requests, int(cluster.state.environments[1]["client_seed"]), DEFER_S, MAX_DEFERS,
        math.inf if tick_s is None else tick_s,
    )  # fmt: skip
    plain = world.run()
    decision: Any = None
    while True:
        door = cluster.next_epoch(1)
        try:
            now_s, k = plain.send(decision)
        except StopIteration:
            break
        assert not cluster.done(1)
        assert door == k
        assert math.isclose(float(cluster.state.environments[1]["now_s"]), now_s, rel_tol=1e-9, abs_tol=1e-12)
        decision = tuple(int(rng.choice(m, p=p)) for m, p in ((3, [0.15, 0.75, 0.1]), (3, None), (3, [0.6, 0.2, 0.2])))
        cluster.decide(1, *decision)
    assert cluster.done(1)
    return world, cluster


def check(world: World, cluster: Cluster) -> None:
    records, numbers, environment = cluster.records(1), cluster.client_records(1), cluster.state.environments[1]
    for k, (record, s) in enumerate(zip(records, world.sent, strict=True)):
        assert STATUS_NAMES[record["status"]] == s.status, k
        assert numbers["attempts"][k] == s.attempts
        assert numbers["refusals"][k] == s.refusals
        if s.status == "unsent":
            assert math.isnan(record["arrival_s"])
            continue
        assert record["defers"] == s.defers
        assert record["preemptions"] == s.request.preemptions
        for name, expected in (
            ("arrival_s", s.arrival_s),
            ("finish_s", s.finish_s),
            ("first_scheduled_s", s.request.first_scheduled_s),
            ("first_token_s", s.request.first_token_s),
        ):
            if expected is None:
                assert math.isnan(record[name]), (k, name)
            else:
                assert math.isclose(float(record[name]), expected, rel_tol=1e-9, abs_tol=1e-12), (k, name)
    statuses = [s.status for s in world.sent]
    for name in ("attained", "rejected", "length_capped", "abandoned", "unsent"):
        assert environment[name] == statuses.count(name), name
    assert environment["failed"] == statuses.count("failed") + statuses.count("length_capped")
    assert environment["late"] == statuses.count("late") + statuses.count("abandoned")
    assert environment["offered"] == len(statuses) - statuses.count("unsent")
    assert environment["attempts"] == sum(s.attempts for s in world.sent)
    assert environment["refusals"] == sum(s.refusals for s in world.sent)
    assert environment["upstream_failed"] == world.upstream_failed
    for r, engine in enumerate(world.replicas):
        assert cluster.state.replicas[1, r]["iterations"] == len(engine.iterations)
        assert cluster.state.replicas[1, r]["free_blocks"] == cluster.state.replicas[1, r]["num_blocks"]


@examples(150)
@given(
    seed=st.integers(0, 2**20),
    patience=st.sampled_from(PATIENCE),
    retries=st.sampled_from(RETRIES),
    loop=st.sampled_from(LOOPS),
    engine=st.sampled_from(list(ENGINES)),
    tick_s=st.sampled_from([None, 0.4]),
)
def test_clients_are_what_is_written_down(seed, patience, retries, loop, engine, tick_s):
    config = ClientsConfig(patience=patience, retries=retries, closed_loop=loop)
    check(*play(seed, config, engine, tick_s))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_cases_above_are_hard_ones(engine):
    """Everything that can happen does happen in them."""
    retries = {"max_retries": 1, "base_s": 0.1, "after": ["rejection", "abandonment", "upstream_failure"]}
    config = ClientsConfig(patience=PATIENCE[2], retries=retries, closed_loop=LOOPS[1])
    seen: dict[str, int] = dict.fromkeys([*STATUS_NAMES, "preemptions", "defers", "again"], 0)
    for seed in range(8):
        world, cluster = play(seed, config, engine, None)
        check(world, cluster)
        for s in world.sent:
            seen[s.status] += 1
            seen["again"] += s.attempts > 1 and s.status in ("attained", "late")
            seen["defers"] += s.defers
        seen["preemptions"] += int(cluster.state.replicas[1]["preemptions"].sum())
    for name in ("attained", "late", "rejected", "failed", "abandoned", "unsent", "preemptions", "defers", "again"):
        assert seen[name] >= 5, (name, seen)
