"""Prefilled requests on their way to the replicas where they decode, in plain Python.

The specification of ``cluster/hand_overs.py``. The rules:

* A prefill replica takes a request out of its batch with the token that follows its prompt, and holds its blocks. At
  that instant the gateway decides where it decodes: on a replica of another role, or where it is.
* Requests that were decided about wait in that order. One begins to move when both ends have room for another transfer
  and its destination has free blocks for all its tokens; of two for one destination the later one never begins first
  because the earlier one found no blocks. A migration that it took part in before it was preempted is given up first.
* Those that wait look again whenever a transfer takes a step, and every ``retry_ms``. Where nothing else is to come,
  they decode where they are.
* With ``when_full: local`` a request that finds no blocks decodes where it is.
* The move is the last stage of a transfer: the request stands still, all its KV is copied but what its destination has
  cached. Layer by layer a part has been sent before the last layer is computed: left are at least the last layer's
  bytes, and otherwise all but what the link carries during the prefill of the other layers. A prefill that was
  preempted, or lost with a replica before, counts for nothing.
* At its destination a request waits for room in the batch. After ``lease_s`` of copying it is given up, and decodes
  where it is.
* A request whose destination is lost, or drains before the copy begins, is decided about again. Nothing begins to move
  to a replica that stands still, or from it.
* The gateway's log counts a request where it is to decode from the decision on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from burstenv.cluster.events import EventKind
from burstenv.cluster.reference.token_rounds import ReferenceTokenRounds
from burstenv.cluster.reference.transfers import Transfer
from burstenv.cluster.transfer_config import AbortCause, Phase
from burstenv.engine.enums import ACTIVE
from burstenv.engine.reference.transfer_ends import kv_tokens


@dataclass
class Placed:
    """A prefilled request that waits to move."""

    request: int
    source: int
    destination: int


class ReferenceHandOvers(ReferenceTokenRounds):
    """The transfers of a cluster whose replicas have roles; its arguments are those of :class:`ReferenceTransfers`."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.waiting: list[Placed] = []
        self._looks_again = False  # at a time that is foreseen

    def place(self, k: int, destination: int, now_s: float) -> None:
        """Let a prefilled request decode on a replica; where that cannot be, it stays."""
        source = self._lifecycle.requests[k].replica
        serves = self._lives[destination].known == ACTIVE
        takes = serves and self._roles[destination] != "prefill" and self._fits(source, destination)
        placed = Placed(k, source, destination if takes else source)
        self._lifecycle.place(k, placed.destination)
        self.waiting.append(placed)
        self.time_anew(now_s)

    def look_again(self, goes_on: bool, now_s: float) -> None:
        """Let the requests that wait look for blocks; if nothing else is to come, they stay."""
        self._looks_again = not goes_on  # then looking again would change nothing
        if not goes_on:
            for placed in self.waiting:
                self._keep(placed)
        self.time_anew(now_s)
        self._looks_again = self._looks_again and goes_on

    def lose(self, replica: int, now_s: float) -> None:
        """End all that a lost replica takes part in, which still has the requests that it loses."""
        for transfer in self.under_way:
            if transfer.source == replica and transfer.hand_over:
                self._lifecycle.place(transfer.request, replica)  # the replica that is to blame
        super().lose(replica, now_s)
        for placed in list(self.waiting):
            if placed.source == replica:
                self._keep(placed)
                self.waiting.remove(placed)
        self.forsake(replica, now_s)

    def forsake(self, replica: int, now_s: float) -> None:
        """Let the requests that wait to move to a replica which serves no longer be decided about again."""
        for placed in list(self.waiting):
            if placed.destination == replica and placed.source != replica:
                self._keep(placed)
                self.waiting.remove(placed)
                self._queue.push(now_s, EventKind.PLACE, placed.request)

    def _keep(self, placed: Placed) -> None:
        placed.destination = placed.source
        self._lifecycle.place(placed.request, placed.source)

    def _begin_waiting(self, now_s: float) -> None:
        """Begin to move the requests that can."""
        full: set[int] = set()
        for placed in list(self.waiting):
            ends = (placed.source, placed.destination)
            busy = any(self._is_busy(end) or self._lives[end].frozen for end in ends) or self._is_moving(placed.request)
            if placed.destination in full or busy:
                continue
            hits: int | None = 0
            if placed.destination != placed.source:
                request = self._lifecycle.requests[placed.request].engine
                there, spare = self._replicas[placed.destination], self._config.hand_over.spare_tokens
                hits = there.reserve(request, kv_tokens(request), now_s, spare)
                if hits is not None:
                    self._changed(placed.destination)
                elif self._config.hand_over.when_full == "local":
                    self._keep(placed)
                else:
                    full.add(placed.destination)
                    continue
            self.waiting.remove(placed)
            self._begin(placed, hits or 0, now_s)
        self._begin_drains(now_s)
        emptied = any(self._is_emptied(r) for r in range(len(self._replicas)))
        if (self.waiting or emptied) and not self._looks_again:
            self._looks_again = True
            self._queue.push(now_s + self._config.hand_over.retry_ms * 1e-3, EventKind.HAND_OVER)

    def _begin(self, placed: Placed, hits: int, now_s: float) -> None:
        request, source = self._lifecycle.requests[placed.request].engine, placed.source
        transfer = Transfer(
            request.id, source, placed.destination, request.preemptions, now_s, Phase.RETURNING, last=True,
            left_s=now_s, hand_over=True,
        )  # fmt: skip
        self.places[self.places.index(None)] = transfer
        if placed.destination == source:
            self.counts["stayed"] += 1
            transfer.due_s = self._replicas[source].next_schedule_s(now_s)
            return
        self._begin_stage(transfer, hits, kv_tokens(request), self._config.hand_over.orchestration_ms, now_s)
        elsewhere = self._lifecycle.requests[placed.request].failovers > 0
        if self._config.hand_over.layerwise and request.preemptions == 0 and not elsewhere:
            assert request.first_scheduled_s is not None
            layers, bytes_per_s = self._specs[source].layers, self._specs[source].copy_bytes_per_s
            sent = (now_s - request.first_scheduled_s) * (layers - 1) / layers * bytes_per_s
            transfer.left_bytes = max(transfer.left_bytes / layers, transfer.left_bytes - sent)

    def _join(self, transfer: Transfer, now_s: float) -> None:
        there = self._replicas[transfer.destination]
        if transfer.hand_over:
            transfer.due_s = there.next_schedule_s(now_s)
            if transfer.due_s > now_s:
                return
            if there.full:
                transfer.due_s = now_s + self._config.hand_over.retry_ms * 1e-3
                return
        super()._join(transfer, now_s)

    def _give_up(self, transfer: Transfer, cause: AbortCause, now_s: float) -> None:
        if transfer.hand_over:
            self._lifecycle.place(transfer.request, transfer.source)
        super()._give_up(transfer, cause, now_s)
        if transfer.hand_over and cause == AbortCause.LOST:
            self.still_s += now_s - transfer.left_s
            self._end(transfer)
            self._queue.push(now_s, EventKind.PLACE, transfer.request)

    def _limit_s(self, transfer: Transfer) -> float:
        return transfer.begun_s + self._config.hand_over.lease_s if transfer.hand_over else super()._limit_s(transfer)

    def time_anew(self, now_s: float) -> None:
        """Let requests begin to move that can, and time all transfers anew."""
        self._begin_waiting(now_s)
        super().time_anew(now_s)
