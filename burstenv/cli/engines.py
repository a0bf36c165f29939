"""`burstenv engines`: real vLLM servers without a GPU, paced as a cluster's replicas."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from burstenv.cli.common import (
    Commands,
    add_command,
    add_reading_arguments,
    check_options,
    emit,
    output_file,
    read_trace_or_workload,
)

FOLDER = Path("runs/engines")


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    group = commands.add_parser(
        "engines",
        help="Real vLLM servers without a GPU.",
        description="Real vLLM servers without a GPU, paced as the replicas of a cluster.",
    )
    verbs = group.add_subparsers(required=True, metavar="COMMAND")
    sub = add_command(
        verbs, "up", _up,
        "Start one real vLLM server for each replica; only the model is replaced, by waiting for the time of a GPU.",
        example="burstenv engines up mixed-x2 --python ~/vllm/bin/python",
    )  # fmt: skip
    sub.add_argument("cluster", help="shipped cluster or YAML file")
    _add_folder(sub)
    sub.add_argument("--mode", default="vllm", metavar="NAME", help="batching mode whose limits they get (%(default)s)")
    sub.add_argument("--speed", type=float, default=1.0, metavar="SHARE", help="share of the real speed (%(default)s)")
    sub.add_argument("--port", type=int, default=8101, help="port of the first (default: %(default)s)")
    sub.add_argument("--python", default=sys.executable, metavar="PATH", help="interpreter that has vLLM")
    _add_wait(sub)

    sub = add_command(
        verbs, "kill", _kill, "Kill an engine with all its processes, or let it hang.",
        example="burstenv engines kill 2",
    )  # fmt: skip
    sub.add_argument("replica", type=int)
    _add_folder(sub)
    sub.add_argument(
        "--how", choices=("kill", "hang", "go-on"), default="kill",
        help="kill -9, stop it where it is, or let a stopped one go on (default: %(default)s)",
    )  # fmt: skip

    sub = add_command(
        verbs, "restart", _restart, "Start engines anew that have ended.", example="burstenv engines restart"
    )
    _add_folder(sub)
    _add_wait(sub)
    sub = add_command(verbs, "down", _down, "End all engines of a folder.", example="burstenv engines down")
    _add_folder(sub)

    sub = add_command(
        verbs, "drill", _drill,
        "Kill an engine and restart it, let another hang, both under traffic; count what became of every request.",
        example="burstenv engines drill --policy always/jsq/vllm",
    )  # fmt: skip
    _add_folder(sub)
    sub.add_argument("--policy", default="always/jsq/vllm", metavar="NAME", help="of the gateway (%(default)s)")
    sub.add_argument("--rate-per-s", type=float, default=5.0, metavar="RATE", help="of the traffic (%(default)s)")
    sub.add_argument(
        "--log", type=Path, default=Path("runs/drill.jsonl"), metavar="FILE", help="(default: %(default)s)"
    )

    sub = add_command(
        verbs, "compare", _compare,
        "Send the same traffic through several policies in front of running engines, replay each log, compare.",
        example="burstenv engines compare --policy always/jsq/vllm --policy agent:joint-v3 --load 0.8 --page served.md",
    )  # fmt: skip
    sub.add_argument(
        "trace",
        nargs="?",
        help="a trace or workload: its file, name or YAML file (default: the scenario's own traffic)",
    )
    add_reading_arguments(sub)
    _add_folder(sub)
    sub.add_argument("--policy", action="append", required=True, metavar="NAME", help="may be repeated")
    sub.add_argument(
        "--load", action="append", type=float, metavar="SHARE", help="of the capacity; may be repeated (1)"
    )
    sub.add_argument("--scenario", default="default", help="shipped scenario or YAML file (default: %(default)s)")
    sub.add_argument("--duration-s", type=float, default=60.0, metavar="S", help="of the cluster's time (%(default)s)")
    sub.add_argument("--rate-per-s", type=float, metavar="RATE", help="of load 1 (default: the measured capacity)")
    sub.add_argument("--seed", type=int, default=0, help="of the window and predictions (default: %(default)s)")
    sub.add_argument("--logs", type=Path, default=Path("runs/compare"), metavar="DIR", help="(default: %(default)s)")
    sub.add_argument("--page", type=output_file(".md"), metavar="FILE.md", help="write a page of the figures")


def _add_folder(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--dir", type=Path, default=FOLDER, metavar="DIR", help="folder of the engines (default: %(default)s)"
    )


def _add_wait(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--wait-s", type=float, default=300.0, metavar="S", help="longest wait (default: %(default)s)")


def _say(line: str) -> None:
    print(f"burstenv: {line}", file=sys.stderr)


def _up(arguments: argparse.Namespace) -> int:
    from burstenv.arguments import number, whole
    from burstenv.gateway.engines.control import start_engines

    check_options(arguments, speed=number(least=0.01, most=100.0), port=whole(1, 65_000))
    engines = start_engines(
        arguments.cluster, arguments.dir, mode=arguments.mode, speed=arguments.speed, port=arguments.port,
        python=arguments.python, wait_s=arguments.wait_s, told=_say,
    )  # fmt: skip
    emit(arguments, {"urls": engines.urls, "pids": engines.pids}, engines.urls)
    return 0


def _kill(arguments: argparse.Namespace) -> int:
    from burstenv.gateway.engines.control import hurt
    from burstenv.gateway.engines.folder import read_engines

    hurt(read_engines(arguments.dir), arguments.replica, arguments.how)
    emit(arguments, {"replica": arguments.replica, "how": arguments.how}, [])
    return 0


def _restart(arguments: argparse.Namespace) -> int:
    from burstenv.gateway.engines.control import restart
    from burstenv.gateway.engines.folder import read_engines

    engines = restart(read_engines(arguments.dir), arguments.wait_s, _say)
    emit(arguments, {"urls": engines.urls, "pids": engines.pids}, engines.urls)
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from burstenv.gateway.extra import module_of_extra

    compare: Any = module_of_extra("burstenv.gateway.compare", "burstenv engines compare")
    from burstenv.arguments import number
    from burstenv.files import write_atomic
    from burstenv.gateway.engines.folder import read_engines

    check_options(
        arguments, duration_s=number(above=0.0), rate_per_s=number(above=0.0), load=number(above=0.0, most=100.0)
    )
    trace = None if arguments.trace is None else read_trace_or_workload(arguments.trace, arguments)
    found = compare.compare(
        read_engines(arguments.dir), trace, arguments.policy, arguments.load or [1.0], arguments.logs,
        scenario=arguments.scenario, duration_s=arguments.duration_s, rate_per_s=arguments.rate_per_s,
        seed=arguments.seed, told=_say,
    )  # fmt: skip
    if arguments.page is not None:
        command = "burstenv " + shlex.join(_without_places(sys.argv[1:]))
        write_atomic(arguments.page, compare.page(found, command))
    emit(arguments, found.values(), found.lines())
    return 0


def _drill(arguments: argparse.Namespace) -> int:
    from burstenv.gateway.extra import module_of_extra

    drill: Any = module_of_extra("burstenv.gateway.engines.drill", "burstenv engines drill")
    from burstenv.arguments import number
    from burstenv.errors import BurstenvError
    from burstenv.gateway.engines.folder import read_engines

    check_options(arguments, rate_per_s=number(above=0.0, most=1000.0))
    engines = read_engines(arguments.dir)
    if len(engines.urls) < 2:
        raise BurstenvError("a drill needs at least two engines: the others answer while one is out")
    faults = drill.drill(engines, arguments.policy, arguments.rate_per_s, arguments.log, _say)
    emit(arguments, [asdict(fault) for fault in faults], drill.lines(faults))
    return 1 if any(fault.lost for fault in faults) else 0


def _without_places(words: list[str]) -> list[str]:
    """Return the words of a command without the options that name places of this machine."""
    kept, skip = [], False
    for word in words:
        option, sign, _ = word.partition("=")
        place = option in ("--dir", "--logs", "--page")
        if not skip and not place:
            kept.append(word)
        skip = place and not sign
    return kept


def _down(arguments: argparse.Namespace) -> int:
    from burstenv.gateway.engines.control import end_engines
    from burstenv.gateway.engines.folder import read_engines

    ended = end_engines(read_engines(arguments.dir))
    emit(arguments, {"ended": ended}, [] if ended else [f"{arguments.dir}: its engines had ended before"])
    return 0
