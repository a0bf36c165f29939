"""`burstenv trace shape`: select from traces, superpose them, scale them to a rate, and write the result."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import Commands, add_command, add_reading_arguments, emit, read_trace_or_workload
from burstenv.errors import BurstenvError


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "shape",
        _shape,
        "Select requests of traces, superpose them, scale the result to a rate, and write it to OUT.",
        example="burstenv trace shape burstgpt-default busy.csv --days 3 10 --rate-per-s 20",
    )
    sub.add_argument("trace", nargs="+", help="trace files or workload names; several are mixed")
    sub.add_argument(
        "out", metavar="OUT", help="file to write: .csv (BurstGPT), .jsonl (Mooncake), .parquet; .gz compresses"
    )
    sub.add_argument("--to", help="format, for any ending: burstgpt, plain, mooncake or parquet")
    sub.add_argument("--model", nargs="+", help="keep these models: ChatGPT, GPT-4, other")
    sub.add_argument("--class", dest="class_name", nargs="+", help="keep these classes: conversation, api")
    sub.add_argument("--days", nargs=2, type=float, metavar=("FIRST", "LAST"), help="keep days [FIRST, LAST)")
    sub.add_argument("--shares", nargs="+", type=float, metavar="SHARE", help="share of each trace in a mix, sum 1")
    sub.add_argument("--rate-per-s", type=float, metavar="R", help="scale the result to this many requests per second")
    sub.add_argument(
        "--scaling",
        choices=("superpose", "compress", "thin"),
        help="method of scaling (default: superpose)",
    )
    sub.add_argument(
        "--duration-s", type=float, metavar="S", help="a window of this length, moved to time 0, drawn by --seed"
    )
    sub.add_argument("--seed", type=int, default=0, help="seed of scaling and of the window (default: 0)")
    add_reading_arguments(sub)


def _shape(arguments: argparse.Namespace) -> int:
    from burstenv.config import parse
    from burstenv.workload.formats.convert import convert, format_of
    from burstenv.workload.shaping.mixing import mix
    from burstenv.workload.shaping.rates import scale_to_rate, stretch
    from burstenv.workload.shaping.selection import SelectConfig, select

    if arguments.scaling is not None and arguments.rate_per_s is None:
        raise BurstenvError("--scaling needs a --rate-per-s to scale to")
    form = format_of(Path(arguments.out), arguments.to)  # before minutes of reading
    if arguments.shares is not None and len(arguments.trace) == 1:
        raise BurstenvError("--shares needs several traces")
    wanted = {"model": arguments.model, "class": arguments.class_name, "days": arguments.days}
    given = {name: value for name, value in wanted.items() if value is not None}
    selection = parse(SelectConfig, given, "command line")
    traces = [select(read_trace_or_workload(name, arguments, arguments.seed), selection) for name in arguments.trace]
    trace = traces[0] if len(traces) == 1 else mix(traces, shares=arguments.shares, seed=arguments.seed)
    if arguments.rate_per_s is not None:
        scaling = arguments.scaling or "superpose"
        trace = scale_to_rate(trace, arguments.rate_per_s, scaling, arguments.seed, arguments.duration_s)
    elif arguments.duration_s is not None:
        trace = stretch(trace, arguments.duration_s, arguments.seed)
    if len(trace) == 0:
        raise BurstenvError("no request is left; take a longer --duration-s or another --seed")
    if arguments.duration_s is not None:
        firsts = [values[0] for values in (trace.arrival_s, trace.failures.arrival_s) if len(values)]
        trace = trace.shift(-float(min(firsts)))
    convert(trace, arguments.out, form, exact_times=form == "burstgpt")
    steps = list(trace.metadata.get("steps", ()))
    result = {"out": str(arguments.out), "requests": len(trace), "failures": len(trace.failures), "steps": steps}
    lines = [
        f"{arguments.out}: {len(trace):,} requests and {len(trace.failures):,} failures over {trace.span_s:,.0f} s"
    ]
    emit(arguments, result, [*lines, *(f"  {step}" for step in steps)])
    return 0
