"""Numbers of eight bytes in the arena, an array of integers of four, compiled: each takes two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from burstenv._jit.cache import bounds_are_checked
from burstenv._jit.decorators import kernel
from burstenv._jit.interpreted import INTERPRETED


def _pointer(target: Any, builder: Any, array: Any, given: Any, at: Any, kind: Any) -> Any:
    """Return the address of a number within a contiguous array."""
    data = target.make_array(array)(target, builder, given).data
    return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())


def _load(number: Any, kind: Any) -> Callable[..., Any]:
    def load(context: Any, array: Any, at: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(target, builder, signature.args[0], arguments[0], arguments[1], kind)
            return builder.load(pointer, align=4)

        return number(array, types.int64), generate

    return load


def _store(number: Any, kind: Any) -> Callable[..., Any]:
    def store(context: Any, array: Any, at: Any, value: Any) -> Any:
        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = _pointer(target, builder, signature.args[0], arguments[0], arguments[1], kind)
            builder.store(arguments[2], pointer, align=4)
            return target.get_dummy_value()

        return types.void(array, types.int64, number), generate

    return store


def _bits(arena: Any, at: Any) -> Any:
    low = np.uint64(np.uint32(arena[at]))
    return np.uint64(low | (np.uint64(np.uint32(arena[at + 1])) << np.uint64(32)))


def _put_bits(arena: Any, at: Any, bits: Any) -> None:
    arena[at] = np.int32(bits & np.uint64(0xFFFFFFFF))
    arena[at + 1] = np.int32(bits >> np.uint64(32))


if INTERPRETED or bounds_are_checked():  # two integers, one after the other
    _bits, _put_bits = kernel(_bits), kernel(_put_bits)

    @kernel
    def real_at(arena, at):
        """Return the number that two integers of the arena hold."""
        return _bits(arena, at).view(np.float64)

    @kernel
    def put_real(arena, at, number):
        """Write a number into two integers of the arena."""
        _put_bits(arena, at, np.float64(number).view(np.uint64))

    @kernel
    def whole_at(arena, at):
        """Return the whole number that two integers of the arena hold."""
        return np.int64(_bits(arena, at))

    @kernel
    def put_whole(arena, at, number):
        """Write a whole number into two integers of the arena."""
        _put_bits(arena, at, np.int64(number).view(np.uint64))

else:  # at once: a load of eight bytes right after two stores of four waits for both
    real_at = intrinsic(_load(types.float64, ir.DoubleType()))
    put_real = intrinsic(_store(types.float64, ir.DoubleType()))
    whole_at = intrinsic(_load(types.int64, ir.IntType(64)))
    put_whole = intrinsic(_store(types.int64, ir.IntType(64)))
