"""Traces kept as columns on disk, so that asking again is cheap.

One file per trace, named after a hash of everything that decides its bytes: the content of the file it was
read from and how it was read, or the generator, its parameters and its seed. Files are written whole or not
at all; one that is damaged is ignored and written anew; a cache that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.atomic import replacing
from burstenv.workload.data_directory import cache_folder
from burstenv.workload.trace import COLUMNS, FAILURE_COLUMNS, Failures, Trace

FORMAT_VERSION = 2  # raise it whenever the layout of the files changes
DEFAULT_LIMIT_GIB = 10.0
_HASHED_AT_ONCE = 1 << 20


def load_cached(recipe: dict[str, Any]) -> Trace | None:
    """Return the trace kept for a recipe, or None when there is none that can be used.

    Args:
        recipe: Everything that decides the trace, as JSON values.
    """
    file = _file_of(recipe)
    try:
        # A damaged file fails the zip's checksums.
        with np.load(file, allow_pickle=False) as stored:
            rows = int(stored["rows"])
            columns = {name: _unfolded(stored[name], rows) for name in COLUMNS}
            failed = int(stored["failed_rows"])
            failures = Failures(*(_unfolded(stored[f"failures_{name}"], failed) for name in FAILURE_COLUMNS))
            trace = Trace(**columns, failures=failures, metadata=json.loads(str(stored["metadata"])))
    except Exception:  # absent, unreadable or damaged: whatever the reason, it is made again
        return None
    with contextlib.suppress(OSError):
        os.utime(file)  # the least recently used go first
    return trace


def save_cached(recipe: dict[str, Any], trace: Trace) -> None:
    """Keep a trace, whole or not at all; a cache that cannot be written is no error.

    The least recently used traces make room: together they take at most ``$BURSTENV_CACHE_GIB`` (default 10).
    """
    file = _file_of(recipe)
    columns: dict[str, Any] = {name: _folded(getattr(trace, name)) for name in COLUMNS}
    columns |= {f"failures_{name}": _folded(getattr(trace.failures, name)) for name in FAILURE_COLUMNS}
    columns["metadata"] = np.array(json.dumps(trace.metadata))
    columns["rows"], columns["failed_rows"] = np.array(len(trace)), np.array(len(trace.failures))
    with contextlib.suppress(OSError, ValueError):
        limit = float(os.environ.get("BURSTENV_CACHE_GIB") or DEFAULT_LIMIT_GIB) * 2**30
        size = sum(values.nbytes for values in columns.values())
        if size > limit:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        _make_room(file.parent, limit - size)
        with replacing(file) as stream:
            np.savez(stream, **columns)


def content_hash(path: Path) -> str:
    """Return the sha256 of a file, worked out once: as long as size and time of change stay, it is remembered.

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
    return cache_folder() / f"trace-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"


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
    """Remove the traces that were not used for the longest time until the rest fits."""
    found = []
    for file in folder.glob("trace-*.npz"):
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
