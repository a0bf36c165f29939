"""One cluster of a batch on its own: taken out, kept, and put back, into the same place or another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from burstenv.cluster.records import MEMORY
from burstenv.cluster.state import ClusterState, as_bytes
from burstenv.engine.arena import ArenaLayout, copy_row
from burstenv.engine.records import ENVIRONMENT, REPLICA, REQUEST


@dataclass
class Row:
    """All that changes of one cluster, no longer than its episode.

    Attributes:
        environment: (1,) ENVIRONMENT.
        memory: (1,) MEMORY.
        replicas: (R,) REPLICA.
        arena: (A,) int32.
        requests: (n,) REQUEST; (2 n,) with the second copies of requests, if any was sent.
        layout: Of the arena.
    """

    environment: np.ndarray
    memory: np.ndarray
    replicas: np.ndarray
    arena: np.ndarray
    requests: np.ndarray
    layout: ArenaLayout

    def fits(self, state: ClusterState) -> bool:
        """Return whether its arrays fit each other and a state."""
        kinds = ENVIRONMENT, MEMORY, REPLICA, np.dtype(np.int32), REQUEST
        arrays = self.environment, self.memory, self.replicas, self.arena, self.requests
        if self.layout != state.layout or any(a.dtype != kind for a, kind in zip(arrays, kinds, strict=True)):
            return False
        count, length = self.layout.num_replicas, self.requests.size
        shapes = (1,), (1,), (count,), (self.layout.length(length),), (length,)
        alike = all(a.shape == shape for a, shape in zip(arrays, shapes, strict=True))
        return alike and int(self.environment["num_requests"][0]) <= length


def _copied(records: np.ndarray) -> np.ndarray:
    return as_bytes(records).copy().view(records.dtype)


def take_row(state: ClusterState, i: int) -> Row:
    """Return cluster ``i``, independent of the state."""
    hedges = int(state.environments["hedges"][i]) > 0  # their copies are behind the requests
    length, room = int(state.environments["num_requests"][i]) * (1 + hedges), state.requests.shape[1]
    arena = np.empty(state.layout.length(length), np.int32)
    copy_row(state.layout, state.arenas[i], room, arena, length, state.replicas[i]["hopeless_heap_size"].tolist())
    return Row(
        _copied(state.environments[i : i + 1]), _copied(state.memories[i : i + 1]), _copied(state.replicas[i]), arena,
        _copied(state.requests[i, :length]), state.layout,
    )  # fmt: skip


def put_row(state: ClusterState, i: int, row: Row) -> None:
    """Make cluster ``i`` go on exactly as the one that was taken out; both must be built alike."""
    length, count = len(row.requests), int(row.environment["num_requests"][0])
    rows = count * (1 + state.layout.changes)  # where replicas fail a second copy of each may be sent
    if rows > state.requests.shape[1]:
        state.grow_requests(rows)
    as_bytes(state.environments[i : i + 1])[...] = as_bytes(row.environment)
    as_bytes(state.memories[i : i + 1])[...] = as_bytes(row.memory)
    as_bytes(state.replicas[i])[...] = as_bytes(row.replicas)
    as_bytes(state.requests[i, :length])[...] = as_bytes(row.requests)
    hopeless = row.replicas["hopeless_heap_size"].tolist()
    copy_row(state.layout, row.arena, length, state.arenas[i], state.requests.shape[1], hopeless)
    if state.layout.changes:
        state.parts(i).clients["kind"][length:rows] = 0  # of copies in another episode
