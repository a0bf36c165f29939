"""Sessions, and prefixes shared between them, from chains of block hashes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.formats.csv_table import first_appearance

_NONE = -1


@dataclass(frozen=True)
class Recognised:
    """Sessions and shared prefixes of ``n`` requests.

    Attributes:
        session: Session numbers in order of first appearance, -1 for requests with no other turn, (n,) int32.
        prefix_id: Shared prefixes, numbered likewise, -1 for none, (n,) int32.
        prefix_tokens: Their lengths [tokens], (n,) int32.
        reused_blocks: Full blocks of prompts that an earlier request also has.
        reused_blocks_kept: The part of these kept by sessions and shared prefixes.
        reused_blocks_added: Full blocks implied by sessions that no earlier request has.
    """

    session: NDArray[np.int32]
    prefix_id: NDArray[np.int32]
    prefix_tokens: NDArray[np.int32]
    reused_blocks: int
    reused_blocks_kept: int
    reused_blocks_added: int


def recognise(
    chain: NDArray[np.int64],
    end: NDArray[np.int64],
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    block_tokens: int,
) -> Recognised:
    """Find sessions and shared prefixes.

    The last full block of its latest turn identifies a session, if no other request had that block before: a longer
    prompt that contains it is the next turn. Each session then has one shared prefix: of the runs of blocks that its
    first prompt shares with other sessions, the longest.

    Args:
        chain: Hashes of all requests, one after another.
        end: Where each request's hashes end, after a leading 0, shape ``(n + 1,)``.
        prompt_tokens: Prompt lengths, shape ``(n,)``.
        output_tokens: Response lengths, shape ``(n,)``.
        block_tokens: Tokens of a block.
    """
    n = len(prompt_tokens)
    tree = _Tree()
    paths: list[list[int]] = []
    unit = np.empty(n, dtype=np.int64)  # the session of each request, single ones included
    tails: dict[int, int] = {}  # last full block of a session's latest turn -> session
    latest: list[int] = []  # prompt of each session's latest turn [tokens]
    reused = np.zeros(n, dtype=np.int64)  # full blocks of each prompt that were known
    for request in range(n):
        tokens = int(prompt_tokens[request])
        full = min(int(end[request + 1] - end[request]), tokens // block_tokens)
        path, known = tree.enter(chain[end[request] : end[request] + full].tolist())
        reused[request] = known
        session = _NONE
        for depth in range(known - 1, -1, -1):
            owner = tails.get(path[depth], _NONE)
            if owner >= 0 and tokens > latest[owner]:
                session = owner
                del tails[path[depth]]
                break
        if session < 0:
            session = len(latest)
            latest.append(0)
            if full > known:
                tails[path[-1]] = session
        elif full > known or path[-1] == path[depth]:
            tails[path[-1]] = session
        latest[session] = tokens
        unit[request] = session
        paths.append(path)
    prefix_of, blocks_of = _shared_prefixes(tree, paths, unit, len(latest))
    turns = np.bincount(unit, minlength=len(latest))
    numbers, _ = first_appearance(np.where(turns[unit] > 1, unit, _NONE))
    prefix, _ = first_appearance(prefix_of[unit])
    shared = (blocks_of[unit] * block_tokens).astype(np.int32)
    said = _said(unit, prefix, shared, prompt_tokens, output_tokens, block_tokens)
    kept = int(np.minimum(said, reused).sum())
    return Recognised(numbers, prefix, shared, int(reused.sum()), kept, int(said.sum()) - kept)


class _Tree:
    """The tree of all chains; a node is a block with everything before it."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], int] = {}  # (parent, hash) -> node
        self.parents: list[int] = []

    def enter(self, hashes: list[int]) -> tuple[list[int], int]:
        """Walk a chain and add its new nodes; return its nodes and the number of known ones."""
        path, known, node = [], 0, _NONE
        for value in hashes:
            below = self.nodes.get((node, value))
            if below is None:
                below = self.nodes[(node, value)] = len(self.parents)
                self.parents.append(node)
            else:
                known += 1
            path.append(below)
            node = below
        return path, known


def _shared_prefixes(
    tree: _Tree, paths: list[list[int]], unit: NDArray[np.int64], units: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each session's shared prefix (-1: none) and its length in blocks.

    The nodes that two sessions or more hold are divided into strands: a strand goes on into the child that
    most sessions hold, every other child begins a strand. Sessions of one strand agree in all blocks from
    the root on, so a strand is a prefix; a session takes the one that its first prompt follows the longest.
    """
    holders = np.zeros(len(tree.parents), dtype=np.int64)
    last = np.full(len(tree.parents), _NONE)
    by_session = np.argsort(unit, kind="stable")
    for request in by_session.tolist():
        for node in paths[request]:
            if last[node] != unit[request]:
                last[node] = unit[request]
                holders[node] += 1
    heavy: dict[int, int] = {}  # node -> the child that most sessions hold
    for node in np.flatnonzero(holders >= 2).tolist():
        parent = tree.parents[node]
        if parent >= 0 and (parent not in heavy or holders[node] > holders[heavy[parent]]):
            heavy[parent] = node
    strand = np.full(len(tree.parents), _NONE)
    strands = 0
    for node in np.flatnonzero(holders >= 2).tolist():  # parents come before their children
        parent = tree.parents[node]
        if parent >= 0 and heavy[parent] == node:
            strand[node] = strand[parent]
        else:
            strand[node] = strands
            strands += 1
    prefix, blocks = np.full(units, _NONE), np.zeros(units, dtype=np.int64)
    seen = np.zeros(units, dtype=bool)
    for request, path in enumerate(paths):
        number = unit[request]
        if seen[number]:
            continue
        seen[number] = True
        best = start = 0
        shared = next((depth for depth, node in enumerate(path) if holders[node] < 2), len(path))
        for depth in range(1, shared + 1):
            if depth == shared or strand[path[depth]] != strand[path[start]]:
                if depth - start > best:
                    best, prefix[number], blocks[number] = depth - start, strand[path[start]], depth
                start = depth
    return prefix, blocks


def _said(
    unit: NDArray[np.int64],
    prefix: NDArray[np.int32],
    shared_tokens: NDArray[np.int32],
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    block_tokens: int,
) -> NDArray[np.int64]:
    """Count the full blocks of each prompt that sessions and shared prefixes imply to be known."""
    known: dict[int, int] = {}  # session -> tokens of its latest turn
    reach: dict[int, int] = {}  # prefix -> its blocks seen so far
    said = np.zeros(len(unit), dtype=np.int64)
    for request in range(len(unit)):
        full = int(prompt_tokens[request]) // block_tokens
        head = min(full, int(shared_tokens[request]) // block_tokens)
        hits = min(head, reach.get(int(prefix[request]), 0))
        total = known.get(int(unit[request]), 0)
        if total and hits == head:
            hits = max(hits, min(full, total // block_tokens))
        said[request] = hits
        reach[int(prefix[request])] = max(reach.get(int(prefix[request]), 0), head)
        known[int(unit[request])] = int(prompt_tokens[request]) + int(output_tokens[request])
    return said
