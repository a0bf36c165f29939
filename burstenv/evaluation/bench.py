"""Speeds, each beside its floor or ceiling measured in the same run: a shared machine makes only ratios mean much."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

from burstenv.cluster import Cluster, load_cluster, request_array
from burstenv.cluster.kernel import entry, kernel
from burstenv.cluster.recorded import ReferenceReplica, ReferenceRequest
from burstenv.cluster.reference import EngineLimits
from burstenv.cluster.replica import advance_replica, enqueue
from burstenv.cluster.stretch import interrupt_stretch
from burstenv.envs.core import EnvironmentBatch
from burstenv.envs.kernels import UNLIMITED, rollout
from burstenv.envs.vector_env import BurstGPTVectorEnv
from burstenv.policies import parse_composite
from burstenv.workload.generator import generate
from burstenv.workload.workload_config import load_workload

REPEATS = 3  # the median is reported


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def row(name: str, value: float, unit: str, beside: str, beside_value: float) -> dict[str, Any]:
    """Return one line of the benchmark: a speed, and what was measured beside it."""
    ratio = value / beside_value
    line = f"{name:<48} {_shown(value):>12} {unit:<12} beside {beside}: {_shown(beside_value)} ({ratio:.3g}x)"
    return {
        "name": name, "value": value, "unit": unit, "beside": beside, "beside_value": beside_value,
        "ratio": ratio, "line": line,
    }  # fmt: skip


def median_rate(count: int, run: Callable[[], Any], prepare: Callable[[], Any] | None = None) -> float:
    """Return ``count`` / the median time of ``run`` [1/s]; ``prepare`` runs before each, untimed."""
    times = []
    for _ in range(REPEATS):
        if prepare is not None:
            prepare()
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return count / statistics.median(times)


def poisson_requests(count: int, rate_per_s: float, output_scale: int = 1, seed: int = 0) -> np.ndarray:
    """Return Poisson arrivals with log-normal lengths (prompt mean about 550, output about 200 tokens)."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0 / rate_per_s, count))
    prompt = np.clip(rng.lognormal(6.0, 0.8, count), 1, 3000).astype(np.int64)
    output = np.clip(rng.lognormal(5.0, 0.8, count), 1, 1000).astype(np.int64) * output_scale
    return request_array(arrival_s, prompt, output)


@kernel
def _one_iteration_at_a_time(environment, replica, pool, requests):
    """Serve all requests on one replica, stopping at every iteration boundary: no decode is skipped."""
    arrived = 0
    while arrived < requests.shape[0] or replica.running > 0 or replica.waiting > 0 or replica.in_flight:
        boundary_s = np.inf
        if replica.in_flight:
            boundary_s = replica.iteration_end_s
        elif replica.running > 0 or replica.waiting > 0:
            boundary_s = replica.clock_s * (1.0 + 1e-15) + 1e-12
        if arrived < requests.shape[0] and requests[arrived].arrival_s <= boundary_s:
            now_s = requests[arrived].arrival_s
            advance_replica(environment[0], replica, pool, requests, now_s)
            enqueue(environment[0], replica, pool, requests, arrived, now_s)
            arrived += 1
        else:
            advance_replica(environment[0], replica, pool, requests, boundary_s)
            interrupt_stretch(replica, pool, requests)


@entry
def _serve_one_replica(environments, replicas, pool, requests):
    _one_iteration_at_a_time(environments, replicas[0], pool, requests)


def _replay_rate(cluster: Cluster, requests: np.ndarray, policy: str) -> float:
    record = parse_composite(policy).record(cluster.mode_names)
    run = lambda: rollout(*cluster.state.arrays(), cluster.modes, record, 0, UNLIMITED)  # noqa: E731
    cluster.load(0, requests[:100])
    run()  # compile
    return median_rate(len(requests), run, lambda: cluster.load(0, requests))


