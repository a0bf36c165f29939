"""Mooncake traces: requests whose prompts are given as chains of hashes of their blocks of tokens.

A line is ``{"timestamp": ms, "input_length": tokens, "output_length": tokens, "hash_ids": [...]}``, one hash
for every block of the prompt, the last one for its partial block; equal leading hashes mean equal leading
tokens (Qin et al., "Mooncake", FAST 2025, and the traces of kvcache-ai/Mooncake). The hashes become conversations, and
prefixes shared between them.
"""

from __future__ import annotations

import io
import itertools
import json
import math
from array import array
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.formats.burstgpt import clock_metadata, served_and_failed
from burstenv.workload.formats.csv_table import MAX_SECONDS, count_duplicates, open_table
from burstenv.workload.formats.foreign import UNSORTED
from burstenv.workload.formats.mapped import UNIT_DIGITS, TimeUnit
from burstenv.workload.formats.prefix_tree import recognise
from burstenv.workload.trace import MAX_TOKENS, Trace

BLOCK_TOKENS = 512  # the block of the published traces
_BLOCK_SIZES = (512, 16, 32, 64, 128, 256, 1024)
_LONGEST_LINE = 1 << 24
_KEYS = ("timestamp", "input_length", "output_length")
# Keys that only formats with times in seconds have: the Qwen (Bailian) traces of Alibaba.
_SECONDS_KEYS = ("chat_id", "parent_chat_id", "turn")


def read_mooncake(path: str | Path, time_unit: TimeUnit | None = None, *, sort: bool = False) -> Trace:
    """Read a trace of JSON lines: Mooncake's, or one of the same keys with times in another unit.

    A request is the next turn of a session if its chain continues all full blocks of an earlier request and no other
    request has the last of these blocks. Otherwise the blocks shared with other sessions are its shared prefix. A trace
    holds one shared prefix per request, so multiple branches of sharing are kept in part; the metadata has the share.

    Args:
        path: A JSONL file, plain or gzip-compressed.
        time_unit: Unit of ``timestamp``: ``s``, ``ms``, ``us`` or ``ns``. By default seconds where rows have
            ``chat_id``, ``parent_chat_id`` or ``turn`` as the Qwen (Bailian) traces have, else Mooncake's whole
            milliseconds; without such keys, fractions need an answer.
        sort: Sort the rows by time instead of an error where they are not.

    Returns:
        The trace; requests without a session had no second turn. Its metadata has ``block_tokens``,
        ``reused_blocks`` (full blocks of prompts that had been seen before) and ``reused_blocks_kept``
        (those that sessions and shared prefixes of the trace still express) and ``reused_blocks_added``
        (full blocks that a session's earlier turns should have made, by their lengths, and the file's
        hashes do not repeat).

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based row and the key.
    """
    file = Path(path)
    if time_unit is not None and time_unit not in UNIT_DIGITS:
        raise BurstenvError(f"{file}: JSON lines hold times as numbers; need a time unit of {', '.join(UNIT_DIGITS)}")
    columns: dict[str, Any] = {"timestamp": array("d"), "input_length": array("q"), "output_length": array("q")}
    hashes, ends = array("q"), array("q", [0])
    ignored: set[str] = set()
    with open_table(file) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n")
        row = out_of_order = 0
        known = time_unit is not None
        try:
            while line := text.readline(_LONGEST_LINE):
                if not line.strip():
                    continue
                row += 1
                record = _record(file, row, line)
                if row == 1 and time_unit is None:
                    known, time_unit = False, "ms"
                    if any(key in record for key in _SECONDS_KEYS):
                        known, time_unit = True, "s"
                stamp = _seconds(file, row, record["timestamp"], time_unit or "ms", known)
                if columns["timestamp"] and stamp < columns["timestamp"][-1]:
                    out_of_order += 1
                    if not sort:
                        raise BurstenvError(
                            f"{file}: row {row}: key 'timestamp': {record['timestamp']} is earlier than in the row "
                            f"before; {UNSORTED}"
                        )
                columns["timestamp"].append(stamp)
                columns["input_length"].append(int(record["input_length"]))
                columns["output_length"].append(int(record["output_length"]))
                hashes.extend(record.get("hash_ids", ()))
                ends.append(len(hashes))
                ignored |= record.keys() - {*_KEYS, "hash_ids"}
        except UnicodeDecodeError:
            raise BurstenvError(f"{file}: not UTF-8 text after row {row}; expected JSON lines") from None
        finally:
            text.detach()
    if row == 0:
        raise BurstenvError(f"{file}: holds no request")
    arrival = np.array(columns["timestamp"])
    if out_of_order:
        order = np.argsort(arrival, kind="stable")
        arrival = arrival[order]
        pieces = [hashes[ends[k] : ends[k + 1]] for k in order.tolist()]
        hashes, ends = array("q", itertools.chain.from_iterable(pieces)), array("q", [0])
        ends.extend(itertools.accumulate(map(len, pieces)))
        for key in ("input_length", "output_length"):
            columns[key] = np.array(columns[key])[order]
    prompt = np.array(columns["input_length"], dtype=np.int32)
    output = np.array(columns["output_length"], dtype=np.int32)
    served = output > 0
    if not served.any():
        raise BurstenvError(f"{file}: all {row} rows have an output_length of 0, so there is no request")
    chain, end = np.array(hashes, dtype=np.int64), np.array(ends, dtype=np.int64)
    size = _block_tokens(file, prompt, np.diff(end))
    found = recognise(chain, end, prompt, output, size) if size else None
    metadata = {
        "source": str(file),
        "schema": "mooncake",
        "time_unit": time_unit,
        "rows_read": row,
        "duplicates": count_duplicates([arrival, prompt, output, _chain_hashes(chain, end)]),
        **clock_metadata(arrival, out_of_order),
        "zero_prompts": int(np.count_nonzero(served & (prompt == 0))),
        "ignored_columns": sorted(ignored),
        "jitter_seed": None,
        "block_tokens": size,
        "reused_blocks": found.reused_blocks if found else 0,
        "reused_blocks_kept": found.reused_blocks_kept if found else 0,
        "reused_blocks_added": found.reused_blocks_added if found else 0,
    }
    return served_and_failed(
        arrival, prompt, output, served, metadata,
        session=found.session if found else None,
        prefix_id=found.prefix_id if found else None,
        prefix_tokens=found.prefix_tokens if found else None,
    )  # fmt: skip


