"""`burstenv trace info`, `download` and `convert`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from burstenv.cli.common import Commands, add_command, add_reading_arguments, emit, progress_bar, read_with_seed

_TRACE = "a file of any known format, the name of an official file (burstgpt-1) or of a workload"


def register(commands: Commands) -> None:
    """Add the subcommands of this module."""
    sub = add_command(
        commands, "info", _info,
        "Print counts, rates, lengths, burstiness and rows set aside; an official BurstGPT file is "
        "compared with its published figures, and any difference makes the command fail.",
        example="burstenv trace info burstgpt-1",
    )  # fmt: skip
    sub.add_argument("trace", help=_TRACE)
    add_reading_arguments(sub)
    _add_seed(sub)

    sub = add_command(
        commands, "download", _download,
        "Download official BurstGPT files into the data directory, and check them.",
        example="burstenv trace download burstgpt-1",
    )  # fmt: skip
    sub.add_argument("name", nargs="?", default="all", help="burstgpt-1, burstgpt-2, burstgpt-3 or all (the default)")
    sub.add_argument("--without-fails", action="store_true", help="the versions without failed requests")
    sub.add_argument("--to", type=Path, metavar="DIR", help="another folder ($BURSTENV_DATA sets it for all commands)")
    sub.add_argument("--mirror", metavar="URL", help="get the files from this folder instead of the GitHub releases")

    sub = add_command(
        commands,
        "convert",
        _convert,
        "Write a trace in another format, to the file OUT.",
        example="burstenv trace convert trace.csv trace.parquet",
    )
    sub.add_argument("trace", metavar="IN", help=_TRACE)
    sub.add_argument("out", metavar="OUT", type=Path, help="the file to write; text ending in .gz is compressed")
    sub.add_argument(
        "--to",
        choices=("burstgpt", "plain", "mooncake", "parquet"),
        help="format (default: by the ending: .csv BurstGPT, .jsonl Mooncake, .parquet)",
    )
    sub.add_argument("--exact-times", action="store_true", help="BurstGPT: times in full, not whole seconds")
    sub.add_argument("--block-tokens", type=int, help="Mooncake: tokens of a block (default: those of IN, else 512)")
    add_reading_arguments(sub)
    _add_seed(sub)


def _add_seed(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--seed", type=int, help="seed of the instants inside whole seconds of BurstGPT (default: 0)")


def _info(arguments: argparse.Namespace) -> int:
    from burstenv.workload.describe import describe_lines
    from burstenv.workload.official.files import check_file, check_lines

    trace = read_with_seed(arguments.trace, arguments)
    description = trace.describe()
    lines = describe_lines(description)
    checks = check_file(trace) if arguments.columns is None else []
    if checks:
        description["published"] = [asdict(check) for check in checks]
        lines += check_lines(checks)
    emit(arguments, description, lines)
    return 0 if all(check.agrees for check in checks) else 1


def _download(arguments: argparse.Namespace) -> int:
    from burstenv.workload.official.data_directory import data_directory
    from burstenv.workload.official.download import download
    from burstenv.workload.official.files import LICENSE, choose

    folder = arguments.to if arguments.to is not None else data_directory()
    done, lines = [], []
    for file in choose(arguments.name, arguments.without_fails):
        got = download(file, folder, arguments.mirror, progress_bar(file.file, "B"))
        done.append(asdict(got))
        how = "was there already" if got.fetched_bytes == 0 else f"{got.fetched_bytes:,} bytes fetched"
        note = "" if got.verified == "sha256" else " (no sha256 is published for it)"
        lines.append(f"{got.path}: {got.bytes:,} bytes, {how}, {got.verified} right{note}")
    lines.append(f"BurstGPT is {LICENSE}")
    if folder != data_directory():
        lines.append(f"to use the files by name: export BURSTENV_DATA={folder.resolve()}")
    emit(arguments, {"files": done, "license": LICENSE}, lines)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from burstenv.workload.formats.convert import check_options, convert, format_of

    form = format_of(arguments.out, arguments.to)  # before minutes of reading
    check_options(form, arguments.exact_times, arguments.block_tokens)
    trace = read_with_seed(arguments.trace, arguments)
    done = convert(
        trace, arguments.out, arguments.to, exact_times=arguments.exact_times, block_tokens=arguments.block_tokens
    )
    failures = f" and {done.failures:,} failures" if done.failures else ""
    lines = [f"{done.path}: {done.requests:,} requests{failures} as {done.format}"]
    if done.left_out:
        lines.append(f"not written, because the format cannot hold them: {', '.join(done.left_out)}")
    emit(arguments, asdict(done), lines)
    return 0
