"""The ``burstenv`` command: thin, every subcommand is one call into the package."""

from __future__ import annotations

import argparse
import sys

from burstenv import __version__
from burstenv.cli import agents, bench, evaluate, listing, simulate, trace, train, tune, validate
from burstenv.errors import BurstenvError


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns 0, 1 when a check failed or the input was wrong, 130 when interrupted."""
    arguments = make_parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except BurstenvError as error:
        print(f"burstenv: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print("burstenv: interrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="burstenv", description="Learn and judge LLM-serving schedulers under BurstGPT traffic."
    )
    parser.add_argument("--version", action="version", version=f"burstenv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (simulate, train, evaluate, tune, agents, listing, trace, validate, bench):
        module.register(commands)
    return parser
