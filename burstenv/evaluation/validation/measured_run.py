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

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.config import shortly
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.server import (
    ASYNCHRONOUS_SINCE,
    Server,
    ServerOptions,
    cache_blocks,
    check_flags,
    front_end_of,
    profile_beside,
    profiled_meta,
    resolve_server,
    version_of,
)
from burstenv.plain_data import parse_json, read_json

METRICS = ("TTFT", "TPOT", "E2E")
STATISTICS = ("mean", "p50", "p90", "p99")
REQUEST_KEYS = ("input_toks", "output_toks", "arrival_time", "queued_ts", "first_token_ts", "last_token_ts")
MOST_TOKENS = 2**24  # of a request, a batch or a length
MOST_S = 1e12  # of a clock
DEFAULT_MODEL_LEN = 131_072  # [tokens] if a run does not record it; no request comes near it
DEFAULT_BATCHED_TOKENS = 2048  # if a run does not record it: vLLM's for most GPUs


@dataclass(frozen=True)
class MeasuredRun:
    """A measured server run; times in seconds from the first arrival."""

    name: str
    server: Server
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


def read_run(folder: Path, options: ServerOptions | None = None) -> MeasuredRun:
    """Read a run folder, and find the server behind it.

    Raises:
        BurstenvError: If a file is missing or malformed; names the file and the line or key.
    """
    meta = _read_meta(folder / "meta.json")
    columns = _read_requests(folder / "requests.jsonl")
    start_s = columns["arrival_time"].min()
    arrival_s = columns["arrival_time"] - start_s
    clock_s = float((columns["queued_ts"] - arrival_s).min())  # the engine's clock at the first arrival
    options = options or ServerOptions()
    flags = {k: v for k, v in meta.get("engine_kwargs", {}).items() if v is not None}
    notes = check_flags(flags, str(folder / "meta.json"), strangers=True)
    asynchronous = _asynchronous(meta, options)
    profile = profile_beside(folder)
    device = str((meta.get("hardware") or {}).get("device_name") or profiled_meta(folder).get("gpu") or "")
    server = resolve_server(
        options, str(meta.get("model", "")), device, _degree(meta), asynchronous, flags, str(folder), profile
    )
    limits = _limits(meta, folder, server, options, asynchronous, notes)
    return MeasuredRun(
        name=folder.parent.name if folder.name == "vllm_run" else folder.name,
        server=server,
        limits=limits,
        notes=(*notes, *server.notes),
        prompt_tokens=columns["input_toks"].astype(int),
        output_tokens=columns["output_toks"].astype(int),
        arrival_s=arrival_s,
        first_token_s=columns["first_token_ts"] - clock_s,
        last_token_s=columns["last_token_ts"] - clock_s,
    )


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise BurstenvError(f"{path}: no such file; a measured run needs meta.json and requests.jsonl")
    meta = read_json(path)
    if not isinstance(meta, dict) or not isinstance(meta.get("engine_kwargs", {}), dict):
        raise BurstenvError(f"{path}: expected a JSON object with the engine's configuration under engine_kwargs")
    resolved = meta.get("resolved_config") or {}
    parts = {**meta, **(resolved if isinstance(resolved, dict) else {})}
    for key in ("resolved_config", "kv_cache", "hardware", "scheduler_config", "cache_config", "model_config"):
        if not isinstance(parts.get(key) or {}, dict):
            raise BurstenvError(f"{path}: {key} must be a JSON object, got {shortly(parts[key])}")
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
        request = parse_json(line, f"{path}: line {number}")
        values: list[Any] = [request.get(key) for key in REQUEST_KEYS] if isinstance(request, dict) else [None]
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
            keys = ", ".join(REQUEST_KEYS)
            raise BurstenvError(f"{path}: line {number}: expected an object with numbers for {keys}")
        prompt, output, _, queued, first, last = values
        counted = all(1 <= tokens <= MOST_TOKENS and tokens == int(tokens) for tokens in (prompt, output))
        if not (counted and all(abs(value) <= MOST_S for value in values) and queued <= first <= last):
            raise BurstenvError(
                f"{path}: line {number}: expected finite times in the order queued, first token, last token and whole "
                f"numbers of 1 to {MOST_TOKENS:,} tokens in and out"
            )
        row = [float(value) for value in values]
        table.append(row)
    if not table:
        raise BurstenvError(f"{path}: no requests; there is nothing to replay")
    return dict(zip(REQUEST_KEYS, np.array(table).T, strict=True))


