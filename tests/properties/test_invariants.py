"""Whatever the workload and whatever is decided: nothing is lost, nothing overflows, time does not go back."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from burstenv.config import read_yaml, shipped
from burstenv.engine.enums import ATTAINED, FAILED, LATE, LENGTH_CAPPED, REJECTED, RUNNING, UNSEEN, WAITING
from burstenv.envs.batch import EnvironmentBatch
from burstenv.envs.scenario import Scenario, load_scenario
from tests.cluster.small_clusters import LATENCY, random_requests

ENVS = 2
FORMS: list[dict[str, Any]] = [
    {},
    {"decide": ("admission",), "routing": "expected-ttft"},
    {"decide": ("routing",), "admission": "size-aware-kv"},
    {"decide": ("batching",), "routing": "power-of-two", "observation": "dict"},
    {"decide": ("admission", "routing")},
    {"decide": ("admission", "routing"), "action": "flat", "batching": "tiny"},
    {"decide": ("admission", "batching"), "routing": "lmetric"},
    {"decide": ("routing", "batching"), "admission": "predicted-deadline", "observation": "dict"},
]
LONGEST = 640  # prompt tokens; the three replicas take 383, 599 and 639 at most


def replicas() -> list[dict[str, Any]]:
    common = {"model": "llama-2-13b", "hardware": "h100"}
    latencies = [LATENCY, LATENCY.model_copy(update={"h0_ms": 5.0, "h1_ms": 4.0, "h2_ms_per_token": 0.02}), LATENCY]
    sizes = [(24, 384), (40, 600), (60, 640)]  # (KV blocks, model length)
    return [
        {**common, "num_blocks": blocks, "max_model_len": length, "latency": latency.model_dump()}
        for latency, (blocks, length) in zip(latencies, sizes, strict=True)
    ]


@lru_cache
def scenario(ticks: bool, reserve_full_prompt: bool) -> Scenario:
    """Three unequal replicas with so little KV cache that preemptions are common."""
    values = read_yaml(shipped("scenarios")["default"])
    overhead = {"per_iteration_ms": 0.0, "per_sequence_ms": 0.0, "source": "test"}
    values["cluster"] = {
        "name": "cramped",
        "prefix_caching": False,
        "asynchronous": False,
        "replicas": replicas(),
        "reserve_full_prompt": reserve_full_prompt,
        "overhead": overhead,
    }
    values["episode"].update(max_total_tokens=600, duration_s=20)
    values["capacity_per_s"] = dict.fromkeys(("train", "validation", "test"), 10.0)
    values["modes"] = [
        {"name": "vllm", "max_num_batched_tokens": 512, "max_num_seqs": 32},
        {"name": "tiny", "max_num_batched_tokens": 12, "max_num_seqs": 12, "order": "earliest-deadline"},
        {"name": "spf", "max_num_batched_tokens": 96, "max_num_seqs": 6, "order": "shortest-prompt", "headroom": 0.1},
        {"name": "sof", "max_num_batched_tokens": 1024, "max_num_seqs": 64, "order": "shortest-predicted"},
    ]
    values.update(defer_s=0.25, max_defers=2, tick_s=0.4 if ticks else None, batching_period_s=0.3 if ticks else 0.0)
    return load_scenario(values)


@lru_cache
def batch_of(form: int, ticks: bool, reserve_full_prompt: bool, reward: str) -> EnvironmentBatch:
    return EnvironmentBatch(ENVS, scenario(ticks, reserve_full_prompt), reward=reward, **FORMS[form])


def start(batch: EnvironmentBatch, seed: int, sizes: list[int], span_s: float, longer: int = 1) -> list[np.ndarray]:
    """Give every environment of the batch an episode of its own, with outputs ``longer`` times as long."""
    episodes = []
    for i, n in enumerate(sizes):
        requests = random_requests(np.random.default_rng([seed, i]), n, LONGEST, span_s)
        requests["output_tokens"] *= longer
        batch.start(i, requests, seed + i, {})
        episodes.append(requests)
    return episodes


def draw_actions(batch: EnvironmentBatch, rng: np.random.Generator, style: str) -> np.ndarray:
    """(N, C) actions: legal ones, any of the space, indices outside it, or ones that admit most requests."""
    if style == "wild":
        return rng.integers(-3, 12, batch.actions.shape)
    if style == "greedy":
        actions = rng.integers(0, batch.layout.sizes, batch.actions.shape)
        if batch.layout.decide[0] == "admission" and not batch.layout.flat:
            actions[:, 0] = np.where(rng.random(ENVS) < 0.95, 1, actions[:, 0])
        return actions
    actions = np.zeros_like(batch.actions)
    for i in range(batch.num_envs):
        parts = np.split(batch.masks[i], np.cumsum(batch.layout.sizes)[:-1])
        for c, legal in enumerate(parts):
            choices = np.flatnonzero(legal) if style == "legal" else np.arange(len(legal))
            actions[i, c] = rng.choice(choices)
    return actions


def blocks_of(tokens: np.ndarray) -> int:
    return int((-(-tokens // 16)).sum())


def check_replica(batch: EnvironmentBatch, i: int, r: int) -> set[int]:
    """Check one replica's book-keeping against its requests; returns the requests it holds."""
    cluster = batch.cluster
    replica, requests = cluster.state.replicas[i, r], cluster.state.requests[i]
    spec = cluster.specs[r]
    running, waiting = cluster.running(i, r), cluster.waiting(i, r)
    assert len(running) == replica["running"] == len(set(running))
    assert len(waiting) == replica["waiting"] == len(set(waiting))
    runs, waits = requests[running], requests[waiting]
    assert (runs["status"] == RUNNING).all()
    assert (waits["status"] == WAITING).all()
    assert (runs["replica"] == r).all()
    assert (waits["replica"] == r).all()

    decoding = runs["decoding"] == 1
    # The iteration in flight has its blocks already: a decoder's next token, a prefill's whole chunk.
    kv_tokens = runs["computed_tokens"] + decoding * (replica["decode_step"] + replica["in_flight"])
    assert (kv_tokens >= 0).all()
    assert (kv_tokens <= spec.max_model_len).all()
    assert blocks_of(kv_tokens) == spec.num_blocks - replica["free_blocks"]
    assert 0 <= replica["free_blocks"] <= spec.num_blocks
    assert decoding.sum() == replica["decoding"]
    context = (runs["computed_tokens"] + replica["decode_step"] + 1)[decoding].sum()
    assert context == replica["decode_context_tokens"]
    # Chunked prefill leaves one request in mid-prefill at most, the last one admitted.
    if replica["prefill_id"] >= 0 and not replica["in_flight"]:
        assert not decoding[-1]
    if not replica["in_flight"]:
        assert (~decoding).sum() == (replica["prefill_id"] >= 0)

    to_compute = waits["prompt_tokens"] + waits["produced_tokens"]
    assert to_compute.sum() == replica["waiting_tokens"]
    assert blocks_of(to_compute) == replica["waiting_blocks"]
    assert (waits["computed_tokens"] == 0).all()
    assert (runs["prompt_tokens"] < spec.max_model_len).all()

    now_s = cluster.state.environments[i]["now_s"]
    assert replica["clock_s"] <= now_s
    if replica["in_flight"]:
        assert replica["iteration_end_s"] >= now_s
        assert replica["iteration_end_s"] >= replica["clock_s"]
    assert 0 <= replica["seen_free_blocks"] <= spec.num_blocks
    for name in ("waiting", "running", "prefill_tokens", "waiting_tokens", "waiting_blocks", "context_tokens"):
        assert replica[f"seen_{name}"] >= 0, name
    return {*running, *waiting}


