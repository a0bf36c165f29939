"""The events of a cluster: their kinds, their order at one instant, and the queue of those to come, compiled.

An entry of the queue is (time, kind, subject, generation): a heap in the arena, smallest (time, kind, subject) on top.
Nothing is searched for or taken out of the middle. When what was foreseen for a subject no longer holds, its generation
steps on; an entry of an earlier generation is stale and is dropped when it comes up. Events that come in order of
themselves have no entry: arrivals are a sorted array, the tick follows the last decision, and of the readings of
metrics between two other events only the last two can ever be seen.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.engine.lifecycle import generation_of
from burstenv.engine.records import EVENT


class EventKind(IntEnum):
    """The kinds of events, in the order in which those of one instant happen. Two of a kind go by subject.

    What has ended comes first, so that every later event of the instant finds it done. Iterations start last, so that
    they find every request that arrives, returns or leaves at that instant. An event that an event of the same instant
    causes happens at that instant too, even if its kind comes earlier in this order: a client without think time
    sends its next turn right after an iteration starts that rejects its turn before as hopeless.

    """

    ITERATION_ENDS = 0  # of a replica: tokens come out, requests finish
    METRICS_READ = 1  # reading number n: the published state of every replica is read
    METRICS_SHOWN = 2  # reading number n reaches the gateway
    TRANSFER = 3  # in place number n: the next step of KV blocks on the move
    PLACE = 4  # of a request: it is prefilled, and is to decode on another replica
    HAND_OVER = 5  # prefilled requests that wait for free blocks look for them again
    FAULT = 6  # row number n of the episode's faults: a replica crashes, hangs, starts, ...
    THAW = 7  # of a replica: its hang is over
    DETECTION = 8  # of a replica: the gateway learns that it is down
    LOSS = 9  # of a replica: a warning or the time for draining is over
    RESTART = 10  # of a replica: it begins to boot
    READY = 11  # of a replica: it is booted
    PACE_ENDS = 12  # of a replica: its slow spell is over
    SCALE = 13  # number n: replicas may be started or stopped
    DEADLINE = 14  # of a request: its client gives up, if it is kept waiting
    SILENCE = 15  # of a request: its gateway takes it back, if its replica has not begun with it for so long
    RETURN = 16  # a request that was deferred or taken back, or whose replica was lost, is decided about again
    LOOK = 17  # at the gateway's queue: whether a request may be dispatched
    SEND = 18  # a request is sent again, or as the next turn of its session
    ARRIVAL = 19  # a request is sent for the first time, when the trace says
    MIGRATE = 20  # number n: a request may migrate
    TICK = 21  # so long without a decision
    ITERATION_STARTS = 22  # of a replica


class DecisionKind(IntEnum):
    """What a decision is about."""

    ADMIT_AND_ROUTE = 0  # the request at the gateway
    TICK = 1  # batching modes alone: no request is at the gateway
    MIGRATE = 2  # whether a request moves from one replica to another
    SCALE = 3  # which replicas are to serve
    PLACE_DECODE = 4  # where a prefilled request decodes


TRANSFER, PLACE, HAND_OVER, FAULT, THAW, DETECTION, LOSS, RESTART, READY, PACE_ENDS = range(
    EventKind.TRANSFER, EventKind.PACE_ENDS + 1
)
LAST_OF_CHANGES = PACE_ENDS  # kinds from FAULT up to this one change a replica from outside
SCALE = int(EventKind.SCALE)
DEADLINE, SILENCE, RETURN, LOOK, SEND, ARRIVAL, MIGRATE, TICK = range(EventKind.DEADLINE, EventKind.TICK + 1)
KIND, SUBJECT, GENERATION = 2, 3, 4  # places in an entry, behind the time


@kernel
def entry_at(world, k):
    """Return where entry ``k`` of the queue begins in the arena."""
    return world.gateway.event_base + EVENT * k


@kernel
def _before(arena, at, time_s, kind, subject):
    """Return whether an entry happens before an event."""
    its_time_s = real_at(arena, at)
    if its_time_s != time_s:
        return its_time_s < time_s
    if arena[at + KIND] != kind:
        return arena[at + KIND] < kind
    return arena[at + SUBJECT] < subject


@kernel
def _comes_before(arena, a, b):
    return _before(arena, a, real_at(arena, b), arena[b + KIND], arena[b + SUBJECT])


@kernel
def _move(arena, source, target):
    for k in range(EVENT):
        arena[target + k] = arena[source + k]


@outlined
def put_event(world, place, time_s, kind, subject, generation):
    """Write an event behind the first ``place`` entries, which are a heap, and let it rise to where it belongs."""
    arena = world.arena
    while place > 0:
        parent = entry_at(world, (place - 1) >> 1)
        if _before(arena, parent, time_s, kind, subject):
            break
        _move(arena, parent, entry_at(world, place))
        place = (place - 1) >> 1
    at = entry_at(world, place)
    put_real(arena, at, time_s)
    arena[at + KIND] = kind
    arena[at + SUBJECT] = subject
    arena[at + GENERATION] = generation


@kernel
def _generation(world, kind, subject):
    """Return the present generation of the subject of an event."""
    if kind == LOOK:
        return np.int64(world.environment.look_number)
    if kind > SCALE or kind == PLACE:
        return generation_of(world, subject)
    if kind in (HAND_OVER, FAULT, SCALE):
        return 0
    replica = world.replicas[subject]
    if kind == LOSS:
        return np.int64(replica.loss_generation)
    if kind == PACE_ENDS:
        return np.int64(replica.pace_generation)
    return np.int64(replica.generation)


@outlined
def foresee(world, time_s, kind, subject):
    """Foresee an event, for the present generation of its subject; one at infinity never happens."""
    environment = world.environment
    if time_s == np.inf:
        return
    if environment.events == world.gateway.event_room:
        drop_stale(world)
    put_event(world, environment.events, time_s, kind, subject, _generation(world, kind, subject))
    environment.events += 1


@outlined
def drop_first(world):
    """Take the first event off the queue."""
    environment, arena = world.environment, world.arena
    environment.events -= 1
    size = environment.events
    last = entry_at(world, size)
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and _comes_before(arena, entry_at(world, child + 1), entry_at(world, child)):
            child += 1
        if _comes_before(arena, last, entry_at(world, child)):
            break
        _move(arena, entry_at(world, child), entry_at(world, place))
        place = child
    if size > 0:
        _move(arena, last, entry_at(world, place))


@kernel
def holds(world, at):
    """Return whether an entry is not stale."""
    arena = world.arena
    return arena[at + GENERATION] == _generation(world, arena[at + KIND], arena[at + SUBJECT])


@outlined
def drop_stale(world):
    """Drop all stale entries."""
    environment, arena = world.environment, world.arena
    kept = 0
    for k in range(environment.events):  # the heap grows over entries already read
        at = entry_at(world, k)
        if holds(world, at):
            put_event(world, kept, real_at(arena, at), arena[at + KIND], arena[at + SUBJECT], arena[at + GENERATION])
            kept += 1
    environment.events = kept


@outlined
def any_to_come(world):
    """Return whether any event in the queue holds, but for a decision about the number of replicas."""
    for k in range(world.environment.events):
        at = entry_at(world, k)
        if world.arena[at + KIND] != SCALE and holds(world, at):
            return True
    return False


@kernel
def next_event_s(world):
    """Return the time of the first entry, infinity for none; it may be stale."""
    return np.inf if world.environment.events == 0 else real_at(world.arena, entry_at(world, 0))
