"""Aggregates measured on a server: one row of a CSV for each load, read as it is published.

A row names the server (GPU, model, tensor parallelism, engine, limits), the load (a rate, a number of clients in a
closed loop, or requests at once), the lengths, and the figures: mean or percentiles of TTFT, TPOT and E2E, throughput.
``docs/guides/validate.md`` lists the columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError

COLUMNS: dict[str, tuple[str, ...]] = {  # the first name is ours, the others are what people write
    "run": ("run", "name", "label", "id"),
    "gpu": ("gpu", "hardware", "accelerator", "device", "gpu_name"),
    "model": ("model", "model_name"),
    "tensor_parallel": ("tensor_parallel", "tp", "tensor_parallel_size", "tp_size"),
    "engine": ("engine", "vllm", "version", "vllm_version", "backend_version"),
    "block_size": ("block_size",),
    "max_num_batched_tokens": ("max_num_batched_tokens", "token_budget"),
    "max_num_seqs": ("max_num_seqs",),
    "max_model_len": ("max_model_len",),
    "gpu_memory_utilization": ("gpu_memory_utilization",),
    "num_gpu_blocks": ("num_gpu_blocks",),
    "kv_tokens": ("kv_tokens",),
    "prefix_caching": ("prefix_caching", "enable_prefix_caching"),
    "asynchronous": ("asynchronous", "async_scheduling"),
    "rate_per_s": ("rate_per_s", "rate", "request_rate", "qps", "rps"),
    "concurrency": ("concurrency", "clients", "max_concurrency", "num_clients"),
    "requests_at_once": ("requests_at_once",),
    "requests": ("requests", "num_requests", "num_prompts", "request_count"),
    "duration_s": ("duration_s", "duration"),
    "arrivals": ("arrivals",),
    "prompt_tokens": ("prompt_tokens", "isl", "input_tokens", "input_len", "random_input_len"),
    "output_tokens": ("output_tokens", "osl", "output_len", "random_output_len"),
    "unique_prompts": ("unique_prompts",),
}  # fmt: skip
IGNORED = ("workload", "served", "failed", "note", "notes", "comment", "source", "date")
TIMES = ("ttft", "tpot", "e2e")
WORDS = {
    "tpot": ("tpot", "time_per_output_token"),
    "ttft": ("ttft", "time_to_first_token"),
    "e2e": ("e2e", "latency", "e2el", "request_latency"),
}
STATISTIC = {
    "mean": "mean", "avg": "mean", "average": "mean", "p50": "p50", "median": "p50", "p90": "p90", "p95": "p95",
    "p99": "p99",
}  # fmt: skip
THROUGHPUT = {
    "requests_per_s": ("requests_per_s", "request_throughput"),
    "output_tokens_per_s": ("output_tokens_per_s", "output_throughput"),
}
NEEDED = ("prompt_tokens", "output_tokens")
LOADS = ("rate_per_s", "concurrency", "requests_at_once")


@dataclass(frozen=True)
class ServedPoint:
    """One measured load of one server; times in seconds, sizes in tokens."""

    where: str  # file and row, for error messages
    label: str
    gpu: str
    model: str
    tensor_parallel: int | None
    engine: str
    load: str  # one of LOADS
    amount: float  # requests a second, clients, or requests
    prompt_tokens: int
    output_tokens: int
    poisson: bool
    duration_s: float | None  # of the arrivals of a rate
    requests: int | None
    unique_prompts: int | None  # None: every prompt is another
    limits: Mapping[str, float | bool | None] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)  # columns that are none of the above
    measured: Mapping[str, float] = field(default_factory=dict)  # by name, such as "TPOT mean" [s] or "requests/s"


def is_points_file(path: Path) -> bool:
    """Return whether a CSV has a load, lengths and a measured time among its columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError):
        return False
    names, times, _ = _header(header)
    return bool(set(names) & set(LOADS)) and set(NEEDED) <= set(names) and bool(times)


