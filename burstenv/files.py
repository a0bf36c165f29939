"""Writing a file whole or not at all: a reader finds the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from burstenv.errors import BurstenvError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write bytes that become ``path`` when the block ends well; else nothing changes. Makes missing folders.

    Raises:
        OSError: When the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
            yield stream
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would keep others from reading the file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Like :func:`replacing`, with a sentence where the place cannot be written.

    Raises:
        BurstenvError: When the place cannot be written, or the disk is full.
    """
    try:
        with replacing(path) as stream:
            yield stream
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to ``path``.

    Raises:
        BurstenvError: When the place cannot be written.
    """
    with writing(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)
