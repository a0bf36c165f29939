"""The waiting queue of the reference engine: its order, and what admission asks of it."""

from __future__ import annotations

from burstenv.engine.reference.modes import TokenCounters, level
from burstenv.engine.reference.records import EngineLimits, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.hardware.latency.hinge import IterationLatency

STREAMING_FIRST = -1e12  # queue key of preempted requests with a user already reading


class ReferenceQueue:
    """The part of :class:`burstenv.engine.reference.engine.ReferenceReplica` that orders the waiting requests.

    Args:
        limits: KV cache, model length and batching mode.
        latency: Iteration times.
    """

    def __init__(self, limits: EngineLimits, latency: IterationLatency):
        self.limits = limits
        self.latency = latency
        self.clock_s = 0.0  # time of the engine's last check
        self.running: list[ReferenceRequest] = []
        self.waiting: list[ReferenceRequest] = []  # fcfs: in order; otherwise unordered
        self.rejected: list[int] = []  # rejected from the queue as hopeless
        self._counters = TokenCounters()
        self._admitting = False  # under a deferral bound: until the queue is empty

    def queue(self) -> list[ReferenceRequest]:
        """Return the waiting requests, next one first; under fair and mlfq in order of arrival."""
        if self.limits.order in ("fcfs", "fair", "mlfq"):
            return self.waiting
        return sorted(self.waiting, key=self._queue_key)

    def _head(self) -> ReferenceRequest:
        if self.limits.order == "fcfs":
            return self.waiting[0]
        if self.limits.order == "fair":
            return min(self.waiting, key=lambda r: self._counters.served(self.limits, r))
        if self.limits.order == "mlfq":
            return min(self.waiting, key=lambda r: level(self.limits, self.latency, r, self.clock_s))
        return min(self.waiting, key=self._queue_key)

    def _welcome(self, request: ReferenceRequest) -> None:
        if self.limits.order == "fair":
            self._counters.welcome(self.limits, self.waiting, request)

    def _drop_hopeless(self) -> None:
        """Reject waiting requests that can no longer start in time, unless one with a reading user precedes them."""
        if any(request.produced_tokens + request.in_flight_tokens > 0 for request in self.waiting):
            return
        for request in list(self.waiting):
            if self._queue_key(request)[0] == 1.0:
                self.waiting.remove(request)
                request.status = "rejected"
                request.finish_s = self.clock_s
                self.rejected.append(request.id)

    def _opens(self) -> bool:
        """Return whether admission is open: if deferred, from the first wait of that length until all are in."""
        if self.limits.deferral_s == 0.0 or not self.waiting:
            return True
        if not self.running or self.clock_s - self.waiting[0].arrival_s >= self.limits.deferral_s:
            self._admitting = True
        return self._admitting

    def _queue_key(self, request: ReferenceRequest) -> tuple[float, ...]:
        order = self.limits.order
        if order == "priority":
            return (request.priority, request.arrival_s, request.id)
        if order == "shortest-prompt":
            return (request.prompt_tokens, request.id)
        if order == "shortest-predicted":
            return (request.predicted_tokens, request.id)
        if order == "longest-prompt":
            return (-request.prompt_tokens, request.id)
        if order == "oracle-shortest":
            return (request.target_tokens - request.produced_tokens - request.in_flight_tokens, request.id)
        if order == "earliest-deadline":
            if request.produced_tokens + request.in_flight_tokens > 0:  # its user is reading: first, never hopeless
                return (0, STREAMING_FIRST + request.arrival_s, request.id)
            latest_s = request.arrival_s + request.ttft_slo_s - self.latency.lone_prefill_s(request.prompt_tokens)
            return (float(latest_s < self.clock_s), latest_s, request.id)
        raise BurstenvError(f"unknown queue order {order!r}")
