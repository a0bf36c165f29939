"""The state of a batch of clusters: its arrays, allocated, copied and grown.

Dimensions: ``N`` environments, ``R`` replicas, ``E`` requests of an episode, ``B`` KV block size,
``S`` most sequences a replica may run, ``M`` batching modes. One record per environment, replica and
request, and one pool of integers for what varies in size. Kernels take the four arrays flat, and each
record says where its part of the pool begins: no kernel ever makes a view, and another cluster size
needs no compilation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burstenv._jit.decorators import make_ready
from burstenv.engine.arena import PoolLayout, whole_lines
from burstenv.engine.enums import NOBODY
from burstenv.engine.records import CACHE_LINE, CLIENT, ENTRY, ENTRY_ID, ENVIRONMENT, ID_FIELDS, REPLICA, REQUEST


def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of zeros that begins with a cache line; its pages are touched only as they are used."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def _copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins with a cache line, byte by byte: field by field is far slower."""
    copied = _zeros(array.shape, array.dtype)
    copied.view(np.uint8)[...] = array.view(np.uint8)
    return copied


@dataclass
class ClusterState:
    """All state of ``N`` clusters of ``R`` replicas; every array is owned and contiguous."""

    environments: np.ndarray  # (N,) ENVIRONMENT
    replicas: np.ndarray  # (N, R) REPLICA
    # (N, R fixed + 3 H E + L E + C E) i4: each replica's own integers; H heaps of requests, those of the replicas'
    # queues, of the front door, and of the clients (where they act); L lists of ids and for each request a CLIENT of C
    # integers, likewise.
    pool: np.ndarray
    requests: np.ndarray  # (N, E) REQUEST
    layout: PoolLayout
    ready_in: Any = field(default=None, repr=False, compare=False)  # see kernel.make_ready

    @classmethod
    def allocate(
        cls, num_envs: int, num_replicas: int, num_requests: int, block_size: int, layout: PoolLayout
    ) -> ClusterState:
        """Allocate zeroed state; pages are touched only as they are used."""
        state = cls(
            environments=_zeros((num_envs,), ENVIRONMENT),
            replicas=_zeros((num_envs, num_replicas), REPLICA),
            pool=cls._pool(num_envs, num_replicas, num_requests, layout),
            requests=_zeros((num_envs, num_requests), REQUEST),
            layout=layout,
        )
        state.replicas["block_size"] = block_size
        state.place()
        return state

    @staticmethod
    def _of_each_request(num_replicas: int, layout: PoolLayout) -> tuple[int, int, int]:
        """Return how many heaps and lists of ids the pool holds, and integers for each request beside them."""
        if not layout.clients:
            return num_replicas + 1, 0, 0
        return num_replicas + 2, 2, CLIENT.itemsize // 4

    @classmethod
    def _pool(cls, num_envs: int, num_replicas: int, num_requests: int, layout: PoolLayout) -> np.ndarray:
        heaps, lists, numbers = cls._of_each_request(num_replicas, layout)
        size = num_replicas * layout.fixed + (ENTRY * heaps + lists + numbers) * num_requests
        return _zeros((num_envs, whole_lines(size)), np.int32)

    def _parts(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (_, count), length = self.replicas.shape, self.requests.shape[1]
        heaps, lists, numbers = self._of_each_request(count, self.layout)
        rest = self.pool[i, count * self.layout.fixed :]
        a, b = ENTRY * heaps * length, (ENTRY * heaps + lists) * length
        return (
            rest[:a].reshape(heaps, length, ENTRY),
            rest[a:b].reshape(lists, length),
            rest[b : b + numbers * length].view(CLIENT) if numbers else rest[:0].view(CLIENT),
        )

    def heaps(self, i: int) -> np.ndarray:
        """Return the heaps of requests of environment ``i``, a view: of each queue, the front door, the clients.

        Shape (H, E, ENTRY), see :mod:`burstenv._jit.heap`. A queue has a heap at each end; what lies between means
        nothing.
        """
        return self._parts(i)[0]

    def lists(self, i: int) -> np.ndarray:
        """Return the lists of ids of environment ``i``'s clients, a view, (L, E); behind an end they mean nothing."""
        return self._parts(i)[1]

    def clients(self, i: int) -> np.ndarray:
        """Return what is known of the clients of environment ``i``'s requests, a view, (E,) CLIENT, or (0,)."""
        return self._parts(i)[2]

    def take_pool(self, i: int, other: ClusterState, j: int) -> None:
        """Make environment ``i``'s part of the pool that of another's environment ``j``, of longer episodes or shorter.

        What waits must find room; ids stay as they are.
        """
        fixed = self.replicas.shape[1] * self.layout.fixed
        self.pool[i, :fixed] = other.pool[j, :fixed]
        mine, theirs = self._parts(i), other._parts(j)
        length = min(self.requests.shape[1], other.requests.shape[1])
        mine[0][:, :length] = theirs[0][:, :length]
        for r, size in enumerate(other.replicas[j]["hopeless_heap_size"].tolist()):
            if size > 0:  # these lie at the end
                mine[0][r, -size:] = theirs[0][r, -size:]
        mine[1][:, :length] = theirs[1][:, :length]
        mine[2][:length] = theirs[2][:length]

    def shift_ids(self, i: int, by: int) -> None:
        """Add ``by`` to every request id in environment ``i``'s part of the pool."""
        own = self.pool[i, : self.replicas.shape[1] * self.layout.fixed]
        own += np.int32(by) * (np.tile(self.layout.ids(), self.replicas.shape[1]) & (own != NOBODY))
        self.heaps(i)[..., ENTRY_ID] += by
        lists = self.lists(i)
        lists += by

    def place(self) -> None:
        """Write into every record where its part of the pool, and its requests and replicas, begin."""
        (n, count), num_requests = self.replicas.shape, self.requests.shape[1]
        layout = self.layout
        row = np.arange(n, dtype=np.int64) * self.pool.shape[1]  # (N,)
        r = np.arange(count, dtype=np.int64)
        own = row[:, None] + r * layout.fixed  # (N, R)
        heaps = row[:, None] + count * layout.fixed  # (N, 1)
        for name, offset in layout.offsets().items():
            self.replicas[f"{name}_base"] = own + offset
        self.replicas["flight_size"] = layout.max_num_seqs
        self.replicas["bucket_count"] = layout.buckets
        self.replicas["table_size"] = layout.table_size
        self.replicas["live_base"] = heaps + ENTRY * r * num_requests
        self.replicas["hopeless_base"] = heaps + ENTRY * ((r + 1) * num_requests - 1)
        door_base = heaps[:, 0] + ENTRY * count * num_requests
        self.environments["door_base"] = door_base
        if layout.clients:
            self.environments["coming_base"] = door_base + ENTRY * num_requests
            self.environments["patience_base"] = door_base + 2 * ENTRY * num_requests
            self.environments["arrival_base"] = door_base + (2 * ENTRY + 1) * num_requests
            self.environments["client_base"] = door_base + (2 * ENTRY + 2) * num_requests
        self.environments["num_replicas"] = count
        self.environments["first_replica"] = np.arange(n) * count
        self.environments["first_request"] = np.arange(n) * num_requests

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return the arrays, flat, in the order in which every kernel takes them, and see that kernels can."""
        make_ready(self)
        return self.environments, self.replicas.reshape(-1), self.pool.reshape(-1), self.requests.reshape(-1)

    def clone(self) -> ClusterState:
        """Return an independent copy, from which the clusters go on exactly alike."""
        return ClusterState(
            _copy(self.environments), _copy(self.replicas), _copy(self.pool), _copy(self.requests), self.layout
        )

    def restore(self, other: ClusterState) -> None:
        """Overwrite this state with a clone of the same shape."""
        for mine, theirs in zip(self.arrays(), other.arrays(), strict=True):
            mine[...] = theirs

    def grow_requests(self, num_requests: int) -> None:
        """Make room for longer episodes; what is there is kept, with its ids shifted."""
        n, old = self.requests.shape
        if num_requests <= old:
            return
        count = self.replicas.shape[1]
        was = ClusterState(self.environments, self.replicas, self.pool, self.requests, self.layout)
        self.requests = _zeros((n, num_requests), REQUEST)
        self.requests.view(np.uint8).reshape(n, -1)[:, : old * REQUEST.itemsize] = was.requests.view(np.uint8).reshape(
            n, -1
        )
        self.pool = self._pool(n, count, num_requests, self.layout)
        shift = np.arange(n) * (num_requests - old)  # (N,) how far each environment's ids move
        for i in range(n):
            self.take_pool(i, was, i)
            self.shift_ids(i, int(shift[i]))
        for name, id_fields in ID_FIELDS.items():
            array = getattr(self, name)
            move = shift.reshape(n, *(1,) * (array.ndim - 1))
            for ids in id_fields:
                array[ids] = np.where(array[ids] == NOBODY, NOBODY, array[ids] + move)
        self.place()