def read_points(path: Path) -> list[ServedPoint]:
    """Read a CSV of measured points.

    Raises:
        BurstenvError: On a file that cannot be read, a column that is missing, or a value that is wrong; names file,
            row and column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            rows = [row for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None
    names, times, flags = _header(header)
    missing = [" or ".join(COLUMNS[n]) for n in NEEDED if n not in names]
    if not set(names) & set(LOADS):
        missing.append(", ".join(LOADS[:-1]) + " or " + LOADS[-1])
    if not times:
        missing.append("a measured time such as tpot_mean_ms, ttft_p50_ms or e2e_mean_ms")
    if missing:
        raise BurstenvError(f"{path}: a column is missing: {'; '.join(missing)}")
    if not rows:
        raise BurstenvError(f"{path}: no rows below the header")
    return [_point(path, k + 2, row, names, times, flags) for k, row in enumerate(rows)]


def _header(header: list[str]) -> tuple[dict[str, int], dict[str, tuple[int, float]], dict[str, int]]:
    """Return the columns by our names, the measured times by label with their unit in seconds, and all others."""
    known = {alias: name for name, aliases in COLUMNS.items() for alias in aliases}
    rates = {alias: name for name, aliases in THROUGHPUT.items() for alias in aliases}
    names: dict[str, int] = {}
    times: dict[str, tuple[int, float]] = {}
    flags: dict[str, int] = {}
    for at, cell in enumerate(header):
        key = re.sub(r"[^a-z0-9]+", "_", cell.strip().lower()).strip("_")
        if key in known:
            names.setdefault(known[key], at)
        elif key in rates:
            times[rates[key].replace("_per_s", "/s").replace("_", " ")] = (at, 1.0)
        elif (found := _time_column(key)) is not None:
            times[found[0]] = (at, found[1])
        elif key and key not in IGNORED:
            flags[cell.strip()] = at
    return names, times, flags


def _time_column(key: str) -> tuple[str, float] | None:
    """Return what a column such as ``mean_ttft_ms`` measures and its unit [s], None for another column."""
    unit = 1e-3 if key.endswith("_ms") else 1.0 if key.endswith("_s") else None
    stem = key.rpartition("_")[0] if unit is not None else key
    for metric, words in WORDS.items():
        for word in words:
            for name, statistic in STATISTIC.items():
                if stem in (f"{word}_{name}", f"{name}_{word}"):
                    return f"{metric.upper()} {statistic}", 1e-3 if unit is None else unit
    return None


def _point(
    path: Path, number: int, row: list[str], names: Mapping[str, int], times: Mapping[str, tuple[int, float]],
    flags: Mapping[str, int],
) -> ServedPoint:  # fmt: skip
    where = f"{path}: row {number}"

    def text(name: str) -> str:
        at = names.get(name)
        return row[at].strip() if at is not None and at < len(row) else ""

    def value(name: str, least: float = 0.0) -> float | None:
        """Return the number in a cell such as ``2048`` or ``default (2048)``; None where the cell has none."""
        cell = text(name)
        found = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", cell.replace(",", ""))
        if not cell or not found:
            return None
        number_in_cell = float(found[0])
        if number_in_cell < least:
            raise BurstenvError(f"{where}: {name} must be at least {least:g}, got {cell!r}")
        return number_in_cell

    loads = [name for name in LOADS if text(name)]
    if len(loads) != 1:
        raise BurstenvError(f"{where}: one of {', '.join(LOADS)} must say the load, got {', '.join(loads) or 'none'}")
    sizes = {}
    for name in NEEDED:
        size = value(name, 1)
        if size is None:
            raise BurstenvError(f"{where}: {name} must be a number of tokens, got {text(name)!r}")
        sizes[name] = round(size)
    amount = value(loads[0], 1e-6)
    if amount is None or (loads[0] != "rate_per_s" and amount < 1):
        raise BurstenvError(f"{where}: {loads[0]} must be a number above 0, got {text(loads[0])!r}")
    duration_s, requests = value("duration_s"), value("requests", 1)
    measured = _measured(where, row, times)
    if loads[0] == "requests_at_once" and duration_s:
        measured["duration"] = duration_s
    degree = value("tensor_parallel", 1)
    limits: dict[str, float | bool | None] = {
        name: value(name)
        for name in (
            "block_size", "max_num_batched_tokens", "max_num_seqs", "max_model_len", "gpu_memory_utilization",
            "num_gpu_blocks", "kv_tokens",
        )
    }  # fmt: skip
    for name in ("prefix_caching", "asynchronous"):
        word = text(name).lower()
        said = re.search(r"\b(on|true|yes|enabled|off|false|no|disabled)\b", word)
        limits[name] = None if said is None else said[1] in ("on", "true", "yes", "enabled")
    return ServedPoint(
        where=where,
        label=_label(text("run"), text("model"), degree, loads[0], amount, sizes),
        gpu=text("gpu"),
        model=text("model"),
        tensor_parallel=None if degree is None else round(degree),
        engine=text("engine"),
        load=loads[0],
        amount=amount,
        prompt_tokens=sizes["prompt_tokens"],
        output_tokens=sizes["output_tokens"],
        poisson="poisson" in text("arrivals").lower(),
        duration_s=duration_s,
        requests=None if requests is None else round(requests),
        unique_prompts=_unique(text("unique_prompts")),
        limits=limits,
        flags={name: row[at].strip() for name, at in flags.items() if at < len(row) and row[at].strip()},
        measured=measured,
    )


def _measured(where: str, row: list[str], times: Mapping[str, tuple[int, float]]) -> dict[str, float]:
    measured = {}
    for label, (at, unit) in times.items():
        cell = row[at].strip() if at < len(row) else ""
        if not cell:
            continue
        try:
            number = float(cell)
        except ValueError:
            raise BurstenvError(f"{where}: {label} must be a number, got {cell!r}") from None
        if not 0.0 < number < 1e12:
            raise BurstenvError(f"{where}: {label} must be above 0, got {cell!r}")
        measured[label] = number * unit
    if not measured:
        raise BurstenvError(f"{where}: nothing was measured; every column of a time is empty")
    return measured


def _unique(cell: str) -> int | None:
    """Return the distinct prompts that a cell speaks of: its first number, or the middle of ``45 to 100``."""
    between = re.search(r"(\d+)\s*(?:to|-)\s*(\d+)", cell)
    if between:
        return (int(between[1]) + int(between[2])) // 2
    number = re.search(r"\d+", cell)
    return int(number[0]) if number and int(number[0]) > 0 else None


def _label(
    run: str, model: str, degree: float | None, load: str, amount: float, sizes: Mapping[str, Any]
) -> str:  # fmt: skip
    if run:
        return run
    unit = {"rate_per_s": "/s", "concurrency": " clients", "requests_at_once": " at once"}[load]
    gpus = f" tp{degree:g}" if degree else ""
    short = model.rpartition("/")[2] or "server"
    return f"{short}{gpus} {amount:g}{unit} {sizes['prompt_tokens']}+{sizes['output_tokens']}"
