"""The rules of batching modes beyond vLLM V1's, in plain Python: the specification of their compiled twins.

``engine/fair_queueing.py`` and ``engine/reservation.py`` name their sources.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from burstenv.engine.reference.records import EngineLimits, ReferenceRequest
from burstenv.hardware.latency.hinge import IterationLatency

LEVELS = 16
SESSION_COUNTERS = 15


class TokenCounters:
    """The service of each client (VTC)."""

    def __init__(self) -> None:
        self._served: dict[Hashable, float] = {}
        self._last: Hashable | None = None  # the client that left the queue last

    @staticmethod
    def _client(limits: EngineLimits, request: ReferenceRequest) -> Hashable:
        if limits.fair_by == "class":
            return request.class_code
        return "none" if request.session is None else int(str(request.session)) % SESSION_COUNTERS

    def served(self, limits: EngineLimits, request: ReferenceRequest) -> float:
        """Return the counter of a request's client."""
        return self._served.get(self._client(limits, request), 0.0)

    def welcome(self, limits: EngineLimits, waiting: Sequence[ReferenceRequest], request: ReferenceRequest) -> None:
        """Lift the counter of a client without waiting requests to the least of those with some."""
        client = self._client(limits, request)
        others = [self._client(limits, r) for r in waiting]
        if client in others:
            return
        if not others and self._last is None:
            return
        lift = min((self._served.get(c, 0.0) for c in others), default=self._served.get(self._last, 0.0))
        self._served[client] = max(self._served.get(client, 0.0), lift)

    def admit(self, limits: EngineLimits, request: ReferenceRequest) -> None:
        """Count an admitted request's prompt, once."""
        if limits.order != "fair":
            return
        self.leave(limits, request)
        if request.preemptions == 0:
            client = self._client(limits, request)
            self._served[client] = self._served.get(client, 0.0) + request.prompt_tokens

    def leave(self, limits: EngineLimits, request: ReferenceRequest) -> None:
        """Record the client of the request that left the queue last."""
        if limits.order == "fair":
            self._last = self._client(limits, request)

    def count_output(self, limits: EngineLimits, request: ReferenceRequest) -> None:
        """Count an output token, at twice the cost of a prompt token."""
        if limits.order == "fair":
            client = self._client(limits, request)
            self._served[client] = self._served.get(client, 0.0) + 2.0


def level(limits: EngineLimits, latency: IterationLatency, request: ReferenceRequest, now_s: float) -> int:
    """Return the level of a skip-join multi-level feedback queue: the highest whose quantum holds the prefill."""
    if now_s - request.arrival_s >= limits.starve_s:
        return 0
    service_s = latency.lone_prefill_s(request.known_tokens)
    quantum_s, at = limits.quantum_s, 0
    while quantum_s < service_s and at < LEVELS - 1:
        quantum_s *= 2.0
        at += 1
    return at


def leaves_room(limits: EngineLimits, running: Sequence[ReferenceRequest], request: ReferenceRequest) -> bool:
    """Return whether the memory rule admits a request beside the running ones; an idle replica always does."""
    if limits.memory == "as-needed" or not running:
        return True
    foreseen = limits.memory.startswith("oracle-")
    everyone = [*running, request]
    if limits.memory.endswith("projected"):
        pairs = sorted(((_left(limits, r, foreseen), r.known_tokens) for r in everyone), key=lambda pair: -pair[0])
        total = 0
        for k, (left, held) in enumerate(pairs, start=1):
            total += held + limits.block_size - 1
            if total + left * k > limits.num_blocks * limits.block_size:
                return False
        return True
    return sum(_reserved_blocks(limits, r, foreseen) for r in everyone) <= limits.num_blocks


def _left(limits: EngineLimits, request: ReferenceRequest, foreseen: bool) -> int:
    most = limits.max_model_len - request.prompt_tokens
    outputs = request.target_tokens if foreseen else min(math.ceil(request.predicted_tokens), most)
    return max(1, outputs - request.produced_tokens)


def _reserved_blocks(limits: EngineLimits, request: ReferenceRequest, foreseen: bool) -> int:
    outputs = request.target_tokens if foreseen else max(limits.reserve_tokens, request.produced_tokens + 1)
    return -(-min(request.prompt_tokens + outputs, limits.max_model_len) // limits.block_size)
