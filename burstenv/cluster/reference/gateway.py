"""The gateway of the reference cluster: what comes to it, waits there, or is taken back, until a decision is due.

The handlers here are of requests that are sent or come back, of clients that give up, of silent replicas, and of looks
at the gateway's queue. Of several gateways each has its own log; all else is the same.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

from burstenv.cluster.cluster_config import ReplicaSpec
from burstenv.cluster.events import DecisionKind, EventKind
from burstenv.cluster.gateway_log import GatewayLog
from burstenv.cluster.reference.clients import ReferenceClients
from burstenv.cluster.reference.event_queue import EventQueue
from burstenv.cluster.reference.flow import Fullness, ReferenceFlow
from burstenv.cluster.reference.hedges import ReferenceHedges
from burstenv.cluster.reference.lifecycle import Lifecycle
from burstenv.cluster.reference.replicas import ReferenceReplicas
from burstenv.cluster.reference.telemetry import ReferenceTelemetry
from burstenv.engine.enums import ABANDONED, ACTIVE, WAITING
from burstenv.engine.reference.transfer_ends import TransferringReplica

OF_METRICS = (EventKind.METRICS_READ, EventKind.METRICS_SHOWN)
OF_TICKS = (*OF_METRICS, EventKind.TICK, EventKind.MIGRATE, EventKind.SCALE)


class ReferenceGateway(ABC):
    """The part of :class:`burstenv.cluster.reference.cluster.ReferenceCluster` in front of the replicas."""

    specs: Sequence[ReplicaSpec]
    replicas: list[TransferringReplica]
    life: ReferenceReplicas
    lifecycle: Lifecycle
    hedges: ReferenceHedges
    flow: ReferenceFlow | None
    logs: list[GatewayLog]
    telemetry: ReferenceTelemetry
    now_s: float
    at_gateway: int
    hedging: bool
    take_back_s: float
    most_resends: int
    sends_twice: bool
    _clients: ReferenceClients
    _queue: EventQueue
    _look_s: float
    _look_number: int
    _next_look_s: float

    @abstractmethod
    def foresee(self, r: int) -> None:
        """Foresee the next event of a replica that something was changed at."""

    # -- clients that give up, and silent replicas -------------------------------------------------------

    def _is_kept_waiting(self, k: int) -> bool:
        return self.lifecycle.requests[k].is_kept_waiting and self.hedges.waits_for_none(k)

    def _deadline(self, k: int) -> None:
        """Let the client of a request go that is kept waiting."""
        request = self.lifecycle.requests[k]
        self.hedges.give_up(k, self.now_s)
        if request.status == WAITING:
            self.replicas[request.replica].withdraw(request.engine, self.now_s)
            self.foresee(request.replica)
            self.life.note_drained(request.replica)
        elif self.flow is not None:
            self.flow.leave(k)
        self._clients.attempt_failed(k, "abandonment", ABANDONED, self.now_s)

    def _watch(self, k: int) -> None:
        """Foresee that a request which was just sent is taken back, unless that was foreseen for an earlier sending."""
        request = self.lifecycle.requests[k]
        if not request.watched and request.resends < self.most_resends:
            request.watched = True
            self._queue.push(self.lifecycle.sent_s(k) + self.take_back_s, EventKind.SILENCE, k)

    def _is_silent(self, k: int, time_s: float) -> bool:
        """Return whether a replica has kept a request waiting too long; foresee it anew for one sent again since."""
        request = self.lifecycle.requests[k]
        request.watched = False
        kept_waiting = request.engine.first_token_s is None if self.sends_twice else request.is_kept_waiting
        if request.status != WAITING or not kept_waiting or self.take_back_s <= 0.0:
            return False
        if self.lifecycle.sent_s(k) + self.take_back_s > time_s:
            self._watch(k)
            return False
        return not self.sends_twice or self.hedges.may_send(k)

    def _take_back(self, k: int) -> DecisionKind | None:
        """Take a request back from a silent replica, or ask for a second copy."""
        request = self.lifecycle.requests[k]
        if self.sends_twice:
            self.at_gateway, self.hedging = k, True
            return DecisionKind.ADMIT_AND_ROUTE
        self.replicas[request.replica].withdraw(request.engine, self.now_s)
        self.foresee(request.replica)
        self.lifecycle.take_back(k, self.now_s)
        self.life.note_drained(request.replica)
        self._queue.push(self.now_s, EventKind.RETURN, k)
        return None

    # -- requests that come, and the queue ----------------------------------------------------------------

    def _return(self, k: int) -> DecisionKind:
        self.at_gateway = k
        return DecisionKind.ADMIT_AND_ROUTE

    def _send(self, k: int) -> DecisionKind | None:
        if not self._clients.send(k, self.now_s):
            return None
        if self.flow is not None and self.flow.queues:
            self.flow.hold(k)
            return self._release()
        self.at_gateway = k
        return DecisionKind.ADMIT_AND_ROUTE

    def _look(self, _: int) -> DecisionKind | None:
        self._next_look_s = math.inf
        return self._release()

    def _look_at(self, time_s: float) -> None:
        """Foresee the next look at the queue, in place of the one that was foreseen before."""
        self._look_number += 1
        self._next_look_s = time_s
        self._queue.push(time_s, EventKind.LOOK)

    def _release(self) -> DecisionKind | None:
        """Decide about the next request of the queue, if one may be dispatched."""
        assert self.flow is not None
        if not self.flow.queue:
            return None
        looks = self._next_look_s < math.inf
        k = self.flow.dispatch(self._fullness(), lambda: not looks and not self._queue.holds_any_but(OF_TICKS))
        if k is None:
            if not looks:
                self._look_at(self.now_s + self._look_s)
            return None
        if self.flow.queue:
            self._look_at(self.now_s)
        elif looks:
            self._look_number += 1
            self._next_look_s = math.inf
        self.at_gateway = k
        return DecisionKind.ADMIT_AND_ROUTE

    def _fullness(self) -> list[Fullness]:
        """Return how full the replicas that take requests are, as a decision would see it."""
        log, seen = self.logs[0], self.telemetry.seen()
        return [
            Fullness(
                log.known(r, self.now_s).in_flight,
                log.known(r, self.now_s).unanswered,
                (spec.num_blocks - seen[r].free_blocks) / spec.num_blocks,
            )
            for r, spec in enumerate(self.specs)
            if self.life.lives[r].known == ACTIVE
        ]
