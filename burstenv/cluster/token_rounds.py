"""Tokens on the move in place of KV blocks, compiled; off without ``gateway.transfer_by_tokens``.

``cluster/reference/token_rounds.py`` says the rules in plain Python; the functions here have the same names.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.transfer_stages import (
    CHUNK_TOKENS,
    COMPUTED_TOKENS,
    COMPUTING,
    DESTINATION,
    DUE_S,
    JOINING,
    LEAVING,
    PHASE,
    PREPARING,
    RETURNING,
    SENT_TOKENS,
    SINCE_S,
    SOURCE,
    computes,
    destination_of,
    stands_still,
    transfer_at,
)
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import COMPUTES_APART
from burstenv.engine.outage import compute_apart, end_apart
from burstenv.engine.transfer_ends import chunk_s, leaves_s, next_schedule_s


def _by_tokens(state):
    return state.gateway["transfer_by_tokens"].any()


@kernel
def _computes_apart(world, r):
    return world.replicas[r].frozen == COMPUTES_APART


@kernel
def waits_for_chunk(world, at):
    """Return whether a transfer waits for the end of a chunk, or to begin one on a replica that stands still."""
    arena, phase = world.arena, world.arena[at + PHASE]
    if phase == PREPARING:
        return computes(world, at) and stands_still(world, arena[at + DESTINATION])
    if phase == JOINING:
        return _computes_apart(world, arena[at + DESTINATION])
    return phase in (LEAVING, RETURNING) and _computes_apart(world, arena[at + SOURCE])


@outlined
def go_on_at(world, r):
    """Go on with the transfers of a replica that stood still, or has computed a chunk."""
    arena, now_s, engine = world.arena, world.environment.now_s, engine_of(world, r)
    for place in range(world.gateway.transfer_places):
        at = transfer_at(world, place)
        phase, at_source, comes = arena[at + PHASE], arena[at + SOURCE] == r, arena[at + DESTINATION] == r
        if phase == LEAVING and at_source:
            put_real(arena, at + DUE_S, leaves_s(engine, now_s))
        elif (phase == RETURNING and at_source) or (phase == JOINING and comes):
            put_real(arena, at + DUE_S, next_schedule_s(engine, now_s))
        elif phase == PREPARING and comes and real_at(arena, at + DUE_S) == np.inf:
            put_real(arena, at + DUE_S, now_s)


@detached(_by_tokens, lambda state: (world_type(state), types.int64))
def begin_chunk(world, at):
    """Let the destination of a transfer, which is up to now, compute a chunk if it can, or wait until it can."""
    arena, now_s = world.arena, world.environment.now_s
    there = destination_of(world, at)
    ready_s = next_schedule_s(there, now_s)
    if there.replica.frozen == COMPUTES_APART:
        ready_s = np.inf
    if ready_s > now_s:
        put_real(arena, at + DUE_S, ready_s)
        return
    computed = np.int64(arena[at + COMPUTED_TOKENS])
    tokens = min(np.int64(there.replica.token_budget), np.int64(arena[at + SENT_TOKENS]) - computed)
    arena[at + CHUNK_TOKENS] = tokens
    arena[at + PHASE] = COMPUTING
    put_real(arena, at + SINCE_S, now_s)
    put_real(arena, at + DUE_S, now_s + chunk_s(there, tokens, computed))
    compute_apart(there, now_s)


@detached(_by_tokens, lambda state: (world_type(state), types.int64))
def end_chunk(world, at):
    """Let the batch of the destination go on."""
    arena, now_s = world.arena, world.environment.now_s
    end_apart(destination_of(world, at), now_s)
    arena[at + PHASE] = PREPARING
    put_real(arena, at + DUE_S, now_s)
    go_on_at(world, np.int64(arena[at + DESTINATION]))
