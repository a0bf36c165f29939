"""Common parts of the subcommands: declaration, input and printed result."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burstenv.cli.parser import example_of
from burstenv.errors import BurstenvError, unknown_name
from burstenv.files import STANDARD_OUTPUT, check_ending

if TYPE_CHECKING:
    from burstenv.arguments import Rule

Commands = Any  # argparse's private _SubParsersAction


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], text: str, example: str
) -> argparse.ArgumentParser:
    """Declare a subcommand with an example and the option ``--json``."""
    plain = text.replace("%", "%%")  # argparse formats a help text, but not a description
    epilog = example_of(example)
    sub: argparse.ArgumentParser = commands.add_parser(name, help=plain, description=text, epilog=epilog)
    sub.set_defaults(run=run)
    sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
    return sub


class WrongPlaceError(Exception):
    """An invalid output path; no ValueError, which argparse would reword."""


def output_file(*endings: str) -> Callable[[str], Path]:
    """Return the type of an argument for an output file with one of some endings (none: any).

    A device, a FIFO and ``-`` (standard output) are accepted too.
    """

    def read(text: str) -> Path:
        path = Path(text)
        try:
            if path.is_dir():
                raise BurstenvError(f"{path} is a folder; name a file")
            if endings:
                check_ending(path, endings, "this")
        except (BurstenvError, OSError) as error:
            raise WrongPlaceError(str(error)) from None
        return path

    return read


def output_place(text: str) -> Path:
    """Read an argument that names a folder, or a file beside which others are written: ``-`` and devices are none."""
    path = Path(text)
    if text == STANDARD_OUTPUT or (path.exists() and not path.is_file() and not path.is_dir()):
        raise WrongPlaceError(f"{text}: several files are written; name a place on a disk")
    return path


def output_page(text: str) -> Path:
    """Read an argument that names an HTML page beside which others are written."""
    return output_file(".html")(str(output_place(text)))


def emit(arguments: argparse.Namespace, result: Any, lines: list[str]) -> None:
    """Print a result: as JSON with ``--json``, otherwise as text.

    If an output of the command went to standard output, the result goes to standard error.
    """
    text = json.dumps(result, indent=1, default=str) if arguments.json else "\n".join(lines)
    beside = any(isinstance(value, Path) and str(value) == STANDARD_OUTPUT for value in vars(arguments).values())
    stream = sys.stderr if beside else sys.stdout
    if stream is None:
        raise BurstenvError("the result cannot be printed, because standard output is closed")
    if text:
        print(text, file=stream)


def add_reading_arguments(sub: argparse.ArgumentParser) -> None:
    """Add the arguments for reading a trace file."""
    sub.add_argument(
        "--columns", metavar="KEY=NAME,...", help="columns of any other CSV or Parquet file, such as arrival_s=ts"
    )
    sub.add_argument(
        "--time-unit", choices=("s", "ms", "us", "ns", "iso"), metavar="UNIT",
        help="s, ms, us, ns or iso (default: s; of JSON lines: by their keys)",
    )  # fmt: skip
    sub.add_argument("--sort", action="store_true", help="sort rows by time; unsorted ones are an error otherwise")


def reading_options(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given ones of :func:`add_reading_arguments`, as ``read_trace`` takes them.

    Raises:
        BurstenvError: If some are given and ``name`` is a workload, whose YAML holds these settings.
    """
    asked = {"columns": arguments.columns, "time_unit": arguments.time_unit, "sort": arguments.sort or None}
    given = {option: value for option, value in asked.items() if value is not None}
    if given and not _is_file(name):
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise BurstenvError(f"{option} belongs to a trace file, {name} is a workload; write it into its YAML")
    if "columns" in given:
        from burstenv.workload.formats.mapped import parse_columns

        given["columns"] = parse_columns(given["columns"])
    return given


