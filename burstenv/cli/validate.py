"""`burstenv validate` and `burstenv latency fit`: the model against recordings of real engines and servers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from burstenv.cli.common import Commands, add_command, check_options, emit, output_file, refuse_options
from burstenv.errors import BurstenvError

if TYPE_CHECKING:
    from burstenv.evaluation.validation.server import ServerOptions

CASE_FILES = ("config.json", "workload.csv")
KINDS = (
    "a measured run (meta.json and requests.jsonl), a CSV of measured points (a rate or clients, lengths, mean or "
    "percentiles of TTFT, TPOT, E2E), a comparison of routers (.json), a gateway's log (.jsonl), or a recorded "
    "schedule (config.json, workload.csv, iterations.jsonl, requests.csv)"
)


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands,
        "validate",
        _validate,
        "Replay what a real server or scheduler did and print how far off the replay is. Exit 1 at the first "
        "difference from a recorded schedule.",
        example="burstenv validate RUN --out cdf.html",
    )
    sub.add_argument("source", type=Path, nargs="?", help="measured run, CSV of points, or recorded schedule")
    sub.add_argument("--suite", type=Path, metavar="FOLDER", help="everything measured in a folder, one line each")
    sub.add_argument("--page", type=output_file(".md"), metavar="FILE.md", help="with --suite: write a page of errors")
    sub.add_argument("--engine", choices=("reference", "fast"), default="reference", help="for a recorded schedule")
    sub.add_argument(
        "--out",
        type=output_file(".html", ".png", ".svg", ".pdf"),
        metavar="FILE",
        help="distributions of a run, or a picture of points (.html, .png, ...)",
    )
    server = sub.add_argument_group("the server, where the record is silent or wrong")
    server.add_argument(
        "--latency",
        metavar="NAME",
        help="entry of configs/latency, or YAML file (default: what fits best)",
    )
    server.add_argument("--gpu", metavar="NAME", help="name in configs/hardware, an alias, or YAML file")
    server.add_argument("--model", metavar="NAME", help="name in configs/models, an alias, or YAML file")
    server.add_argument("--tensor-parallel", type=int, metavar="N", help="GPUs of the server")
    server.add_argument("--link", metavar="NAME", help="between the GPUs: name in configs/links, or file")
    server.add_argument("--num-blocks", type=int, metavar="N", help="usable KV blocks")
    server.add_argument("--kv-tokens", type=int, metavar="N", help="the same in tokens")
    server.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="for KV blocks that nothing says")
    server.add_argument(
        "--front-end",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="HTTP and tokenisation before the engine (default: for points)",
    )
    server.add_argument(
        "--asynchronous",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="scheduling ahead (default: as recorded)",
    )
    server.add_argument(
        "--prefix-caching", action=argparse.BooleanOptionalAction, default=None, help="(default: as recorded, else on)"
    )

    sub.add_argument("--cluster", metavar="NAME", help="of a gateway's log: the replicas (default: the scenario's)")
    sub.add_argument("--scenario", metavar="NAME", help="of a gateway's log (default: as logged)")
    sub.add_argument("--front-end-ms", type=float, default=0.0, metavar="MS", help="taken off every measured TTFT")

    latency = commands.add_parser("latency", help="Iteration times.", description="Iteration times.")
    sub = add_command(
        latency.add_subparsers(required=True, metavar="COMMAND"),
        "fit",
        _latency_fit,
        "Fit an entry of configs/latency to a kernel profile or to measured iterations; prints it with its fit error, "
        "or writes it to --out.",
        example="burstenv latency fit PROFILE --out mine.yaml",
    )
    sub.add_argument("source", type=Path, help="profile folder, or CSV of iterations: P,A,D,K,milliseconds")
    sub.add_argument("--form", choices=("tables", "hinge"), default="tables")
    sub.add_argument("--tensor-parallel", type=int, help="GPUs of the replica (default: the profile's)")
    sub.add_argument("--layers", type=int, help="layers of the model (default: the profile's)")
    sub.add_argument("--link", metavar="NAME", help="between the GPUs: name in configs/links, or YAML file")
    sub.add_argument(
        "--out", type=output_file(".yaml", ".yml"), metavar="FILE.yaml", help="write the entry to this file"
    )


def _options(arguments: argparse.Namespace) -> ServerOptions:
    from burstenv.arguments import number, whole
    from burstenv.evaluation.validation.server import ServerOptions

    check_options(
        arguments, tensor_parallel=whole(1), num_blocks=whole(1), kv_tokens=whole(1),
        gpu_memory_utilization=number(above=0.0, most=1.0),
    )  # fmt: skip
    if arguments.num_blocks is not None and arguments.kv_tokens is not None:
        raise BurstenvError("--num-blocks and --kv-tokens both say how large the KV cache is; give one")
    if arguments.latency is not None and arguments.link is not None:
        raise BurstenvError("--link is for a roofline; the entry named with --latency has its link in its numbers")
    names = ServerOptions.__dataclass_fields__
    return ServerOptions(**{name: getattr(arguments, name) for name in names})


def _validate(arguments: argparse.Namespace) -> int:
    if (arguments.source is None) == (arguments.suite is None):
        raise BurstenvError(f"validate needs one of a source and --suite FOLDER; a source is {KINDS}")
    if arguments.page is not None and arguments.suite is None:
        raise BurstenvError("--page is for --suite FOLDER: it writes the errors of everything in the folder")
    options = _options(arguments)
    if arguments.suite is not None:
        refuse_options(arguments, "beside --suite", "out", "engine")
        from burstenv.evaluation.validation.suite import validate_suite

        suite = validate_suite(arguments.suite, options, arguments.page)
        emit(arguments, suite.values(), suite.lines())
        return 0
    source: Path = arguments.source
    if _is_gateway_log(source):
        return _validate_log(arguments)
    refuse_options(arguments, "but on a gateway's log", "cluster", "scenario", "front_end_ms")
    if source.is_dir() and not _holds_a_run(source):
        if all((source / name).exists() for name in CASE_FILES):
            return _validate_case(arguments)
        raise BurstenvError(f"{source}: nothing to validate in this folder{_inside(source)}; a source is {KINDS}")
    if not source.exists():
        raise BurstenvError(f"{source}: no such file or folder; a source is {KINDS}")
    refuse_options(arguments, "on a measured run; it is for a recorded schedule", "engine")
    from burstenv.evaluation.validation.suite import validate_source

    result = validate_source(source, options, arguments.out)
    emit(arguments, result.values(), result.lines())
    return 0


def _is_gateway_log(source: Path) -> bool:
    from burstenv.workload.formats.gateway_log import looks_like_gateway_log

    if not source.is_file():
        return False
    with source.open("rb") as file:
        return looks_like_gateway_log(file.readline(200).decode("utf-8", "replace"))


def _validate_log(arguments: argparse.Namespace) -> int:
    from burstenv.arguments import number
    from burstenv.evaluation.validation.server import ServerOptions
    from burstenv.gateway.replay import validate_log

    of_servers = ("out", "engine", *ServerOptions.__dataclass_fields__)
    refuse_options(arguments, "on a gateway's log; --cluster says what the engines are", *of_servers)
    check_options(arguments, front_end_ms=number(least=0.0))
    found = validate_log(arguments.source, arguments.cluster, arguments.scenario, arguments.front_end_ms / 1000.0)
    emit(arguments, found.values(), found.lines())
    return 0


def _holds_a_run(folder: Path) -> bool:
    return any((folder / inner / "meta.json").exists() for inner in ("", "vllm_run"))


def _inside(folder: Path) -> str:
    """Return which folders below hold something that can be validated."""
    from burstenv.evaluation.validation.suite import sources_in

    found = [str(path.relative_to(folder)) for path in sources_in(folder)][:4]
    return f", but in {', '.join(found)} (--suite {folder} runs them all)" if found else ""


def _validate_case(arguments: argparse.Namespace) -> int:
    from burstenv.evaluation.validation.recorded_schedule import validate_case
    from burstenv.evaluation.validation.server import ServerOptions

    of_servers = ("out", *ServerOptions.__dataclass_fields__)
    refuse_options(arguments, "on a recorded schedule; it is for a measured run", *of_servers)
    iterations, difference = validate_case(arguments.source, arguments.engine)
    result = {
        "case": str(arguments.source),
        "engine": arguments.engine,
        "iterations": iterations,
        "difference": difference,
    }
    emit(arguments, result, [difference or f"identical: {iterations} iterations"])
    return 1 if difference else 0


def _latency_fit(arguments: argparse.Namespace) -> int:
    from burstenv.files import write_atomic
    from burstenv.hardware.latency.fit import fit_profile

    fit = fit_profile(arguments.source, arguments.form, arguments.tensor_parallel, arguments.layers, arguments.link)
    lines = fit.lines()
    if arguments.out is not None:
        write_atomic(arguments.out, fit.yaml())
        lines = [*lines, f"entry: {arguments.out}"]
    else:
        lines = [*lines, "", fit.yaml().rstrip()]
    emit(arguments, fit.values(), lines)
    return 0
