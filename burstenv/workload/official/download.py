"""Download of the official BurstGPT files: resumable, checked, atomic."""

from __future__ import annotations

import contextlib
import errno
import http.client
import os
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from burstenv import __version__
from burstenv.errors import BurstenvError
from burstenv.files import locked
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
    """Download an official file, or continue an interrupted download.

    Bytes go to a ``.part`` file, which takes its final name when size and sha256 are right. One that is
    wrong is removed.

    Args:
        file: The file.
        folder: The target folder; the data directory by default.
        mirror: A folder on another server that holds the same files; by default the release on GitHub.
        progress: Called with bytes there and bytes in all.

    Raises:
        BurstenvError: If there is no connection, the server answers with an error, the disk is full, or the file is
            wrong; the message says which bytes are kept.
    """
    if mirror is not None and not mirror.lower().startswith(("http://", "https://")):
        raise BurstenvError(f"mirror {mirror!r:.80} must be an address that begins with http:// or https://")
    folder = data_directory() if folder is None else folder
    url = file.url if mirror is None else f"{mirror.rstrip('/')}/{file.file}"
    target, part = folder / file.file, folder / f"{file.file}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists():
            return Download(file.name, target, file.bytes, _verify(file, target, there_already=True), 0)
        part.touch()
        with locked(part, f"{part}: another download of it is under way; wait for it, or give another folder"):
            begun = part.stat().st_size
            if begun > file.bytes:
                os.truncate(part, 0)
                begun = 0
            _check_room(file, folder, begun)
            try:
                fetched = _fetch(file, url, part, begun, progress) if begun < file.bytes else 0
                verified = _verify(file, part, there_already=False)
                os.replace(part, target)
            finally:
                if part.exists() and part.stat().st_size == 0:
                    part.unlink()
    except OSError as error:
        raise BurstenvError(_disk_problem(file, folder, part, error)) from None
    return Download(file.name, target, file.bytes, verified, fetched)


def _fetch(file: OfficialFile, url: str, part: Path, begun: int, progress: Progress | None) -> int:
    """Bring the missing bytes; return how many came."""
    headers = {"User-Agent": f"burstenv/{__version__}", "Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            if answer.status == 206 and _range_start(answer.headers.get("Content-Range", "")) == begun:
                there = begun
            elif answer.status == 200:
                there = 0  # the server sends the whole file: it does not do ranges
            else:
                raise BurstenvError(
                    f"{url}: unexpected answer {answer.status} to a request for bytes from {begun:,} on"
                )
            length = answer.headers.get("Content-Length")
            if length is not None and length.isdigit() and there + int(length) != file.bytes:
                raise BurstenvError(
                    f"{url}: the server offers {there + int(length):,} bytes, the official file has {file.bytes:,}; "
                    f"nothing was changed"
                )
            with part.open("r+b") as stream:
                stream.truncate(there)
                stream.seek(there)
                return _copy(file, url, answer, stream, there, progress)
    except BurstenvError:
        raise
    except urllib.error.HTTPError as error:
        if error.code == 416:  # what is there does not fit what the server has
            os.truncate(part, 0)
            raise BurstenvError(f"{url}: the server does not have bytes from {begun:,} on; try again") from None
        raise BurstenvError(f"{url}: the server answered {error.code} {error.reason}") from None
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        ConnectionError,
        TimeoutError,
        ssl.SSLError,
        ValueError,
    ) as error:
        reason = getattr(error, "reason", None) or error
        kept = part.stat().st_size if part.exists() else 0
        raise BurstenvError(
            f"{url}: no connection ({' '.join(str(reason).split()) or type(error).__name__}); {kept:,} of "
            f"{file.bytes:,} bytes are kept and the same command continues from there; a file from elsewhere can be "
            f"put into {part.parent}"
        ) from None


def _copy(file: OfficialFile, url: str, answer: Any, stream: IO[bytes], there: int, progress: Progress | None) -> int:
    begun = there
    if progress is not None:
        progress(there, file.bytes)
    while piece := answer.read(_PIECE):
        there += len(piece)
        if there > file.bytes:
            raise BurstenvError(f"{url}: the server sends more than the {file.bytes:,} bytes of the official file")
        stream.write(piece)
        if progress is not None:
            progress(there, file.bytes)
    if there < file.bytes:
        raise http.client.IncompleteRead(b"", file.bytes - there)
    return there - begun


def _verify(file: OfficialFile, path: Path, *, there_already: bool) -> str:
    """Return the check; a wrong downloaded file is removed, a user's own file is not."""
    size = path.stat().st_size
    if file.sha256 is not None:
        problem = None if size == file.bytes else f"has {size:,} bytes, the official file {file.bytes:,}"
        if problem is None and (found := file_sha256(path)) != file.sha256:
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


def _range_start(header: str) -> int | None:
    """Return the first byte of a ``Content-Range: bytes 100-199/200``, or None."""
    start = header.removeprefix("bytes ").partition("-")[0]
    return int(start) if header.startswith("bytes ") and start.isdigit() else None


def _check_room(file: OfficialFile, folder: Path, begun: int) -> None:
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(folder).free
        if free < file.bytes - begun:
            raise BurstenvError(
                f"{folder}: {free:,} bytes are free, {file.file} needs {file.bytes - begun:,} more; give another folder"
            )


def _disk_problem(file: OfficialFile, folder: Path, part: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kept = part.stat().st_size if part.exists() else 0
        return f"{folder}: the disk is full; {kept:,} of {file.bytes:,} bytes are kept and the same command continues"
    return f"{error.filename or folder}: cannot be written ({error.strerror or error})"
