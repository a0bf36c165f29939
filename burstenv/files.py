"""All outputs: atomic writes of files, direct writes to devices and FIFOs, ``-`` for standard output.

A reader of a file finds the old one or the new one, never a part. A link is followed and its target replaced. A killed
process leaves no temporary file on file systems with unnamed files (Linux).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from burstenv.errors import BurstenvError

STANDARD_OUTPUT = "-"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Write bytes that become ``path`` at the end of the block; an error changes nothing. Makes missing folders.

    Raises:
        OSError: When the place cannot be written.
    """
    if str(path) == STANDARD_OUTPUT:
        with tempfile.TemporaryFile() as stream:
            yield stream
            stream.seek(0)
            _print_bytes(stream)
        return
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    mode = target.stat().st_mode if target.exists() else None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if mode is not None and not stat.S_ISREG(mode):
        with tempfile.TemporaryFile() as stream:
            yield stream
            stream.seek(0)
            with target.open("wb") as out:  # a FIFO waits for its reader
                shutil.copyfileobj(stream, out, 1 << 20)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with _unnamed(target, stat.S_IMODE(mode) if mode is not None else None) as stream:
        yield stream


@contextlib.contextmanager
def _unnamed(target: Path, mode: int | None) -> Iterator[IO[bytes]]:
    """Write an unnamed file that gets its name at the end; elsewhere, a temporary file."""
    temporary = target.with_name(f".{target.name[:200]}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    if mode is None:
        mask = os.umask(0)
        os.umask(mask)
        mode = 0o666 & ~mask
    try:
        descriptor = os.open(target.parent, os.O_TMPFILE | os.O_RDWR, mode)
        named = False
    except (AttributeError, OSError):
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        named = True
    try:
        with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
            yield stream
            stream.flush()
            os.chmod(descriptor, mode)
            if not named:
                os.link(f"/proc/self/fd/{descriptor}", temporary, src_dir_fd=descriptor, follow_symlinks=True)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _print_bytes(stream: IO[bytes]) -> None:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    sys.stdout.flush()
    shutil.copyfileobj(stream, sys.stdout.buffer, 1 << 20)
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Like :func:`replacing`, with a one-sentence error.

    Raises:
        BurstenvError: When the place cannot be written, or the disk is full.
    """
    try:
        with replacing(path) as stream:
            yield stream
    except BrokenPipeError:
        raise  # a reader such as `head` closed the pipe: no user error
    except OSError as error:
        raise cannot_write(path, error) from None


def cannot_write(path: Path, error: OSError) -> BurstenvError:
    """Return the error for a place that cannot be written."""
    place = "standard output" if str(path) == STANDARD_OUTPUT else path
    return BurstenvError(f"{place}: cannot be written ({error.strerror or error})")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes to ``path``.

    Raises:
        BurstenvError: When the place cannot be written.
    """
    with writing(path) as stream:
        stream.write(content.encode("utf-8") if isinstance(content, str) else content)


def check_ending(path: Path, endings: Iterable[str], what: str) -> None:
    """Reject an output whose ending belongs to another format; devices, FIFOs and ``-`` have no ending.

    Args:
        path: The output.
        endings: The valid ones, such as ``.html``.
        what: Name of the content, for the error message.

    Raises:
        BurstenvError: On another ending; lists the valid ones.
    """
    if str(path) == STANDARD_OUTPUT or (path.exists() and not path.is_file() and not path.is_dir()):
        return
    known = tuple(endings)
    if not path.name.lower().endswith(known):
        raise BurstenvError(f"{path}: {what} goes to a file that ends in {' or '.join(known)}")


@contextlib.contextmanager
def locked(place: Path, busy: str) -> Iterator[None]:
    """Lock a file or folder for this process; the lock ends with the process.

    Args:
        place: An existing file or folder.
        busy: Error message for a second process.

    Raises:
        BurstenvError: If another process holds it.
    """
    descriptor = os.open(place, os.O_RDONLY)
    try:
        hold(descriptor, busy)
        yield
    finally:
        os.close(descriptor)


def hold(descriptor: int, busy: str) -> None:
    """Lock an open file for this process until it is closed; see :func:`locked`."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BurstenvError(busy) from None
    except OSError:  # a file system without locks
        return
