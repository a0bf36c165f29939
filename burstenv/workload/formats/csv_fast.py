"""A CSV file parsed by a compiled state machine, chunk by chunk: for files of millions of rows.

It accepts a part of what :mod:`burstenv.workload.formats.csv_rows` accepts, with the same meaning, and gives up on
everything else, right or wrong: bytes outside ASCII, quotes and line ends inside quotes, control characters,
carriage returns alone, exponents, plus signs, more than 18 digits, and any cell that its column may not hold.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.formats.csv_kernel import (
    AT,
    CODED,
    DONE,
    GIVE_UP,
    IGNORED,
    LONGEST_TEXT,
    ROWS,
    SECONDS,
    STAMP,
    STATE_SIZE,
    TIME,
    WHOLE,
    ZONED,
    parse,
    rehash,
)
from burstenv.workload.formats.csv_table import MAX_SECONDS, Column, joined, open_table

CHUNK_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_KINDS = {"time": TIME, "seconds": SECONDS, "whole": WHOLE, "label": CODED, "text": CODED, "key": CODED}
_KINDS["stamp"] = STAMP


def parse_file(
    path: Path, header: tuple[str, ...], present: tuple[Column, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]] | None:
    """Read a file whose rows are all plain and valid.

    Args:
        path: The file.
        header: Its column names.
        present: Which of its columns to read, and what they must hold.

    Returns:
        Columns and distinct values as in :class:`burstenv.workload.formats.csv_table.Table`, or None when anything
        in the file is not plain or not valid.
    """
    plan = _Plan(header, present)
    with open_table(path) as stream:
        carried = b""
        first = True
        while True:
            chunk = stream.read(CHUNK_BYTES)
            data = carried + chunk
            if first:
                data = data.removeprefix(_BOM)
                body = _after_header(data, header)
                if body is None:
                    return None
                data, first = data[body:], False
            if not data.isascii():
                return None
            end = len(data) if not chunk else data.rfind(b"\n") + 1
            if not chunk and data and not data.endswith(b"\n"):
                data += b"\n"
                end += 1
            elif chunk and end == 0 and len(data) > CHUNK_BYTES:
                return None  # a line longer than a chunk
            if not plan.take(data, end):
                return None
            carried = data[end:]
            if not chunk:
                return joined(plan.parts, present), plan.names()


def _after_header(data: bytes, header: tuple[str, ...]) -> int | None:
    """Return where the rows begin, or None when the header is not one plain line."""
    at = 0
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            return None
        line = data[at:end].removesuffix(b"\r")
        if line:
            break
        at = end + 1
    if not line.isascii() or b"\r" in line or b"\0" in line:
        return None
    try:
        cells = next(csv.reader([line.decode("ascii")], strict=True))
    except csv.Error:  # a quoted name goes on in the next line
        return None
    return end + 1 if tuple(cell.strip() for cell in cells) == header else None


class _Plan:
    """The arrays that the compiled parser works on, for one file.

    Attributes:
        kinds, slots, blanks, lows, highs, units: What each column of the file is, (columns,).
        floats, wholes, stamps, codes: One chunk of each kind, (columns of the kind, rows of a chunk).
        slots_of: Open-addressed hash tables of the distinct texts, (coded columns, 2**k), code or -1.
        entries: First byte in ``arena``, length and hash of each text, (coded columns, texts, 3) int64.
        counts: Texts known of each coded column.
        arena: The bytes of all texts.
    """

    def __init__(self, header: tuple[str, ...], present: tuple[Column, ...]) -> None:
        self.present = present
        by_name = {column.name: column for column in present}
        groups: dict[int, list[str]] = {TIME: [], WHOLE: [], STAMP: [], CODED: []}
        kinds, slots = [], []
        for name in header:
            kind = _KINDS[by_name[name].kind] if name in by_name else IGNORED
            group = groups.get(TIME if kind == SECONDS else kind, [])
            kinds.append(kind)
            slots.append(len(group))
            group.append(name)
        found = [by_name.get(name) for name in header]
        self.groups = groups
        self.kinds = np.array(kinds, dtype=np.int8)
        self.slots = np.array(slots, dtype=np.int64)
        self.blanks = np.array([bool(c and c.blank) for c in found])
        self.lows = np.array([c.low if c else 0 for c in found], dtype=np.int64)
        self.highs = np.array([c.high if c else 0 for c in found], dtype=np.int64)
        self.units = np.array([c.unit_digits if c else 0 for c in found], dtype=np.int64)
        rows = 2 * CHUNK_BYTES // max(len(header), 2) + 2
        self.floats = np.empty((len(groups[TIME]), rows))
        self.wholes = np.empty((len(groups[WHOLE]), rows), dtype=np.int32)
        self.stamps = np.empty((len(groups[STAMP]), rows), dtype=np.int64)
        self.codes = np.empty((len(groups[CODED]), rows), dtype=np.int32)
        self.slots_of = np.full((len(groups[CODED]), 1 << 10), -1, dtype=np.int32)
        self.entries = np.zeros((len(groups[CODED]), 1 << 9, 3), dtype=np.int64)
        self.counts = np.zeros(len(groups[CODED]), dtype=np.int64)
        self.arena = np.empty(1 << 16, dtype=np.uint8)
        self.latest = np.full(len(header), -1.0)
        self.latest_ns = np.full(len(header), np.iinfo(np.int64).min)
        self.state = np.zeros(STATE_SIZE, dtype=np.int64)
        self.state[ZONED] = -1
        self.checked = dict.fromkeys(groups[CODED], 0)
        self.parts: dict[str, list[NDArray[Any]]] = {column.name: [] for column in present}

    def take(self, data: bytes, end: int) -> bool:
        """Parse the complete lines ``data[:end]``; return whether all of them are plain and valid."""
        buffer = np.frombuffer(data, dtype=np.uint8)
        self.state[AT] = self.state[ROWS] = 0
        while True:
            status = parse(
                buffer, end, self.kinds, self.slots, self.blanks, self.lows, self.highs, self.units, self.floats,
                self.wholes, self.stamps, self.codes, self.slots_of, self.entries, self.counts, self.arena,
                self.latest, self.latest_ns, self.state, MAX_SECONDS,
            )  # fmt: skip
            if status == GIVE_UP:
                return False
            if status == DONE:
                break
            self._grow()
        rows = int(self.state[ROWS])
        for kind, values in ((TIME, self.floats), (WHOLE, self.wholes), (STAMP, self.stamps), (CODED, self.codes)):
            for slot, name in enumerate(self.groups[kind]):
                self.parts[name].append(values[slot, :rows].copy())
        return self._labels_are_valid()

    def _grow(self) -> None:
        """Make room for twice the texts."""
        self.entries = np.concatenate([self.entries, np.zeros_like(self.entries)], axis=1)
        self.slots_of = np.full((len(self.counts), 4 * self.entries.shape[1]), -1, dtype=np.int32)
        rehash(self.slots_of, self.entries, self.counts)
        self.arena = np.concatenate([self.arena, np.empty(len(self.arena) + LONGEST_TEXT, dtype=np.uint8)])

    def _text(self, slot: int, code: int) -> str:
        start, length, _ = self.entries[slot, code].tolist()
        return bytes(self.arena[start : start + length]).decode("ascii")

    def _labels_are_valid(self) -> bool:
        """Return whether the texts seen for the first time in this chunk may stand in their columns."""
        for slot, name in enumerate(self.groups[CODED]):
            column = next(c for c in self.present if c.name == name)
            if column.kind == "label":
                for code in range(self.checked[name], int(self.counts[slot])):
                    if self._text(slot, code) not in column.labels:
                        return False
                self.checked[name] = int(self.counts[slot])
        return True

    def names(self) -> dict[str, list[str]]:
        """Return the distinct texts of each coded column."""
        named = {column.name for column in self.present if column.kind != "key"}
        return {
            name: [self._text(slot, code) for code in range(self.counts[slot])]
            for slot, name in enumerate(self.groups[CODED])
            if name in named
        }
