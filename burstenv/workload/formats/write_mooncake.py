"""Writing traces as Mooncake JSON lines with true prefix blocks, for load generators that replay them."""

from __future__ import annotations

import gzip
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import checked, whole
from burstenv.errors import BurstenvError
from burstenv.files import writing
from burstenv.workload.formats.csv_table import first_appearance
from burstenv.workload.formats.mooncake import BLOCK_TOKENS
from burstenv.workload.formats.prefix_tree import recognise
from burstenv.workload.trace import MAX_TOKENS, Trace

_ROWS_AT_ONCE = 1 << 14


@checked(block_tokens=whole(1, MAX_TOKENS))
def write_mooncake(trace: Trace, path: str | Path, *, block_tokens: int = BLOCK_TOKENS) -> None:
    """Write a trace as Mooncake JSON lines.

    Equal leading ``hash_ids`` mean equal leading tokens, and they are equal exactly where the trace implies it. A turn
    with a prompt at least as long as the previous prompt and response begins with their blocks (a shorter one starts
    its conversation's tokens anew), and requests with one shared prefix begin with its blocks. A full block gets its id
    when a prompt first covers it; the partial block at the end of a prompt has its own, as in the published traces.
    Times are whole milliseconds since the first request, the form for replaying load generators. The format has no
    failures, models, classes, priorities and elapsed times.

    Args:
        trace: The trace.
        path: The file; ending in ``.gz`` it is compressed.
        block_tokens: Tokens of a block: 512 in the published traces, 16 in a vLLM server.

    Raises:
        BurstenvError: When the file cannot be written, or the block size is out of range.
    """
    if not 1 <= block_tokens <= 1 << 20:
        raise BurstenvError(f"block size must be from 1 to {1 << 20} tokens, got {block_tokens}")
    file = Path(path)
    chains = _Chains(block_tokens)
    first_s = float(trace.arrival_s[0]) if len(trace) else 0.0
    with writing(file) as raw:
        packed: Any = gzip.GzipFile("", "wb", 6, raw, mtime=0) if file.suffix == ".gz" else raw
        for start in range(0, len(trace), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            lines = []
            for arrival_s, prompt, output, session, prefix, shared in zip(
                trace.arrival_s[part].tolist(), trace.prompt_tokens[part].tolist(), trace.output_tokens[part].tolist(),
                trace.session[part].tolist(), trace.prefix_id[part].tolist(), trace.prefix_tokens[part].tolist(),
                strict=True,
            ):  # fmt: skip
                ids = chains.of(prompt, output, session, prefix, shared)
                lines.append(
                    f'{{"timestamp": {round((arrival_s - first_s) * 1000)}, "input_length": {prompt}, '
                    f'"output_length": {output}, "hash_ids": [{", ".join(map(str, ids))}]}}\n'
                )
            packed.write("".join(lines).encode())
        if packed is not raw:
            packed.close()


def lost_in_blocks(trace: Trace, block_tokens: int) -> tuple[str, ...]:
    """Return the losses of :func:`write_mooncake` in a trace's sessions and shared prefixes.

    Blocks cannot represent a conversation shorter than a block, or one whose prompt shrinks; they represent a shared
    prefix in whole blocks, and only if two sessions have it.
    """
    if not ((trace.session >= 0).any() or (trace.prefix_id >= 0).any()):
        return ()
    chains = _Chains(block_tokens)
    columns = (trace.prompt_tokens, trace.output_tokens, trace.session, trace.prefix_id, trace.prefix_tokens)
    hashes, ends = array("q"), array("q", [0])
    for row in zip(*(column.tolist() for column in columns), strict=True):
        hashes.extend(chains.of(*row))
        ends.append(len(hashes))
    found = recognise(
        np.array(hashes, np.int64), np.array(ends, np.int64), trace.prompt_tokens, trace.output_tokens, block_tokens
    )
    turns = np.flatnonzero(trace.turn > 0)
    sessions = _differing(found.session, trace.session)
    prefixes = _differing(found.prefix_id, trace.prefix_id) | (found.prefix_tokens != trace.prefix_tokens)
    lost = []
    if sessions.any():
        lost.append(f"the sessions of {int(sessions.sum()):,} requests ({len(turns):,} are later turns)")
    if prefixes.any():
        lost.append(f"the shared prefixes of {int(prefixes.sum()):,} requests, in part or all")
    return tuple(lost)


def _differing(found: NDArray[np.int32], wanted: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return the rows with another grouping, independent of the groups' numbers; -1 is no group."""
    wanted, _ = first_appearance(wanted)
    pairs = found.astype(np.int64) << 32 | (wanted + 1)
    group = np.unique(pairs, return_inverse=True)[1]
    size = np.bincount(group)[group]
    same = (np.bincount(found + 1)[found + 1] == size) & (np.bincount(wanted + 1)[wanted + 1] == size)
    neither = (found < 0) & (wanted < 0)
    return ~(neither | (same & (found >= 0) & (wanted >= 0)))


class _Chains:
    """The blocks named so far, of every shared prefix and every conversation."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.next_id = 0
        self.prefixes: dict[int, list[int]] = {}
        self.sessions: dict[int, tuple[tuple[int, int], int, list[int]]] = {}  # head, total tokens, blocks

    def of(self, prompt: int, output: int, session: int, prefix: int, shared: int) -> list[int]:
        """Return the block ids of a prompt."""
        full = prompt // self.block_tokens
        head = min(full, shared // self.block_tokens) if prefix >= 0 else 0
        begins = (prefix, head) if head else (-1, 0)
        total = 0
        blocks: list[int] = []
        if session >= 0 and session in self.sessions:
            begun, total, blocks = self.sessions[session]
            if prompt < total or begun != begins:  # not the same tokens from the start
                total, blocks = 0, []
        if not blocks and head:
            known = self.prefixes.setdefault(prefix, [])
            known += self._fresh(head - len(known))
            blocks = known[:head]
        blocks += self._fresh(full - len(blocks))
        if session >= 0:
            self.sessions[session] = (begins, prompt + output, blocks)
        return [*blocks[:full], *self._fresh(1 if prompt % self.block_tokens else 0)]

    def _fresh(self, count: int) -> range:
        first = self.next_id
        self.next_id += max(count, 0)
        return range(first, self.next_id)
