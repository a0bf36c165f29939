"""How every compiled function of burstenv is compiled and cached.

Numba's on-disk cache notices an edit of the file that holds a function, but not an edit of a file
it calls into. So the cache lives in a directory named after a digest of all kernel sources: an
edited kernel never meets stale machine code, and a read-only installation works.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import types

from burstenv._jit.linking import Detached, InnerKernel

_PACKAGE = Path(__file__).resolve().parents[1]
_KEEP_CACHES = 3  # digests kept however old, so that switching between versions does not recompile each time
_KEEP_S = 7 * 86_400  # a cache used more recently may belong to a running process


def cache_home() -> Path:
    """Return the user's burstenv cache directory (``BURSTENV_CACHE``, else ``~/.cache/burstenv``)."""
    return Path(os.environ.get("BURSTENV_CACHE") or Path.home() / ".cache" / "burstenv")


def source_digest() -> str:
    """Return a digest of all kernel sources and of what compiles them: equal ones give equal numbers."""
    digest = hashlib.sha256(f"{numba.__version__} {np.__version__} {sys.version}".encode())
    for folder in ("_jit", "hardware", "engine", "cluster", "policies", "envs"):
        for path in sorted((_PACKAGE / folder).rglob("*.py")):
            source = path.read_bytes()
            if b"kernel" in source:  # the rest is never compiled
                digest.update(path.name.encode() + source)
    return digest.hexdigest()[:16]


def _use_cache_directory() -> Path:
    if os.environ.get("NUMBA_CACHE_DIR"):  # the user's own choice wins
        return Path(os.environ["NUMBA_CACHE_DIR"])
    home = cache_home() / "kernels"
    path = home / source_digest()
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)
        for old in sorted(home.iterdir(), key=lambda p: p.stat().st_mtime)[:-_KEEP_CACHES]:
            if time.time() - old.stat().st_mtime > _KEEP_S:
                shutil.rmtree(old, ignore_errors=True)
    except OSError:  # no writable home: compile into a private directory for this process's user
        path = Path(tempfile.mkdtemp(prefix="burstenv-kernels-"))
    numba.config.CACHE_DIR = str(path)
    return path


CACHE_DIRECTORY = _use_cache_directory()


# Kernels own no memory: without numba's runtime they cannot allocate, and calls between them count no
# references, which made up half of the time of a replay. Arithmetic is IEEE.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "_nrt": False}


def _inner(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    dispatcher = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_OPTIONS, **options)(function)
    dispatcher.__class__ = InnerKernel
    return dispatcher


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that only kernels call, and always into its caller: a call costs as much as the work.

    Inlining doubles the speed of a replay. Not for what is large and rare, see :func:`outlined`.
    """
    return _inner(function, forceinline=True)


def outlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that only kernels call, once for all its callers: large, or rarely called."""
    return _inner(function, forceinline=False)  # unsaid, it would be its caller's


def merged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function part of every kernel that calls it, before compilation: outer layers around much code.

    As a kernel of its own, each layer would have all the code beneath it optimised once more.
    """
    return _inner(function, inline="always")


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls, and keep its machine code, with all that it calls, on disk."""
    return numba.njit(cache=True, **_OPTIONS)(function)


def types_of(state: Any) -> tuple[types.Type, ...]:
    """Return the types of an environment, a replica, the pool and all requests of a cluster state."""
    environments, replicas, pool, requests = map(
        numba.typeof, (state.environments, state.replicas, state.pool.reshape(-1), state.requests.reshape(-1))
    )
    return environments.dtype, replicas.dtype, pool, requests


DETACHED: list[Detached] = []  # all there are
_THIS_PROCESS = object()  # a copy in another process is another object


def detached(needed: Callable[[Any], bool], signature: Callable[[Any], Sequence[types.Type]]) -> Callable[..., Any]:
    """Compile a large function without a result once for all kernels that call it, and only where it is needed.

    Args:
        needed: Whether a cluster state (:class:`burstenv.cluster.state.ClusterState`) needs it.
        signature: The types of its arguments, from such a state.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        part = Detached(entry(function), needed, signature)
        DETACHED.append(part)
        return part.call

    return wrap


def make_ready(state: Any) -> None:
    """Compile, or load from disk, the detached functions that a cluster state needs; cheap from the second time on."""
    if state.ready_in is not _THIS_PROCESS:
        for part in DETACHED:
            part.make_ready(state)
        state.ready_in = _THIS_PROCESS


def is_cold() -> bool:
    """Return whether nothing has been compiled yet by this version on this machine."""
    return next(CACHE_DIRECTORY.rglob("*.nbc"), None) is None


_COLD = is_cold()  # as this process began: small kernels may be on disk before the engine is
_announced = False


def announce_first_use() -> None:
    """Say on standard error, once, that kernels are about to be compiled, when none had been as this process began."""
    global _announced
    if not _announced and _COLD:
        print(
            "burstenv: compiling the engine, once per installation (about half a minute) ...",
            file=sys.stderr,
            flush=True,
        )
    _announced = True
