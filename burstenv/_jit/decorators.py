"""Decorators of all compiled functions.

Functions that Python calls are entries; functions that only entries call are kernels. :mod:`burstenv._jit.cache` stores
the machine code. With ``NUMBA_DISABLE_JIT=1`` Python runs all of it, see :mod:`burstenv._jit.interpreted`;
with ``BURSTENV_BOUNDSCHECK=1`` compiled code checks every index and raises IndexError.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numba
from numba import types

from burstenv._jit.blas import leave_blas_unimported
from burstenv._jit.cache import bounds_are_checked, is_cold, keep_on_disk
from burstenv._jit.interpreted import INTERPRETED, interpreted_entry
from burstenv._jit.linking import Detached, EntryKernel, InnerKernel
from burstenv._jit.quicker_compiler import compile_quicker

leave_blas_unimported()
compile_quicker()

# Kernels own no memory: without numba's runtime they cannot allocate, and calls between them count no
# references, which took half of the time of a replay. Arithmetic is IEEE.
_OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": bounds_are_checked()}
_WITHOUT_MEMORY: dict[str, Any] = {**_OPTIONS, "_nrt": False}


def _inner(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    if INTERPRETED:
        return function
    dispatcher = numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **_WITHOUT_MEMORY, **options)(function)
    dispatcher.__class__ = InnerKernel
    return dispatcher


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that only kernels call, and always into its caller: a call costs as much as the work.

    Inlining doubles the speed of a replay. For large and rare functions use :func:`outlined`.
    """
    return _inner(function, forceinline=True)


def outlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that only kernels call, once for all its callers: large, or rarely called."""
    return _inner(function, forceinline=False)  # without it, it would be its caller's


def merged(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function part of every kernel that calls it, before compilation: outer layers around much code.

    As a separate kernel, each layer would have all the code below it optimised once more.
    """
    return _inner(function, inline="always")


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls and that calls kernels; it allocates nothing."""
    return _entry(function, **_WITHOUT_MEMORY)


def long_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an entry that runs for long: other threads of Python go on meanwhile."""
    return _entry(function, nogil=True, **_WITHOUT_MEMORY)


def threaded_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an entry with its ``numba.prange`` loops spread over threads."""
    return _entry(function, parallel=True, **_OPTIONS)


def allocating_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile an entry that may allocate arrays and call other such entries, but no kernels."""
    return _entry(function, **_OPTIONS)


def _entry(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    if INTERPRETED:
        return interpreted_entry(function)
    dispatcher = numba.njit(**options)(function)
    dispatcher.__class__ = EntryKernel
    return keep_on_disk(dispatcher)


DETACHED: list[Detached] = []  # all detached functions
_THIS_PROCESS = object()  # a copy in another process is another object


def resolved(function: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return an entry compiled for the types of these arguments, without a check of types at each call.

    That check takes longer than one step of one environment.
    """
    if INTERPRETED:
        return function
    signature = tuple(map(numba.typeof, arguments))
    function.compile(signature)  # type: ignore[attr-defined]
    return function.overloads[signature].entry_point  # type: ignore[attr-defined]


def detached(needed: Callable[[Any], bool], signature: Callable[[Any], Sequence[types.Type]]) -> Callable[..., Any]:
    """Compile a large function without a result once for all kernels that call it, and only if it is needed.

    Args:
        needed: Whether a cluster state (:class:`burstenv.cluster.state.ClusterState`) needs it.
        signature: The types of its arguments, from such a state.
    """

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        if INTERPRETED:
            return function
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


_COLD = is_cold()  # at the start of this process: small kernels may be on disk before the engine
_announced = False


def announce_first_use() -> None:
    """Announce a compilation of kernels on standard error, once, if there were none at the start of this process."""
    global _announced
    if not _announced and _COLD and not INTERPRETED:
        print(
            "burstenv: compiling the engine, once per installation (a minute or two) ...",
            file=sys.stderr,
            flush=True,
        )
    _announced = True
