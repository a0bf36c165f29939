"""The events that are to come, in plain Python: a heap of (time, kind, subject, generation)."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from burstenv.cluster.events import EventKind

CLUSTER = 0  # the subject of events that concern no replica and no request of their own


class Event(NamedTuple):
    """One event; the order of the fields is the order in which events happen."""

    time_s: float
    kind: EventKind
    subject: int  # a replica, a request or a reading, by its number
    generation: int  # of the subject when the event was foreseen


class EventQueue:
    """Events in the order in which they happen.

    Nothing is ever searched for or taken out of the middle. A subject has a generation, which steps on when all that
    was foreseen for it no longer holds; an entry of an earlier generation is stale and is dropped when it comes up.

    Args:
        generation: Returns the present generation of the subject of an event, from its kind and number.
    """

    def __init__(self, generation: Callable[[EventKind, int], int]):
        self._generation = generation
        self._heap: list[Event] = []

    def push(self, time_s: float, kind: EventKind, subject: int = CLUSTER) -> None:
        """Foresee an event, for the present generation of its subject; one at infinity never happens."""
        if time_s < math.inf:
            heapq.heappush(self._heap, Event(time_s, kind, subject, self._generation(kind, subject)))

    def pop(self) -> Event | None:
        """Take the next event that still holds, or None when there is none."""
        while self._heap:
            event = heapq.heappop(self._heap)
            if self._holds(event):
                return event
        return None

    def holds_any_but(self, kinds: Iterable[EventKind]) -> bool:
        """Return whether any event is to come that is of none of these kinds."""
        return any(event.kind not in kinds and self._holds(event) for event in self._heap)

    def _holds(self, event: Event) -> bool:
        return event.generation == self._generation(event.kind, event.subject)
