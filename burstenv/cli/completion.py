"""`burstenv completion`, and names that a shell completes; argcomplete does the work."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any

from burstenv.cli.common import Commands, add_command, emit

SHELLS = ("bash", "zsh", "fish")
Names = Callable[[], list[str]]


def register(commands: Commands) -> None:
    """Add the subcommand of this module."""
    sub = add_command(
        commands,
        "completion",
        _completion,
        "Print the script by which a shell completes burstenv's commands, options and names.",
        example='eval "$(burstenv completion bash)"',
    )
    sub.add_argument("shell", choices=SHELLS)


def _completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    script = argcomplete.shellcode(["burstenv"], shell=arguments.shell)  # type: ignore[no-untyped-call, unused-ignore]
    emit(arguments, {"shell": arguments.shell, "script": script}, [script.rstrip()])
    return 0


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, and exit; do nothing otherwise."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    _set_completers(parser)
    argcomplete.autocomplete(parser)


def _set_completers(parser: argparse.ArgumentParser, verb: str = "") -> None:
    """Give every argument that takes a name its names; all others complete files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                _set_completers(sub, name)
            continue
        names = _NAMES.get(f"{verb} {action.dest}") or _NAMES.get(action.dest)
        if names is not None:
            action.completer = _completer(names)  # type: ignore[attr-defined]


def _completer(names: Names) -> Callable[..., list[str]]:
    def found(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        return [*names(), *FilesCompleter()(prefix)]  # type: ignore[no-untyped-call, unused-ignore]

    return found


def _shipped(*folders: str) -> Names:
    def names() -> list[str]:
        from burstenv.config import shipped

        return [name for folder in folders for name in shipped(folder)]

    return names


def _traces() -> list[str]:
    from burstenv.workload.official.files import OFFICIAL

    return [*_shipped("workloads")(), *OFFICIAL]


def _policies() -> list[str]:
    from burstenv.policies.baselines import DEFAULT_LADDER
    from burstenv.pretrained import shipped_agents

    return [*DEFAULT_LADDER, *(f"agent:{name}" for name in shipped_agents())]


def _rules() -> list[str]:
    from burstenv.policies.listing import catalogue

    return [entry.name for entries in catalogue().values() for entry in entries]


def _downloads() -> list[str]:
    from burstenv.workload.official.files import OFFICIAL

    return ["all", *OFFICIAL]


def _kinds() -> list[str]:
    from burstenv.schemas import KINDS

    return list(KINDS)


_NAMES: dict[str, Names] = {  # by argument, or by verb and argument
    "schema kind": _kinds,
    "scenarios name": _shipped("scenarios"),
    "policies name": _rules,
    "download name": _downloads,
    "scenario": _shipped("scenarios"),
    "cluster": _shipped("clusters"),
    "latency": _shipped("latency"),
    "hardware": _shipped("clusters", "hardware", "models", "latency"),
    "agent": _shipped("agents"),
    "workload": _shipped("workloads"),
    "trace": _traces,
    "policy": _policies,
}
