"""What a router with stale metrics knows of its replicas: the last reading, and what it has decided since. Compiled.

At every decision a copy of the cluster is kept. When a reading takes place before the next decision, the copy is
brought to that instant and becomes the reading: a full one, of which requests wait and run where and how many tokens of
each are out, as old as the metrics that decisions see. From the reading that is shown the present is reconstructed:
requests that have arrived since are known, and so is what was decided about them; how long outputs are is imagined.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import REJECT
from burstenv.cluster.telemetry import scrape_until
from burstenv.engine.enums import NOBODY
from burstenv.policies.lookahead.clone import copy_cluster
from burstenv.policies.lookahead.futures import imagine_newcomers, imagine_state
from burstenv.policies.lookahead.steps import UNPLANNED, carry_out, decide_by, decision_of, go_on

COPY, NEWEST, BEFORE = 0, 1, 2  # roles: the last decision's state, the last reading, the reading before
_NONE = -2
NOTES = np.dtype(
    [  # by role
        ("slot", "i8", (3,)),  # which of the three clusters plays it
        ("scrape", "i8", (3,)),  # number of the reading, of the copy: of the last one before
        ("low", "i8", (3,)),  # number of its first request that is not over
    ],
    align=True,
)


@kernel
def begin_notes(notes, decided):
    """Forget everything, as an episode begins."""
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
def _read(environment, readings, notes, modes, decided):
    """Make the copy of the decision before the newest reading."""
    slot, low = notes.slot[COPY], notes.low[COPY]
    mine, replicas, pool, requests = readings[0][slot], readings[1], readings[2], readings[3]
    admission, replica, mode = REJECT, 0, np.int64(replicas[mine.first_replica].mode)
    if mine.at_door != NOBODY and decided[mine.at_door - mine.first_request] != UNPLANNED:
        admission, replica, mode = decision_of(np.int64(decided[mine.at_door - mine.first_request]))
    carry_out(mine, replicas, pool, requests, modes, admission, replica, mode)
    scrape_until(mine, replicas, pool, requests, environment.scrape * environment.scrape_period_s)
    oldest = notes.slot[BEFORE]
    _hand_over(notes, BEFORE, notes.slot[NEWEST], notes.scrape[NEWEST], notes.low[NEWEST])
    _hand_over(notes, NEWEST, slot, environment.scrape, low)
    notes.slot[COPY] = oldest


@outlined
def note_epoch(cluster, i, readings, notes, marks, modes, decided, low):
    """Keep a copy of cluster ``i`` at a decision epoch, after a look at what was read since the last one.

    Args:
        cluster: What ``clone.clusters`` returns.
        i: Which cluster.
        readings: The same of a state of three clusters; written.
        notes: NOTES; written.
        marks: See ``clone.id_marks``.
        modes: (R, M) MODE.
        decided: (E,) int32, codes of the decisions so far by request.
        low: Number of the first request that is copied.
    """
    environment = cluster[0][i]
    if notes.scrape[COPY] > _NONE and environment.scrape > notes.scrape[COPY]:
        _read(environment, readings, notes, modes, decided)
    arrived = environment.next_arrival - environment.first_request
    copy_cluster(cluster, i, readings, notes.slot[COPY], marks, low, arrived)
    notes.scrape[COPY] = environment.scrape
    notes.low[COPY] = low


@kernel
def reading_shown(environment, notes):
    """Return the role of the reading that decisions see, -1 where there is none yet, 0 where metrics are fresh."""
    if not environment.scrape_period_s > 0.0:
        return 0
    shown = np.int64(np.round(environment.shown_s / environment.scrape_period_s))
    for role in (NEWEST, BEFORE):
        if notes.scrape[role] == shown:
            return role
    return -1


@outlined
def reconstruct(
    cluster, i, readings, notes, role, scratch, j, marks, modes, policy, model, settings, decided, seed
):  # fmt: skip
    """Put into cluster ``j`` of ``scratch`` what the present may be, from the reading of a role on.

    Returns False where events take another course, so that the request at the door is not there at this time: of
    requests that come again a router does not know when.
    """
    environment, mine = cluster[0][i], scratch[0][j]
    slot, low = notes.slot[role], notes.low[role]
    read = readings[0][slot]
    arrived = read.next_arrival - read.first_request
    now = environment.next_arrival - environment.first_request
    target = environment.at_door - environment.first_request
    copy_cluster(readings, slot, scratch, j, marks, low, arrived)
    mine.num_requests = now
    imagine_state(scratch, j, model, settings, seed, low, arrived)
    imagine_newcomers(cluster, i, scratch, j, model, settings, seed, arrived, now)
    replicas, pool, requests = scratch[1], scratch[2], scratch[3]
    while True:
        go_on(mine, replicas, pool, requests, False)
        if mine.done or mine.now_s > environment.now_s or mine.at_door == NOBODY:
            return False
        number = mine.at_door - mine.first_request
        if number == target and mine.now_s == environment.now_s:
            return True
        code = np.int64(decided[number])
        if code == UNPLANNED:
            admission, replica, mode = decide_by(policy, mine, replicas, pool, requests)
        else:
            admission, replica, mode = decision_of(code)
        carry_out(mine, replicas, pool, requests, modes, admission, replica, mode)