def check_environment(batch: EnvironmentBatch, i: int) -> None:
    state = batch.cluster.state
    environment = state.environments[i]
    records = state.requests[i, : environment["num_requests"]]
    counts = batch.counts(i)
    assert counts["offered"] == (records["status"] != UNSEEN).sum()
    ends = {"attained": [ATTAINED], "late": [LATE], "rejected": [REJECTED], "failed": [FAILED, LENGTH_CAPPED]}
    for name, statuses in {**ends, "length_capped": [LENGTH_CAPPED]}.items():
        assert counts[name] == np.isin(records["status"], statuses).sum(), name
    assert counts["offered"] == sum(counts[k] for k in ("attained", "late", "rejected", "failed", "pending"))
    held: list[int] = []
    for r in range(batch.cluster.num_replicas):
        held += check_replica(batch, i, r)
    assert len(held) == len(set(held))
    at_gateway = int(environment["deferred"]) + (batch.cluster.at_gateway(i) >= 0)
    assert counts["pending"] == len(held) + at_gateway
    assert state.replicas[i]["preemptions"].sum() == records["preemptions"].sum()
    first_in_time = records["first_token_s"] - records["arrival_s"] <= records["ttft_slo_s"]
    assert environment["first_in_time"] == first_in_time.sum()
    arrived = records["arrival_s"][records["status"] != UNSEEN]
    assert (arrived <= environment["now_s"]).all()
    if not environment["done"]:
        assert (records["arrival_s"][records["status"] == UNSEEN] >= environment["now_s"]).all()


