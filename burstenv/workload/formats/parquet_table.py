"""Reader of any Parquet file as a table, with the semantics and the errors of CSV."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.formats.csv_fast import numbers
from burstenv.workload.formats.csv_rows import Found, Walk, Wrong
from burstenv.workload.formats.csv_table import Column, joined

_ROWS_AT_ONCE = 1 << 17


def header_of(path: Path) -> tuple[str, ...]:
    """Return the column names of a Parquet file."""
    return tuple(name.strip() for name in open_parquet(path).schema_arrow.names)


def open_parquet(path: Path) -> Any:
    """Open a Parquet file, checksums verified.

    Raises:
        BurstenvError: When pyarrow is missing, or the file cannot be read as Parquet.
    """
    pa, parquet = pyarrow()
    try:
        return parquet.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from None


def damaged(path: Path, error: Exception) -> BurstenvError:
    """Return the error for a file that pyarrow cannot read."""
    return BurstenvError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())[:200]})")


def pyarrow() -> tuple[Any, Any]:
    """Return pyarrow and its module for Parquet, which are an extra."""
    try:
        return import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        raise BurstenvError("Parquet needs the parquet extra: pip install 'burstenv[parquet]'") from None


def walk_parquet(path: Path, header: tuple[str, ...], present: tuple[Column, ...]) -> Found:
    """Read columns of a Parquet file; arguments, result and errors as :func:`csv_rows.walk_file`."""
    source = open_parquet(path)
    names = tuple(column.name for column in present)
    stored = source.schema_arrow.names
    walk = Walk(path, names, present)
    try:
        for batch in source.iter_batches(_ROWS_AT_ONCE, columns=[stored[header.index(name)] for name in names]):
            columns = [batch.column(stored[header.index(name)]) for name in names]
            if not _take(walk, present, columns):
                walk.take(list(zip(*map(_cells, columns), strict=True)))
    except (pyarrow()[0].ArrowException, OSError, ValueError) as error:
        if isinstance(error, BurstenvError):
            raise
        raise damaged(path, error) from None
    return joined(walk.parts, present), walk.names()


def _take(walk: Walk, present: tuple[Column, ...], columns: list[Any]) -> bool:
    """Read whole columns at once; return whether all of their cells were valid."""
    latest = dict(walk.latest)
    read: dict[str, NDArray[Any]] = {}
    try:
        for column, values in zip(present, columns, strict=True):
            found = _column(walk, column, values)
            ordered = column.kind in ("time", "stamp")
            if found is None or (ordered and len(found) and not walk.goes_on(column, found)):
                walk.latest = latest
                return False
            read[column.name] = found
    except Wrong:
        walk.latest = latest
        return False
    for name, found in read.items():
        walk.parts[name].append(found)
    walk.rows += len(columns[0])
    return True


def _column(walk: Walk, column: Column, values: Any) -> NDArray[Any] | None:
    if column.coded:
        encoded = values if hasattr(values, "dictionary") else values.dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        order, first = np.unique(codes, return_index=True)
        order = order[np.argsort(first)]
        known = [str(value) if value is not None else "" for value in encoded.dictionary.to_pylist()] + [""]
        number = np.zeros(len(known), dtype=np.int32)
        number[order] = walk.read(column, [known[code].strip() for code in order.tolist()])
        return number[codes]
    if values.null_count or column.kind == "stamp" or column.unit_digits or len(values) == 0:
        return None
    return numbers(column, _widened(values.to_numpy(zero_copy_only=False)))


def _widened(values: NDArray[Any]) -> NDArray[Any]:
    """Return integers as int64; a 64-bit unsigned one may not fit and stays."""
    return values.astype(np.int64) if values.dtype.kind in "iu" and values.dtype != np.uint64 else values


def _cells(values: Any) -> list[str]:
    """Return a column as a CSV would hold it."""
    types, compute = import_module("pyarrow.types"), import_module("pyarrow.compute")
    if types.is_timestamp(values.type):
        values = compute.cast(values, "string")
    return ["" if value is None or value != value else str(value).strip() for value in values.to_pylist()]
