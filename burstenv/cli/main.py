"""The ``burstenv`` command: thin, every subcommand is one call into the package."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from types import FrameType

from burstenv import __version__
from burstenv.cli import (
    agents,
    bench,
    completion,
    engines,
    evaluate,
    hardware,
    listing,
    load,
    paper,
    plan,
    schema,
    serve,
    simulate,
    trace,
    train,
    tune,
    validate,
)
from burstenv.cli.common import WrongPlaceError
from burstenv.cli.parser import Parser, example_of
from burstenv.errors import BurstenvError

_main_process = 0


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand; returns 0, 1 after a failed check or a wrong input, 130 or 143 after an interruption."""
    for descriptor in range(3):  # a data file must not take the descriptor of a closed standard output
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    global _main_process
    before, _main_process = None, os.getpid()
    try:
        with contextlib.suppress(ValueError):  # not in the main thread
            before = signal.signal(signal.SIGTERM, _end)
        return _run(argv)
    except KeyboardInterrupt as error:
        print(f"burstenv: {error.args[0] if error.args else 'interrupted'}", file=sys.stderr)
        return 143 if error.args else 130
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    """End like Ctrl-C, which removes temporary files."""
    if os.getpid() != _main_process:  # a forked worker has nothing to clean up
        os._exit(143)
    raise KeyboardInterrupt("terminated")


def _run(argv: list[str] | None) -> int:
    try:
        try:
            parser = make_parser()
            completion.complete(parser)
            arguments = parser.parse_args(argv)
            arguments.given = _given(argv)
            return int(arguments.run(arguments) or 0)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except (BurstenvError, WrongPlaceError) as error:
        return _failed(str(error))
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
        _silence()
        return 1
    except OSError as error:
        _silence()
        place = error.filename if error.filename is not None else "standard output"
        return _failed(f"{place}: {error.strerror or error}")
    except MemoryError:
        return _failed("there is not enough memory for this; take a smaller trace, scenario or number of environments")


def _given(argv: list[str] | None) -> set[str]:
    """Return the names of the arguments that were written, whatever their values."""
    parser = make_parser()
    waiting = [parser]
    while waiting:
        for action in waiting.pop()._actions:
            action.default = argparse.SUPPRESS
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
    return set(vars(parser.parse_args(argv))) - {"run"}


def _failed(sentence: str) -> int:
    print(f"burstenv: {sentence}", file=sys.stderr)
    return 1


def _silence() -> None:
    """Redirect standard output; otherwise the rest of its buffer would fail again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="burstenv",
        epilog=example_of("burstenv simulate burstgpt-default --duration-s 600 --timeline episode.html"),
        description="Train and judge LLM-serving schedulers under BurstGPT traffic.",
    )
    parser.add_argument("--version", action="version", version=f"burstenv {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    verbs = (
        simulate, train, evaluate, paper, tune, plan, agents, listing, hardware, schema, trace, validate, serve, load,
        engines, bench, completion,
    )  # fmt: skip
    for module in verbs:
        module.register(commands)
    return parser
