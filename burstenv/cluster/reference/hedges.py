"""Requests that a gateway sends a second time, in plain Python: the specification of ``cluster/faults/hedges.py``.

The rules:

* A request without a first token so long after it was sent is decided about again, while it stays where it is. If it is
  admitted to another replica, that one gets a copy of it. No other one is sent while there are two, or a cancelled one
  has not left its replica.
* The first of the two to bring a token goes on as the request, and the other one is cancelled at that instant: its time
  in flight ends. If it waits, it leaves its queue; if it is computed, it leaves the batch as the oldest iteration in
  flight ends, and its blocks are free. Tokens that it still brings are void.
* If a replica is lost with one of the two, or rejects it as hopeless, the request goes on with the other one.
* A client gives up if both wait. Then both leave their queues.
* The request that goes on has number ``k``, and its copy, or the one that is cancelled, ``n + k``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from burstenv.cluster.reference.lifecycle import Lifecycle
from burstenv.engine.reference.published import PublishingReplica
from burstenv.engine.reference.records import ReferenceRequest


@dataclass
class _Copy:
    engine: ReferenceRequest
    replica: int


class ReferenceHedges:
    """The second copies of the requests of an episode.

    Args:
        replicas: The replicas.
        lifecycle: The requests.
        changed: Called with a replica that a copy came to or left.
    """

    def __init__(self, replicas: Sequence[PublishingReplica], lifecycle: Lifecycle, changed: Callable[[int], None]):
        self._replicas, self._lifecycle, self._changed = replicas, lifecycle, changed
        self._count = len(lifecycle.requests)
        self._copies: dict[int, _Copy] = {}  # by request: those under way

    @property
    def tokens(self) -> int:
        """The tokens that cancelled copies had computed when they left their replicas."""
        dropped = [request for replica in self._replicas for request in replica.dropped]
        return sum(max(r.computed_tokens + r.recomputed_tokens - (r.cached_tokens or 0), 0) for r in dropped)

    def may_send(self, k: int) -> bool:
        """Return whether no other copy of a request is under way, or on its way out."""
        return k not in self._copies and all(self._count + k not in replica.cancelled for replica in self._replicas)

    def send(self, k: int, r: int, now_s: float) -> ReferenceRequest | None:
        """Send a second copy of a request, unless its replica has the first one or has no room for an answer."""
        if r == self._lifecycle.requests[k].replica:
            return None
        copy = self._lifecycle.copy(k)
        self._replicas[r].submit(copy, now_s)
        if copy.status == "rejected":
            return None
        self._copies[k] = _Copy(copy, r)
        self._lifecycle.send_copy(copy, r, now_s)
        self._changed(r)
        return copy

    def is_void(self, number: int) -> bool:
        """Return whether what a request, or a copy, brings is void."""
        return number >= self._count and number - self._count not in self._copies

    def waits_for_none(self, k: int) -> bool:
        """Return whether a request that waits has no second copy that is computed."""
        copy = self._copies.get(k)
        return copy is None or (copy.engine.status == "waiting" and copy.engine.in_flight_tokens == 0)

    def decide(self, number: int, now_s: float) -> None:
        """Let a request, or its copy, go on that has brought its first token, and cancel the other one."""
        k = number % self._count
        copy = self._copies.pop(k, None)
        if copy is None:
            return
        request = self._lifecycle.requests[k]
        if number == k:
            self._cancel(copy.engine, copy.replica, now_s)
            return
        if self._cancel(request.engine, request.replica, now_s):
            self._replicas[request.replica].rename(k, number)
        self._go_on_with(copy)

    def reject(self, number: int) -> bool:
        """Note that a replica rejects a request or a copy as hopeless; return whether the other one goes on."""
        k = number % self._count
        copy = self._copies.pop(k, None)
        if copy is None:
            return False
        self._lifecycle.cancel(number)
        if number == k:
            self._go_on_with(copy)
        return True

    def give_up(self, k: int, now_s: float) -> None:
        """Withdraw the second copy, which waits, of a request that is given up."""
        copy = self._copies.pop(k, None)
        if copy is not None:
            self._cancel(copy.engine, copy.replica, now_s)

    def lose(self, engine: ReferenceRequest, now_s: float, leave: Callable[[], None]) -> bool:
        """Note that a replica was lost with a request or a copy; return whether that is all.

        ``leave`` lets a request leave its replica.
        """
        if self.is_void(engine.id):
            return True
        k = engine.id % self._count
        copy = self._copies.pop(k, None)
        if copy is None:
            return False
        if engine.id == k:
            leave()
            self._go_on_with(copy)
        else:
            self._lifecycle.lose_copy(engine, now_s)
        return True

    def forget(self, k: int) -> None:
        """Forget the copy of a request that can never be scheduled."""
        if self._copies.pop(k, None) is not None:
            self._lifecycle.cancel(self._count + k)

    def _cancel(self, engine: ReferenceRequest, r: int, now_s: float) -> bool:
        self._lifecycle.cancel(engine.id)
        leaves = self._replicas[r].cancel_copy(engine, now_s)
        self._changed(r)
        return leaves

    def _go_on_with(self, copy: _Copy) -> None:
        assert copy.engine.copy_of is not None
        self._replicas[copy.replica].rename(copy.engine.id, copy.engine.copy_of)
        self._lifecycle.go_on_with(copy.engine, copy.replica)
