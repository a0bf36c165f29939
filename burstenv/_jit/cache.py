"""The cache of machine code: a folder named after a digest of the sources.

Numba's own cache detects an edit of a function's file, but not of a file that the function calls into, nor of a
constant from another file. The folder's name is therefore a digest of every source file of the package: an edited
source never runs stale machine code, and a read-only installation works. Only functions of burstenv are cached there.
Users' functions stay in numba's own cache.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from numba.core.caching import CompileResultCacheImpl, FunctionCache

_PACKAGE = Path(__file__).resolve().parents[1]
_KEEP_CACHES = 3  # digests kept at any age: switching between versions does not recompile each time
_KEEP_S = 7 * 86_400  # a cache used more recently may belong to a running process
_MOST_CACHES = 20  # but no more than this: each edit of a kernel leaves a hundred megabytes or more


def cache_home() -> Path:
    """Return the user's burstenv cache directory (``BURSTENV_CACHE``, else ``~/.cache/burstenv``)."""
    return Path(os.environ.get("BURSTENV_CACHE") or Path.home() / ".cache" / "burstenv")


def source_digest(package: Path = _PACKAGE) -> str:
    """Return a digest of every source file of the package and of the compiler, 16 hexadecimal digits."""
    versions = f"{numba.__version__} {llvmlite.__version__} {np.__version__} {sys.version}"
    digest = hashlib.sha256(versions.encode())
    for path in sorted(package.rglob("*.py")):
        source = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(source)} ".encode() + source)
    return digest.hexdigest()[:16]


def bounds_are_checked() -> bool:
    """Return whether compiled code checks its indices: ``BURSTENV_BOUNDSCHECK=1``, or numba's own switch is on."""
    if numba.config.BOUNDSCHECK is not None:
        return bool(numba.config.BOUNDSCHECK)
    return os.environ.get("BURSTENV_BOUNDSCHECK", "0") not in ("", "0")


def _folder_name() -> str:
    """Return the digest of the sources, and the mode of compilation if it is not the default."""
    name = source_digest()
    if bounds_are_checked():
        name += "-boundscheck"
    if numba.config.OPT != 3:
        name += f"-opt{int(numba.config.OPT)}"
    if numba.config.DEBUGINFO_DEFAULT:
        name += "-debug"
    return name


def _outlived(home: Path) -> list[Path]:
    """Return the folders of machine code in ``home`` that are deleted."""
    used_s = {path: path.stat().st_mtime for path in home.iterdir()}
    newest = sorted(used_s, key=lambda path: used_s[path], reverse=True)
    return [
        path
        for k, path in enumerate(newest)
        if k >= _MOST_CACHES or (k >= _KEEP_CACHES and time.time() - used_s[path] > _KEEP_S)
    ]


@cache
def cache_directory() -> Path:
    """Return this process's folder of machine code, and make it.

    Its parent is ``$NUMBA_CACHE_DIR/burstenv`` if that is set, otherwise ``kernels`` of :func:`cache_home`. Folders of
    other digests there are deleted, except the newest three and, of the newest twenty, those used within a week.
    """
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    home = Path(chosen) / "burstenv" if chosen else cache_home() / "kernels"
    path = home / _folder_name()
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        tempfile.TemporaryFile(dir=path).close()  # the folder may exist and be read-only
    except OSError:  # no writable home: compile into a private directory for this process's user
        return Path(tempfile.mkdtemp(prefix="burstenv-kernels-"))
    with suppress(OSError):  # another process may delete the same folders at this moment
        for old in _outlived(home):
            shutil.rmtree(old, ignore_errors=True)
    return path


class _Locator:
    """The cache entry of one function's machine code, with the methods of numba's caches."""

    def __init__(self, function: Callable[..., Any]):
        self._py_file = function.__code__.co_filename  # numba names it in a warning
        self._line = function.__code__.co_firstlineno

    def ensure_cache_path(self) -> None:
        """Make the folder."""
        os.makedirs(self.get_cache_path(), exist_ok=True)

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(cache_directory())

    def get_source_stamp(self) -> str:
        """Return the state of the sources, already part of the folder's name."""
        return cache_directory().name

    def get_disambiguator(self) -> str:
        """Return the line, which distinguishes functions of one name in one file."""
        return str(self._line)


class _Storage(CompileResultCacheImpl):
    def __init__(self, function: Callable[..., Any]):
        self._lineno = function.__code__.co_firstlineno
        self._locator = _Locator(function)
        self._filename_base = self.get_filename_base(f"{function.__module__}.{function.__qualname__}", sys.abiflags)


class _OwnCache(FunctionCache):
    _impl_class = _Storage


def keep_on_disk(dispatcher: Any) -> Any:
    """Make a compiled function keep its machine code in :func:`cache_directory`; return it."""
    dispatcher._cache = _OwnCache(dispatcher.py_func)
    return dispatcher


def is_cold() -> bool:
    """Return whether this version has not yet compiled anything on this machine."""
    return next(cache_directory().rglob("*.nbc"), None) is None
