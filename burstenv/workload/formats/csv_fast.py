"""A CSV file read by pandas, chunk by chunk: for files of millions of rows.

It accepts a part of what :mod:`burstenv.workload.formats.csv_rows` accepts, with the same meaning, and gives up on
everything else, right or wrong. A chunk goes to pandas only if its bytes show that every line has as many cells as the
header; pandas' result for a column counts only if its type shows that every cell was such a number.
"""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.formats.csv_lines import Lines
from burstenv.workload.formats.csv_rows import Found, Walk, Wrong
from burstenv.workload.formats.csv_stamps import instants
from burstenv.workload.formats.csv_table import MAX_SECONDS, Column, joined, open_table

CHUNK_BYTES = 2 << 20  # larger ones leave the caches of a processor
_BOM = b"\xef\xbb\xbf"
_INSIDE_CELLS = bytes(byte for byte in range(256) if byte not in b",\n")
_QUOTED_CELL = re.compile(rb'(?<![^,\n])"([^",\n]*)"(?=[,\n])')
_NO_LINE_LONGER = 1 << 17  # bytes, also the limit of the csv module
_EXACT = 1 << 53  # whole numbers below are exact as float64


def parse_file(path: Path, header: tuple[str, ...], present: tuple[Column, ...]) -> Found | None:
    """Read a file whose rows are all plain and valid.

    Args:
        path: The file.
        header: Its column names.
        present: Which of its columns to read, and what they must hold.

    Returns:
        Columns and distinct values as in :class:`burstenv.workload.formats.csv_table.Table`, or None when anything
        in the file is not plain or not valid.
    """
    walk = Walk(path, header, present)
    by_words = all(column.kind in ("stamp", "whole") for column in present)  # then pandas need not split the lines
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
            if not chunk and data and not data.endswith(b"\n"):
                data += b"\n"
            end = data.rfind(b"\n") + 1
            if chunk and end == 0 and len(data) > CHUNK_BYTES:
                return None
            lines = _plain(data[:end], len(header), by_words)
            if lines is None or not _take(walk, lines, by_words):
                return None
            carried = data[end:]
            if not chunk:
                return joined(walk.parts, present), walk.names()


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


def _plain(data: bytes, columns: int, by_words: bool) -> Lines | None:
    r"""Return complete lines without quotes and ended by \n alone; None when they are not that, or not of a table."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if b'"' in data:
        data = _QUOTED_CELL.sub(rb"\1", data)
    if b'"' in data or b"\r" in data or b"\0" in data:
        return None
    if not data.isascii():
        try:
            data.decode("utf-8")
        except UnicodeDecodeError:
            return None
    lines = Lines(data, columns)
    if by_words:
        return lines if lines.has_cells(_NO_LINE_LONGER) else None
    cells = data.translate(None, _INSIDE_CELLS)
    if cells != (b"," * (columns - 1) + b"\n") * (len(cells) // columns):
        return None
    window = _NO_LINE_LONGER // 2
    if any(data.find(b"\n", at, at + window) < 0 for at in range(0, len(data) - window, window)):
        return None
    return lines


def _take(walk: Walk, lines: Lines, by_words: bool) -> bool:
    """Read plain lines; return whether all of their cells are valid."""
    if not lines.text:
        return True
    wanted = {place: column for column, place in walk.places if column.kind != "stamp"}
    whole = {}
    if by_words:
        read = {place: lines.wholes(place) for place in wanted}
        whole = {place: values for place, values in read.items() if values is not None}
        wanted = {place: column for place, column in wanted.items() if place not in whole}
    as_text = [place for place, column in wanted.items() if column.coded or (column.kind == "whole" and column.blank)]
    may_lack = [place for place, column in wanted.items() if column.kind == "seconds" and column.blank]
    frame = _frame(lines, list(wanted), as_text, may_lack) if wanted else {}
    if frame is None:
        return False
    try:
        for column, place in walk.places:
            values: NDArray[Any] | None
            if column.kind == "stamp":
                found = instants(lines, place)
                values = found[0] if found is not None and walk.zoned_alike(column, found[1]) else None
            elif place in whole:
                values = numbers(column, whole[place])
            elif place in as_text:
                values = _distinct(walk, column, frame[place])
            else:
                values = numbers(column, frame[place].to_numpy())
            if values is None and column.unit_digits:  # pandas would round twice
                cells = _frame(lines, [place], [place], [])
                values = None if cells is None else walk.read(column, [cell.strip() for cell in cells[place]])
            elif values is not None and column.kind in ("time", "stamp") and not walk.goes_on(column, values):
                return False
            if values is None:
                return False
            walk.parts[column.name].append(values)
    except Wrong:
        return False
    return True


def _frame(lines: Lines, wanted: list[int], as_text: list[int], may_lack: list[int]) -> Any:
    """Return columns by place, those of text as Python strings; None if pandas rejects the lines."""
    import pandas

    options: dict[str, Any] = {
        "header": None, "names": range(lines.columns), "usecols": wanted, "index_col": False, "engine": "c",
        "dtype": dict.fromkeys(as_text, object), "keep_default_na": False,
        "na_values": {place: [""] for place in may_lack}, "quoting": csv.QUOTE_NONE, "skip_blank_lines": False,
        "low_memory": False,
    }  # fmt: skip
    if tuple(int(part) for part in pandas.__version__.split(".")[:2]) < (3, 1):
        options["float_precision"] = "round_trip"  # later ones round decimals right by themselves
        if may_lack and b"nan" in lines.text.lower():
            return None  # which earlier ones take for a number
    try:
        return pandas.read_csv(io.BytesIO(lines.text), **options)
    except (ValueError, OverflowError):
        return None


def numbers(column: Column, values: NDArray[Any]) -> NDArray[Any] | None:
    """Return a column of numbers as it is kept, or None when one of them is not valid."""
    if column.kind == "whole":
        valid = values.dtype == np.int64 and column.low <= values.min() and values.max() <= column.high
        return values.astype(np.int32) if valid else None
    if values.dtype == np.int64 and column.unit_digits:
        if not 0 <= values.min() <= values.max() < _EXACT:
            return None
        values = values / 10.0**column.unit_digits  # both exact, one rounding
    elif values.dtype not in (np.int64, np.float64) or column.unit_digits:
        return None
    seconds = values.astype(np.float64, copy=False)
    wrong = ~((seconds >= 0) & (seconds <= MAX_SECONDS))
    return None if (wrong & ~np.isnan(seconds) if column.blank else wrong).any() else seconds


def _distinct(walk: Walk, column: Column, cells: Any) -> NDArray[Any]:
    """Return a column of text, its distinct cells read one by one in order of first appearance."""
    import pandas

    codes, names = pandas.factorize(cells.to_numpy())
    return walk.read(column, [name.strip() for name in names])[codes]
