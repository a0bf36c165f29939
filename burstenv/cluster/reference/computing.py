"""The replicas of the reference cluster as they compute: iterations that start and end, and what comes of them."""

from __future__ import annotations

import math
from functools import partial

from burstenv.cluster.events import EventKind
from burstenv.cluster.faults.recovery import RecoveryConfig
from burstenv.cluster.reference.gateway import ReferenceGateway
from burstenv.cluster.reference.hand_overs import ReferenceHandOvers
from burstenv.engine.enums import FAILED, FAULTED, REJECTED


class ReferenceComputing(ReferenceGateway):
    """The part of :class:`burstenv.cluster.reference.cluster.ReferenceCluster` behind the gateway."""

    transfers: ReferenceHandOvers
    _generation_of_replica: list[int]
    _recovery: RecoveryConfig

    def _admit(self, k: int, r: int) -> None:
        request = self.lifecycle.requests[k]
        self.lifecycle.admit(k, r)
        self.replicas[r].submit(request.engine, self.now_s)
        if request.engine.status == "rejected":  # no room for an output
            self._clients.settle(k, FAILED, self.now_s)
            return
        if self.flow is not None:
            self.flow.charge(k)
        self.lifecycle.accepted(k, self.now_s)
        self.telemetry.sent(r, request.engine.prompt_tokens, request.engine.known_tokens)
        self.foresee(r)
        if self.take_back_s > 0.0:
            self._watch(k)

    def _send_copy(self, k: int, r: int) -> None:
        copy = self.hedges.send(k, r, self.now_s)
        if copy is not None:
            self.telemetry.sent(r, copy.prompt_tokens, copy.known_tokens)

    def foresee(self, r: int) -> None:
        """Foresee the next event of a replica that something was changed at."""
        self._generation_of_replica[r] += 1
        if self.life.lives[r].frozen or self.life.lives[r].computes:
            return
        replica = self.replicas[r]
        if not replica.trains and (replica.may_schedule or replica.may_train):
            self._queue.push(self.now_s, EventKind.ITERATION_STARTS, r)
        else:
            self._foresee_end(r)

    def _changed(self, r: int) -> None:
        """Foresee the next event of a replica that a copy came to or left, and turn it off if it was to drain."""
        self.foresee(r)
        self.life.note_drained(r)

    def _foresee_end(self, r: int) -> None:
        """Foresee the end of an iteration, or of the steps that run apart."""
        replica = self.replicas[r]
        if replica.trains and replica.job:
            goes_on_s = replica.job.goes_on_s(replica.limits, replica.waiting, bool(replica.running))
            self._queue.push(goes_on_s, EventKind.ITERATION_ENDS, r)
        elif self.replicas[r].in_flight:
            self._queue.push(self.replicas[r].in_flight[0].end_s, EventKind.ITERATION_ENDS, r)

    def _iteration_ends(self, r: int) -> None:
        self._advance(r, self.now_s)
        self.foresee(r)

    def _iteration_starts(self, r: int) -> None:
        """Start all iterations that can start now: two under asynchronous scheduling, and those that take no time."""
        self._advance(r, math.nextafter(self.now_s, math.inf))
        self._generation_of_replica[r] += 1
        self._foresee_end(r)  # what cannot start now cannot start before something changes

    def _advance(self, r: int, until_s: float) -> None:
        """Advance a replica; relay its tokens, and settle requests that were answered or rejected as hopeless."""
        replica = self.replicas[r]
        ended, rejected = len(replica.iterations), len(replica.rejected)
        replica.advance(until_s)
        for k in replica.rejected[rejected:]:
            if not self.hedges.reject(k):
                self._clients.settle(k, REJECTED, self.now_s)
        for iteration in replica.iterations[ended:]:
            for share in iteration.scheduled:
                if share.samples and not self.hedges.is_void(share.id):
                    self.lifecycle.bring_token(share.id, iteration.end_s)
                    self.hedges.decide(share.id, self.now_s)
            for k in iteration.finished:
                if not self.hedges.is_void(k):
                    self._clients.answer(k, self.now_s)
            for k in iteration.handed_out:
                self._queue.push(self.now_s, EventKind.PLACE, k)
        self.life.note_drained(r)

    def lose_requests(self, r: int) -> None:
        """Empty a replica that is lost: its requests come back to the gateway at once, or fail."""
        self.transfers.lose(r, self.now_s)
        self.replicas[r].lose_step(self.now_s)
        for engine in self.replicas[r].clear():
            k = engine.id
            leave = partial(self.lifecycle.leave_replica, k, self.now_s, self._recovery.requests != "retry")
            if self.hedges.lose(engine, self.now_s, leave):
                continue
            leave()
            request = self.lifecycle.requests[k]
            if self._recovery.requests == "fail" or request.failovers >= self._recovery.limit:
                self._clients.attempt_failed(k, "fault", FAULTED, self.now_s)
            else:
                self.lifecycle.fail_over(k)
                self._queue.push(self.now_s, EventKind.RETURN, k)
        self.foresee(r)
