"""The state of a batch of clusters: its arrays, allocated, copied and grown.

Dimensions: ``N`` environments, ``R`` replicas, ``E`` requests of an episode, ``B`` KV block size,
``S`` most sequences a replica may run, ``M`` batching modes. One record per environment, replica and
request, and a row of integers for what varies in size (the arena). What is written into a row means the same in any
row: ids are numbers within the episode, offsets are relative to the row. So an environment is copied by copying its
rows. What does not change while an episode is played stands beside them once, for all environments.
"""

from __future__ import annotations

import contextlib
import mmap
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burstenv._jit.decorators import make_ready
from burstenv.cluster.records import CLASS, GATEWAY, MEMORY
from burstenv.cluster.world import Arrays
from burstenv.engine.arena import ArenaLayout, Parts, copy_row
from burstenv.engine.arena_records import REPLICA_LOG, TENANT
from burstenv.engine.records import CACHE_LINE, ENTRY, ENVIRONMENT, REPLICA, REQUEST
from burstenv.engine.spec import MODE, SPEC


def _zeros(shape: tuple[int, ...], dtype: Any, sparse: bool = False) -> np.ndarray:
    """Return an array of zeros that begins with a cache line; its pages are touched only as they are used.

    Those of a ``sparse`` one are small: NumPy asks for pages of 2 MB, and the room for the KV blocks of an environment,
    little of it in use, would be touched whole.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = _small_pages(size + CACHE_LINE) if sparse else np.zeros(size + CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def _small_pages(size: int) -> np.ndarray:
    """Return zeros in pages of the smallest size, where the system lets a program choose."""
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # too much, which NumPy says better; or a kernel without large pages
            pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_NOHUGEPAGE)
            return np.frombuffer(pages, np.uint8)
    return np.zeros(size, np.uint8)


def _copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins with a cache line."""
    copied = _zeros(array.shape, array.dtype)
    as_bytes(copied)[...] = as_bytes(array)
    return copied


def as_bytes(array: np.ndarray) -> np.ndarray:
    """Return a contiguous array as bytes, a view: NumPy would copy records field by field, far slower."""
    return array.reshape(-1).view(np.uint8)