def looks_like_mooncake(first_line: str) -> bool:
    """Return whether a file that begins with this line is meant as JSON lines."""
    return first_line.lstrip("\ufeff \t").startswith("{")


def _record(file: Path, row: int, line: str) -> dict[str, Any]:
    """Return one line's record, checked."""

    def wrong(problem: str) -> NoReturn:
        raise BurstenvError(f"{file}: row {row}: {problem}")

    try:
        record = json.loads(line, parse_constant=lambda name: wrong(f"{name} is no number"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BurstenvError):
            raise
        wrong(f"not a JSON object on one line ({error}); is the row truncated?")
    if not isinstance(record, dict):
        wrong("not a JSON object")
    for key in _KEYS:
        value = record.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            wrong(
                f"key {key!r}: need a number, got {str(value)[:40]!r}" if key in record else f"key {key!r} is missing"
            )
        if key == "timestamp":
            if not 0 <= value < math.inf:
                wrong(f"key {key!r}: need a finite time from 0 on, got {str(value)[:40]}")
        elif not (0 <= value <= MAX_TOKENS and value == int(value)):
            wrong(f"key {key!r}: need a whole number from 0 to {MAX_TOKENS:,}, got {str(value)[:40]}")
    ids = record.get("hash_ids", [])
    if not isinstance(ids, list) or not all(type(i) is int and -(2**63) <= i < 2**63 for i in ids):
        wrong("key 'hash_ids': need a list of whole numbers of 64 bits")
    return record


def _seconds(file: Path, row: int, stamp: int | float, unit: TimeUnit, known: bool) -> float:
    """Return a time in seconds, rounded once; fractions of milliseconds that were not asked for are an error."""
    where = f"{file}: row {row}: key 'timestamp'"
    if not known and stamp != int(stamp):
        raise BurstenvError(
            f"{where}: {stamp} is no whole number of milliseconds, as Mooncake's traces have; say the unit: "
            "--time-unit s or --time-unit ms"
        )
    try:
        seconds = stamp / 10 ** UNIT_DIGITS[unit]
    except OverflowError:
        seconds = math.inf
    if seconds > MAX_SECONDS:
        raise BurstenvError(
            f"{where}: {str(stamp)[:40]} {unit} are more than {MAX_SECONDS:,.0f} s; another --time-unit?"
        )
    return seconds


def _block_tokens(file: Path, prompt: NDArray[np.int32], blocks: NDArray[np.int64]) -> int | None:
    """Return the block size that explains how many hashes each prompt has, None where there are no hashes."""
    if not blocks.any():
        return None
    worst = None
    for size in _BLOCK_SIZES:
        for needed in (-(-prompt // size), prompt // size):  # the partial block has a hash, or none has
            fits = needed == blocks
            if fits.all():
                return size
            if size == BLOCK_TOKENS and worst is None:
                worst = int(np.argmin(fits))
    assert worst is not None
    raise BurstenvError(
        f"{file}: row {worst + 1}: key 'hash_ids': {blocks[worst]} blocks for {prompt[worst]} tokens; no block size of "
        f"{', '.join(map(str, sorted(_BLOCK_SIZES)))} tokens fits all rows"
    )


def _chain_hashes(chain: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.array([hash(chain[a:b].tobytes()) for a, b in itertools.pairwise(end)], dtype=np.int64)
