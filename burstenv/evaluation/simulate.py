"""Replaying a whole trace through a cluster under one composite: metrics and per-request records."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from burstenv.cluster import STATUS_NAMES, Cluster, ClusterConfig, ReplicaSpec, resolve_cluster
from burstenv.cluster.state import NOBODY
from burstenv.config import load
from burstenv.envs.kernels import rollout
from burstenv.envs.scenario import ScenarioConfig, objectives
from burstenv.errors import BurstenvError
from burstenv.evaluation.files import write_atomic
from burstenv.evaluation.metrics import episode_metrics
from burstenv.policies import named_mode, parse_composite
from burstenv.workload import CLASSES, Trace

CHUNK_DECISIONS = 100_000  # between two reports of progress
RECORD_COLUMNS = (
    "id", "class", "prompt_tokens", "output_tokens", "status", "replica", "arrival_s", "first_scheduled_s",
    "first_token_s", "finish_s", "ttft_s", "tpot_s", "e2e_s", "preemptions", "recomputed_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Simulation:
    """A finished replay: the metrics of :mod:`burstenv.evaluation.metrics`, and the records, (n,) REQUEST."""

    metrics: dict[str, Any]
    records: np.ndarray
    cluster: str
    policy: str


def simulate(
    trace: Trace,
    cluster: str | ClusterConfig,
    policy: str,
    scenario: str | ScenarioConfig = "default",
    speed: float = 1.0,
    oversize: Literal["error", "reject"] = "error",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Simulation:
    """Replay a trace.

    Args:
        trace: The trace; its clock is kept.
        cluster: A shipped cluster, a YAML path, or a configuration.
        policy: A composite, ``admission/routing/batching``.
        scenario: Where the objectives come from.
        speed: Times since the first arrival are divided by this.
        oversize: A prompt larger than every replica's model length is an error, or is refused on arrival.
        seed: Seed of random routing.
        progress: Called with requests decided and requests in all.

    Raises:
        BurstenvError: On unknown names, an empty trace, or a prompt that fits nowhere.
    """
    if not 0.0 < speed < np.inf:
        raise BurstenvError(f"speed must be a number above 0, got {speed!r}")
    if len(trace) == 0:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: holds no requests to simulate")
    config = load(ClusterConfig, "clusters", cluster) if isinstance(cluster, str) else cluster
    specs = resolve_cluster(config)
    composite = parse_composite(policy)
    _check_prompts(trace, specs, oversize)
    mode = named_mode(composite.batching)
    longest = int((trace.prompt_tokens.astype(np.int64) + trace.output_tokens).max())
    engine = Cluster(specs, [mode], num_requests=len(trace), max_request_tokens=longest)
    requests = engine.state.requests[0]  # filled in place: all of BurstGPT should fit in memory once
    first_s = trace.arrival_s[0]
    requests["arrival_s"] = first_s + (trace.arrival_s - first_s) / speed if speed != 1.0 else trace.arrival_s
    requests["prompt_tokens"] = trace.prompt_tokens
    requests["output_tokens"] = trace.output_tokens
    requests["predicted_tokens"] = trace.output_tokens
    requests["session"] = trace.session
    requests["class_code"] = trace.class_code
    requests["replica"] = NOBODY
    if not isinstance(scenario, ScenarioConfig):
        scenario = load(ScenarioConfig, "scenarios", scenario)
    objectives(scenario, requests)
    del trace  # its columns are in the engine now
    engine.begin(0, len(requests), seed)
    _run(engine, composite.record(engine.mode_names), progress)
    span_s = float(requests["arrival_s"][-1] - requests["arrival_s"][0])
    metrics = episode_metrics(requests, max(span_s, 1e-9), engine.state.environments[0])
    metrics["span_s"] = span_s
    metrics["end_s"] = float(engine.state.environments["now_s"][0])
    metrics["preemptions"] = int(engine.state.replicas["preemptions"].sum())
    metrics["iterations"] = int(engine.state.replicas["iterations"].sum())
    return Simulation(metrics, requests, config.name, composite.name)


def _check_prompts(trace: Trace, specs: tuple[ReplicaSpec, ...], oversize: str) -> None:
    largest = max(spec.max_model_len for spec in specs)
    if oversize == "error" and int(trace.prompt_tokens.max()) >= largest:
        row = int(np.argmax(trace.prompt_tokens >= largest))
        raise BurstenvError(
            f"{trace.metadata.get('source', 'trace')}: request {row + 1} (arrival {trace.arrival_s[row]:.3f} s) has a "
            f"prompt of {int(trace.prompt_tokens[row])} tokens, larger than the whole KV cache of every replica "
            f"({largest} tokens); use a larger replica, or --oversize reject"
        )


def _run(engine: Cluster, record: np.ndarray, progress: Callable[[int, int], None] | None) -> None:
    environment = engine.state.environments[0:1]
    while not environment["done"][0]:
        rollout(*engine.state.arrays(), engine.modes, record, 0, np.int64(CHUNK_DECISIONS))
        if progress is not None:
            progress(int(environment["offered"][0]), int(environment["num_requests"][0]))


def write_records(records: np.ndarray, path: Path) -> None:
    """Write per-request records as CSV, atomically; times in full precision, blank where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RECORD_COLUMNS)
    ttft_s = records["first_token_s"] - records["arrival_s"]
    e2e_s = records["finish_s"] - records["arrival_s"]
    gaps = records["target_tokens"] - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot_s = np.where(gaps > 0, (e2e_s - ttft_s) / gaps, np.nan)
    unserved = np.isnan(records["first_token_s"])
    columns = [
        np.arange(len(records)).tolist(),
        [CLASSES[c] for c in records["class_code"].tolist()],
        records["prompt_tokens"].tolist(),
        records["output_tokens"].tolist(),
        [STATUS_NAMES[s] for s in records["status"].tolist()],
        ["" if r < 0 else r for r in records["replica"].tolist()],
        records["arrival_s"].tolist(),
        _blank(records["first_scheduled_s"]),
        _blank(records["first_token_s"]),
        _blank(np.where(unserved, np.nan, records["finish_s"])),
        _blank(ttft_s),
        _blank(tpot_s),
        _blank(np.where(unserved, np.nan, e2e_s)),
        records["preemptions"].tolist(),
        records["recomputed_tokens"].tolist(),
    ]
    writer.writerows(zip(*columns, strict=True))
    write_atomic(path, text.getvalue())


def _blank(values: np.ndarray) -> list[Any]:
    return ["" if value != value else value for value in values.tolist()]
