"""The choices of an agent for the fine-tuning job of a replica, carried out: a bound and a budget, or a rule."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import outlined
from burstenv.cluster.advance import catch_up
from burstenv.cluster.world import engine_of
from burstenv.engine.replica import set_background
from burstenv.policies.background import BOUNDS_S, BUDGETS_TOKENS, BY_RULE

_BUDGETS = len(BUDGETS_TOKENS)


@outlined
def _set(world, r, bound_s, tokens, target_s, allowance_s, flags):
    """Let a replica work on its job by these numbers; nothing if it does."""
    engine, now_s = engine_of(world, r), world.environment.now_s
    replica = engine.replica
    if not engine.spec.background or (
        replica.deferral_bound_s == bound_s
        and replica.background_tokens == tokens
        and replica.background_target_s == target_s
        and replica.background_allowance_s == allowance_s
        and replica.background_flags == flags
    ):
        return
    catch_up(engine, now_s)
    set_background(engine, bound_s, tokens, target_s, allowance_s, flags, now_s)


@outlined
def set_levels(world, r, bound, budget):
    """Let a replica work on its job by a bound and a budget, by their places among the choices."""
    _set(world, r, BOUNDS_S[bound], BUDGETS_TOKENS[budget], np.inf, np.inf, 0)


@outlined
def set_level(world, r, choice):
    """Carry out a choice, clipped to those that there are, for a replica."""
    level, memory = min(max(np.int64(choice), np.int64(0)), np.int64(BY_RULE)), world.memory
    if level < BY_RULE:
        set_levels(world, r, level // _BUDGETS, level % _BUDGETS)
        return
    _set(
        world, r, memory.deferral_bound_s, memory.background_tokens, memory.background_target_s,
        memory.background_allowance_s, memory.background_flags,
    )  # fmt: skip
