"""Conversion of a trace to another format, with a list of the losses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from burstenv.arguments import checked, optional, whole
from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload.formats.burstgpt import spread_within_second
from burstenv.workload.formats.mooncake import BLOCK_TOKENS
from burstenv.workload.formats.parquet import write_parquet
from burstenv.workload.formats.write_csv import write_burstgpt, write_plain
from burstenv.workload.formats.write_mooncake import lost_in_blocks, write_mooncake
from burstenv.workload.trace import MAX_TOKENS, OTHER_MODEL, Trace, turns_of

Target = Literal["burstgpt", "plain", "mooncake", "parquet"]
_SUFFIXES: dict[str, Target] = {".csv": "burstgpt", ".jsonl": "mooncake", ".parquet": "parquet"}


@dataclass(frozen=True)
class Conversion:
    """The written file.

    Attributes:
        path: The file.
        format: Its format.
        requests: Requests written.
        failures: Failures written.
        left_out: Losses of the format, one phrase each.
    """

    path: Path
    format: Target
    requests: int
    failures: int
    left_out: tuple[str, ...]


def format_of(path: Path, to: str | None = None) -> Target:
    """Return the format of an output file: the requested one, otherwise that of its ending (before ``.gz``).

    Raises:
        BurstenvError: If the ending is unknown, or there is no such format.
    """
    chosen = to if to is not None else _SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix)
    for target in get_args(Target):
        if target == chosen:
            return target
    valid = ", ".join(get_args(Target))
    if to is not None:
        raise unknown_name("format", to, get_args(Target))
    raise BurstenvError(f"{path}: its ending names no format; end it in {', '.join(_SUFFIXES)} or choose: {valid}")


@checked(block_tokens=optional(whole(1, MAX_TOKENS)))
def convert(
    trace: Trace,
    path: str | Path,
    to: str | None = None,
    *,
    exact_times: bool = False,
    block_tokens: int | None = None,
) -> Conversion:
    """Write a trace.

    Args:
        trace: The trace.
        path: The file; text formats ending in ``.gz`` are compressed.
        to: The format; by default that of the ending: ``.csv`` BurstGPT, ``.jsonl`` Mooncake, ``.parquet``.
        exact_times: Times in full in the BurstGPT schema, instead of whole seconds.
        block_tokens: Tokens of a Mooncake block, by default those of the file that the trace was read from, else 512.

    Raises:
        BurstenvError: If the ending is unknown, an option belongs to another format, the trace is empty, or the file
            cannot be written.
    """
    file = Path(path)
    to = format_of(file, to)
    check_options(to, exact_times, block_tokens)
    if block_tokens is None:
        block_tokens = trace.metadata.get("block_tokens") or BLOCK_TOKENS
    if len(trace) == 0:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: holds no requests to write")
    if to == "burstgpt":
        write_burstgpt(trace, file, exact_times=exact_times)
    elif to == "plain":
        write_plain(trace, file)
    elif to == "mooncake":
        write_mooncake(trace, file, block_tokens=block_tokens)
    else:
        write_parquet(trace, file)
    keeps_failures = to in ("burstgpt", "parquet")
    left_out = _left_out(trace, to, exact_times, block_tokens)
    return Conversion(file, to, len(trace), len(trace.failures) if keeps_failures else 0, left_out)


def check_options(to: Target, exact_times: bool, block_tokens: int | None) -> None:
    """Raise on an option of another format."""
    if exact_times and to != "burstgpt":
        has = "Mooncake's are whole milliseconds" if to == "mooncake" else f"{to} always has them"
        raise BurstenvError(f"exact times are an option of BurstGPT CSV; {has}")
    if block_tokens is not None and to != "mooncake":
        raise BurstenvError(f"block tokens are an option of Mooncake JSON lines, not of {to}")


def _left_out(trace: Trace, to: Target, exact_times: bool, block_tokens: int) -> tuple[str, ...]:
    """Return the content of a trace that a format cannot hold."""
    if to == "parquet":
        return ()
    milliseconds = (trace.arrival_s - trace.arrival_s[0]) * 1000
    between = bool((abs(milliseconds - milliseconds.round()) > 1e-6).any())
    whole = bool((trace.arrival_s == np.floor(trace.arrival_s)).all())
    has = {
        "the fractions of seconds": to == "burstgpt" and not (whole or exact_times or _drawn_again(trace)),
        "that times are whole seconds (which a reader of BurstGPT files spreads)": to == "burstgpt" and whole,
        f"the clock (times begin at 0, {trace.arrival_s[0]:,.3f} s in the trace)": to == "mooncake"
        and trace.arrival_s[0] > 0,
        "the fractions of milliseconds": to == "mooncake" and between,
        f"{len(trace.failures):,} failures": to != "burstgpt" and len(trace.failures) > 0,
        "the models": to != "burstgpt" and bool((trace.model != OTHER_MODEL).any()),
        "the classes": to == "mooncake" and bool(trace.log_type.any()),
        "the classes of other names": to != "plain" and bool((trace.own_class >= 0).any()),
        "the tenants": to != "plain" and bool((trace.tenant >= 0).any()),
        "the names of other models": to == "burstgpt" and bool(trace.metadata.get("other_models")),
        "the elapsed times": to != "burstgpt" and not np.isnan(trace.elapsed_s).all(),
        "the priorities": to != "plain" and bool(trace.priority.any()),
        "the shared prefixes": to == "burstgpt" and bool((trace.prefix_id >= 0).any()),
        "the numbers of turns (sessions that began before the trace count from 0)": bool(
            (trace.turn != turns_of(trace.session)).any()
        ),
    }  # fmt: skip
    lost = [what for what, is_lost in has.items() if is_lost]
    return (*lost, *(lost_in_blocks(trace, block_tokens) if to == "mooncake" else ()))


def _drawn_again(trace: Trace) -> bool:
    """Return whether a BurstGPT file of whole seconds reproduces a trace's times, with the seed of their draw."""
    seed = trace.metadata.get("jitter_seed")
    times = np.sort(np.concatenate([trace.arrival_s, trace.failures.arrival_s]), kind="stable")
    return seed is not None and bool((times == spread_within_second(np.floor(times), seed)).all())
