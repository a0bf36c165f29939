"""Strict reading of a CSV table: fast when all is well, one exact sentence when it is not.

The whole file goes through pandas' C parser once. Only when that fails, or a vectorised check does, is the
file walked row by row, to say which row and column is wrong and what would be right.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError

_GZIP_MAGIC = b"\x1f\x8b"
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_SHOWN = 40  # characters of a bad cell that an error message repeats


@dataclass(frozen=True)
class Column:
    """What a column must hold.

    Attributes:
        name: Its name in the header.
        kind: ``time`` (finite, at least 0, never decreasing), ``seconds`` (finite, at least 0), ``whole``
            (whole number within ``low..high``), ``label`` (one of ``labels``) or ``text``.
        required: Whether the header must have it.
        blank: Whether a cell may be blank.
        low: Least value of a ``whole`` column.
        high: Greatest value of a ``whole`` column.
        labels: Valid values of a ``label`` column.
    """

    name: str
    kind: Literal["time", "seconds", "whole", "label", "text"]
    required: bool = True
    blank: bool = False
    low: int = 0
    high: int = 0
    labels: tuple[str, ...] = ()

    @property
    def numeric(self) -> bool:
        """Whether its cells are numbers."""
        return self.kind in ("time", "seconds", "whole")


@dataclass(frozen=True)
class Table:
    """A checked table.

    Attributes:
        rows: Number of data rows.
        numbers: Numeric columns by name, float64, shape ``(rows,)``, NaN where blank.
        codes: Text and label columns by name, int64 codes into ``names``, -1 where blank, shape ``(rows,)``.
        names: The distinct values behind each of ``codes``.
        ignored: Columns of the file that were not asked for.
        duplicates: Rows that repeat an earlier row in every column that was asked for.
    """

    rows: int
    numbers: dict[str, NDArray[np.float64]]
    codes: dict[str, NDArray[np.int64]]
    names: dict[str, list[str]]
    ignored: tuple[str, ...]
    duplicates: int


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or gzip-compressed file (recognised by content) for reading bytes.

    Raises:
        BurstenvError: When there is no such file, it cannot be read, is empty or is not text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
            if path.suffix == ".gz" and head and not head.startswith(_GZIP_MAGIC):
                raise BurstenvError(f"{path}: ends in .gz but is not gzip-compressed")
            file.seek(0)
            stream: Any = gzip.GzipFile(fileobj=file) if head.startswith(_GZIP_MAGIC) else file
            sample = stream.read(1 << 16)
            if not sample:
                raise BurstenvError(f"{path}: the file is empty; expected a CSV header and rows")
            if b"\0" in sample:
                raise BurstenvError(f"{path}: not a text file; expected CSV, plain or gzip-compressed")
            stream.seek(0)
            yield stream
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BurstenvError(f"{path}: damaged gzip file ({error})") from None
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_header(path: Path) -> tuple[str, ...]:
    """Return the column names of a CSV file, stripped of blanks and byte-order mark."""
    return next(iter(_rows(path)))


def missing_columns(header: tuple[str, ...], columns: tuple[Column, ...]) -> list[str]:
    """Return the names of required columns that ``header`` lacks."""
    return [column.name for column in columns if column.required and column.name not in header]


def read_table(path: Path, columns: tuple[Column, ...]) -> Table:
    """Read and check a CSV file by column name.

    Args:
        path: A CSV file, plain or gzip-compressed.
        columns: What to read; other columns are ignored and listed in the result.

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based data row and the column.
    """
    header = read_header(path)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise BurstenvError(f"{path}: column {twice[0]!r} appears more than once in the header")
    missing = missing_columns(header, columns)
    if missing:
        raise BurstenvError(
            f"{path}: column {missing[0]!r} is missing; found: {', '.join(header)}; "
            f"needed: {', '.join(c.name for c in columns if c.required)}"
        )
    present = tuple(column for column in columns if column.name in header)
    try:
        table = _parse(path, header, present)
    except (ValueError, OverflowError) as error:  # ParserError and UnicodeDecodeError are ValueErrors
        if isinstance(error, BurstenvError):
            raise
        _diagnose(path, header, present)
        raise BurstenvError(f"{path}: cannot be parsed as CSV ({' '.join(str(error).split())})") from None
    if table.rows == 0:
        raise BurstenvError(f"{path}: there is a header but no row below it")
    return table


class _NotClean(ValueError):
    """A vectorised check failed; the row-by-row walk will say where."""


def _parse(path: Path, header: tuple[str, ...], present: tuple[Column, ...]) -> Table:
    import pandas as pd

    # Columns nobody asked for stay text, so that nothing in them can fail to parse.
    kinds: dict[Any, Any] = {name: "category" for name in header}
    kinds.update({column.name: "float64" for column in present if column.numeric})
    with open_table(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
        try:
            frame = pd.read_csv(
                stream,
                names=list(header),
                header=0,
                index_col=False,
                dtype=kinds,
                engine="c",
                encoding="utf-8-sig",
                na_values=[""],
                keep_default_na=False,
                low_memory=False,
            )
        except pd.errors.ParserWarning as warning:
            raise _NotClean(str(warning)) from None
    numbers = {c.name: frame[c.name].to_numpy() for c in present if c.numeric}
    codes = {c.name: frame[c.name].cat.codes.to_numpy().astype(np.int64) for c in present if not c.numeric}
    names = {c.name: [str(v) for v in frame[c.name].cat.categories] for c in present if not c.numeric}
    for column in present:
        if column.numeric:
            _check_numbers(column, numbers[column.name])
        else:
            _check_codes(column, codes[column.name], names[column.name])
    return Table(
        rows=len(frame),
        numbers=numbers,
        codes=codes,
        names=names,
        ignored=tuple(name for name in header if name not in {c.name for c in present}),
        duplicates=_count_duplicates([*numbers.values(), *codes.values()]),
    )


def _check_numbers(column: Column, values: NDArray[np.float64]) -> None:
    blank = np.isnan(values)
    if blank.any() and not column.blank:
        raise _NotClean(column.name)
    kept = values[~blank] if column.blank else values
    if column.kind == "whole":
        good = (kept >= column.low) & (kept <= column.high) & (kept == np.floor(kept))
    else:
        good = np.isfinite(kept) & (kept >= 0)
    if not good.all() or (column.kind == "time" and (np.diff(kept) < 0).any()):
        raise _NotClean(column.name)


def _check_codes(column: Column, codes: NDArray[np.int64], names: list[str]) -> None:
    if not column.blank and (codes < 0).any():
        raise _NotClean(column.name)
    if column.kind == "label" and any(name.strip() not in column.labels for name in names):
        raise _NotClean(column.name)


def _count_duplicates(columns: list[NDArray[Any]]) -> int:
    """Count rows equal to an earlier one, by a 64-bit hash of each row (splitmix64 finaliser)."""
    hashed = np.zeros(len(columns[0]), dtype=np.uint64)
    for values in columns:
        hashed = (hashed ^ values.view(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashed ^= hashed >> np.uint64(31)
    hashed.sort()
    return int(np.count_nonzero(hashed[1:] == hashed[:-1]))


def _rows(path: Path) -> Iterator[tuple[str, ...]]:
    """Yield the header and then every non-blank row of a CSV file as stripped text."""
    row = -1
    with open_table(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        try:
            for cells in csv.reader(text):
                if cells:
                    row += 1
                    yield tuple(cell.strip() for cell in cells)
        except UnicodeDecodeError:
            where = "in the header" if row < 0 else f"after row {row}"
            raise BurstenvError(f"{path}: not UTF-8 text {where}; expected CSV") from None
        except csv.Error as error:
            raise BurstenvError(f"{path}: row {row + 1}: not valid CSV ({error})") from None
        finally:
            text.detach()
    if row < 0:
        raise BurstenvError(f"{path}: the file is empty; expected a CSV header and rows")


def _diagnose(path: Path, header: tuple[str, ...], present: tuple[Column, ...]) -> None:
    """Walk the file and raise for the first cell that is wrong; return when there is none."""
    places = [(column, header.index(column.name)) for column in present]
    latest = -1.0
    rows = iter(_rows(path))
    next(rows)
    for row, cells in enumerate(rows, start=1):
        if len(cells) != len(header):
            hint = "; is the row truncated?" if len(cells) < len(header) else ""
            raise BurstenvError(f"{path}: row {row}: has {len(cells)} columns, the header has {len(header)}{hint}")
        for column, place in places:
            problem = _problem(column, cells[place], latest)
            if problem:
                raise BurstenvError(f"{path}: row {row}: column {column.name!r}: {problem}")
            if column.kind == "time":
                latest = float(cells[place])


def _problem(column: Column, cell: str, latest: float) -> str | None:
    """Say what is wrong with a cell, or return None."""
    shown = repr(cell if len(cell) <= _SHOWN else cell[:_SHOWN] + "...")
    if not cell:
        return None if column.blank else "is blank"
    if column.kind == "text":
        return None
    if column.kind == "label":
        valid = ", ".join(column.labels)
        return None if cell in column.labels else f"unknown value {shown}; valid: {valid}"
    value = float(cell) if _NUMBER.fullmatch(cell) else np.nan
    if column.kind == "whole":
        fits = column.low <= value <= column.high and value == np.floor(value)
        return None if fits else f"need a whole number from {column.low:,} to {column.high:,}, got {shown}"
    if not (np.isfinite(value) and value >= 0):
        return f"need a finite number of seconds of at least 0, got {shown}"
    if column.kind == "time" and value < latest:
        return f"{cell} is earlier than {latest:g} in the row before; rows must be sorted by time"
    return None
