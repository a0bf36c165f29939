"""`burstenv trace generate`, `fit` and `fidelity`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from burstenv.cli.common import (
    Commands,
    add_command,
    add_reading_arguments,
    check_options,
    emit,
    output_file,
    read_trace_or_workload,
)
from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.workload import Trace

_PARTS = ("all", "even-weeks", "odd-weeks", "even-days", "odd-days", "even-rows", "odd-rows")


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "generate",
        _generate,
        "Generate a trace and write it to OUT, in the format of its ending.",
        example="burstenv trace generate week.csv --days 7 --seed 1",
    )
    sub.add_argument(
        "out", metavar="OUT", help="file to write: .csv (BurstGPT), .jsonl (Mooncake), .parquet; .gz compresses"
    )
    sub.add_argument("--to", choices=("burstgpt", "plain", "mooncake", "parquet"), help="format, for any ending")
    sub.add_argument(
        "--whole-seconds", action="store_true", help="cut times to whole seconds, as the official BurstGPT files do"
    )
    sub.add_argument("--workload", help="shipped workload or YAML file (default: burstgpt-default)")
    sub.add_argument("--days", type=int, help="days to generate (default: the workload's)")
    sub.add_argument("--seed", type=int, help="seed (default: the workload's)")
    sub.add_argument("--scale", type=float, default=1.0, help="multiple of the population of every class (default: 1)")
    sub.add_argument(
        "--model",
        choices=("burstenv", "paper"),
        default="burstenv",
        help="generator: burstenv's, or the paper's (Gamma gaps by 20 minutes, Zipf lengths), which needs --like",
    )
    sub.add_argument("--like", metavar="TRACE", help="trace for the fit of the paper's models")
    add_reading_arguments(sub)

    sub = add_command(
        commands,
        "fit",
        _fit,
        "Fit the generator to a trace and write it as a workload, a YAML file, to --out.",
        example="burstenv trace fit trace.csv --out fitted.yaml",
    )
    sub.add_argument("trace", metavar="TRACE", help="a trace file or a workload name")
    sub.add_argument(
        "--out", type=output_file(".yaml", ".yml"), required=True, metavar="YAML", help="workload file to write"
    )
    sub.add_argument("--part", choices=_PARTS, default="all", help="fit to this part of the trace (default: all)")
    sub.add_argument("--seed", type=int, default=0, help="seed of the written workload (default: 0)")
    sub.add_argument("--days", type=int, help="days of the written workload (default: those of the trace)")
    add_reading_arguments(sub)

    sub = add_command(
        commands,
        "fidelity",
        _fidelity,
        "Compare trace B with trace A by lengths, bursts, cycles, sessions and failures; prints a table.",
        example="burstenv trace fidelity trace.csv fitted.yaml --out fidelity.html",
    )
    sub.add_argument("reference", metavar="A", help="the real trace: a file or a workload name")
    sub.add_argument("candidate", metavar="B", help="the trace to compare: a file or a workload name")
    sub.add_argument(
        "--out",
        type=output_file(".html", ".png"),
        metavar="FILE",
        help="also write figures and table as .html, or figures as .png",
    )
    sub.add_argument(
        "--part", choices=_PARTS, default="all", help="part of A to use, such as the one held out of a fit"
    )
    sub.add_argument(
        "--paper", action="store_true", help="also compare the paper's own models, fitted to the rest of A"
    )
    sub.add_argument("--floor", action="store_true", help="also compare A's alternate weeks (or days) with each other")
    add_reading_arguments(sub)


def _generate(arguments: argparse.Namespace) -> int:
    from burstenv.workload.formats.convert import convert, format_of

    out = Path(arguments.out)
    form = format_of(out, arguments.to)  # before minutes of work
    if arguments.whole_seconds and form != "burstgpt":
        raise BurstenvError(f"--whole-seconds is for BurstGPT CSV, not {form}")
    trace = _made(arguments)
    convert(trace, out, form, exact_times=form == "burstgpt" and not arguments.whole_seconds)
    days = trace.metadata["days"]
    result = {"out": str(out), "requests": len(trace), "failures": len(trace.failures), "days": days}
    failed = f" and {len(trace.failures):,} failures" if len(trace.failures) else ""
    emit(arguments, result, [f"{out}: {len(trace):,} requests{failed} over {days} days"])
    return 0


def _made(arguments: argparse.Namespace) -> Trace:
    """Return the trace of `generate`."""
    from burstenv.arguments import number
    from burstenv.workload.generator import generate
    from burstenv.workload.generator.paper import generate_paper
    from burstenv.workload.workload_config import load_workload

    check_options(arguments, scale=number(above=0.0))
    if arguments.model == "paper":
        if arguments.like is None:
            raise BurstenvError("--model paper is fitted to a trace: name one with --like")
        if arguments.workload is not None:
            raise BurstenvError("--workload is for burstenv's generator; the paper's models are fitted to --like")
        if arguments.scale != 1:
            raise BurstenvError("--scale is for burstenv's generator; the paper's models keep the rates of --like")
        return generate_paper(read_trace_or_workload(arguments.like, arguments), arguments.seed or 0, arguments.days)
    if arguments.like is not None:
        raise BurstenvError("--like belongs to --model paper; to imitate a trace, use `burstenv trace fit` first")
    for option in ("columns", "time_unit", "sort"):
        if getattr(arguments, option):
            raise BurstenvError(f"--{option.replace('_', '-')} is an option for reading --like, which is missing")
    name = "burstgpt-default" if arguments.workload is None else arguments.workload
    config = load_workload(name)
    if config.kind != "generated" or config.days is None:
        raise BurstenvError(f"workload {name!r} reads a file; generate needs one of kind 'generated'")
    generator = config.generator or load_workload().generator
    assert generator is not None
    days = config.days if arguments.days is None else arguments.days
    seed = config.seed if arguments.seed is None else arguments.seed
    return generate(generator.scaled(arguments.scale), days, seed)


def _fit(arguments: argparse.Namespace) -> int:
    from burstenv.files import write_atomic
    from burstenv.workload.fidelity.holdout import days_of_part, part_of
    from burstenv.workload.generator.fit import fit, fit_lines
    from burstenv.workload.generator.fit_yaml import workload_yaml

    out = arguments.out
    trace = read_trace_or_workload(arguments.trace, arguments)
    found = fit(part_of(trace, arguments.part), days=days_of_part(trace, arguments.part))
    source = Path(arguments.trace).name + ("" if arguments.part == "all" else f", {arguments.part}")
    days = found.days if arguments.days is None else arguments.days
    if days < 1 or arguments.seed < 0:
        raise BurstenvError(f"need --days of at least 1 and --seed of at least 0, got {days} and {arguments.seed}")
    write_atomic(out, workload_yaml(found, source, days=days, seed=arguments.seed))
    result = {"out": str(out), "days": days, "streams": found.streams, "left_out": found.left_out}
    emit(arguments, result, [*fit_lines(found), f"{out}: written"])
    return 0


def _names(reference: str, candidate: str) -> tuple[str, str]:
    """Return what two traces are called: by the least of their paths that tells them apart."""
    parts: tuple[Callable[[str], str], ...] = (lambda path: Path(path).stem, lambda path: Path(path).name, str)
    for part in parts:
        names = part(reference), part(candidate)
        if names[0] != names[1] and "paper" not in names:  # the paper's own models are called that
            return names
    return Path(reference).name, f"{Path(candidate).name} (again)"


def _fidelity(arguments: argparse.Namespace) -> int:
    from burstenv.workload.fidelity.holdout import other_part, part_of
    from burstenv.workload.fidelity.table import compare, fidelity_lines
    from burstenv.workload.generator.paper import generate_paper

    if arguments.out is not None:
        from burstenv.workload.plots.fidelity import check_output

        check_output(arguments.out)
    reference, candidate = (
        read_trace_or_workload(name, arguments) for name in (arguments.reference, arguments.candidate)
    )
    names = _names(arguments.reference, arguments.candidate)
    candidates = {names[1]: candidate}
    if arguments.paper:
        candidates["paper"] = generate_paper(part_of(reference, other_part(arguments.part)), 0)
    result = compare(reference, candidates, reference_name=names[0], part=arguments.part, floor=arguments.floor)
    lines = fidelity_lines(result)
    if arguments.out is not None:
        from burstenv.workload.plots.fidelity import write_pictures

        write_pictures(result, arguments.out)
        lines.append(f"{arguments.out}: written")
    emit(arguments, result.as_json(), lines)
    return 0
