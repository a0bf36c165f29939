"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from burstenv.errors import BurstenvError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to ``path``: a reader finds the old file or the new one, never a part.

    Folders that are missing are made.

    Raises:
        BurstenvError: When the place cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would keep others from reading the file
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be written ({error.strerror or error})") from None
