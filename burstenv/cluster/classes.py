"""What each class of requests is worth, compiled; see CLASS of ``cluster/records.py``."""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv._jit.floats import real_at
from burstenv.engine.arena import CLASS_NUMBERS


@kernel
def class_value(world, code):
    """Return the factor of the worth of a class's requests."""
    return real_at(world.arena, CLASS_NUMBERS * code)
