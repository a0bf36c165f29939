"""What each class of requests is worth and has attained, compiled; see CLASS of ``cluster/records.py``."""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv._jit.floats import real_at
from burstenv.engine.arena import CLASS_ATTAINED, CLASS_NUMBERS


@kernel
def class_value(world, code):
    """Return the worth of a token of an attained request of a class."""
    return real_at(world.arena, CLASS_NUMBERS * code)


@kernel
def value_attained(world):
    """Return the sum over classes of attained requests times the class's worth."""
    total = 0.0
    for code in range(world.gateway.num_classes):
        total += class_value(world, code) * world.arena[CLASS_NUMBERS * code + CLASS_ATTAINED]
    return total