def check_end(batch: EnvironmentBatch, i: int, requests: np.ndarray) -> None:
    """Check the records of an episode that is done."""
    records = batch.cluster.records(i)
    assert len(records) == len(requests)
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "ttft_slo_s"):
        assert np.array_equal(records[name], requests[name])  # what the trace says stays as it is
    counts = batch.counts(i)
    assert counts["offered"] == len(records)
    assert counts["pending"] == 0
    assert np.isin(records["status"], (ATTAINED, LATE, REJECTED, FAILED, LENGTH_CAPPED)).all()
    capped = records[records["status"] == LENGTH_CAPPED]
    assert (capped["target_tokens"] < capped["output_tokens"]).all()
    served = records[np.isin(records["status"], (ATTAINED, LATE))]
    assert (served["target_tokens"] == served["output_tokens"]).all()
    assert (served["arrival_s"] <= served["first_scheduled_s"]).all()
    assert (served["first_scheduled_s"] < served["first_token_s"]).all()
    assert (served["first_token_s"] <= served["finish_s"]).all()
    assert (served["produced_tokens"] == served["target_tokens"]).all()
    lengths = batch.cluster.state.specs["max_model_len"][served["replica"]]
    assert (served["prompt_tokens"] < lengths).all()
    room = np.minimum(served["output_tokens"], lengths - served["prompt_tokens"])
    assert np.array_equal(served["target_tokens"], room)
    in_time = served["first_token_s"] - served["arrival_s"] <= served["ttft_slo_s"]
    per_token = served["finish_s"] - served["first_token_s"] <= served["tpot_slo_s"] * (served["target_tokens"] - 1)
    assert np.array_equal(served["status"] == ATTAINED, in_time & per_token)
    other = records[~np.isin(records["status"], (ATTAINED, LATE, LENGTH_CAPPED))]
    assert np.isnan(other["first_token_s"]).all()
    failed = records[records["status"] == FAILED]
    limits = batch.cluster.state.specs["max_model_len"][failed["replica"]]
    assert (failed["prompt_tokens"] >= limits).all()
    for replica, spec in zip(batch.cluster.state.replicas[i], batch.cluster.specs, strict=True):
        assert replica["free_blocks"] == spec.num_blocks
        assert replica["running"] == replica["waiting"] == replica["in_flight"] == 0


def check_masked(batch: EnvironmentBatch, i: int) -> None:
    """Legal actions never send a request to a replica that refuses it, if there is any that does not."""
    records = batch.cluster.records(i)
    failed = records[records["status"] == FAILED]
    assert (failed["prompt_tokens"] >= 640).all()
    if "admission" in batch.layout.decide:
        assert len(failed) == 0


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    form=st.integers(0, len(FORMS) - 1),
    ticks=st.booleans(),
    reserve=st.booleans(),
    reward=st.sampled_from(["worth", "dense", "attainment"]),
    style=st.sampled_from(["legal", "any", "wild", "greedy", "greedy"]),
    seed=st.integers(0, 2**20),
    sizes=st.lists(st.integers(1, 120), min_size=ENVS, max_size=ENVS),
    span_s=st.sampled_from([0.0, 2.0, 10.0]),
    longer=st.sampled_from([1, 4]),
)
def test_invariants_hold_at_every_step(form, ticks, reserve, reward, style, seed, sizes, span_s, longer):
    batch = batch_of(form, ticks, reserve, reward)
    episodes = start(batch, seed, sizes, span_s, longer)
    rng = np.random.default_rng(seed)
    space = batch.observation_space()
    state = batch.cluster.state
    returns = np.zeros(ENVS)
    for i in range(ENVS):
        check_environment(batch, i)
    for _ in range(20_000):
        before_s = state.environments["now_s"].copy()
        clocks_s = state.replicas["clock_s"].copy()
        batch.actions[...] = draw_actions(batch, rng, style)
        over = batch.done
        batch.step()
        returns += batch.rewards
        assert (batch.rewards[over] == 0).all()  # nothing happens in an episode that is done
        assert (state.environments["now_s"] >= before_s).all()
        assert np.array_equal(batch.elapsed_s, state.environments["now_s"] - before_s)
        assert (state.replicas["clock_s"] >= clocks_s).all()
        for i in range(ENVS):
            assert np.isfinite(batch.observations[i]).all()
            assert space.contains(batch.shaped(batch.observations[i]))
            if not over[i]:
                check_environment(batch, i)
        if batch.done.all():
            break
    assert batch.done.all()
    for i, requests in enumerate(episodes):
        check_end(batch, i, requests)
        attained = batch.cluster.records(i)["status"] == ATTAINED
        worth = requests["worth"][attained].sum(dtype=np.float64)
        assert returns[i] == (attained.sum() if reward == "attainment" else worth)
        if style == "legal":
            check_masked(batch, i)


