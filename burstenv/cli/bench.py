"""`burstenv bench`."""

from __future__ import annotations

import argparse

from burstenv.cli.common import Commands, add_command, agents_module, emit


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(commands, "bench", _bench, "Measure speeds, each beside its floor in the same run.")
    sub.add_argument("--quick", action="store_true", help="a tenth of the work, noisier")
    sub.add_argument("--skip-ppo", action="store_true", help="leave out training, which needs the train extra")


def _bench(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.bench import bench_engine, bench_environments, bench_prefix_caching, bench_whole_burstgpt

    scale = 0.1 if arguments.quick else 1.0
    rows = [
        *bench_engine(scale),
        *bench_prefix_caching(scale),
        *bench_whole_burstgpt(scale),
        *bench_environments(scale),
    ]
    if not arguments.skip_ppo:
        rows += agents_module("bench").bench_ppo(scale)
    emit(arguments, rows, [str(row["line"]) for row in rows])
    return 0
