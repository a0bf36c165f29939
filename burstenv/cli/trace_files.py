"""`burstenv trace info`: trace files as they are."""

from __future__ import annotations

import argparse

from burstenv.cli.common import Commands, add_command, emit, read_trace_or_workload


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(commands, "info", _info, "Counts, rates, lengths, burstiness and what was set aside.")
    sub.add_argument("trace", help="a CSV or a workload name")


def _info(arguments: argparse.Namespace) -> int:
    from burstenv.workload.describe import describe_lines

    description = read_trace_or_workload(arguments.trace).describe()
    emit(arguments, description, describe_lines(description))
    return 0
