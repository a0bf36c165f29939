"""`burstenv schema`: JSON schemas of the YAML files, by which editors complete and check keys."""

from __future__ import annotations

import argparse
from pathlib import Path

from burstenv.cli.common import Commands, add_command, emit, output_place


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands,
        "schema",
        _schema,
        "List the kinds of YAML file, or print the JSON schema of one, for editors.",
        example="burstenv schema scenarios",
    )
    sub.add_argument("kind", nargs="?", help="a folder of configs/, such as scenarios")
    sub.add_argument("--out", type=output_place, metavar="FOLDER", help="write the schema, or all, there")


def _schema(arguments: argparse.Namespace) -> int:
    from burstenv.files import write_atomic
    from burstenv.schemas import KINDS, first_line, schema, schema_text

    if arguments.out is not None:
        written: list[Path] = []
        for kind in KINDS if arguments.kind is None else [arguments.kind]:
            written.append(arguments.out / f"{kind}.json")
            write_atomic(written[-1], schema_text(kind))
        emit(arguments, {"files": [str(path) for path in written]}, [str(path) for path in written])
        return 0
    if arguments.kind is not None:
        emit(arguments, schema(arguments.kind), [schema_text(arguments.kind).rstrip()])
        return 0
    kinds = {kind: {"what": what, "first_line": first_line(kind).rstrip()} for kind, (what, _, _) in KINDS.items()}
    lines = ["first line of a YAML file, by kind:"]
    for kind, said in kinds.items():
        lines += [f"{kind}: {said['what']}", f"  {said['first_line']}"]
    emit(arguments, kinds, lines)
    return 0
