"""Measured server runs: read the recording of a real vLLM server, replay it, and report the replay's error.

A run folder holds ``meta.json`` (model and engine configuration) and ``requests.jsonl``: for each request its tokens,
its arrival (wall clock), and the times of queueing, first token and last token (the engine's clock). LLMServingSim's
bench writes this format (casys-kaist/LLMServingSim).

Definitions, on both sides: TTFT is arrival to first token, TPOT (last - first token) / (output tokens - 1),
E2E arrival to last token. The two clocks are aligned at the request with the shortest time from arrival to queueing.
The engine takes requests between iterations, so queueing time contains up to a whole iteration; the replay has it too,
and a measurement from ``queued_ts`` would hide it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.cluster.cluster_config import GPU_MEMORY_UTILIZATION, OverheadConfig, kv_blocks
from burstenv.config import read_yaml
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig, known_as
from burstenv.hardware.latency.entry import load_latency
from burstenv.hardware.latency.hinge import HingeLatency
from burstenv.hardware.latency.tables import TablesLatency

METRICS = ("TTFT", "TPOT", "E2E")
STATISTICS = ("mean", "p50", "p90", "p99")
REQUEST_KEYS = ("input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
DEFAULT_MODEL_LEN = 131_072  # [tokens] if a run does not record it; no request comes near it
DEFAULT_BATCHED_TOKENS = 2048  # if a run does not record it: vLLM's for most GPUs


@dataclass(frozen=True)
class MeasuredRun:
    """A measured server run; times in seconds from the first arrival."""

    name: str
    model: str
    tensor_parallel: int
    limits: EngineLimits
    notes: tuple[str, ...]
    prompt_tokens: np.ndarray  # (n,)
    output_tokens: np.ndarray  # (n,)
    arrival_s: np.ndarray  # (n,)
    first_token_s: np.ndarray  # (n,)
    last_token_s: np.ndarray  # (n,)


@dataclass(frozen=True)
class ValidationRow:
    """One statistic of one metric."""

    metric: str  # TTFT | TPOT | E2E
    statistic: str  # mean | p50 | p90 | p99
    measured_s: float
    simulated_s: float

    @property
    def error_percent(self) -> float:
        """Simulated against measured [%]."""
        return 100.0 * (self.simulated_s / self.measured_s - 1.0)


@dataclass(frozen=True)
class RunValidation:
    """A measured run and its replay."""

    run: str
    latency: str
    requests: int
    preemptions: int
    iterations: int
    rows: tuple[ValidationRow, ...]
    notes: tuple[str, ...]
    measured: Mapping[str, np.ndarray]  # by metric, (n,) [s]
    simulated: Mapping[str, np.ndarray]  # by metric, (n,) [s]
    figure: Path | None = None

    def lines(self) -> list[str]:
        """Return the table to show."""
        lines = [f"{self.run}: {self.requests} requests replayed with latency {self.latency}"]
        lines.append(f"{'':<12}{'measured':>12}{'simulated':>12}{'error':>9}")
        for row in self.rows:
            label = f"{row.metric} {row.statistic}"
            lines.append(f"{label:<12}{row.measured_s:>10.4g} s{row.simulated_s:>10.4g} s{row.error_percent:>+8.1f} %")
        lines.append(f"{self.iterations} iterations, {self.preemptions} preemptions in the replay")
        lines += self.notes
        if self.figure is not None:
            lines.append(f"distributions: {self.figure}")
        return lines

    def values(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "run": self.run,
            "latency": self.latency,
            "requests": self.requests,
            "iterations": self.iterations,
            "preemptions": self.preemptions,
            "rows": [
                {
                    "metric": row.metric,
                    "statistic": row.statistic,
                    "measured_s": row.measured_s,
                    "simulated_s": row.simulated_s,
                    "error_percent": row.error_percent,
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
            "figure": str(self.figure) if self.figure else None,
        }

    def within(self, percent: float, statistics: tuple[str, ...] = STATISTICS) -> bool:
        """Return whether every error of the given statistics is at most ``percent``, either way."""
        return all(abs(row.error_percent) <= percent for row in self.rows if row.statistic in statistics)


def read_run(folder: Path) -> MeasuredRun:
    """Read a run folder.

    Raises:
        BurstenvError: If a file is missing or malformed; names the file and the line or key.
    """
    meta = _read_meta(folder / "meta.json")
    columns = _read_requests(folder / "requests.jsonl")
    start_s = columns["arrival_time"].min()
    arrival_s = columns["arrival_time"] - start_s
    clock_s = float((columns["queued_ts"] - arrival_s).min())  # the engine's clock at the first arrival
    limits, notes = _limits(meta, folder)
    model = str(meta.get("model", ""))
    return MeasuredRun(
        name=folder.parent.name if folder.name == "vllm_run" else folder.name,
        model=model,
        tensor_parallel=_degree(meta),
        limits=limits,
        notes=tuple(notes),
        prompt_tokens=columns["input_toks"].astype(int),
        output_tokens=columns["output_toks"].astype(int),
        arrival_s=arrival_s,
        first_token_s=columns["first_token_ts"] - clock_s,
        last_token_s=columns["last_token_ts"] - clock_s,
    )


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a measured run needs meta.json and requests.jsonl") from None
    except (OSError, ValueError) as error:
        raise BurstenvError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("engine_kwargs", {}), dict):
        raise BurstenvError(f"{path}: expected a JSON object with the engine's configuration under engine_kwargs")
    return meta


def _read_requests(path: Path) -> dict[str, np.ndarray]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a measured run needs meta.json and requests.jsonl") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None
    table: list[list[float]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            row = [float(request[key]) for key in REQUEST_KEYS]
        except (KeyError, TypeError, ValueError) as error:
            keys = ", ".join(REQUEST_KEYS)
            raise BurstenvError(f"{path}: line {number}: expected an object with {keys} ({error!r})") from None
        prompt, output, _, queued, first, last = row
        if not np.isfinite(row).all() or prompt < 1 or output < 1 or not queued <= first <= last:
            raise BurstenvError(
                f"{path}: line {number}: expected finite times in the order queued, first token, last token and at "
                f"least one token in and out"
            )
        table.append(row)
    if not table:
        raise BurstenvError(f"{path}: no requests; there is nothing to replay")
    return dict(zip(REQUEST_KEYS, np.array(table).T, strict=True))


def _degree(meta: Mapping[str, Any]) -> int:
    return int(meta.get("engine_kwargs", {}).get("tensor_parallel_size") or 1)


def _limits(meta: Mapping[str, Any], folder: Path) -> tuple[EngineLimits, list[str]]:
    """Return the engine's limits: its resolved ones, otherwise its arguments, otherwise vLLM's defaults.

    vLLM 0.14 and later schedules asynchronously and caches prefixes by default. Prompts of a run are distinct, so only
    preempted requests hit their own blocks.
    """
    notes: list[str] = []
    given = meta.get("engine_kwargs", {})
    resolved = meta.get("resolved_config") or {}
    scheduler = resolved.get("scheduler_config") or {}
    measured = meta.get("kv_cache") or {}
    cache = resolved.get("cache_config") or {}

    def pick(key: str, *places: Mapping[str, Any]) -> Any:
        return next((place[key] for place in places if place.get(key) is not None), None)

    try:
        block_size = int(pick("block_size", measured, cache, given) or 16)
        blocks = pick("num_gpu_blocks", measured, cache)
        max_model_len = pick("max_model_len", resolved.get("model_config") or {}, given)
        if blocks is None:
            blocks = _blocks_from_memory(meta, block_size, folder, notes)
        usable = int(blocks) - 1  # less vLLM's null block
        max_num_seqs = int(pick("max_num_seqs", scheduler, given) or 256)
        asynchronous = pick("async_scheduling", scheduler, given)
        reserve_full_prompt = pick("scheduler_reserve_full_isl", scheduler)
        caching = pick("enable_prefix_caching", measured, cache, given)
        return (
            EngineLimits(
                num_blocks=usable,
                block_size=block_size,
                max_model_len=min(int(max_model_len or DEFAULT_MODEL_LEN), usable * block_size),
                max_num_batched_tokens=int(pick("max_num_batched_tokens", scheduler, given) or DEFAULT_BATCHED_TOKENS),
                max_num_seqs=max_num_seqs,
                reserve_full_prompt=True if reserve_full_prompt is None else bool(reserve_full_prompt),
                long_prefill_token_threshold=int(pick("long_prefill_token_threshold", scheduler) or 0),
                prefix_caching=True if caching is None else bool(caching),
                asynchronous=True if asynchronous is None else bool(asynchronous),
            ),
            notes,
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise BurstenvError(
            f"{folder / 'meta.json'}: a value of the engine's configuration is wrong ({error})"
        ) from None


def _blocks_from_memory(meta: Mapping[str, Any], block_size: int, folder: Path, notes: list[str]) -> int:
    """Return the KV blocks (with the null block) of a run that does not record them."""
    device = str((meta.get("hardware") or {}).get("device_name") or "")
    profiled = folder.parent / "profile" / "meta.yaml"
    profile = read_yaml(profiled) if profiled.exists() else {}
    device = device or str(profile.get("gpu") or "")
    utilization = GPU_MEMORY_UTILIZATION
    resolved = (meta.get("resolved_config") or {}).get("cache_config")
    for engine in (profile.get("engine_effective"), meta.get("engine_kwargs"), resolved):  # the last one counts
        utilization = (engine or {}).get("gpu_memory_utilization") or utilization
    try:
        model = known_as(ModelConfig, "models", str(meta.get("model", "")))
        hardware = known_as(HardwareConfig, "hardware", device)
    except BurstenvError as error:
        notes.append(f"the run does not record its KV blocks; its KV cache is assumed to hold all requests ({error})")
        return 2**24 // block_size
    blocks = kv_blocks(model, hardware, _degree(meta), block_size, float(utilization)) + 1
    notes.append(
        f"the run does not record its KV blocks; {blocks} follow from {utilization:g} of the memory of {hardware.name}"
    )
    return blocks


def validate_run(folder: Path | str, latency: str | Path, out: Path | None = None) -> RunValidation:
    """Replay a measured run request by request and compare TTFT, TPOT and E2E.

    The replay is the reference engine with the server's own limits, asynchronous scheduling and prefix
    caching, and the host overhead that every shipped cluster has.

    Args:
        folder: The run folder.
        latency: A name in ``configs/latency`` or a YAML file.
        out: File for the overlaid distributions (``.png``, ``.svg``, ``.pdf``, or ``.html``); None: no file.

    Raises:
        BurstenvError: If the folder or the latency cannot be read, or the latency has another tensor parallelism than
            the run.
    """
    run = read_run(Path(folder))
    entry = load_latency(latency)
    degree = getattr(entry, "tensor_parallel", run.tensor_parallel)
    if degree != run.tensor_parallel:
        raise BurstenvError(
            f"latency {latency} is of tensor parallelism {degree}, the run {run.name} of {run.tensor_parallel}"
        )
    overhead = OverheadConfig()
    notes = (*run.notes, *_other_model(run, entry))
    replica = ReferenceReplica(run.limits, entry.with_overhead(overhead.per_iteration_ms, overhead.per_sequence_ms))
    requests = [
        ReferenceRequest(k, float(run.arrival_s[k]), int(run.prompt_tokens[k]), int(run.output_tokens[k]))
        for k in range(len(run.arrival_s))
    ]
    replica.run(sorted(requests, key=lambda request: (request.arrival_s, request.id)))
    unserved = [request.id for request in requests if request.status != "finished"]
    if unserved:
        raise BurstenvError(
            f"{folder}: request {unserved[0] + 1} of {len(requests)} does not fit the engine "
            f"({run.limits.num_blocks} KV blocks of {run.limits.block_size}, model length {run.limits.max_model_len})"
        )
    first_s = np.array([request.first_token_s for request in requests], float)
    last_s = np.array([request.finish_s for request in requests], float)
    measured = _metrics(run, run.first_token_s, run.last_token_s)
    simulated = _metrics(run, first_s, last_s)
    rows = tuple(
        ValidationRow(
            metric, statistic, _statistic(measured[metric], statistic), _statistic(simulated[metric], statistic)
        )
        for metric in METRICS
        if len(measured[metric])
        for statistic in STATISTICS
    )
    result = RunValidation(
        run=run.name,
        latency=str(latency),
        requests=len(requests),
        preemptions=sum(request.preemptions for request in requests),
        iterations=len(replica.iterations),
        rows=rows,
        notes=notes,
        measured=measured,
        simulated=simulated,
        figure=out,
    )
    if out is not None:
        from burstenv.evaluation.validation.distributions import draw_distributions

        draw_distributions(result, out)
    return result


def _other_model(run: MeasuredRun, entry: HingeLatency | TablesLatency) -> list[str]:
    """Return a remark if the latency is of another model than the run."""
    measured = getattr(entry, "model", "")
    try:
        served = known_as(ModelConfig, "models", run.model).name
    except BurstenvError:
        return []
    return [f"the latency is of {measured}, the run of {served}"] if measured and measured != served else []


def _metrics(run: MeasuredRun, first_s: np.ndarray, last_s: np.ndarray) -> dict[str, np.ndarray]:
    """Return TTFT and E2E of every request and TPOT of those with two tokens or more [s]."""
    several = run.output_tokens > 1
    return {
        "TTFT": first_s - run.arrival_s,
        "TPOT": (last_s - first_s)[several] / (run.output_tokens[several] - 1),
        "E2E": last_s - run.arrival_s,
    }


def _statistic(values: np.ndarray, name: str) -> float:
    return float(values.mean() if name == "mean" else np.percentile(values, float(name[1:])))
