"""Strict reading of a table by column name, CSV or Parquet, in bounded memory.

Two readers give the same result. :mod:`burstenv.workload.formats.csv_rows` reads a file row by row in plain Python: it
defines valid files and reports the row and column of an error. Large files go through pandas first
(:mod:`burstenv.workload.formats.csv_fast`); its result counts only if it is certainly the same, otherwise the row
reader starts from the beginning.
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.formats.foreign import refuse_foreign, refuse_header

MAX_SECONDS = 1e10  # 317 years: anything above is damaged, or in another unit
GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
PANDAS_FROM_BYTES = 4 << 20  # below this, walking the rows is faster than importing pandas
_GZIP_RATIO = 4  # a compressed file counts as this many times its size
_SHOWN = 400  # characters of a header that an error message repeats
_ROWS_AT_ONCE = 1 << 18  # rows whose hash is computed together


@dataclass(frozen=True)
class Column:
    """Definition of a column.

    Attributes:
        name: Its name in the header.
        kind: ``time`` (from 0 to 10 billion s, never decreasing), ``stamp`` (ISO 8601 date and time, never
            decreasing), ``seconds`` (from 0 to 10 billion s), ``whole`` (whole number within ``low..high``),
            ``label`` (one of ``labels``), ``text``, or ``key`` (text of which only the distinctness matters).
        required: Whether the header must contain it.
        blank: Whether a cell may be blank; a blank ``whole`` cell reads as 0.
        low: Least value of a ``whole`` column.
        high: Greatest value of a ``whole`` column, below 2**31.
        labels: Valid values of a ``label`` column.
        unit_digits: Decimal places by which a ``time`` is divided: 3 for milliseconds.
        any_order: Whether a ``time`` or ``stamp`` may be earlier than the one before.
    """

    name: str
    kind: Literal["time", "stamp", "seconds", "whole", "label", "text", "key"]
    required: bool = True
    blank: bool = False
    low: int = 0
    high: int = 0
    labels: tuple[str, ...] = ()
    unit_digits: int = 0
    any_order: bool = False

    @property
    def coded(self) -> bool:
        """Whether its cells are read as codes into a list of distinct values."""
        return self.kind in ("label", "text", "key")

    @property
    def dtype(self) -> type:
        """The type its cells are read into."""
        if self.kind == "stamp":
            return np.int64
        return np.int32 if self.coded or self.kind == "whole" else np.float64


@dataclass(frozen=True)
class Table:
    """A checked table.

    Attributes:
        rows: Number of data rows.
        columns: Columns by name, shape ``(rows,)``: ``time`` and ``seconds`` float64 [s] (NaN where blank),
            ``stamp`` int64 [ns since 1970 UTC], ``whole`` int32 (0 where blank), ``label``, ``text``
            and ``key`` int32 codes into ``names`` in order of first appearance, -1 where blank.
        names: The distinct values behind the codes, stripped of blanks; not kept for ``key``.
        ignored: Columns of the file that were not asked for.
        duplicates: Rows that repeat an earlier row in every column that was asked for.
        out_of_order: Rows that were earlier than the one before, in a table that has been sorted.
    """

    rows: int
    columns: dict[str, NDArray[Any]]
    names: dict[str, list[str]]
    ignored: tuple[str, ...]
    duplicates: int
    out_of_order: int = 0

    def pop(self, name: str) -> NDArray[Any]:
        """Return a column and release it, to free its memory."""
        return self.columns.pop(name)

    def codes(self, name: str, labels: tuple[str, ...] | None = None) -> NDArray[Any] | None:
        """Return a coded column, or None if the file lacks it, and release it.

        Args:
            name: The column.
            labels: Values indexed by the codes; by default the values in order of first appearance.
        """
        if name not in self.columns:
            return None
        codes = self.pop(name)
        if labels is None:
            return codes
        return np.array([*(labels.index(value) for value in self.names[name]), -1], dtype=np.int8)[codes]


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or gzip-compressed file (recognised by content) for reading bytes.

    Raises:
        BurstenvError: When there is no such file, it cannot be read, is empty or is not text.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            refuse_foreign(path, head)
            if path.suffix == ".gz" and head and not head.startswith(GZIP_MAGIC):
                raise BurstenvError(f"{path}: ends in .gz but is not gzip-compressed")
            file.seek(0)
            stream: Any = gzip.GzipFile(fileobj=file) if head.startswith(GZIP_MAGIC) else file
            sample = stream.read(1 << 16)
            if not sample:
                raise BurstenvError(f"{path}: the file is empty; expected a CSV header and rows")
            refuse_foreign(path, sample, inside=stream is not file)
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
    """Return the column names of a CSV or Parquet file, stripped of blanks and byte-order mark."""
    if begins(path, PARQUET_MAGIC):
        from burstenv.workload.formats.parquet_table import header_of

        return header_of(path)
    from burstenv.workload.formats.csv_rows import rows_of

    return next(iter(rows_of(path)))


def begins(path: Path, magic: bytes) -> bool:
    """Return whether a file begins with some bytes; False if it cannot be read; opening it reports the error."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False


