"""Real numbers in the arena, an array of integers, compiled: each takes two."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel


@kernel
def real_at(arena, at):
    """Return the number that two integers of the arena hold."""
    low = np.uint64(np.uint32(arena[at]))
    high = np.uint64(np.uint32(arena[at + 1]))
    return np.uint64(low | (high << np.uint64(32))).view(np.float64)


@kernel
def put_real(arena, at, number):
    """Write a number into two integers of the arena."""
    bits = np.float64(number).view(np.uint64)
    arena[at] = np.int32(bits & np.uint64(0xFFFFFFFF))
    arena[at + 1] = np.int32(bits >> np.uint64(32))
