"""Reader of a CSV file row by row in plain Python: it defines valid files and reports exact errors."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.formats.csv_table import MAX_SECONDS, Column, joined, open_table
from burstenv.workload.formats.foreign import UNSORTED, hint, hint_of_number

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_STAMP = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:[0-9]{2})?"
)
_EPOCH_DAY = datetime.date(1970, 1, 1).toordinal()
_SHOWN = 40  # characters of a bad cell that an error message repeats
_LONGEST_LINE = 1 << 20
_LONGEST_NUMBER = 400  # characters; no real number is longer
_LONGEST_EXPONENT = 5  # characters, such as e-999
_CHUNK_ROWS = 1 << 14
_NAMED = ("label", "text")

Found = tuple[dict[str, NDArray[Any]], dict[str, list[str]]]


def rows_of(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the header and then every non-blank row of a CSV file as stripped text.

    Raises:
        BurstenvError: When the file is no UTF-8 text or no CSV; names the row.
    """
    row = -1
    with open_table(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            for cells in csv.reader(_lines(text), strict=True):
                if cells:
                    row += 1
                    yield tuple(cell.strip() for cell in cells)
        except UnicodeDecodeError:
            where = "in the header" if row < 0 else f"after row {row}"
            raise BurstenvError(f"{path}: not UTF-8 text {where}; expected CSV, saved as UTF-8") from None
        except csv.Error as error:
            raise BurstenvError(f"{path}: row {row + 1}: not valid CSV ({error})") from None
        finally:
            text.detach()
    if row < 0:
        raise BurstenvError(f"{path}: the file is empty; expected a CSV header and rows")


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(_LONGEST_LINE):
        if "\0" in line:
            raise csv.Error("it holds a NUL byte")
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line is longer than {_LONGEST_LINE:,} characters")
        yield line


def walk_file(path: Path, header: tuple[str, ...], present: tuple[Column, ...]) -> Found:
    """Read a file row by row.

    Args:
        path: The file.
        header: Its column names.
        present: Which of its columns to read, and what they must hold.

    Returns:
        Columns and distinct values as in :class:`burstenv.workload.formats.csv_table.Table`.

    Raises:
        BurstenvError: For the first cell that is wrong; names the file, the 1-based data row and the column.
    """
    walk = Walk(path, header, present)
    rows = rows_of(path)
    next(rows)
    chunk: list[tuple[str, ...]] = []
    for cells in rows:
        if len(cells) != len(header):
            walk.take(chunk)
            hint = "; is the row truncated?" if len(cells) < len(header) else ""
            raise BurstenvError(
                f"{path}: row {walk.rows + 1}: has {len(cells)} columns, the header has {len(header)}{hint}"
            )
        chunk.append(cells)
        if len(chunk) == _CHUNK_ROWS:
            walk.take(chunk)
    walk.take(chunk)
    return joined(walk.parts, present), walk.names()


class Walk:
    """State of the reader: chunks of columns, distinct texts, the last time."""

    def __init__(self, path: Path, header: tuple[str, ...], present: tuple[Column, ...]) -> None:
        self.path = path
        self.places = [(column, header.index(column.name)) for column in present]
        self.parts: dict[str, list[NDArray[Any]]] = {column.name: [] for column in present}
        self.values: dict[str, dict[str, int]] = {column.name: {} for column in present if column.coded}
        self.latest: dict[str, Any] = {}  # of each column of times: last value and, for stamps, whether zoned
        self.rows = 0

    def take(self, chunk: list[tuple[str, ...]]) -> None:
        """Read a chunk of rows and empty it."""
        if not chunk:
            return
        latest = dict(self.latest)
        try:
            read = {column.name: self.read(column, [cells[place] for cells in chunk]) for column, place in self.places}
        except Wrong:
            self.latest = latest
            self._diagnose(chunk)
            raise
        for name, values in read.items():
            self.parts[name].append(values)
        self.rows += len(chunk)
        chunk.clear()

    def names(self) -> dict[str, list[str]]:
        """Return the distinct texts of each column of labels or text."""
        return {column.name: list(self.values[column.name]) for column, _ in self.places if column.kind in _NAMED}

    def goes_on(self, column: Column, values: NDArray[Any]) -> bool:
        """Return whether times, shape ``(n,)``, n at least 1, go on from those before and never decrease."""
        if column.any_order:
            return True
        before = self.latest.get(column.name)
        self.latest[column.name] = values[-1].item()
        return (before is None or values[0] >= before) and bool((values[1:] >= values[:-1]).all())

    def zoned_alike(self, column: Column, zoned: bool) -> bool:
        """Return whether dates with a time zone, or without, are like those before."""
        return bool(self.latest.setdefault(f"{column.name} zoned", zoned) == zoned)

    def read(self, column: Column, cells: list[str]) -> NDArray[Any]:
        """Return cells of a column as it is kept; raises Wrong."""
        if column.coded:
            known = self.values[column.name]
            valid = column.labels if column.kind == "label" else None
            for cell in set(cells).difference(known):  # a dict, so that only the cells are walked
                if (not cell and not column.blank) or (cell and valid and cell not in valid):
                    raise Wrong
            return np.array([known.setdefault(cell, len(known)) if cell else -1 for cell in cells], dtype=np.int32)
        read = [self.value(column, cell) for cell in cells]
        return np.array(read, dtype=column.dtype)

    def value(self, column: Column, cell: str) -> float | int:
        """Return the value of a cell; raises Wrong with the valid form."""
        if not cell:
            if not column.blank:
                raise Wrong("is blank")
            return np.nan if column.kind == "seconds" else 0
        if column.kind == "whole":
            whole = _whole(cell)
            if whole is None or not column.low <= whole <= column.high:
                raise Wrong(
                    f"need a whole number from {column.low:,} to {column.high:,}, got {_shown(cell)}{hint(cell)}"
                )
            return whole
        if column.kind == "stamp":
            return self._instant(column, cell)
        number = _seconds(cell, column.unit_digits)
        if not 0 <= number <= MAX_SECONDS:
            need = f"need a finite number of seconds from 0 to {MAX_SECONDS:,.0f}"
            raise Wrong(f"{need}, got {_shown(cell)}{hint(cell)}")
        if column.kind == "time":
            self._not_earlier(column, cell, number)
        return number

    def _instant(self, column: Column, cell: str) -> int:
        """Return an ISO date and time as nanoseconds since 1970 UTC."""
        match = _STAMP.fullmatch(cell)
        need = "need a date and time such as 2023-11-16 18:17:03.9799600"
        if match is None:
            raise Wrong(f"{need}, got {_shown(cell)}{hint_of_number(cell)}")
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        fraction, zone = match.groups()[6:]
        try:
            days = datetime.date(year, month, day).toordinal() - _EPOCH_DAY
        except ValueError:
            raise Wrong(f"{need}, got {_shown(cell)}") from None
        offset_min = 0
        if zone not in (None, "Z"):
            offset_min = (60 * int(zone[1:3]) + int(zone[4:6])) * (-1 if zone[0] == "-" else 1)
        if not (1970 <= year <= 2200 and hour < 24 and minute < 60 and second < 60 and abs(offset_min) < 1440):
            raise Wrong(f"{need}, got {_shown(cell)}")
        zoned = zone is not None
        if not self.zoned_alike(column, zoned):
            raise Wrong(f"{cell} {'has' if zoned else 'lacks'} a time zone, unlike the rows before")
        seconds = days * 86_400 + hour * 3_600 + (minute - offset_min) * 60 + second
        instant = seconds * 10**9 + int((fraction or "").ljust(9, "0"))
        self._not_earlier(column, cell, instant)
        return instant

    def _not_earlier(self, column: Column, cell: str, value: float | int) -> None:
        if column.any_order:
            return
        before = self.latest.get(column.name)
        if before is not None and value < before:
            shown = f"{before:g}" if column.kind == "time" else "the time"
            raise Wrong(f"{cell} is earlier than {shown} in the row before; {UNSORTED}")
        self.latest[column.name] = value

    def _diagnose(self, chunk: list[tuple[str, ...]]) -> None:
        for row, cells in enumerate(chunk, start=self.rows + 1):
            for column, place in self.places:
                problem = self._problem(column, cells[place])
                if problem:
                    raise BurstenvError(f"{self.path}: row {row}: column {column.name!r}: {problem}") from None

    def _problem(self, column: Column, cell: str) -> str | None:
        """Return the error of a cell, or None."""
        if column.coded:
            if not cell:
                return None if column.blank else "is blank"
            valid = column.kind != "label" or cell in column.labels
            return None if valid else f"unknown value {_shown(cell)}; valid: {', '.join(column.labels)}"
        try:
            self.value(column, cell)
        except Wrong as wrong:
            return str(wrong)
        return None


class Wrong(ValueError):
    """A cell is invalid for its column."""


def _whole(cell: str) -> int | None:
    """Return the whole number that a cell holds, or None; magnitudes beyond 10**20 are of no column."""
    if len(cell) < 20 and cell.isascii() and cell.isdigit():
        return int(cell)
    exact = _exact(cell)
    if exact is None:
        return None
    return int(exact) if abs(exact) < 10**20 and exact == exact.to_integral_value() else None


def _seconds(cell: str, unit_digits: int) -> float:
    exact = _exact(cell)
    if exact is None or unit_digits == 0:
        return np.nan if exact is None else float(cell)
    # Shift the point of a copy: 1700000000123456789 ns is rounded once.
    sign, digits, exponent = exact.as_tuple()
    assert isinstance(exponent, int)
    return float(Decimal((sign, digits, exponent - unit_digits)))


def _exact(cell: str) -> Decimal | None:
    """Return the decimal number that a cell holds, None where it holds none, or one of a magnitude of no column."""
    match = _NUMBER.fullmatch(cell) if len(cell) <= _LONGEST_NUMBER else None
    if match is None or len(match[2] or "") > _LONGEST_EXPONENT:
        return None
    return Decimal(cell)


def _shown(cell: str) -> str:
    return repr(cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "...")
