"""A router's knowledge under stale metrics: the last reading, and its decisions since. Compiled.

Every decision keeps a copy of the cluster. If a reading takes place before the next decision, the copy is advanced to
that instant and becomes the reading. A reading is complete: the waiting and running requests of each replica and their
tokens so far, as old as the metrics that decisions see. The present is reconstructed from the shown reading: later
arrivals and the decisions about them are known, output lengths are sampled.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import REJECT
from burstenv.cluster.telemetry import scrape_until
from burstenv.cluster.world import world_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.policies.lookahead.clone import copy_cluster
from burstenv.policies.lookahead.futures import imagine_newcomers, imagine_state
from burstenv.policies.lookahead.steps import UNPLANNED, carry_out, code_of, decide_by, go_on

COPY, NEWEST, BEFORE = 0, 1, 2  # roles: the last decision's state, the last reading, the reading before
_NONE = -2
NOTES = np.dtype(
    [  # by role
        ("slot", "i8", (3,)),  # index of its cluster among the three
        ("scrape", "i8", (3,)),  # number of the reading, of the copy: of the last one before
        ("low", "i8", (3,)),  # number of its first request that is not over
    ],
    align=True,
)


@kernel
def begin_notes(notes, decided):
    """Clear all readings at the start of an episode."""
    for role in range(3):
        notes.slot[role] = role
        notes.scrape[role] = _NONE
        notes.low[role] = 0
    for k in range(decided.shape[0]):
        decided[k] = UNPLANNED


@kernel
def _hand_over(notes, to, slot, scrape, low):
    notes.slot[to], notes.scrape[to], notes.low[to] = slot, scrape, low


@outlined
def _read(search):
    """Make the copy of the decision before the newest reading."""
    notes, decided, now = search.notes, search.plan, world_of(search.source, search.i)
    slot, low = notes.slot[COPY], notes.low[COPY]
    world = world_of(search.readings, slot)
    at_gateway = world.environment.at_gateway
    code = code_of(REJECT, 0, np.int64(world.replicas[0].mode))
    if at_gateway != NO_REQUEST and decided[at_gateway] != UNPLANNED:
        code = np.int64(decided[at_gateway])
    carry_out(world, code)
    scrape_until(world, now.environment.scrape * now.gateway.scrape_period_s)
    oldest = notes.slot[BEFORE]
    _hand_over(notes, BEFORE, notes.slot[NEWEST], notes.scrape[NEWEST], notes.low[NEWEST])
    _hand_over(notes, NEWEST, slot, now.environment.scrape, low)
    notes.slot[COPY] = oldest


@outlined
def note_epoch(search, low):
    """Keep a copy of the cluster at a decision epoch, after an update of the readings since the last one.

    Args:
        search: Search; its plan has the decisions so far.
        low: Number of the first copied request.
    """
    notes, environment = search.notes, search.source.environments[search.i]
    if notes.scrape[COPY] > _NONE and environment.scrape > notes.scrape[COPY]:
        _read(search)
    copy_cluster(search.source, search.i, search.readings, notes.slot[COPY], low, environment.next_arrival)
    notes.scrape[COPY] = environment.scrape
    notes.low[COPY] = low


@kernel
def reading_shown(world, notes):
    """Return the role of the reading that decisions see, -1 before the first, 0 if metrics are fresh."""
    period_s = world.gateway.scrape_period_s
    if not period_s > 0.0:
        return 0
    shown = np.int64(np.round(world.environment.shown_s / period_s))
    for role in (NEWEST, BEFORE):
        if notes.scrape[role] == shown:
            return role
    return -1


@outlined
def reconstruct(search, future, role, seed):
    """Set a future to a possible present, from the reading of a role on.

    Returns False if its events differ and the request at the gateway is absent at this time: a router does not know the
    times of retries.
    """
    notes, now = search.notes, search.source.environments[search.i]
    slot, low = notes.slot[role], notes.low[role]
    arrived = search.readings.environments[slot].next_arrival
    copy_cluster(search.readings, slot, search.scratch, future, low, arrived)
    world = world_of(search.scratch, future)
    mine = world.environment
    mine.num_requests = now.next_arrival
    imagine_state(search, future, seed, low)
    imagine_newcomers(search, future, seed, arrived, now.next_arrival)
    while True:
        go_on(world, False)
        if mine.done or mine.now_s > now.now_s or mine.at_gateway == NO_REQUEST:
            return False
        if mine.at_gateway == now.at_gateway and mine.now_s == now.now_s:
            return True
        code = np.int64(search.plan[mine.at_gateway])
        if code == UNPLANNED:
            code = decide_by(search.policies[0], world)
        carry_out(world, code)
