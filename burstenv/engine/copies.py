"""Second copies of requests, compiled: their ids, and what they bring that counts.

A gateway may send a request that waits for its first token a second time, see ``cluster/faults/hedges.py``. Among
``n`` requests the copy of request ``k`` has the id ``n + k``: a row behind those of the episode, and the numbers of a
client, where HEDGES says that both are under way. The first of the two to bring a token goes on as request ``k``, and
the other one is cancelled. Whatever that one brings from then on is void: it counts nowhere.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.arena import KIND, client_number
from burstenv.engine.arena_records import HEDGES
from burstenv.engine.enums import AWAY


@kernel
def origin_of(world, request_id):
    """Return the request that an id stands for: its own, or that of the copy."""
    count = world.environment.num_requests
    return request_id - count if request_id >= count else request_id


@kernel
def copy_of(world, request_id):
    """Return the id of the second copy of a request."""
    return world.environment.num_requests + request_id


@kernel
def kind_at(world, request_id):
    """Return where the flags of a request, or of a copy, are in the arena."""
    return client_number(world, request_id, KIND)


@outlined
def is_hedged(world, request_id):
    """Return whether a request has two copies under way, by the id of either."""
    return world.arena[kind_at(world, copy_of(world, origin_of(world, request_id)))] & HEDGES != 0


@outlined
def is_void(world, request_id):
    """Return whether a token that a request, or a copy, brings now is void: the other one has brought its first."""
    origin = origin_of(world, request_id)
    copy = copy_of(world, origin)
    if world.arena[kind_at(world, copy)] & HEDGES:
        other = origin if request_id == copy else copy
        return not np.isnan(world.requests[other].first_token_s)
    return request_id == copy


@outlined
def forget_copy(world, copy):
    """Forget a copy that is on no replica any more."""
    world.environment.copies -= 1
    world.arena[kind_at(world, copy)] = 0
    world.requests[copy].status = AWAY


@outlined
def end_copy(world, copy):
    """Forget a cancelled copy that has left its replica, and count the tokens that it computed for nothing."""
    environment, request = world.environment, world.requests[copy]
    found = max(np.int64(request.cached_tokens), 0)
    environment.hedged_tokens += max(np.int64(request.computed_tokens) + request.recomputed_tokens - found, 0)
    forget_copy(world, copy)
