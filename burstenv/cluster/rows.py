"""One cluster of a batch on its own: taken out, kept, and put back, into the same place or another."""

from __future__ import annotations

import numpy as np

from burstenv.cluster.state import ID_FIELDS, NOBODY, REPLICA, REQUEST, ClusterState


def _moved(row: ClusterState, by: int) -> None:
    """Add ``by`` to every request id in a state of one cluster, in place."""
    if by == 0:
        return
    fixed = row.replicas.shape[1] * row.layout.fixed
    own, lists = row.pool[0, :fixed], row.lists(0)
    own += by * (np.tile(row.layout.ids(), row.replicas.shape[1]) & (own != NOBODY)).astype(np.int32)
    lists += by
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
    fixed = state.replicas.shape[1] * state.layout.fixed
    pool, clients = state.pool[i], state.clients(i)[:length]
    row = ClusterState(
        environments=state.environments[i : i + 1].copy(),
        replicas=_bytes(state.replicas[i]).copy().view(REPLICA)[None],
        pool=np.concatenate([pool[:fixed], state.lists(i)[:, :length].reshape(-1), clients.view(np.int32)])[None],
        requests=_bytes(state.requests[i, :length]).copy().view(REQUEST)[None],
        layout=state.layout,
    )
    _moved(row, -i * room)
    row.place()
    return row


def put_row(state: ClusterState, i: int, row: ClusterState) -> None:
    """Make cluster ``i`` go on exactly as the one that was taken out; both must be built alike."""
    length = row.requests.shape[1]
    if length > state.requests.shape[1]:
        state.grow_requests(length)
    room = state.requests.shape[1]
    fixed = state.replicas.shape[1] * state.layout.fixed
    clients = row.clients(0)
    if i > 0:
        row = row.clone()
        _moved(row, i * room)
    state.environments[i : i + 1] = row.environments
    _bytes(state.replicas[i])[...] = _bytes(row.replicas[0])
    state.pool[i, :fixed] = row.pool[0, :fixed]
    state.lists(i)[:, :length] = row.lists(0)
    state.clients(i)[: len(clients)] = clients
    _bytes(state.requests[i, :length])[...] = _bytes(row.requests[0])
    state.place()
