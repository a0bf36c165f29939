"""Download of the official BurstGPT files by pooch, checked against their published digests and sizes."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from burstenv import __version__
from burstenv.errors import BurstenvError
from burstenv.workload.cache import file_sha256
from burstenv.workload.official.data_directory import data_directory
from burstenv.workload.official.files import OfficialFile

TIMEOUT_S = 60.0
_PIECE = 1 << 18
_NEWLINES_AT_ONCE = 1 << 22

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Download:
    """A complete, checked file.

    Attributes:
        name: Official name.
        path: Its path.
        bytes: Its size.
        verified: The check: ``sha256``, or ``bytes and rows`` where no sha256 is published.
        fetched_bytes: Bytes that came over the network this time; 0 when it was there already.
    """

    name: str
    path: Path
    bytes: int
    verified: str
    fetched_bytes: int


def download(
    file: OfficialFile, folder: Path | None = None, mirror: str | None = None, progress: Progress | None = None
) -> Download:
    """Download an official file, unless it is there. A wrong one is not kept; a file of the user is never replaced.

    Args:
        file: The file.
        folder: The target folder; the data directory by default.
        mirror: A folder on another server that holds the same files; by default the release on GitHub.
        progress: Called with bytes there and bytes in all.

    Raises:
        BurstenvError: If there is no connection, the server answers with an error, the disk is full, or the file is
            wrong.
    """
    if mirror is not None and not mirror.lower().startswith(("http://", "https://")):
        raise BurstenvError(f"mirror {mirror!r:.80} must be an address that begins with http:// or https://")
    folder = data_directory() if folder is None else folder
    url = file.url if mirror is None else f"{mirror.rstrip('/')}/{file.file}"
    target = folder / file.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return Download(file.name, target, file.bytes, _verify(file, target, there_already=True), 0)
        _check_room(file, folder)
        _retrieve(file, url, folder, progress)
        return Download(file.name, target, file.bytes, _verify(file, target, there_already=False), file.bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BurstenvError(f"{folder}: the disk is full; {file.file} needs {file.bytes:,} bytes") from None
        raise BurstenvError(f"{error.filename or folder}: cannot be written ({error.strerror or error})") from None


def _retrieve(file: OfficialFile, url: str, folder: Path, progress: Progress | None) -> None:
    """Bring the file into the folder, under its name only if its digest is right."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)  # the command says what was done
    headers = {"User-Agent": f"burstenv/{__version__}", "Accept-Encoding": "identity"}
    bar = _Bar(file, url, progress)
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=_PIECE, timeout=TIMEOUT_S, headers=headers)
    try:
        pooch.retrieve(url, file.sha256, fname=file.file, path=folder, downloader=downloader)
    except BurstenvError:
        raise
    except requests.HTTPError as error:
        answer = error.response
        raise BurstenvError(f"{url}: the server answered {answer.status_code} {answer.reason}") from None
    except requests.RequestException as error:
        raise BurstenvError(
            f"{url}: no connection ({_reason(error)}); nothing was kept; a file from elsewhere can be put into {folder}"
        ) from None
    except ValueError:  # pooch says no more than the two digests
        raise BurstenvError(
            f"{file.file}: what came does not have sha256 {file.sha256}, that of the official file; nothing was kept"
        ) from None


class _Bar:
    """The progress bar that pooch asks for; ends a download of another size than the official file's at once."""

    def __init__(self, file: OfficialFile, url: str, progress: Progress | None):
        self._file, self._url, self._progress = file, url, progress
        self._there = 0

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self._file.bytes

    @total.setter
    def total(self, announced: int) -> None:
        if announced not in (0, self._file.bytes):  # 0: the server does not say
            raise BurstenvError(
                f"{self._url}: the server offers {announced:,} bytes, the official file has {self._file.bytes:,}; "
                "nothing was changed"
            )
        self.update(0)

    def update(self, more: int) -> None:
        """Count bytes."""
        if self._there >= self._file.bytes and more == _PIECE:
            raise BurstenvError(
                f"{self._url}: the server sends more than the {self._file.bytes:,} bytes of the official file"
            )
        self._there = min(self._there + more, self._file.bytes)  # pooch counts whole pieces
        if self._progress is not None:
            self._progress(self._there, self._file.bytes)

    def reset(self) -> None:
        """Do nothing: pooch starts over only to count the last piece exactly."""

    def close(self) -> None:
        """Do nothing: the bar closes at its end."""


def _reason(error: Exception) -> str:
    """Return the innermost reason of a failed connection."""
    inner: object = error
    while isinstance(inner, Exception) and (below := getattr(inner, "reason", None) or next(iter(inner.args), None)):
        inner = below
    return " ".join(str(inner).split())[:200] or type(error).__name__


def _verify(file: OfficialFile, path: Path, *, there_already: bool) -> str:
    """Return the check; a wrong downloaded file is removed, a user's own file is not."""
    size = path.stat().st_size
    if file.sha256 is not None:
        problem = None if size == file.bytes else f"has {size:,} bytes, the official file {file.bytes:,}"
        if problem is None and there_already and (found := file_sha256(path)) != file.sha256:
            problem = f"has sha256 {found}, the official file {file.sha256}"
        verified = "sha256"
    else:
        rows = _count_rows(path)
        right = size == file.bytes and rows == file.rows
        problem = None if right else (
            f"has {size:,} bytes and {rows:,} rows, the official file {file.bytes:,} and {file.rows:,}"
        )  # fmt: skip
        verified = "bytes and rows"
    if problem is None:
        return verified
    if there_already:
        raise BurstenvError(f"{path}: {problem}; move it away to download the official one")
    path.unlink()
    raise BurstenvError(f"{file.file}: what came {problem}; nothing was kept")


def _count_rows(path: Path) -> int:
    """Return the lines below the header."""
    lines, last = 0, b"\n"
    with path.open("rb") as stream:
        while piece := stream.read(_NEWLINES_AT_ONCE):
            lines += piece.count(b"\n")
            last = piece[-1:]
    return lines - 1 + (last != b"\n")


def _check_room(file: OfficialFile, folder: Path) -> None:
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < file.bytes:
            raise BurstenvError(
                f"{folder}: {free:,} bytes are free, {file.file} needs {file.bytes:,}; give another folder"
            )