def bench_engine(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure replays of the engine in requests/s.

    Args:
        scale: 1 for the full work, less for a quick look.
    """
    count = max(2_000, int(500_000 * scale))
    specs = load_cluster("llama-2-7b-a100-x8")
    one = Cluster(specs[:1], num_requests=count)
    requests = poisson_requests(count, 1.6)
    fast = _replay_rate(one, requests, "always/round-robin/vllm")

    few = requests[: max(500, count // 10)]
    one.load(0, few[:100])
    *state, all_requests = one.state.arrays()
    _serve_one_replica(*state, all_requests[:100])
    stepped = median_rate(
        len(few), lambda: _serve_one_replica(*state, all_requests[: len(few)]), lambda: one.load(0, few)
    )

    spec = specs[0]
    limits = EngineLimits(spec.num_blocks, spec.block_size, spec.max_model_len, 2048, 256)
    some = requests[: max(50, int(300 * scale))]

    def reference() -> None:
        replica = ReferenceReplica(limits, spec.latency)
        replica.run(
            ReferenceRequest(k, float(r["arrival_s"]), int(r["prompt_tokens"]), int(r["output_tokens"]))
            for k, r in enumerate(some)
        )

    python = median_rate(len(some), reference)
    eight = Cluster(specs, num_requests=count)
    busy = poisson_requests(count, 13.0)
    long_outputs = poisson_requests(count // 4, 0.16, output_scale=10)
    return [
        row("engine, 1 replica", fast, "requests/s", "one iteration at a time, compiled", stepped),
        row("engine, 1 replica", fast, "requests/s", "reference engine in Python", python),
        row(
            "engine, 1 replica, outputs 10 times longer", _replay_rate(one, long_outputs, "always/round-robin/vllm"),
            "requests/s", "engine, 1 replica", fast,
        ),
        row("engine, 8 replicas, lmetric", _replay_rate(eight, busy, "always/lmetric/vllm"), "requests/s",
            "engine, 1 replica", fast),
    ]  # fmt: skip


def session_requests(count: int, rate_per_s: float, seed: int = 0) -> np.ndarray:
    """Return requests of conversations: turns that continue the last total, 4 of them in the mean."""
    rng = np.random.default_rng(seed)
    sessions = count // 3
    turns = rng.geometric(0.25, sessions)
    session = np.repeat(np.arange(sessions), turns)[:count]
    first = np.r_[True, session[1:] != session[:-1]]
    fresh = np.clip(rng.lognormal(4.5, 1.0, count), 1, 2000).astype(np.int64)
    output = np.clip(rng.lognormal(5.0, 0.8, count), 1, 800).astype(np.int64)
    start_s = np.sort(rng.uniform(0.0, count / rate_per_s, sessions))
    gap_s = rng.lognormal(4.3, 1.1, count)  # within-session intervals, BurstGPT_3
    turn_s = np.cumsum(gap_s)
    opened = np.maximum.accumulate(np.where(first, np.arange(count), 0))
    arrival_s = start_s[session] + turn_s - turn_s[opened]
    total = np.cumsum(fresh + output)
    prompt = np.minimum(total - output - (total[opened] - fresh[opened] - output[opened]), 4000)
    order = np.argsort(arrival_s, kind="stable")
    requests = request_array(arrival_s[order], prompt[order], output[order])
    requests["session"] = session[order]
    return requests


def bench_prefix_caching(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure a replay of conversations with and without the prefix cache, in requests/s."""
    count = max(2_000, int(200_000 * scale))
    spec = load_cluster("llama-2-7b-a100-x8")[0]
    requests = session_requests(count, 1.0)
    rates = []
    for caching in (True, False):
        cluster = Cluster(
            [spec.model_copy(update={"prefix_caching": caching})], num_requests=count, max_request_tokens=4800
        )
        rates.append(_replay_rate(cluster, requests, "always/round-robin/vllm"))
    return [row("engine, 1 replica, conversations, prefix caching", rates[0], "requests/s", "without", rates[1])]


def bench_whole_burstgpt(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure as many generated requests as BurstGPT has (10.3 million) through 8 replicas, in seconds.

    Every request's record is kept; arrivals are compressed 20 times.
    """
    config = load_workload("burstgpt-default")
    assert config.generator is not None
    start_s = time.perf_counter()
    trace = generate(config.generator, max(4, int(376 * scale)), config.seed)
    generated_s = time.perf_counter() - start_s
    cluster = Cluster(load_cluster("llama-2-7b-a100-x8"), num_requests=len(trace))
    requests = cluster.state.requests[0]
    filled = request_array(trace.arrival_s[:1], trace.prompt_tokens[:1], trace.output_tokens[:1])
    requests[:] = filled[0]
    requests["arrival_s"] = trace.arrival_s / 20.0
    requests["prompt_tokens"], requests["output_tokens"] = trace.prompt_tokens, trace.output_tokens
    record = parse_composite("always/lmetric/vllm").record(cluster.mode_names)
    cluster.begin(0, len(trace))
    start_s = time.perf_counter()
    rollout(*cluster.state.arrays(), cluster.modes, record, 0, UNLIMITED)
    replayed_s = time.perf_counter() - start_s
    name = f"{len(trace) / 1e6:.1f} million requests, 8 replicas, lmetric"
    return [row(name, replayed_s, "s", "generating them", generated_s)]


class NullEnv(gym.Env[Any, Any]):
    """An environment of the same spaces that does nothing: what Gymnasium itself costs."""

    def __init__(self, observation_space: gym.Space[Any], action_space: gym.Space[Any]):
        self.observation_space, self.action_space = observation_space, action_space
        self._zeros = np.zeros(observation_space.shape or (), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start nothing."""
        super().reset(seed=seed)
        return self._zeros.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Do nothing."""
        return self._zeros.copy(), 0.0, False, False, {}


def _step_scalar(env: gym.Env[Any, Any], action: Any, steps: int) -> None:
    step, reset = env.step, env.reset
    for _ in range(steps):
        _, _, terminated, _, _ = step(action)
        if terminated:
            reset()


def bench_environments(scale: float = 1.0) -> list[dict[str, Any]]:
    """Measure the environments of the default scenario in decisions/s, admitting everything to replicas in turn.

    Args:
        scale: 1 for the full work, less for a quick look.
    """
    steps = max(2_000, int(200_000 * scale))
    scenario = EnvironmentBatch(1).scenario
    env = gym.make("BurstGPT-v0", scenario="default")
    env.reset(seed=0)
    action = np.array([1, 2, 6])
    _step_scalar(env, action, 1_000)
    scalar = median_rate(steps, lambda: _step_scalar(env, action, steps), lambda: env.reset(seed=0))

    if "BurstenvNull-v0" not in gym.registry:
        gym.register("BurstenvNull-v0", entry_point="burstenv.evaluation.bench:NullEnv")
    null = gym.make("BurstenvNull-v0", observation_space=env.observation_space, action_space=env.action_space)
    null.reset(seed=0)
    null_rate = median_rate(steps, lambda: _step_scalar(null, action, steps))

    num_envs = 256
    vector = BurstGPTVectorEnv(num_envs, scenario=scenario, autoreset_mode="same_step")
    rng = np.random.default_rng(0)
    batches = rng.integers(0, 4, (64, num_envs, 3))
    batches[..., 0], batches[..., 2] = 1, 6
    vector.reset(seed=0)
    calls = max(20, int(8_000 * scale))

    def step_vector() -> None:
        for k in range(calls):
            vector.step(batches[k % 64])

    step_vector()
    batched = median_rate(calls * num_envs, step_vector)
    record = parse_composite("always/jsq/edf-512").record(scenario.mode_names)
    cluster = scenario.make_cluster()
    requests, _ = scenario.episode("train", 0, 1.5 * scenario.capacity_per_s("train"))
    compiled = median_rate(
        len(requests),
        lambda: rollout(*cluster.state.arrays(), cluster.modes, record, 0, UNLIMITED),
        lambda: cluster.load(0, requests),
    )
    return [
        row("BurstGPT-v0 through gym.make", scalar, "decisions/s", "null environment", null_rate),
        row("native batch of 256", batched, "decisions/s", "through gym.make", scalar),
        row("heuristic in compiled code (always/jsq)", compiled, "decisions/s", "native batch of 256", batched),
    ]
