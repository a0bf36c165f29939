"""Fine-tuning in the slack of the replicas of a cluster, compiled: its begin, and what it is worth."""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.world import engine_of
from burstenv.engine.background import set_background_rule
from burstenv.engine.shared_iterations import tokens_trained

_FRACTIONS = 2.0**20  # of a worth, so that sums of its growth are exact


@kernel
def begin_background(world, r):
    """Put the rule in force by which a replica begins to work on its job."""
    memory = world.memory
    set_background_rule(
        world.replicas[r],
        memory.deferral_bound_s,
        memory.background_tokens,
        memory.background_target_s,
        memory.background_allowance_s,
        memory.background_flags,
    )


@outlined
def background_worth(world):
    """Return the worth of the tokens trained so far, a multiple of 2^-20."""
    tokens = 0.0
    for r in range(len(world.replicas)):
        if world.specs[r].background:
            tokens += tokens_trained(engine_of(world, r), world.environment.now_s)
    return math.floor(tokens * world.gateway.background_worth * _FRACTIONS) / _FRACTIONS