@dataclass
class ClusterState:
    """All state of ``N`` clusters of ``R`` replicas; every array is owned and contiguous."""

    environments: np.ndarray  # (N,) ENVIRONMENT
    memories: np.ndarray  # (N,) MEMORY
    replicas: np.ndarray  # (N, R) REPLICA
    arenas: np.ndarray  # (N, A) i4, see engine/arena.py
    requests: np.ndarray  # (N, E) REQUEST
    gateway: np.ndarray  # (1,) GATEWAY
    specs: np.ndarray  # (R,) SPEC
    modes: np.ndarray  # (R, M) MODE
    layout: ArenaLayout
    ready_in: Any = field(default=None, repr=False, compare=False)  # see kernel.make_ready

    @classmethod
    def allocate(cls, num_envs: int, num_requests: int, num_modes: int, layout: ArenaLayout) -> ClusterState:
        """Allocate zeroed state; pages are touched only as they are used."""
        specs, modes = _zeros((layout.num_replicas,), SPEC), _zeros((layout.num_replicas, num_modes), MODE)
        return cls._of(num_envs, num_requests, _zeros((1,), GATEWAY), specs, modes, layout)

    @classmethod
    def _of(
        cls, num_envs: int, num_requests: int, gateway: np.ndarray, specs: np.ndarray, modes: np.ndarray,
        layout: ArenaLayout,
    ) -> ClusterState:  # fmt: skip
        state = cls(
            environments=_zeros((num_envs,), ENVIRONMENT),
            memories=_zeros((num_envs,), MEMORY),
            replicas=_zeros((num_envs, layout.num_replicas), REPLICA),
            arenas=_zeros((num_envs, layout.length(num_requests)), np.int32, sparse=layout.spans > 0),
            requests=_zeros((num_envs, num_requests), REQUEST),
            gateway=gateway,
            specs=specs,
            modes=modes,
            layout=layout,
        )
        state._place()
        return state

    def like(self, num_envs: int, num_requests: int) -> ClusterState:
        """Return empty state of as many clusters of the same kind, with room for so many requests."""
        return ClusterState._of(num_envs, num_requests, _copy(self.gateway), _copy(self.specs), self.modes, self.layout)

    def _place(self) -> None:
        """Write into the constants where the sections of a row begin."""
        layout, room = self.layout, self.requests.shape[1]
        count = layout.num_replicas
        r = np.arange(count, dtype=np.int64)
        for name, offset in layout.offsets().items():
            self.specs[f"{name}_base"] = layout.first_replica + r * layout.of_replica + offset
        self.specs["log_base"] = layout.log_base + r * layout.of_logs
        self.specs["block_size"] = layout.block_size
        self.specs["flight_size"] = layout.max_num_seqs
        self.specs["slots"] = layout.slots
        self.specs["bucket_count"] = layout.buckets
        self.specs["table_size"] = layout.table_size
        self.specs["live_base"] = [layout.heap_base(k, room) for k in range(count)]
        self.specs["hopeless_base"] = [layout.heap_base(k + 1, room) - ENTRY for k in range(count)]
        gateway = self.gateway
        gateway["num_classes"] = layout.num_classes
        gateway["gateways"] = layout.gateways
        gateway["log_base"] = layout.log_base
        gateway["own_base"] = layout.own_base
        gateway["event_base"] = layout.event_base(room)
        gateway["event_room"] = layout.event_room(room)
        if layout.clients:
            gateway["arrival_base"] = layout.list_base(0, room)
            gateway["ended_base"] = layout.list_base(1, room)
            gateway["client_base"] = layout.client_base(room)
        gateway["backward_base"] = layout.backward_base(room)
        gateway["transfer_places"] = layout.transfers
        gateway["transfer_base"] = layout.transfer_base
        gateway["transfer_size"] = layout.of_transfer
        if layout.changes:
            gateway["fault_base"] = layout.fault_base
        gateway["sample_base"], gateway["samples"] = layout.sample_base, layout.samples
        gateway["tenants"], gateway["tenant_base"] = layout.tenants, layout.tenant_base
        gateway["tenancy_base"] = layout.tenancy_base(room)

    # -- parts of a row ------------------------------------------------------------------------------

    def parts(self, i: int) -> Parts:
        """Return the parts of environment ``i``'s row that grow with the episode, views."""
        return self.layout.parts(self.arenas[i], self.requests.shape[1])

    def faults(self, i: int) -> np.ndarray:
        """Return room for the faults of environment ``i``'s episode, (F,) FAULT, a view."""
        return self.layout.faults(self.arenas[i])

    def classes(self, i: int) -> np.ndarray:
        """Return the classes of environment ``i``'s requests, (C,) CLASS, a view."""
        return self.arenas[i, : self.layout.num_classes * CLASS.itemsize // 4].view(CLASS)

    def tenants(self, i: int) -> np.ndarray:
        """Return the tenants of environment ``i``, (T,) TENANT, a view."""
        layout = self.layout
        return self.arenas[i, layout.tenant_base :][: layout.tenants * TENANT.itemsize // 4].view(TENANT)

    def logs(self, i: int) -> np.ndarray:
        """Return the gateways' logs of environment ``i``, (R, K) REPLICA_LOG, a view."""
        layout = self.layout
        logs = self.arenas[i, layout.log_base :][: layout.num_replicas * layout.of_logs]
        return logs.view(REPLICA_LOG).reshape(layout.num_replicas, layout.gateways)

    # -- arrays --------------------------------------------------------------------------------------

    @property
    def raw(self) -> Arrays:
        """The arrays as they are."""
        return Arrays(
            self.environments, self.memories, self.replicas, self.arenas, self.requests, self.gateway, self.specs,
            self.modes,
        )  # fmt: skip

    def arrays(self) -> Arrays:
        """Return the arrays, in the order in which every entry takes them, and see that kernels can."""
        make_ready(self)
        return self.raw

    @property
    def changing(self) -> tuple[np.ndarray, ...]:
        """The arrays that change while episodes are played."""
        return self.environments, self.memories, self.replicas, self.arenas, self.requests

    def clone(self) -> ClusterState:
        """Return an independent copy, from which the clusters go on exactly alike."""
        arrays = Arrays(*map(_copy, self.raw))
        return ClusterState(**arrays._asdict(), layout=self.layout)

    def restore(self, other: ClusterState) -> None:
        """Overwrite this state with a clone of the same shape."""
        for mine, theirs in zip(self.changing, other.changing, strict=True):
            as_bytes(mine)[...] = as_bytes(theirs)

    def grow_requests(self, num_requests: int) -> None:
        """Make room for longer episodes; what is there is kept."""
        n, room = self.requests.shape
        if num_requests <= room:
            return
        requests, arenas = self.requests, self.arenas
        self.requests = _zeros((n, num_requests), REQUEST)
        self.arenas = _zeros((n, self.layout.length(num_requests)), np.int32, sparse=self.layout.spans > 0)
        for i in range(n):
            as_bytes(self.requests[i, :room])[...] = as_bytes(requests[i])
            hopeless = self.replicas[i]["hopeless_heap_size"].tolist()
            copy_row(self.layout, arenas[i], room, self.arenas[i], num_requests, hopeless)
        self._place()