def _whole(name: str, value: Any, least: int, most: int = MOST_TOKENS) -> int:
    """Return a value of the engine's configuration, a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise BurstenvError(
            f"meta.json: {name} must be a whole number from {least:,} to {most:,}, got {shortly(value)}"
        )
    return value


def _degree(meta: Mapping[str, Any]) -> int:
    return _whole("tensor_parallel_size", meta.get("engine_kwargs", {}).get("tensor_parallel_size") or 1, 1, 1_024)


def _asynchronous(meta: Mapping[str, Any], options: ServerOptions) -> bool:
    """Return whether the engine schedules ahead: as an option or the run says, else as its version does by default."""
    scheduler = (meta.get("resolved_config") or {}).get("scheduler_config") or {}
    given = meta.get("engine_kwargs", {})
    for said in (options.asynchronous, scheduler.get("async_scheduling"), given.get("async_scheduling")):
        if said is not None:
            return bool(said)
    version = version_of(meta.get("vllm_version"))
    return version is None or version >= ASYNCHRONOUS_SINCE


def _limits(
    meta: Mapping[str, Any], folder: Path, server: Server, options: ServerOptions, asynchronous: bool, notes: list[str]
) -> EngineLimits:
    """Return the engine's limits: as an option says, as it resolved them, as it was started, or vLLM's defaults.

    Prompts of a run are distinct, so that only preempted requests meet their own blocks again.
    """
    given = meta.get("engine_kwargs", {})
    resolved = meta.get("resolved_config") or {}
    scheduler = resolved.get("scheduler_config") or {}
    measured = meta.get("kv_cache") or {}
    cache = resolved.get("cache_config") or {}

    def pick(key: str, *places: Mapping[str, Any]) -> Any:
        return next((place[key] for place in places if place.get(key) is not None), None)

    try:
        block_size = _whole("block_size", pick("block_size", measured, cache, given) or 16, 1, 65_536)
        blocks = pick("num_gpu_blocks", measured, cache)
        max_model_len = pick("max_model_len", resolved.get("model_config") or {}, given)
        max_num_seqs = _whole("max_num_seqs", pick("max_num_seqs", scheduler, given) or 256, 1)
        budget = pick("max_num_batched_tokens", scheduler, given) or DEFAULT_BATCHED_TOKENS
        budget = _whole("max_num_batched_tokens", budget, 1)
        longest = _whole("max_model_len", max_model_len or DEFAULT_MODEL_LEN, 1)
        threshold = pick("long_prefill_token_threshold", scheduler, given) or 0
        profiled = profiled_meta(folder).get("engine_effective") or {}
        share = pick("gpu_memory_utilization", cache, measured, given, profiled)
        if share is not None and not (isinstance(share, int | float) and 0.0 < share <= 1.0):
            raise ValueError(f"gpu_memory_utilization must be above 0 and at most 1, got {shortly(share)}")
        version = version_of(meta.get("vllm_version"))
        usable = cache_blocks(
            options, server, None if blocks is None else _whole("num_gpu_blocks", blocks, 2), block_size,
            None if share is None else float(share), version, budget, max_num_seqs, notes,
        )  # fmt: skip
        reserve_full_prompt = pick("scheduler_reserve_full_isl", scheduler)
        caching = options.prefix_caching
        if caching is None:
            caching = pick("enable_prefix_caching", measured, cache, given)
        return EngineLimits(
            num_blocks=usable,
            block_size=block_size,
            max_model_len=min(longest, usable * block_size),
            max_num_batched_tokens=budget,
            max_num_seqs=max_num_seqs,
            reserve_full_prompt=True if reserve_full_prompt is None else bool(reserve_full_prompt),
            long_prefill_token_threshold=_whole("long_prefill_token_threshold", threshold, 0),
            prefix_caching=True if caching is None else bool(caching),
            asynchronous=asynchronous,
        )
    except BurstenvError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise BurstenvError(
            f"{folder / 'meta.json'}: a value of the engine's configuration is wrong ({error})"
        ) from None


def validate_run(
    folder: Path | str,
    latency: str | Path | None = None,
    out: Path | None = None,
    options: ServerOptions | None = None,
) -> RunValidation:
    """Replay a measured run request by request and compare TTFT, TPOT and E2E.

    The replay is the reference engine with the server's own limits, its kind of scheduling and prefix caching, and the
    host overhead of that kind. The clocks of a run begin in the engine, so that it has no front end unless asked for.

    Args:
        folder: The run folder, or a folder that holds it as ``vllm_run``.
        latency: A name in ``configs/latency`` or a YAML file; None: the fit of a profile beside the run, the shipped
            entry of model and GPU, or a roofline.
        out: Where to draw the overlaid distributions (``.png``, ``.svg``, ``.pdf``, or ``.html``); None: nowhere.
        options: What the caller says of the server, which comes before what the run says.

    Raises:
        BurstenvError: When the folder or the latency cannot be read, something that is needed is not known, the latency
            is of another tensor parallelism than the run, or the server was of a kind that is not modelled.
    """
    options = options or ServerOptions()
    if latency is not None:
        options = replace(options, latency=latency)
    folder = Path(folder)
    if not (folder / "meta.json").exists() and (folder / "vllm_run" / "meta.json").exists():
        folder = folder / "vllm_run"
    run = read_run(folder, options)
    entry = run.server.latency
    delay_s = front_end_of(options, False).delay_s(run.prompt_tokens)
    notes = run.notes
    replica = ReferenceReplica(run.limits, entry)
    requests = [
        ReferenceRequest(k, float(run.arrival_s[k] + delay_s[k]), int(run.prompt_tokens[k]), int(run.output_tokens[k]))
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
        latency=run.server.source,
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
