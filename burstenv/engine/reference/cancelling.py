"""Second copies of requests on a replica, in plain Python.

This is the specification of ``engine/cancelling.py`` and ``engine/renaming.py``: how a copy leaves the replica, and how
the one that goes on takes the number of its request. ``cluster/reference/hedges.py`` says which of the two goes on.
"""

from __future__ import annotations

from dataclasses import replace

from burstenv.engine.reference.engine import ReferenceReplica
from burstenv.engine.reference.records import EngineLimits, Iteration, ReferenceRequest
from burstenv.hardware.latency.hinge import IterationLatency

GONE = -1  # the number in shares of requests that were cancelled since


class CancellingReplica(ReferenceReplica):
    """A reference replica that may have one of two copies of a request.

    Args:
        limits: KV cache, model length and batching mode.
        latency: Iteration times.
    """

    def __init__(self, limits: EngineLimits, latency: IterationLatency):
        super().__init__(limits, latency)
        self.cancelled: set[int] = set()  # copies in the batch
        self.dropped: list[ReferenceRequest] = []  # cancelled copies that are gone

    def cancel_copy(self, request: ReferenceRequest, now_s: float) -> bool:
        """Remove one of two copies at ``now_s``, which has brought no token that counts.

        Returns:
            Whether it is in the batch until the oldest iteration in flight ends. No further iteration takes it then;
            what the other one in flight computes of it is thrown away.
        """
        if request.status == "waiting":
            self._forget_shares(request.id)
            self.withdraw(request, now_s)
            self.dropped.append(request)
            return False
        if len(self.in_flight) < self._depth:
            self._drop(request)
            self._wake(now_s)
            return False
        self.cancelled.add(request.id)
        return True

    def _drop(self, request: ReferenceRequest) -> None:
        self.running.remove(request)
        del self.requests[request.id]
        self.pool.release(request.blocks)
        request.blocks = []
        request.status = "withdrawn"
        self._forget_shares(request.id)
        self.dropped.append(request)

    def _forget_shares(self, k: int) -> None:
        """Let the iterations in flight bring no token of a request that is gone."""
        for iteration in self.in_flight:
            iteration.scheduled = [
                replace(share, id=GONE, samples=False) if share.id == k else share for share in iteration.scheduled
            ]

    def rename(self, k: int, other: int) -> None:
        """Let request ``k`` have another number, in the iterations in flight and the last one, too."""
        if k in self.requests:
            self.requests[other] = self.requests.pop(k)
            self.requests[other].id = other
        if k in self.cancelled:
            self.cancelled.remove(k)
            self.cancelled.add(other)
        for iteration in [*self.in_flight, *self.iterations[-2:]]:
            iteration.finished = [other if number == k else number for number in iteration.finished]
            iteration.scheduled = [
                replace(share, id=other) if share.id == k else share for share in iteration.scheduled
            ]

    def clear(self) -> list[ReferenceRequest]:
        """Lose all requests, cancelled ones too."""
        self.cancelled = set()
        return super().clear()

    def _apply(self, iteration: Iteration) -> None:
        super()._apply(iteration)
        self.dropped += [self.requests[k] for k in iteration.finished if k in self.cancelled]
        for request in [request for request in self.running if request.id in self.cancelled]:
            self._drop(request)
        self.cancelled = set()
        iteration.free_after_update = self.pool.free
