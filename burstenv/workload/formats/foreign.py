"""Files that are no traces: their likely kind, and the way to make them readable."""

from __future__ import annotations

import re
from pathlib import Path

from burstenv.errors import BurstenvError

UNSORTED = "rows must be sorted by time; --sort (sort=True in Python, sort: true in a workload) sorts them"

# First bytes of a file, its kind, the remedy.
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it or use gzip"),
    (b"BZh", "compressed with bzip2", "unpack it or use gzip"),
    (b"\xfd7zXZ\0", "compressed with xz", "unpack it or use gzip"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it or use gzip"),
    (b"\x1f\x9d", "compressed with compress", "unpack it or use gzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it"),
    (b"Rar!", "a RAR archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook", "save the sheet as CSV (UTF-8)"),
    (b"PK\x03\x04", "a zip archive", "unpack it or use gzip"),
    (b"ARROW1", "an Arrow (Feather) file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"\x89HDF", "an HDF5 file", "write it as Parquet"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"%PDF", "a PDF", "expected CSV, JSON lines or Parquet"),
    (b"PAR1", "Parquet inside gzip", "unpack it"),
    (b"\x1f\x8b", "compressed with gzip twice", "unpack it once"),
    (b"\xff\xfe\0\0", "text in UTF-32", "save it as UTF-8"),
    (b"\0\0\xfe\xff", "text in UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "text in UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "text in UTF-16", "save it as UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
)
_INSIDE_GZIP_ONLY = (b"PAR1", b"\x1f\x8b")
_SEPARATORS = ((";", "';'"), ("\t", "tabs"), ("|", "'|'"))
_NUMBER = re.compile(r"[+-]?[0-9]*\.?[0-9]+([eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[0-9]{1,3}([,' \u00a0\u202f][0-9]{3})+(\.[0-9]+)?")
_DATE = re.compile(r"[0-9]{1,4}[-/.][0-9]{1,2}[-/.][0-9]{1,4}([ T].*)?")


def refuse_foreign(path: Path, head: bytes, inside: bool = False) -> None:
    """Raise if a file begins like a well-known kind of file that is not supported.

    Args:
        path: The file.
        head: Its first bytes, a few thousand where it has them.
        inside: Whether these are of what a gzip file holds.

    Raises:
        BurstenvError: With the kind of the file and the remedy.
    """
    for magic, kind, advice in _BEGINNINGS:
        if head.startswith(magic) and (inside or magic not in _INSIDE_GZIP_ONLY):
            if magic.startswith(b"PK") and (b"xl/" in head or path.suffix in (".xlsx", ".xlsm")):
                kind, advice = "an Excel workbook", "save the sheet as CSV (UTF-8)"
            raise BurstenvError(f"{path}: {kind}; {advice}")
    text = head[:400].removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:1] == b"<":
        raise BurstenvError(f"{path}: a page of HTML or XML, not a trace; was the address of a web page downloaded?")
    if text[:1] == b"[":
        raise BurstenvError(f"{path}: a JSON array; expected JSON lines, one object on each line (jq -c '.[]')")
    zeros = head[:400].count(b"\0")
    if len(head) >= 8 and 3 * zeros > len(head[:400]) and (head[1:2] == b"\0" or head[:1] == b"\0"):
        raise BurstenvError(f"{path}: text in UTF-16 or UTF-32; save it as UTF-8")


def refuse_header(path: Path, header: tuple[str, ...]) -> None:
    """Raise if columns are not separated by commas, or the header is missing.

    Raises:
        BurstenvError: With the problem and the remedy.
    """
    line = ",".join(header)
    for separator, name in _SEPARATORS:
        if line.count(separator) > max(line.count(","), 1):
            raise BurstenvError(f"{path}: columns are separated by {name}; need commas")
    if len(header) == 1 and len(header[0].split()) >= 3:
        raise BurstenvError(f"{path}: columns are separated by blanks; need commas")
    numbers = sum(bool(_NUMBER.fullmatch(cell) or _DATE.fullmatch(cell)) for cell in header)
    if numbers >= 2 and 2 * numbers >= len(header):
        raise BurstenvError(
            f"{path}: the header is missing: the first line is {line[:80]!r}; put a line of column names before it"
        )


def hint(cell: str) -> str:
    """Return a hint for an invalid number, after a semicolon; blank without one."""
    if _THOUSANDS.fullmatch(cell):
        return "; write it without thousands separators"
    if re.fullmatch(r"[+-]?[0-9]+,[0-9]+", cell):
        return "; write decimals with a point"
    if _DATE.fullmatch(cell):
        return "; dates and times are read with --columns and --time-unit iso"
    return ""


def hint_of_number(cell: str) -> str:
    """Return a hint for an invalid date, after a semicolon."""
    return "; for numbers say --time-unit s, ms, us or ns" if _NUMBER.fullmatch(cell) else ""
