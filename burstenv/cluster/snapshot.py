"""One cluster of a batch on its own: taken out, kept, and put back, into the same place or another."""

from __future__ import annotations

import numpy as np

from burstenv.cluster.state import ClusterState
from burstenv.engine.enums import NOBODY
from burstenv.engine.records import ID_FIELDS


def _moved(row: ClusterState, by: int) -> None:
    """Add ``by`` to every request id in a state of one cluster, in place."""
    if by == 0:
        return
    row.shift_ids(0, by)
    for name, id_fields in ID_FIELDS.items():
        array = getattr(row, name)
        for field in id_fields:
            array[field] += np.where(array[field] == NOBODY, 0, by).astype(array.dtype[field])


def _bytes(records: np.ndarray) -> np.ndarray:
    """Return contiguous records, (n,), as bytes, a view: NumPy would copy records field by field, far slower."""
    return records.view(np.uint8)


def take_row(state: ClusterState, i: int) -> ClusterState:
    """Return cluster ``i`` as a state of its own, independent, no longer than its episode."""
    length, room = int(state.environments["num_requests"][i]), state.requests.shape[1]
    row = ClusterState.allocate(1, state.replicas.shape[1], length, 1, state.layout)
    row.environments[...] = state.environments[i : i + 1]
    _bytes(row.replicas[0])[...] = _bytes(state.replicas[i])
    _bytes(row.requests[0])[...] = _bytes(state.requests[i, :length])
    row.take_pool(0, state, i)
    _moved(row, -i * room)
    row.place()
    return row


def put_row(state: ClusterState, i: int, row: ClusterState) -> None:
    """Make cluster ``i`` go on exactly as the one that was taken out; both must be built alike."""
    length = row.requests.shape[1]
    if length > state.requests.shape[1]:
        state.grow_requests(length)
    room = state.requests.shape[1]
    if i > 0:
        row = row.clone()
        _moved(row, i * room)
    state.environments[i : i + 1] = row.environments
    _bytes(state.replicas[i])[...] = _bytes(row.replicas[0])
    _bytes(state.requests[i, :length])[...] = _bytes(row.requests[0])
    state.take_pool(i, row, 0)
    state.place()