def test_the_cramped_scenario_does_preempt_defer_and_fail():
    """The invariants above are checked where they are hard to keep."""
    batch = batch_of(0, True, False, "attainment")
    start(batch, 3, [120] * ENVS, 6.0, longer=4)
    rng = np.random.default_rng(0)
    deferred = np.zeros(ENVS, int)
    while not batch.done.all():
        batch.actions[...] = draw_actions(batch, rng, "any" if rng.random() < 0.3 else "greedy")
        batch.step()
        deferred = np.maximum(deferred, batch.cluster.state.environments["deferred"])
    records = np.concatenate([batch.cluster.records(i) for i in range(ENVS)])
    assert (np.bincount(records["status"], minlength=8)[[ATTAINED, LATE, REJECTED, FAILED]] > 0).all()
    assert records["preemptions"].sum() > 20
    assert records["recomputed_tokens"].sum() > 100
    assert (deferred >= 2).all()
    assert records["defers"].max() == 2


@settings(max_examples=40, deadline=None, derandomize=True)
@given(form=st.integers(0, len(FORMS) - 1), ticks=st.booleans(), seed=st.integers(0, 2**20))
def test_observations_know_nothing_of_the_future(form, ticks, seed):
    """Two episodes alike up to some request look alike, byte for byte, until that request arrives."""
    batch = batch_of(form, ticks, True, "attainment")
    (requests, *_) = start(batch, seed, [80] * ENVS, 6.0)
    same_until = 50
    other = requests.copy()
    rng = np.random.default_rng(seed)
    tail = other[same_until:]
    tail["arrival_s"] += 0.01
    tail["prompt_tokens"] = rng.integers(1, 600, len(tail))
    tail["output_tokens"] = tail["predicted_tokens"] = rng.integers(1, 300, len(tail))
    for i, episode in enumerate((requests, other)):
        batch.start(i, episode, 5, {})
    compared = 0
    actions = np.random.default_rng(seed)
    change_s = requests["arrival_s"][same_until]
    while (batch.cluster.state.environments["now_s"] < change_s).all():
        first, second = (batch.observations[i].tobytes() for i in range(2))
        assert first == second
        assert batch.masks[0].tobytes() == batch.masks[1].tobytes()
        compared += 1
        batch.actions[...] = actions.integers(0, batch.layout.sizes)[None, :]
        batch.step()
    assert compared >= 20


@settings(max_examples=40, deadline=None, derandomize=True)
@given(form=st.integers(0, len(FORMS) - 1), ticks=st.booleans(), seed=st.integers(0, 2**20))
def test_growing_in_mid_episode_changes_nothing(form, ticks, seed):
    """Room made for a longer episode moves the state of every environment, and none of its meaning."""
    batch = EnvironmentBatch(ENVS, scenario(ticks, False), **FORMS[form])
    rng = np.random.default_rng(seed)
    start(batch, seed, [100] * ENVS, 4.0, longer=4)
    for _ in range(60):
        batch.actions[...] = draw_actions(batch, rng, "greedy")
        batch.step()
    saved = batch.clone_state()
    rng_state = rng.bit_generator.state

    def finish() -> list[bytes]:
        rng.bit_generator.state = rng_state
        seen = []
        while not batch.done.all():
            batch.actions[...] = draw_actions(batch, rng, "greedy")
            batch.step()
            seen.append(batch.observations.tobytes() + batch.rewards.tobytes())
        return seen

    expected = finish()
    batch.restore_state(saved)
    assert len(expected) >= 20
    room = batch.cluster.state.requests.shape[1]
    batch.cluster.state.grow_requests(room + 777)
    for i in range(ENVS):
        check_environment(batch, i)
    assert finish() == expected
