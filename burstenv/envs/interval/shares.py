"""The agent's shares of the traffic, compiled: a weight and a credit of each replica, in the arena."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.world import engine_of
from burstenv.policies.estimates import is_choice, tokens_to_hold

_WEIGHT, _CREDIT = 0, 2  # each takes two integers


@kernel
def weight_of(engine):
    """Return the weight of a replica."""
    return real_at(engine.arena, engine.spec.share_base + _WEIGHT)


@kernel
def set_weight(engine, weight):
    """Set the weight of a replica."""
    put_real(engine.arena, engine.spec.share_base + _WEIGHT, weight)


@kernel
def _credit_of(engine):
    return real_at(engine.arena, engine.spec.share_base + _CREDIT)


@kernel
def _set_credit(engine, credit):
    put_real(engine.arena, engine.spec.share_base + _CREDIT, credit)


@kernel
def begin_shares(engine):
    """Set a replica's weight and credit at the start of an episode."""
    set_weight(engine, 1.0)
    _set_credit(engine, 0.0)


@kernel
def share_out(world, request):
    """Return the next replica by smooth weighted round robin over those that can hold the request.

    Each replica gains its weight; the one with the most credit is chosen and loses the sum of all weights (nginx's
    ``smooth weighted round robin``). Shares are exact in the long run, and turns are spread as evenly as possible.
    Weights that are all 0 count as equal.
    """
    count = len(world.replicas)
    total = 0.0
    fitting = 0
    tokens = tokens_to_hold(world, request)
    for r in range(count):
        if is_choice(world, r, tokens):
            fitting += 1
            total += weight_of(engine_of(world, r))
    if fitting == 0:
        return 0  # every replica rejects it
    best = 0
    most = -np.inf
    gained = 0.0
    for r in range(count):
        engine = engine_of(world, r)
        weight = weight_of(engine) if total > 0.0 else 1.0
        if weight > 0.0 and is_choice(world, r, tokens):
            credit = _credit_of(engine) + weight
            _set_credit(engine, credit)
            gained += weight
            if credit > most:
                most = credit
                best = r
    engine = engine_of(world, best)
    _set_credit(engine, _credit_of(engine) - gained)
    return best
