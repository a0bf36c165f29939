"""Named arrays from an NPZ file, read with bounds and without pickle: reading never executes code."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from burstenv.errors import BurstenvError


def read_arrays(file: str | Path | IO[bytes], most_bytes: int) -> dict[str, NDArray[Any]]:
    """Read the arrays of an NPZ file.

    Args:
        file: A path or an open file.
        most_bytes: Largest unpacked size of all arrays.

    Returns:
        Arrays by name.

    Raises:
        FileNotFoundError: If the file is missing.
        BurstenvError: If it is damaged or too large; the message has the reason, without the file's name.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            if size > most_bytes:
                raise BurstenvError(f"unpacks to {size:,} bytes, more than the {most_bytes:,} allowed")
            arrays: dict[str, NDArray[Any]] = {}
            for entry in entries:
                name = entry.filename.removesuffix(".npy")
                if name in arrays or name == entry.filename:
                    raise BurstenvError(f"holds {entry.filename!r:.60}, which is no array or there twice")
                arrays[name] = _array(archive.read(entry), name)
            return arrays
    except (FileNotFoundError, BurstenvError):
        raise
    except Exception as error:  # a damaged archive can raise nearly any exception
        raise BurstenvError(f"is damaged ({type(error).__name__}: {' '.join(str(error).split())[:80]})") from None


def write_arrays(stream: IO[bytes], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an NPZ file that :func:`read_arrays` reads, compressed lightly."""
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)


def _array(data: bytes, name: str) -> NDArray[Any]:
    """Return the array of an ``.npy`` file after checking the header's size against its bytes."""
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    rest = len(data) - stream.tell()
    if dtype.hasobject or dtype.itemsize == 0 or min(shape, default=0) < 0:
        raise BurstenvError(f"array {name!r:.60} is not one of numbers")
    if math.prod(shape) * dtype.itemsize != rest:
        raise BurstenvError(f"array {name!r:.60} says shape {shape!s:.60} and holds {rest:,} bytes")
    values = np.frombuffer(data, dtype, offset=stream.tell()).copy()
    return values.reshape(shape, order="F" if fortran else "C")
