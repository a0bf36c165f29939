"""Real numbers in the pool of integers, compiled: each takes two."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel


@kernel
def real_at(pool, at):
    """Return the number that two integers of the pool hold."""
    low = np.uint64(np.uint32(pool[at]))
    high = np.uint64(np.uint32(pool[at + 1]))
    return np.uint64(low | (high << np.uint64(32))).view(np.float64)


@kernel
def put_real(pool, at, number):
    """Write a number into two integers of the pool."""
    bits = np.float64(number).view(np.uint64)
    pool[at] = np.int32(bits & np.uint64(0xFFFFFFFF))
    pool[at + 1] = np.int32(bits >> np.uint64(32))
