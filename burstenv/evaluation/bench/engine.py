"""Replay speed of the engine, by everything that it might depend on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from burstenv.cluster import Cluster, load_cluster, request_array
from burstenv.cluster.background_config import BackgroundConfig
from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.faults.rows import FaultKind, Faults
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.evaluation.bench.figures import median_rate, row
from burstenv.policies import parse_composite
from burstenv.policies.background import background_rule

CLUSTER = "llama-2-7b-a100-x8"
RATE_PER_S = 1.6  # of one replica, about half of its saturated rate
SMALL_CACHE_BLOCKS = 1500  # of a replica made to run out of KV blocks
PREEMPTING_RATE_PER_S = 54.0  # of eight of those under vLLM's defaults: a tenth of the requests is preempted
MOVING_RATE_PER_S = 24.0  # of eight of those where KV blocks move or replicas fail
CRASHES = 20  # in such a run
GROUP = "Engine"
PLAIN = {"asynchronous": False, "prefix_caching": False}
VLLM = {"asynchronous": True, "prefix_caching": True}  # vLLM's defaults
STEPPING = "one iteration at a time, compiled"


def poisson_requests(count: int, rate_per_s: float, output_scale: int = 1, seed: int = 0) -> np.ndarray:
    """Return Poisson arrivals with log-normal lengths (prompt mean about 550, output about 200 tokens)."""
    rng = np.random.default_rng(seed)
    arrival_s = np.cumsum(rng.exponential(1.0 / rate_per_s, count))
    prompt = np.clip(rng.lognormal(6.0, 0.8, count), 1, 3000).astype(np.int64)
    output = np.clip(rng.lognormal(5.0, 0.8, count), 1, 1000).astype(np.int64) * output_scale
    return request_array(arrival_s, prompt, output)


def session_requests(count: int, rate_per_s: float, seed: int = 0) -> np.ndarray:
    """Return requests of conversations: turns that continue the last total, 4 on average."""
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


class Replay:
    """A trace, a cluster and a policy to be timed together.

    Args:
        specs: The replicas.
        requests: (n,) REQUEST.
        policy: A composite.
        max_request_tokens: Longest request; needed with prefix caching.
        faults: How replicas fail; None: they serve for ever.
        settings: Of the cluster: ``transfers``, ``migrate_period_s``, ``recovery``, ``background``.
    """

    def __init__(
        self,
        specs: Sequence[ReplicaSpec],
        requests: np.ndarray,
        policy: str,
        max_request_tokens: int | None = None,
        faults: Faults | None = None,
        **settings: Any,
    ):
        self.requests, self.policy, self._max_request_tokens = requests, policy, max_request_tokens
        self.cluster = Cluster(specs, num_requests=len(requests), max_request_tokens=max_request_tokens, **settings)
        chosen = parse_composite(policy)
        if chosen.background is not None:
            self.cluster.background_by(background_rule(chosen.background.rule.code, chosen.background.named))
        self._record, self._faults = chosen.record(self.cluster.mode_names), faults
        self.cluster.stop_to_place(False)
        if chosen.migration is not None:
            self.cluster.migrate_by(chosen.migration.rule.code, chosen.migration.parameters)

    def _run(self) -> None:
        rollout(*self.cluster.state.arrays(), self._record, 0, UNLIMITED)

    def rate_per_s(self) -> float:
        """Return requests replayed per second."""
        self.cluster.load(0, self.requests[:100], faults=self._faults)
        self._run()  # compile
        return median_rate(
            len(self.requests), self._run, lambda: self.cluster.load(0, self.requests, faults=self._faults)
        )

    def stepped(self, count: int) -> Replay:
        """Return the first ``count`` requests on the general engine, which runs one iteration at a time.

        A rule that never applies selects it; it visits every running request in every iteration.
        """
        never = {"long_prefill_token_threshold": 2**30}
        specs = [spec.model_copy(update=never) for spec in self.cluster.specs]
        return Replay(specs, self.requests[:count], self.policy, self._max_request_tokens)

    def figures(self) -> dict[str, float]:
        """Return iterations per request, decoders in a batch and the share of requests preempted, of the last run."""
        records = self.cluster.records(0)
        iterations = int(self.cluster.state.replicas["iterations"].sum())
        return {
            "iterations_per_request": iterations / len(records),
            "batch": float(records["output_tokens"].sum()) / max(1, iterations),
            "preempted": float((records["preemptions"] > 0).mean()),
        }


def _described(name: str, figures: dict[str, float]) -> str:
    return f"{name} (batch {figures['batch']:.1f}, {100 * figures['preempted']:.0f} % preempted)"


def _beside_stepping(name: str, replay: Replay) -> dict[str, Any]:
    fast = replay.rate_per_s()
    figures = replay.figures()
    slow = replay.stepped(max(200, len(replay.requests) // 20)).rate_per_s()
    return {**row(GROUP, _described(name, figures), fast, "requests/s", STEPPING, slow), **figures}


def bench_engine(scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Measure replays in requests/s: by replicas, load, preemptions, length, number of requests and of clusters.

    Args:
        scale: 1 for the full measurement, less for a quick one.
    """
    count = max(2_000, int(500_000 * scale))
    specs = [spec.model_copy(update=PLAIN) for spec in load_cluster(CLUSTER)]
    one = Replay(specs[:1], poisson_requests(count, RATE_PER_S), "always/round-robin/vllm")
    first = _beside_stepping("1 replica", one)
    yield first
    yield row(
        GROUP, "1 replica", first["value"], "requests/s", "reference engine in Python", _reference_rate(one, scale)
    )

    for replicas in (2, 4, 8, 16, 64):
        requests = poisson_requests(count, RATE_PER_S * replicas)
        replay = Replay((specs * 8)[:replicas], requests, "always/lmetric/vllm")
        yield _beside_stepping(f"{replicas} replicas, lmetric", replay)
    for rate_per_s in (0.4, 3.2, 6.4, 12.8):
        replay = Replay(specs[:1], poisson_requests(count, rate_per_s), "always/round-robin/vllm")
        yield _beside_stepping(f"1 replica, {rate_per_s:g} requests/s", replay)
    small = [spec.model_copy(update={"num_blocks": SMALL_CACHE_BLOCKS}) for spec in specs]
    for rate_per_s in (45.0, 53.0, 60.0):
        replay = Replay(small, poisson_requests(count, rate_per_s), "always/lmetric/vllm")
        yield _beside_stepping(f"8 replicas of {SMALL_CACHE_BLOCKS} blocks, lmetric, {rate_per_s:g}/s", replay)

    longer = Replay(specs[:1], poisson_requests(count // 4, RATE_PER_S / 10, 10), "always/round-robin/vllm")
    yield row(GROUP, "outputs 10 times longer", longer.rate_per_s(), "requests/s", "1 replica", first["value"])
    fewer = Replay(specs[:1], poisson_requests(max(500, count // 50), RATE_PER_S), "always/round-robin/vllm")
    yield row(GROUP, "a fiftieth of the requests", fewer.rate_per_s(), "requests/s", "1 replica", first["value"])
    yield row(GROUP, "100 clusters in turn", _many_clusters(specs, count), "requests/s", "1 replica", first["value"])
    yield from _vllm_defaults(specs, scale)
    yield from _changing(specs, scale)


def _changing(specs: list[ReplicaSpec], scale: float) -> Iterator[dict[str, Any]]:
    """Measure migration, roles, faults and fine-tuning in the slack beside the same replicas without them."""
    count = max(2_000, int(200_000 * scale))
    small = [spec.model_copy(update={"num_blocks": SMALL_CACHE_BLOCKS}) for spec in specs]
    requests = poisson_requests(count, MOVING_RATE_PER_S)
    plain = Replay(small, requests, "always/lmetric/vllm").rate_per_s()
    roles = [spec.model_copy(update={"role": "prefill" if k < 2 else "decode"}) for k, spec in enumerate(small)]
    last_s = float(requests["arrival_s"][-1])
    crash = {"kind": FaultKind.CRASH, "detect_s": 10.0, "repair_s": 60.0, "boot_s": 60.0}
    faults = Faults.of(
        crash | {"time_s": last_s * (k + 0.5) / CRASHES, "replica": k % len(small)} for k in range(CRASHES)
    )
    routed = "always/lmetric/vllm"
    many, one = TransfersConfig(at_once=32), TransfersConfig()
    for name, replay in (
        ("2 prefill, 6 decode", Replay(roles, requests, routed, transfers=many)),
        ("migration every 0.1 s", Replay(small, requests, f"{routed}/llumnix", transfers=one, migrate_period_s=0.1)),
        (f"{CRASHES} crashes", Replay(small, requests, routed, faults=faults, recovery=RecoveryConfig())),
    ):
        rate = replay.rate_per_s()
        described = _described(f"8 replicas, {name}", replay.figures())
        yield row(GROUP, described, rate, "requests/s", "none of it", plain)
    background = BackgroundConfig(interruptible="layer")
    for rule in ("idle-only", "dcb", "slack(tokens=128,target=inf)", "token-budget"):
        replay = Replay(small, requests, f"{routed}/{rule}", background=background)
        rate = replay.rate_per_s()
        described = _described(f"8 replicas that fine-tune by {rule}", replay.figures())
        yield row(GROUP, described, rate, "requests/s", "none of it", plain)


def _reference_rate(replay: Replay, scale: float) -> float:
    spec = replay.cluster.specs[0]
    limits = EngineLimits(spec.num_blocks, spec.block_size, spec.max_model_len, 2048, 256)
    some = replay.requests[: max(50, int(300 * scale))]

    def run() -> None:
        replica = ReferenceReplica(limits, spec.latency)
        replica.run(
            ReferenceRequest(k, float(r["arrival_s"]), int(r["prompt_tokens"]), int(r["output_tokens"]))
            for k, r in enumerate(some)
        )

    return median_rate(len(some), run)


def _many_clusters(specs: list[ReplicaSpec], count: int, clusters: int = 100) -> float:
    each = max(20, count // clusters)
    cluster = Cluster(specs[:1], num_envs=clusters, num_requests=each)
    record = parse_composite("always/round-robin/vllm").record(cluster.mode_names)

    def load() -> None:
        for i in range(clusters):
            cluster.load(i, poisson_requests(each, RATE_PER_S, seed=i))

    def run() -> None:
        for i in range(clusters):
            rollout(*cluster.state.arrays(), record, i, UNLIMITED)

    return median_rate(clusters * each, run, load)


def _vllm_defaults(specs: list[ReplicaSpec], scale: float) -> Iterator[dict[str, Any]]:
    """Measure vLLM's defaults beside the plain engine and beside one iteration at a time."""
    count = max(2_000, int(500_000 * scale))
    small = [spec.model_copy(update={"num_blocks": SMALL_CACHE_BLOCKS}) for spec in specs]
    alone, conversations = poisson_requests(count, RATE_PER_S), session_requests(max(2_000, int(200_000 * scale)), 1.0)
    for name, some, requests, policy in (
        ("1 replica", specs[:1], alone, "always/round-robin/vllm"),
        ("1 replica, conversations", specs[:1], conversations, "always/round-robin/vllm"),
        (f"8 replicas of {SMALL_CACHE_BLOCKS} blocks, lmetric, {PREEMPTING_RATE_PER_S:g}/s", small,
         poisson_requests(count, PREEMPTING_RATE_PER_S), "always/lmetric/vllm"),
    ):  # fmt: skip
        replay = Replay([spec.model_copy(update=VLLM) for spec in some], requests, policy, 4800)
        line = _beside_stepping(f"{name}, vLLM's defaults", replay)
        yield line
        plain = Replay(some, requests, policy).rate_per_s()
        yield row(GROUP, f"{name}, vLLM's defaults", line["value"], "requests/s", "plain", plain)


_WHOLE = """
import json, resource, sys, time
from burstenv.cluster import Cluster, load_cluster, request_array
from burstenv.envs.step import UNLIMITED, rollout
from burstenv.policies import parse_composite
from burstenv.workload.generator import generate
from burstenv.workload.workload_config import load_workload
config = load_workload("burstgpt-default")
start_s = time.perf_counter()
trace = generate(config.generator, int(sys.argv[1]), config.seed)
generated_s = time.perf_counter() - start_s
cluster = Cluster(load_cluster(sys.argv[2]), num_requests=len(trace))
requests = cluster.state.requests[0]
requests[:] = request_array(trace.arrival_s[:1], trace.prompt_tokens[:1], trace.output_tokens[:1])[0]
requests["arrival_s"] = trace.arrival_s / float(sys.argv[3])
requests["prompt_tokens"], requests["output_tokens"] = trace.prompt_tokens, trace.output_tokens
record = parse_composite("always/lmetric/vllm").record(cluster.mode_names)
cluster.begin(0, len(trace))
start_s = time.perf_counter()
rollout(*cluster.state.arrays(), record, 0, UNLIMITED)
print(json.dumps([len(trace), generated_s, time.perf_counter() - start_s,
                  resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
                  float((requests["preemptions"] > 0).mean())]))
"""


def bench_whole_burstgpt(scale: float = 1.0) -> Iterator[dict[str, Any]]:
    """Measure as many generated requests as BurstGPT has (10.3 million) through 8 replicas, every record kept.

    It runs in its own process, for the peak memory; arrivals are compressed 20 times, and 60 times (overload).
    """
    for compression in (20, 60):
        done = _in_new_process(_WHOLE, str(max(4, int(376 * scale))), CLUSTER, str(compression))
        requests, generated_s, replayed_s, peak_gib, preempted = json.loads(done)
        name = f"{requests / 1e6:.1f} million requests, 8 replicas, {compression} times compressed"
        name += f" ({100 * preempted:.0f} % preempted)"
        yield row(GROUP, name, replayed_s, "s", "generating them", generated_s)
        if compression == 20:
            yield row(GROUP, "its peak memory", peak_gib, "GiB", "GiB of request records", requests * 128 / 2**30)


_FIRST_STEP = """
import time
start_s = time.perf_counter()
import gymnasium as gym
import burstenv
imported_s = time.perf_counter() - start_s
env = gym.make("BurstGPT-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.perf_counter() - start_s, imported_s)
"""


def bench_first_step() -> Iterator[dict[str, Any]]:
    """Measure the time to the first step of ``gym.make("BurstGPT-v0")`` in new processes, cold and warm [s]."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "BURSTENV_CACHE": folder}
        cold_s, _ = map(float, _in_new_process(_FIRST_STEP, environment=environment).split())
        warm_s, imported_s = map(float, _in_new_process(_FIRST_STEP, environment=environment).split())
    yield row(GROUP, "first step, nothing compiled yet", cold_s, "s", "everything compiled", warm_s)
    yield row(GROUP, "first step, everything compiled", warm_s, "s", "importing gymnasium and burstenv", imported_s)


def _in_new_process(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
