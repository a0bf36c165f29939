"""`burstenv validate` and `burstenv latency fit`: the model compared with recordings of real engines."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import Commands, add_command, emit, output_file
from burstenv.errors import BurstenvError


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "validate",
        _validate,
        "Replay a recorded schedule (exit 1 at the first difference) or a measured server run (its errors).",
        example="burstenv validate RUN --latency llama-3.1-8b_rtx-4090_tp1 --out cdf.html",
    )
    sub.add_argument(
        "folder",
        type=Path,
        help="recorded schedule (config.json, workload.csv, iterations.jsonl, requests.csv), "
        "or run (meta.json, requests.jsonl)",
    )
    sub.add_argument("--engine", choices=("reference", "fast"), default="reference", help="for a recorded schedule")
    sub.add_argument("--latency", metavar="NAME", help="for a run: entry of configs/latency, or YAML file")
    sub.add_argument(
        "--out",
        type=output_file(".html", ".png", ".svg", ".pdf"),
        metavar="FILE",
        help="for a run: overlaid CDFs (.html, .png, .svg or .pdf)",
    )

    latency = commands.add_parser("latency", help="Iteration times.", description="Iteration times.")
    sub = add_command(
        latency.add_subparsers(required=True, metavar="COMMAND"),
        "fit",
        _latency_fit,
        "Fit an entry of configs/latency to a kernel profile or to measured iterations; prints it with its fit error, "
        "or writes it to --out.",
        example="burstenv latency fit PROFILE --out mine.yaml",
    )
    sub.add_argument("source", type=Path, help="profile folder, or CSV of iterations: P,A,D,K,milliseconds")
    sub.add_argument("--form", choices=("tables", "hinge"), default="tables")
    sub.add_argument("--tensor-parallel", type=int, help="GPUs of the replica (default: the profile's)")
    sub.add_argument("--layers", type=int, help="layers of the model (default: the profile's)")
    sub.add_argument(
        "--out", type=output_file(".yaml", ".yml"), metavar="FILE.yaml", help="write the entry to this file"
    )


def _validate(arguments: argparse.Namespace) -> int:
    if (arguments.folder / "meta.json").exists():
        return _validate_run(arguments)
    from burstenv.evaluation.validation.recorded_schedule import validate_case

    iterations, difference = validate_case(arguments.folder, arguments.engine)
    result = {
        "case": str(arguments.folder),
        "engine": arguments.engine,
        "iterations": iterations,
        "difference": difference,
    }
    emit(arguments, result, [difference or f"identical: {iterations} iterations"])
    return 1 if difference else 0


def _validate_run(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.validation.measured_run import validate_run

    if arguments.latency is None:
        raise BurstenvError(f"{arguments.folder} is a measured run; name its iteration times with --latency")
    result = validate_run(arguments.folder, arguments.latency, arguments.out)
    emit(arguments, result.values(), result.lines())
    return 0


def _latency_fit(arguments: argparse.Namespace) -> int:
    from burstenv.files import write_atomic
    from burstenv.hardware.latency.fit import fit_profile

    fit = fit_profile(arguments.source, arguments.form, arguments.tensor_parallel, arguments.layers)
    lines = fit.lines()
    if arguments.out is not None:
        write_atomic(arguments.out, fit.yaml())
        lines = [*lines, f"entry: {arguments.out}"]
    else:
        lines = [*lines, "", fit.yaml().rstrip()]
    emit(arguments, fit.values(), lines)
    return 0
