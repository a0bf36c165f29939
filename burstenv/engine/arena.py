"""The layout of an environment's arena: the integers of variable number.

First the classes of requests and the gateways' knowledge; then each replica's sections; then the sections that grow
with the episode: heaps of requests, the event queue, lists of ids, and a record of each request's client. Every offset
is relative to the environment's own row: a copy of the row is valid in any other row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from burstenv._jit.decorators import kernel
from burstenv.engine.arena_records import CLIENT, FAULT, OWN, REPLICA_LOG, SAMPLE, TENANT, TRANSFER
from burstenv.engine.kv_cache import LOST, NUMBERS_OF_A_SPAN
from burstenv.engine.records import CACHE_LINE, ENTRY, EVENT, NUMBERS_OF_A_SEQUENCE

CLASS_NUMBERS = 4  # integers of a CLASS
CLIENT_NUMBERS = CLIENT.itemsize // 4  # integers of a CLIENT
NEXT_TURN, GENERATION, KIND, SENT_S = (
    CLIENT.fields[name][1] // 4  # type: ignore[index]
    for name in ("next_turn", "generation", "kind", "sent_s")
)
FAULT_NUMBERS = FAULT.itemsize // 4  # integers of a FAULT
SAMPLE_NUMBERS = SAMPLE.itemsize // 4  # integers of a SAMPLE
EVENTS_OF_A_REPLICA = 8  # room for them; four hold at most: of its status two, of a loss, of its pace
TENANT_NUMBERS = TENANT.itemsize // 4  # integers of a TENANT
NUMBERS_OF_A_TENANCY = 2  # integers of each request: its tenant, and the outputs that were counted of it
EVENTS_OF_THE_QUEUE = 4  # room for looks at the gateway's queue; one holds at most
SHARE_NUMBERS = 4  # integers of a replica's share of the traffic: weight and credit


@kernel
def client_number(world, request_id, place):
    """Return the position of a number of a request's client in the arena."""
    return world.gateway.client_base + request_id * CLIENT_NUMBERS + place


class Parts(NamedTuple):
    """The parts of one row that grow with the episode, as views.

    Attributes:
        heaps: (R, E, ENTRY), see :mod:`burstenv._jit.heap`: of each replica's queue. A queue has a heap at each end;
            entries between them are unused.
        events: (V, EVENT), the event queue; entries after its end are unused.
        lists: (L, E) ids, if clients act; entries after an end are unused.
        clients: (E,) CLIENT, or (0,).
        tenants: (E, 2), or (0, 2): of each request, the number of its tenant and what ``cluster/flow.py`` has counted.
        backward: (E,) float64, the backward passes on its replica before each request came; or (0,).
    """

    heaps: np.ndarray
    events: np.ndarray
    lists: np.ndarray
    clients: np.ndarray
    tenants: np.ndarray
    backward: np.ndarray


