"""`burstenv trace plot`: figures of a trace."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import (
    Commands,
    add_command,
    add_reading_arguments,
    emit,
    output_place,
    read_trace_or_workload,
)


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "plot",
        _plot,
        "Draw weekly and daily periodicity, tokens per hour, lengths, responses given prompts, conversations, failures "
        "and burstiness: one PNG each, and trace.html with all of them, into --out.",
        example="burstenv trace plot trace.csv --out pictures",
    )
    sub.add_argument("trace", help="a trace file or a workload name")
    sub.add_argument("--out", type=output_place, metavar="FOLDER", help="output folder (default: trace-NAME)")
    add_reading_arguments(sub)


def _plot(arguments: argparse.Namespace) -> int:
    from burstenv.workload.plots.style import need_matplotlib
    from burstenv.workload.plots.trace_page import write_trace_plots

    need_matplotlib()  # before minutes of reading
    name = Path(arguments.trace).name.removesuffix(".gz").rsplit(".", 1)[0] or arguments.trace
    folder = arguments.out if arguments.out is not None else Path(f"trace-{name}")
    paths = write_trace_plots(read_trace_or_workload(arguments.trace, arguments), folder, f"Trace: {name}")
    lines = [f"{len(paths) - 1} figures in {folder}", f"page: {paths['html']}"]
    emit(arguments, {name: str(path) for name, path in paths.items()}, lines)
    return 0