def missing_columns(header: tuple[str, ...], columns: tuple[Column, ...]) -> list[str]:
    """Return the names of required columns that ``header`` lacks."""
    return [column.name for column in columns if column.required and column.name not in header]


def read_table(path: Path, columns: tuple[Column, ...], *, sort: bool = False) -> Table:
    """Read and check a file by column name.

    Args:
        path: A CSV file, plain or gzip-compressed, or a Parquet file.
        columns: Columns to read; others are ignored and listed in the result.
        sort: Sort the rows by time, those of one time in the order of the file, instead of an error.

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based data row and the column.
    """
    header = read_header(path)
    refuse_header(path, header)
    if sort:
        columns = tuple(replace(column, any_order=True) for column in columns)
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise BurstenvError(f"{path}: column {twice[0]!r} appears more than once in the header")
    missing = missing_columns(header, columns)
    if missing:
        found_names = " ".join(", ".join(header).split())[:_SHOWN]  # a name may hold anything, line ends too
        raise BurstenvError(
            f"{path}: column {missing[0]!r} is missing; found: {found_names}; "
            f"needed: {', '.join(c.name for c in columns if c.required)}"
        )
    present = tuple(column for column in columns if column.name in header)
    found = None
    if begins(path, PARQUET_MAGIC):
        from burstenv.workload.formats.parquet_table import walk_parquet

        found = walk_parquet(path, header, present)
    elif _counted_bytes(path) >= PANDAS_FROM_BYTES:
        from burstenv.workload.formats.csv_fast import parse_file

        found = parse_file(path, header, present)
    if found is None:
        from burstenv.workload.formats.csv_rows import walk_file

        found = walk_file(path, header, present)
    values, names = found
    rows = len(next(iter(values.values())))
    if rows == 0:
        raise BurstenvError(f"{path}: there is a header but no row below it")
    asked = {column.name for column in present}
    out_of_order = _sort(values, names, present) if sort else 0
    return Table(
        rows=rows,
        columns=values,
        names=names,
        ignored=tuple(name for name in header if name not in asked),
        duplicates=count_duplicates(list(values.values())),
        out_of_order=out_of_order,
    )


def _sort(values: dict[str, NDArray[Any]], names: dict[str, list[str]], present: tuple[Column, ...]) -> int:
    """Sort rows by time, in place, and renumber texts; return the number of rows earlier than the one before."""
    time = values[next(column.name for column in present if column.kind in ("time", "stamp"))]
    early = int(np.count_nonzero(time[1:] < time[:-1]))
    if early:
        order = np.argsort(time, kind="stable")
        for column in present:
            name = column.name
            values[name] = values[name][order]
            if column.coded:
                values[name], first = first_appearance(values[name])
                if name in names:
                    names[name] = [names[name][code] for code in first.tolist()]
    return early


def first_appearance(codes: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Number codes in order of first appearance, -1 kept; return them and the old code of each new one."""
    seen, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(np.where(seen < 0, len(codes), first), kind="stable")
    rank = np.empty(len(seen), dtype=np.int32)
    rank[order] = np.arange(len(seen))
    rank[seen < 0] = -1
    old = seen[order]
    return rank[inverse], old[old >= 0]


def joined(parts: dict[str, list[NDArray[Any]]], columns: tuple[Column, ...]) -> dict[str, NDArray[Any]]:
    """Join the chunks of every column, freeing each column's chunks before the next."""
    whole = {}
    for column in columns:
        chunks = parts.pop(column.name)
        whole[column.name] = np.concatenate(chunks) if chunks else np.empty(0, dtype=column.dtype)
        chunks.clear()
    return whole


def count_duplicates(columns: list[NDArray[Any]]) -> int:
    """Count rows equal to an earlier one, by a 64-bit hash of each row (splitmix64 finaliser).

    Among ten million rows the chance that two that differ are counted as equal is 3 in a million.
    """
    rows = len(columns[0])
    hashed = np.empty(rows, dtype=np.uint64)
    for start in range(0, rows, _ROWS_AT_ONCE):
        part = np.zeros(min(_ROWS_AT_ONCE, rows - start), dtype=np.uint64)
        for values in columns:
            chunk = values[start : start + _ROWS_AT_ONCE]
            part ^= chunk.view(np.uint64) if chunk.itemsize == 8 else chunk.view(np.uint32).astype(np.uint64)
            part += np.uint64(0x9E3779B97F4A7C15)
            part ^= part >> np.uint64(30)
            part *= np.uint64(0xBF58476D1CE4E5B9)
            part ^= part >> np.uint64(27)
            part *= np.uint64(0x94D049BB133111EB)
            part ^= part >> np.uint64(31)
        hashed[start : start + len(part)] = part
    hashed.sort()
    return int(np.count_nonzero(hashed[1:] == hashed[:-1]))


def _counted_bytes(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        return size * _GZIP_RATIO if file.read(2) == GZIP_MAGIC else size
