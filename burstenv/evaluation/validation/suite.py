"""Everything measured in a folder, replayed: one table, one line each, and the page of errors."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burstenv.config import load, shipped
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.aggregates import PointsValidation, validate_points
from burstenv.evaluation.validation.measured_run import METRICS, RunValidation, validate_run
from burstenv.evaluation.validation.routers import RouterValidation, is_router_file, validate_routers
from burstenv.evaluation.validation.served_points import is_points_file
from burstenv.evaluation.validation.server import OLDER_UTILIZATION, ServerOptions
from burstenv.files import write_atomic
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig, known_as
from burstenv.hardware.memory import kv_blocks

CAPACITY_COLUMNS = {"model", "gpu", "tensor_parallel", "kv_tokens"}
Result = RunValidation | PointsValidation | RouterValidation


@dataclass(frozen=True)
class Capacity:
    """One KV capacity that a server had, and what memory says [tokens]."""

    label: str
    measured_tokens: int
    at_least: bool  # only a lower bound is known
    simulated_tokens: int

    @property
    def error_percent(self) -> float:
        """Simulated against measured [%]."""
        return 100.0 * (self.simulated_tokens / self.measured_tokens - 1.0)


@dataclass(frozen=True)
class CapacityValidation:
    """KV capacities of a CSV."""

    name: str
    rows: tuple[Capacity, ...]

    def lines(self) -> list[str]:
        """Return the table to show."""
        lines = [
            f"{self.name}: KV cache [tokens] at gpu_memory_utilization {OLDER_UTILIZATION:g}, measured -> from memory"
        ]
        for row in self.rows:
            bound = ">= " if row.at_least else ""
            lines.append(
                f"{row.label:<34}{bound + format(row.measured_tokens, ','):>14} ->{row.simulated_tokens:>10,} "
                f"{row.error_percent:+7.1f} %"
            )
        return [*lines, self.summary()]

    def summary(self) -> str:
        """Return the one line: the exact ones, and the bounds that are kept."""
        exact = [abs(row.error_percent) for row in self.rows if not row.at_least]
        bounds = [row for row in self.rows if row.at_least]
        parts = [f"{len(exact)} exact capacities within {max(exact):.1f} %"] if exact else []
        if bounds:
            kept = sum(row.simulated_tokens >= row.measured_tokens for row in bounds)
            parts.append(f"{kept} of {len(bounds)} lower bounds kept")
        return f"KV cache: {', '.join(parts)}"

    def values(self) -> dict[str, Any]:
        """Return the same as plain values."""
        rows = [{**vars(row), "error_percent": row.error_percent} for row in self.rows]
        return {"name": self.name, "rows": rows, "summary": self.summary()}


@dataclass(frozen=True)
class SuiteValidation:
    """All of a folder."""

    folder: Path
    results: tuple[Result | CapacityValidation, ...]
    skipped: tuple[str, ...]  # sentences on what could not be replayed
    page: Path | None

    def lines(self) -> list[str]:
        """Return one line for each source, its far points below it."""
        lines = []
        for result in self.results:
            lines.append(f"{_name(result)}: {_summary(result)}")
            if isinstance(result, PointsValidation):
                lines += [f"  {line}" for line in (*result.far(), *result.agreement.lines())]
        lines += [f"not replayed: {sentence}" for sentence in self.skipped]
        if self.page is not None:
            lines.append(f"page: {self.page}")
        return lines

    def values(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {
            "folder": str(self.folder),
            "results": [result.values() for result in self.results],
            "not_replayed": list(self.skipped),
            "page": str(self.page) if self.page else None,
        }


def _name(result: Result | CapacityValidation) -> str:
    return result.run if isinstance(result, RunValidation) else result.name


def _summary(result: Result | CapacityValidation) -> str:
    if not isinstance(result, RunValidation):
        return result.summary()
    parts = []
    for metric in METRICS:
        errors = [f"{r.error_percent:+.1f}" for r in result.rows if r.metric == metric and r.statistic != "p90"]
        parts.append(f"{metric} {' / '.join(errors)} %")
    return f"{result.requests} requests, errors of mean / p50 / p99: {', '.join(parts)}"


def sources_in(folder: Path) -> list[Path]:
    """Return everything below a folder that can be validated, recorded schedules left out."""
    found = [path.parent for path in sorted(folder.rglob("meta.json")) if (path.parent / "requests.jsonl").exists()]
    found += [path for path in sorted(folder.rglob("*.csv")) if is_points_file(path) or _is_capacity_file(path)]
    return found + [path for path in sorted(folder.rglob("*.json")) if is_router_file(path)]


def validate_source(path: Path, options: ServerOptions, out: Path | None = None) -> Result | CapacityValidation:
    """Replay one source: a measured run, a CSV of points or of KV capacities, or a comparison of routers.

    Raises:
        BurstenvError: When it is none of them, or cannot be replayed.
    """
    if path.is_dir():
        return validate_run(path, None, out, options)
    if path.suffix.lower() == ".json":
        if path.name == "meta.json":
            return validate_run(path.parent, None, out, options)
        return _without_picture(validate_routers(path, options), out)
    if path.suffix.lower() == ".jsonl":
        return validate_run(path.parent, None, out, options)
    if _is_capacity_file(path):
        return _without_picture(_validate_capacities(path), out)
    return validate_points(path, options, out)


def _without_picture(result: Any, out: Path | None) -> Any:
    if out is not None:
        raise BurstenvError("--out draws runs and points; this source has no picture")
    return result


def _is_capacity_file(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = {cell.strip() for cell in next(csv.reader(stream), [])}
    except (OSError, UnicodeDecodeError, csv.Error):
        return False
    return header >= CAPACITY_COLUMNS and not header & {"rate_per_s", "concurrency", "requests_at_once"}


def _validate_capacities(path: Path) -> CapacityValidation:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            text = (row["kv_tokens"] or "").replace(",", "").strip()
            digits = next((word for word in text.replace(">=", " ").split() if word.isdigit()), None)
            if digits is None or not (row["tensor_parallel"] or "").strip().isdigit():
                raise BurstenvError(f"{path}: row {number}: kv_tokens and tensor_parallel must be whole numbers")
            try:
                share = float(row.get("gpu_memory_utilization") or OLDER_UTILIZATION)
            except ValueError:
                raise BurstenvError(f"{path}: row {number}: gpu_memory_utilization must be a number") from None
            model = known_as(ModelConfig, "models", row["model"])
            hardware = known_as(HardwareConfig, "hardware", row["gpu"])
            degree = int(row["tensor_parallel"])
            tokens = 16 * kv_blocks(model, hardware, degree, 16, share)
            label = f"{model.name} on {degree} x {hardware.name}"
            rows.append(Capacity(label, int(digits), ">" in text, tokens))
    if not rows:
        raise BurstenvError(f"{path}: no rows below the header")
    return CapacityValidation(path.stem, tuple(rows))


def validate_suite(folder: Path, options: ServerOptions | None = None, page: Path | None = None) -> SuiteValidation:
    """Replay everything measured below a folder.

    Args:
        folder: Searched to any depth for runs, CSVs of points and of KV capacities, and comparisons of routers.
        options: What the caller says of all servers.
        page: A Markdown file to write the errors to; None: nowhere.

    Raises:
        BurstenvError: When there is no such folder, or nothing in it can be validated.
    """
    if not folder.is_dir():
        raise BurstenvError(f"{folder}: no such folder")
    sources = sources_in(folder)
    if not sources:
        raise BurstenvError(
            f"{folder}: nothing to validate in it; a suite is a folder with measured runs (meta.json, requests.jsonl), "
            f"CSVs of measured points, or comparisons of routers (.json)"
        )
    results: list[Result | CapacityValidation] = []
    skipped: list[str] = []
    for source in sources:
        try:
            results.append(validate_source(source, options or ServerOptions()))
        except BurstenvError as error:
            skipped.append(str(error))
    suite = SuiteValidation(folder, tuple(results), tuple(skipped), page)
    if page is not None:
        write_atomic(page, fidelity_page(results))
    return suite


def fidelity_page(results: Sequence[Result | CapacityValidation]) -> str:
    """Return the page of errors in Markdown: every source, and the evidence of every shipped entry."""
    lines = [
        "# Fidelity",
        "",
        "How far simulated servers are from measured ones, and what stands behind every shipped latency, GPU and link.",
        "Written by `burstenv validate --suite FOLDER --page docs/fidelity.md`; errors are simulated against measured.",
        "",
        "## Errors",
        "",
        "| measured | errors |",
        "|---|---|",
    ]
    lines += [f"| {_name(result)} | {_summary(result)} |" for result in results]
    for result in results:
        if isinstance(result, PointsValidation):
            lines += ["", f"### {result.name}", "", *_points_table(result)]
            lines += [f"- {line}" for line in (*result.far(), *result.agreement.lines())]
        elif isinstance(result, RouterValidation):
            lines += ["", f"### {result.name}", "", "```text", *result.lines(), "```"]
    lines += ["", "## Iteration times", "", "| entry | form | source and error | use |", "|---|---|---|---|"]
    lines += [_entry_row(name) for name in shipped("latency")]
    lines += [
        "| any other model and GPU | roofline | shares of the GPU below, constants fitted to the points on H100 | "
        "sizing; expect 10 to 20 % on a GPU without evidence |",
        "", "## GPUs", "", "| GPU | memory [GiB] | link | evidence |", "|---|---|---|---|",
    ]  # fmt: skip
    for name in shipped("hardware"):
        gpu = load(HardwareConfig, "hardware", name)
        lines.append(f"| {name} | {gpu.memory_gib:g} | {gpu.link} | {gpu.evidence or 'data sheet'} |")
    return "\n".join(lines) + "\n"


def _points_table(result: PointsValidation) -> list[str]:
    names = [n for n in ("TPOT mean", "E2E mean", "TTFT mean") if any(n in p.measured for p in result.points)]
    rows = [
        "| point | iteration times | " + " | ".join(f"{n} [%]" for n in names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for p in result.points:
        cells = [f"{p.error_percent(n):+.1f}" if n in p.measured else "-" for n in names]
        rows.append(f"| {p.point.label} | {p.source} | " + " | ".join(cells) + " |")
    return [*rows, ""]


def _entry_row(name: str) -> str:
    from burstenv.hardware.latency.entry import load_latency

    entry = load_latency(name)
    whole = next((e for e in entry.fit_errors if e.part == "whole iteration"), None)
    error = f"; mean error of an iteration {whole.mean_percent:g} %" if whole is not None else ""
    return f"| {name} | {entry.kind} | {entry.source}{error} | {entry.use or 'training and comparing policies'} |"
