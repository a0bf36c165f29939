"""`burstenv trace ...`: the group of commands about traces."""

from __future__ import annotations

from burstenv.cli import trace_files, trace_models, trace_plot, trace_shape
from burstenv.cli.common import Commands


def register(commands: Commands) -> None:
    """Add the group and its subcommands."""
    group = commands.add_parser("trace", help="Everything about traces.", description="Everything about traces.")
    sub = group.add_subparsers(required=True, metavar="COMMAND")
    for module in (trace_files, trace_plot, trace_shape, trace_models):
        module.register(sub)
