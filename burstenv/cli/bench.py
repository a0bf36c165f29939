"""`burstenv bench`."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any

from burstenv.cli.common import Commands, add_command, agents_module, emit, output_file

SUBJECTS = ("engine", "environments", "inference", "training", "gateway")


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "bench",
        _bench,
        "Measure speeds, each with its floor from the same run.",
        example="burstenv bench engine --quick",
    )
    sub.add_argument("subject", nargs="*", metavar="SUBJECT", help=f"of {', '.join(SUBJECTS)} (default: all)")
    sub.add_argument("--quick", action="store_true", help="a tenth of the work, noisier")
    sub.add_argument(
        "--out",
        type=output_file(".md"),
        metavar="FILE.md",
        help="write the figures and the machine to this page; with subjects, the others of the page stay",
    )


def _bench(arguments: argparse.Namespace) -> int:
    from burstenv.errors import unknown_name
    from burstenv.evaluation.bench.figures import page
    from burstenv.evaluation.provenance import command_line
    from burstenv.files import write_atomic

    subjects = arguments.subject or SUBJECTS
    for subject in subjects:
        if subject not in SUBJECTS:
            raise unknown_name("subject of bench", subject, SUBJECTS)
    rows = []
    for row in itertools.chain.from_iterable(_measured(subject, arguments.quick) for subject in subjects):
        rows.append(row)
        if not arguments.json:
            print(row["line"], flush=True)
    if arguments.out is not None:
        before = ""
        if arguments.subject and arguments.out.exists():
            before = arguments.out.read_text(encoding="utf-8")
        write_atomic(arguments.out, page(rows, f"burstenv {command_line(sys.argv[1:])}", before))
    emit(arguments, rows, [f"page: {arguments.out}"] if arguments.out is not None else [])
    return 0


def _measured(subject: str, quick: bool) -> Iterator[dict[str, Any]]:
    scale = 0.1 if quick else 1.0
    if subject == "engine":
        from burstenv.evaluation.bench.engine import bench_engine, bench_first_step, bench_whole_burstgpt

        yield from bench_engine(scale)
        yield from bench_whole_burstgpt(scale)
        if not quick:
            yield from bench_first_step()
    elif subject == "environments":
        from burstenv.evaluation.bench.environments import bench_environments

        yield from bench_environments(scale)
    elif subject == "inference":
        yield from agents_module("bench").bench_inference(scale)
    elif subject == "gateway":
        from burstenv.gateway.extra import module_of_extra

        yield from module_of_extra("burstenv.gateway.trial.figures", "burstenv bench gateway").bench_gateway(scale)
    else:
        yield from agents_module("bench").bench_ppo(scale)
