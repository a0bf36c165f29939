"""The choices of an agent for the fine-tuning job of a replica: a deferral bound and a token budget."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import outlined
from burstenv.cluster.advance import catch_up
from burstenv.cluster.world import engine_of
from burstenv.engine.background_rule import PAUSED
from burstenv.engine.replica import set_background

BOUNDS_S = (PAUSED, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, np.inf)  # deferral bounds; PAUSED: no step runs apart
BUDGETS_TOKENS = (0, 64, 128, 256, 512)  # prefill tokens of the job in an iteration of inference
LEVELS = len(BOUNDS_S) * len(BUDGETS_TOKENS)  # choices: bound by bound, a budget after the other
_BUDGETS = len(BUDGETS_TOKENS)


@outlined
def set_levels(world, r, bound, budget):
    """Let a replica work on its job by a bound and a budget, by their places among the choices."""
    engine, now_s = engine_of(world, r), world.environment.now_s
    replica = engine.replica
    bound_s, tokens = BOUNDS_S[bound], BUDGETS_TOKENS[budget]
    plain = replica.background_flags == 0 and replica.background_target_s == np.inf
    if not engine.spec.background or (
        plain and replica.deferral_bound_s == bound_s and replica.background_tokens == tokens
    ):
        return
    catch_up(engine, now_s)
    set_background(engine, bound_s, tokens, np.inf, np.inf, 0, now_s)


@outlined
def set_level(world, r, choice):
    """Carry out a choice, clipped to those that there are, for a replica."""
    level = min(max(np.int64(choice), np.int64(0)), np.int64(LEVELS - 1))
    set_levels(world, r, level // _BUDGETS, level % _BUDGETS)
