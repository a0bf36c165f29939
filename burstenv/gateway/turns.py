"""The turns of conversations, as requests come: what session features are made of."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from burstenv.engine.enums import NO_REQUEST
from burstenv.envs.observation.sessions import PREVIOUS, TURNS_BEFORE

REMEMBERED = 100_000  # conversations


class Turns:
    """Links each request to the turn before.

    Args:
        room: Requests whose records are kept.

    Attributes:
        links: (1, room, 2) int32, see :func:`burstenv.envs.observation.sessions.turn_links`.
    """

    def __init__(self, room: int):
        self.links: NDArray[np.int32] = np.zeros((1, room, 2), np.int32)
        self._last: OrderedDict[int, tuple[int, int]] = OrderedDict()  # session -> its turns so far, the last's place

    def note(self, place: int, session: int) -> None:
        """Note a request of a session, -1 for none."""
        turns, previous = self._last.pop(session, (0, NO_REQUEST)) if session >= 0 else (0, NO_REQUEST)
        self.links[0, place, TURNS_BEFORE] = turns
        self.links[0, place, PREVIOUS] = previous
        if session >= 0:
            self._last[session] = turns + 1, place
            if len(self._last) > REMEMBERED:
                self._last.popitem(last=False)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Forget all requests but those at the places ``kept``, which move up in their order."""
        to = {int(old): new for new, old in enumerate(kept)}
        to[NO_REQUEST] = NO_REQUEST
        rows = self.links[0, kept].copy()
        rows[:, PREVIOUS] = [to.get(int(old), NO_REQUEST) for old in rows[:, PREVIOUS]]
        self.links[0, : len(kept)] = rows
        for session, (turns, place) in self._last.items():
            self._last[session] = turns, to.get(place, NO_REQUEST)