def _is_file(name: str) -> bool:
    """Return whether a name stands for a trace file, and not for a workload."""
    from burstenv.workload.workload_config import WorkloadConfig, workload_named

    return workload_named(name) == WorkloadConfig(kind="file", path=name)


def read_trace_or_workload(name: str, arguments: argparse.Namespace, seed: int = 0) -> Any:
    """Return the trace of a file, of an official file's name, of a shipped workload or of a workload's YAML file.

    Args:
        name: Its name or path.
        arguments: Those of :func:`add_reading_arguments`.
        seed: Seed of the instants inside whole seconds of a BurstGPT file.
    """
    from burstenv.workload import read_trace
    from burstenv.workload.workload_config import load_trace, workload_named

    given = reading_options(name, arguments)
    return read_trace(name, jitter_seed=seed, **given) if _is_file(name) else load_trace(workload_named(name))


def read_with_seed(name: str, arguments: argparse.Namespace) -> Any:
    """Return a trace as :func:`read_trace_or_workload` does, where ``--seed`` is for whole seconds and nothing else."""
    trace = read_trace_or_workload(name, arguments, arguments.seed or 0)
    if arguments.seed is not None and trace.metadata.get("jitter_seed") != arguments.seed:
        raise BurstenvError(f"{name}: --seed has no effect; it is for BurstGPT files with times in whole seconds")
    return trace


def progress_bar(what: str, unit: str = "request") -> Callable[[int, int], None]:
    """Return a progress callback: a bar on a terminal, nothing elsewhere or without tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        return lambda done, total: None
    bar: Any = None

    def update(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True, disable=None)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return update


def percent(value: float | None) -> str:
    """Return a share as a percentage, or "n/a" for None."""
    return "n/a" if value is None else f"{100 * value:.1f} %"


def agents_module(module: str) -> Any:
    """Import a module of ``burstenv.agents``, which needs the train extra."""
    try:
        return import_module(f"burstenv.agents.{module}")
    except ModuleNotFoundError as error:
        raise BurstenvError(
            f"agents need the train extra ({error.name} is missing): pip install 'burstenv[train]'"
        ) from None


def add_policy_file(sub: argparse.ArgumentParser) -> None:
    """Add ``--policy-file``, a Python file that registers the user's own heuristics by name."""
    sub.add_argument(
        "--policy-file", action="append", default=[], metavar="FILE.py",
        help="a Python file that registers heuristics; may be repeated",
    )  # fmt: skip


def load_policy_files(arguments: argparse.Namespace) -> None:
    """Load the files of ``--policy-file``."""
    if arguments.policy_file:
        from burstenv.policies import load_policy_file

        for path in arguments.policy_file:
            load_policy_file(path)


def refuse_options(arguments: argparse.Namespace, why: str, *names: str) -> None:
    """Refuse options that were given where they would have no effect.

    Args:
        arguments: Of the command.
        why: Where that is, such as ``"without --grid"``.
        names: Of the options, as attributes of ``arguments``.
    """
    for name in names:
        if name in arguments.given:
            raise BurstenvError(f"--{name.replace('_', '-')} has no effect {why}")


def check_options(arguments: argparse.Namespace, **rules: Rule) -> None:
    """Check options, and each part of a list, against rules of :mod:`burstenv.arguments`; None, not given, is right."""
    for name, rule in rules.items():
        value = getattr(arguments, name)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and rule(one):
                raise BurstenvError(f"--{name.replace('_', '-')} must be {rule(one)}, got {one}")


def check_names(scenario: str | dict[str, Any], policies: list[str], *splits: str) -> None:
    """Raise on an unknown policy, mode or split, before any reading or measurement."""
    from burstenv.config import load
    from burstenv.envs.scenario_config import ScenarioConfig
    from burstenv.policies import load_policy, named_mode
    from burstenv.workload import SPLITS

    for split in splits:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
    modes = [named_mode(mode).name for mode in load(ScenarioConfig, "scenarios", scenario).modes]
    for name in policies:
        load_policy(name).check(modes)