@dataclass(frozen=True)
class ArenaLayout:
    """The sections of a row of the arena.

    Attributes:
        num_replicas: R.
        block_size: B, [tokens].
        max_num_seqs: S.
        general: Whether any replica runs under the general engine or with prefix caching.
        set_aside: Most requests with KV blocks set aside on a replica, beside those that run.
        spans: Most spans of KV blocks; 0 without prefix caching.
        buckets: Hash buckets.
        table_size: Most blocks of one request, with prefix caching.
        clients: Whether clients do more than send and wait.
        num_classes: C.
        awaits: Whether any replica schedules asynchronously.
        gateways: K.
        transfers: Most transfers of KV blocks at once.
        changes: Whether replicas fail, start or stop.
        fault_room: Most FAULTs of an episode.
        samples: SAMPLEs that are kept; 0 if the number of replicas does not change by decisions.
        tenants: T; 0 where requests have none.
        background: Whether a replica works on a fine-tuning job.
    """

    num_replicas: int
    block_size: int
    max_num_seqs: int
    general: bool = False
    set_aside: int = 0
    spans: int = 0
    buckets: int = 0
    table_size: int = 0
    clients: bool = False
    num_classes: int = 2
    awaits: bool = False
    gateways: int = 1
    transfers: int = 0
    changes: bool = False
    fault_room: int = 0
    samples: int = 0
    tenants: int = 0
    background: bool = False

    @property
    def slots(self) -> int:
        """Slots among the sequences of a replica."""
        return self.max_num_seqs + self.set_aside if self.general else 0

    def sizes(self) -> dict[str, int]:
        """Return the length of every section of one replica, in order."""
        return {
            "phase": self.block_size,  # counts
            "finish": 2 * self.max_num_seqs,  # decode steps and request ids in turn
            "flight": 2 * self.max_num_seqs if self.general or self.awaits else 0,  # request ids
            "span": NUMBERS_OF_A_SPAN * (self.spans + 1) if self.spans else 0,
            "bucket": self.buckets,  # spans
            "lost": NUMBERS_OF_A_SPAN * LOST if self.spans else 0,
            "slot": self.slots,
            "sequence": self.slots * NUMBERS_OF_A_SEQUENCE,
            "table": 2 * self.slots * self.table_size,
            "share": SHARE_NUMBERS,
        }

    def offsets(self) -> dict[str, int]:
        """Return the start of every section, from the beginning of the replica's integers."""
        ends = np.cumsum(list(self.sizes().values()))
        return {name: int(end) - size for (name, size), end in zip(self.sizes().items(), ends, strict=True)}

    @property
    def of_replica(self) -> int:
        """Integers of one replica, in whole cache lines."""
        return whole_lines(sum(self.sizes().values()))

    @property
    def of_logs(self) -> int:
        """Integers of one replica's logs."""
        return self.gateways * REPLICA_LOG.itemsize // 4

    @property
    def log_base(self) -> int:
        """Start of the logs, after the classes."""
        return whole_lines(CLASS_NUMBERS * self.num_classes)

    @property
    def own_base(self) -> int:
        """Start of what is each of several gateways' own, after the logs."""
        return self.log_base + whole_lines(self.num_replicas * self.of_logs)

    @property
    def first_replica(self) -> int:
        """Start of the first replica's integers, after those of the gateways."""
        own = self.gateways * OWN.itemsize // 4 if self.gateways > 1 else 0
        return self.own_base + whole_lines(own)

    @property
    def transfer_base(self) -> int:
        """Start of the transfers, after the replicas."""
        return self.first_replica + self.num_replicas * self.of_replica

    @property
    def of_transfer(self) -> int:
        """Integers of one transfer, in whole cache lines."""
        return whole_lines(TRANSFER.itemsize // 4)

    @property
    def fault_base(self) -> int:
        """Start of the faults of an episode, after the transfers."""
        return self.transfer_base + self.transfers * self.of_transfer

    @property
    def sample_base(self) -> int:
        """Start of the load at decisions about the number of replicas, after the faults."""
        return self.fault_base + whole_lines(FAULT_NUMBERS * self.fault_room)

    @property
    def tenant_base(self) -> int:
        """Start of the tenants, after the load at decisions."""
        return self.sample_base + whole_lines(SAMPLE_NUMBERS * self.samples)

    @property
    def fixed(self) -> int:
        """Number of integers that do not grow with the episode: the growing sections follow them."""
        return self.tenant_base + whole_lines(TENANT_NUMBERS * self.tenants)

    @property
    def events_of_each(self) -> int:
        """Entries of the event queue for each request, one more than hold: a deadline, a return, perhaps a silence."""
        return 3 + self.changes if self.clients else 1

    def event_room(self, num_requests: int) -> int:
        """Return V, the most entries of the event queue."""
        of_replicas = EVENTS_OF_A_REPLICA * (self.num_replicas + 1) if self.changes else 0
        return self.events_of_each * num_requests + of_replicas + (EVENTS_OF_THE_QUEUE if self.tenants else 0)

    def _of_each_request(self) -> tuple[int, int]:
        """Return the number of lists of ids, and of further integers for each request."""
        return (2, CLIENT.itemsize // 4) if self.clients else (0, 0)

    def length(self, num_requests: int) -> int:
        """Return A, the integers of a row with room for ``num_requests`` requests, in whole cache lines."""
        return whole_lines(self.backward_base(num_requests) + 2 * self.background * num_requests)

    def heap_base(self, r: int, num_requests: int) -> int:
        """Return the start of the heap of a replica's queue."""
        return self.fixed + ENTRY * r * num_requests

    def event_base(self, num_requests: int) -> int:
        """Return the start of the event queue."""
        return self.heap_base(self.num_replicas, num_requests)

    def list_base(self, k: int, num_requests: int) -> int:
        """Return the start of a list of ids: by arrival, then of ended turns; the clients follow the lists."""
        return self.event_base(num_requests) + EVENT * self.event_room(num_requests) + k * num_requests

    def client_base(self, num_requests: int) -> int:
        """Return the start of the clients, which follow the lists."""
        return self.list_base(self._of_each_request()[0], num_requests)

    def tenancy_base(self, num_requests: int) -> int:
        """Return the start of what is known of each request's tenant, after the clients."""
        return self.client_base(num_requests) + self._of_each_request()[1] * num_requests

    def backward_base(self, num_requests: int) -> int:
        """Return the start of the backward passes before each request, after the tenants at an even place."""
        end = self.tenancy_base(num_requests) + (NUMBERS_OF_A_TENANCY * num_requests if self.tenants else 0)
        return end + end % 2

    def faults(self, row: np.ndarray) -> np.ndarray:
        """Return the faults of a row, (F,) FAULT, a view; those after the episode's are unused."""
        return row[self.fault_base : self.fault_base + FAULT_NUMBERS * self.fault_room].view(FAULT)

    def parts(self, row: np.ndarray, num_requests: int) -> Parts:
        """Return the parts of a row, (A,) int32, with room for ``num_requests`` requests."""
        lists, numbers = self._of_each_request()
        a, b, c = self.event_base(num_requests), self.list_base(0, num_requests), self.list_base(lists, num_requests)
        d = self.tenancy_base(num_requests)
        tenancies = NUMBERS_OF_A_TENANCY * num_requests if self.tenants else 0
        e = self.backward_base(num_requests)
        return Parts(
            row[self.fixed : a].reshape(self.num_replicas, num_requests, ENTRY),
            row[a:b].reshape(-1, EVENT),
            row[b:c].reshape(lists, num_requests),
            row[c : c + numbers * num_requests].view(CLIENT) if numbers else row[:0].view(CLIENT),
            row[d : d + tenancies].reshape(-1, NUMBERS_OF_A_TENANCY),
            row[e : e + 2 * self.background * num_requests].view(np.float64),
        )


def whole_lines(integers: int) -> int:
    """Return a number of integers rounded up to whole cache lines."""
    return -(-integers // (CACHE_LINE // 4)) * (CACHE_LINE // 4)


PAGE = 1024  # integers of a page of memory


def _copy_pages(source: np.ndarray, target: np.ndarray) -> None:
    """Copy integers page by page; pages of zeros over zeros are left alone, so that they take no memory."""
    whole = len(source) // PAGE * PAGE
    theirs, mine = source[:whole].reshape(-1, PAGE), target[:whole].reshape(-1, PAGE)
    used = theirs.any(axis=1) | mine.any(axis=1)
    mine[used] = theirs[used]
    target[whole:] = source[whole:]


def copy_row(
    layout: ArenaLayout, source: np.ndarray, room: int, target: np.ndarray, other_room: int, hopeless: list[int]
) -> None:
    """Copy one environment's integers into a row of the same or another room.

    Args:
        layout: Of both.
        source: (A,) int32.
        room: Number of requests it can hold.
        target: (A',) int32, written.
        other_room: Number of requests that the target can hold; all waiting ones must fit.
        hopeless: Sizes of the heaps at the far end of the replicas' queues.
    """
    if room == other_room:
        target[...] = source
        return
    _copy_pages(source[: layout.fixed], target[: layout.fixed])
    theirs, mine = layout.parts(source, room), layout.parts(target, other_room)
    length = min(room, other_room)
    mine.heaps[:, :length] = theirs.heaps[:, :length]
    for r, size in enumerate(hopeless):
        if size > 0:
            mine.heaps[r, -size:] = theirs.heaps[r, -size:]
    events = min(len(mine.events), len(theirs.events))
    mine.events[:events] = theirs.events[:events]
    mine.lists[:, :length] = theirs.lists[:, :length]
    mine.clients[:length] = theirs.clients[:length]
    mine.tenants[:length] = theirs.tenants[:length]
    if layout.background:
        mine.backward[:length] = theirs.backward[:length]
