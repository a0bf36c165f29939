"""A cache of traces as columns on disk.

One file per trace, named by a hash of all inputs that determine its bytes: the source file's content and reading
options, or the generator, its parameters and its seed. Files are written atomically; a damaged one is ignored and
written again; a cache that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.files import replacing
from burstenv.workload.official.data_directory import cache_folder
from burstenv.workload.trace import COLUMNS, FAILURE_COLUMNS, Failures, Trace

FORMAT_VERSION = 4  # increment it when the layout of the files changes
DEFAULT_LIMIT_GIB = 10.0
_HASHED_AT_ONCE = 1 << 20


def load_cached(recipe: dict[str, Any]) -> Trace | None:
    """Return the cached trace of a recipe, or None without a usable one.

    Args:
        recipe: All inputs that determine the trace, as JSON values.
    """
    file = _file_of(recipe)
    try:
        arrays, header = _read_arrays(file)
        rows, failed = header["rows"], header["failed_rows"]
        columns = {name: _unfolded(arrays[name], rows) for name in COLUMNS}
        failures = Failures(*(_unfolded(arrays[f"failures_{name}"], failed) for name in FAILURE_COLUMNS))
        trace = Trace(**columns, failures=failures, metadata=header["metadata"])
    except Exception:  # absent, unreadable or damaged: it is made again
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # the least recently used go first
    return trace


def save_cached(recipe: dict[str, Any], trace: Trace) -> None:
    """Store a trace atomically; a cache that cannot be written is no error.

    The least recently used traces are deleted: all together take at most ``$BURSTENV_CACHE_GIB`` (default 10).
    """
    file = _file_of(recipe)
    columns = {name: _folded(getattr(trace, name)) for name in COLUMNS}
    columns |= {f"failures_{name}": _folded(getattr(trace.failures, name)) for name in FAILURE_COLUMNS}
    header = {"rows": len(trace), "failed_rows": len(trace.failures), "metadata": trace.metadata}
    with contextlib.suppress(OSError, ValueError):
        limit = float(os.environ.get("BURSTENV_CACHE_GIB") or DEFAULT_LIMIT_GIB) * 2**30
        size = sum(values.nbytes for values in columns.values())
        if size > limit:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        _make_room(file.parent, limit - size)
        with replacing(file) as stream:
            _write_arrays(stream, columns, header)


def _write_arrays(stream: IO[bytes], arrays: dict[str, NDArray[Any]], header: dict[str, Any]) -> None:
    """Write a line of JSON, its checksum in front, and then the bytes of every array."""
    listed = [(name, a.dtype.str, len(a), zlib.crc32(np.ascontiguousarray(a).data)) for name, a in arrays.items()]
    line = json.dumps({**header, "arrays": listed}).encode()
    stream.write(b"%08x %s\n" % (zlib.crc32(line), line))
    for values in arrays.values():
        stream.write(np.ascontiguousarray(values).data)


def _read_arrays(file: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a file of :func:`_write_arrays`; raises some error if it is damaged."""
    with file.open("rb") as stream:
        sums, line = stream.readline().rstrip(b"\n").split(b" ", 1)
        if int(sums, 16) != zlib.crc32(line):
            raise ValueError("damaged header")
        header = json.loads(line)
        arrays = {}
        for name, dtype, rows, checksum in header["arrays"]:
            arrays[name] = np.fromfile(stream, dtype=np.dtype(dtype), count=rows)
            if len(arrays[name]) != rows or zlib.crc32(arrays[name].data) != checksum:
                raise ValueError("damaged column")
    return arrays, header


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, cached while its size and modification time stay the same.

    Raises:
        BurstenvError: When the file cannot be read.
    """
    try:
        status = path.stat()
        note = cache_folder() / f"seen-{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]}.json"
        known = {"path": str(path.resolve()), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(note.read_text(encoding="utf-8"))
            if isinstance(noted, dict) and noted == {**known, "sha256": noted.get("sha256")}:
                return str(noted["sha256"])
        found = file_sha256(path)
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be read ({error.strerror or error})") from None
    with contextlib.suppress(OSError), replacing(note) as stream:
        stream.write(json.dumps({**known, "sha256": found}).encode())
    return found


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_HASHED_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def _file_of(recipe: dict[str, Any]) -> Path:
    key = json.dumps({"format": FORMAT_VERSION, **recipe}, sort_keys=True)
    return cache_folder() / f"trace-{hashlib.sha256(key.encode()).hexdigest()[:24]}.columns"


def _folded(values: NDArray[Any]) -> NDArray[Any]:
    """Return one element for a column that holds only one value, else the column."""
    if len(values) < 2:
        return values
    same = np.isnan(values) if values.dtype.kind == "f" and np.isnan(values[0]) else values == values[0]
    return values[:1] if same.all() else values


def _unfolded(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return a column as it was before folding."""
    if len(values) == rows:
        return values
    if len(values) != 1:
        raise ValueError("columns of unequal length")
    return np.full(rows, values[0])


def _make_room(folder: Path, limit: float) -> None:
    """Remove the least recently used traces until the rest fits."""
    found = []
    for file in folder.glob("trace-*.columns"):
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            file.unlink()
            total -= size
