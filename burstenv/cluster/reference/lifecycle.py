"""How far each request has got, in plain Python: the only writer of status, times and counts of requests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burstenv.cluster.gateway_log import GatewayLog, gateway_of
from burstenv.engine import enums
from burstenv.engine.reference.records import ReferenceRequest


@dataclass
class ClusterRequest:
    """One request of an episode. ``engine`` is the present attempt as its replica sees it; each attempt has its own."""

    engine: ReferenceRequest
    ttft_slo_s: float
    tpot_slo_s: float
    status: int = enums.UNSEEN  # WAITING from admission on; the engine's own status tells waiting from running
    replica: int = enums.NO_REQUEST
    arrival_s: float = math.nan  # when it was first sent
    finish_s: float | None = None
    generation: int = 0  # attempts that are over: what was foreseen for them no longer holds
    attempts: int = 0
    refusals: int = 0
    defers: int = 0  # of the present attempt
    failovers: int = 0  # times that it came back from a lost replica, over all attempts
    resends: int = 0  # times that its gateway took it back from a silent one
    watched: bool = False  # that is foreseen

    @property
    def is_kept_waiting(self) -> bool:
        """Whether it is at the gateway, or waits in a replica and was never computed, and no token was streamed."""
        engine = self.engine
        if engine.first_token_s is not None:
            return False
        if self.status == enums.AT_GATEWAY:
            return True
        return self.status == enums.WAITING and engine.status == "waiting" and engine.in_flight_tokens == 0


class Lifecycle:
    """The requests of an episode, from unseen to settled.

    ``counts`` holds the requests of each final status by its code, and ``offered``, ``attempts``, ``refusals``,
    ``upstream_failed``. Every request is settled or unsent once; then the episode is over.

    Args:
        rows: (n,) REQUEST, sorted by arrival.
        logs: The log of each gateway.
        split: How requests are split among the gateways, see :func:`gateway_of`.
    """

    def __init__(self, rows: np.ndarray, logs: Sequence[GatewayLog], split: str = "evenly"):
        self._rows = rows
        self._logs = logs
        self._split = split
        self.requests = [
            ClusterRequest(_engine_request(k, row), float(row["ttft_slo_s"]), float(row["tpot_slo_s"]))
            for k, row in enumerate(rows)
        ]
        self.counts: Counter[int | str] = Counter()
        self._left = len(rows)

    @property
    def over(self) -> bool:
        """Whether every request is settled or will never be sent."""
        return self._left == 0

    def trace_arrival_s(self, k: int) -> float:
        """Return when the trace sends a request [s]."""
        return float(self._rows["arrival_s"][k])

    def send(self, k: int, now_s: float) -> None:
        """Begin the next attempt. What happened at earlier ones is forgotten, but not when its user began to wait."""
        request = self.requests[k]
        request.attempts += 1
        request.watched = False
        self.counts["attempts"] += 1
        if request.attempts == 1:
            request.arrival_s = now_s
            self.counts["offered"] += 1
        else:
            request.engine = _engine_request(k, self._rows[k])
        request.engine.arrival_s = request.arrival_s
        request.status, request.defers, request.replica = enums.AT_GATEWAY, 0, enums.NO_REQUEST

    def fail_upstream(self) -> None:
        """Count an attempt that never reaches the gateway."""
        self.counts["upstream_failed"] += 1

    def gateway(self, k: int) -> int:
        """Return the gateway that a request comes to."""
        k %= len(self._rows)  # of a second copy, the request
        return gateway_of(k, int(self._rows["session"][k]), len(self._logs), self._split)

    def admit(self, k: int, replica: int) -> None:
        """Note to which replica a request goes."""
        self.requests[k].status, self.requests[k].replica = enums.WAITING, replica

    def accepted(self, k: int, now_s: float) -> None:
        """Note that its replica takes a request: it is in flight."""
        request = self.requests[k]
        self._logs[self.gateway(k)].sent(
            k, request.replica, request.engine.prompt_tokens, now_s, request.arrival_s, request.ttft_slo_s,
            request.engine.first_token_s, request.engine.produced_tokens,
        )  # fmt: skip

    def bring_token(self, k: int, now_s: float) -> None:
        """Relay one token of a request."""
        self._logs[self.gateway(k)].token(k, now_s)

    def copy(self, k: int) -> ReferenceRequest:
        """Return a second copy of a request, as its replica will see it; its number is ``n + k``."""
        engine = _engine_request(k, self._rows[k])
        engine.id, engine.copy_of, engine.arrival_s = len(self._rows) + k, k, self.requests[k].arrival_s
        self.requests[k].engine.copy_of = k
        return engine

    def send_copy(self, copy: ReferenceRequest, replica: int, now_s: float) -> None:
        """Count a second copy that its replica has taken: it is in flight."""
        request = self.requests[copy.id % len(self._rows)]
        request.resends += 1
        self.counts["hedges"] += 1
        self._logs[self.gateway(copy.id)].sent(
            copy.id, replica, copy.prompt_tokens, now_s, request.arrival_s, request.ttft_slo_s
        )

    def cancel(self, k: int) -> None:
        """End the time in flight of a request, or of its second copy, while the other one goes on."""
        self._logs[self.gateway(k)].ended(k)

    def lose_copy(self, copy: ReferenceRequest, now_s: float) -> None:
        """End the time in flight of a copy whose replica is lost."""
        self._logs[self.gateway(copy.id)].lost(copy.id, now_s)
        if copy.status == "running":
            self.counts["refilled_tokens"] += copy.known_tokens

    def go_on_with(self, copy: ReferenceRequest, replica: int) -> None:
        """Let a second copy go on as the request, whose number it has from now on."""
        k = copy.copy_of
        assert k is not None
        self._logs[self.gateway(k)].renamed(len(self._rows) + k, k)
        self.requests[k].status, self.requests[k].replica, self.requests[k].engine = enums.WAITING, replica, copy

    def move(self, k: int, replica: int) -> None:
        """Note to which replica a request has moved."""
        self.requests[k].replica = replica
        self._logs[self.gateway(k)].moved(k, replica)

    def place(self, k: int, replica: int) -> None:
        """Note at which replica a prefilled request is to decode, before its KV is there."""
        self._logs[self.gateway(k)].moved(k, replica)

    def leave_replica(self, k: int, now_s: float, keeps_outputs: bool) -> None:
        """Return a request to the gateway from a replica that is lost, with its outputs or to generate them again."""
        self._logs[self.gateway(k)].lost(k, now_s)
        request = self.requests[k]
        if request.engine.status in ("running", "transferring"):
            self.counts["refilled_tokens"] += request.engine.known_tokens
        request.engine.status = "lost"
        request.status = enums.AT_GATEWAY
        if not keeps_outputs:
            self.counts["discarded_tokens"] += request.engine.produced_tokens
            request.engine.produced_tokens = 0

    def sent_s(self, k: int) -> float:
        """Return when a request in flight was sent [s]."""
        return self._logs[self.gateway(k)].requests[k].sent_s

    def take_back(self, k: int, now_s: float) -> None:
        """Return a request to the gateway that has been withdrawn from a silent replica."""
        self._logs[self.gateway(k)].lost(k, now_s)
        self.requests[k].status = enums.AT_GATEWAY
        self.requests[k].resends += 1
        self.counts["resends"] += 1

    def fail_over(self, k: int) -> None:
        """Count a request that came back from a lost replica and is decided about again."""
        self.requests[k].failovers += 1
        self.counts["failovers"] += 1

    def defer(self, k: int) -> None:
        """Count a deferral."""
        self.requests[k].defers += 1

    def reject(self, k: int) -> None:
        """Count a rejection; whether the client sends again is another matter."""
        self.requests[k].refusals += 1
        self.counts["refusals"] += 1

    def _leave(self, k: int) -> None:
        """End a request's time in flight, if it is."""
        log = self._logs[self.gateway(k)]
        if k in log.requests:
            log.ended(k)

    def go_away(self, k: int) -> None:
        """End an attempt after which the client will send again."""
        self._leave(k)
        self.requests[k].status = enums.AWAY
        self.requests[k].generation += 1

    def settle(self, k: int, status: int, now_s: float) -> None:
        """End a request for good."""
        self._leave(k)
        request = self.requests[k]
        request.status, request.finish_s = status, now_s
        request.generation += 1
        self.counts[status] += 1
        self._left -= 1

    def answer(self, k: int) -> None:
        """Settle a request whose last token came out: attained, late, or cut at the model length."""
        request, engine = self.requests[k], self.requests[k].engine
        assert engine.first_token_s is not None
        assert engine.finish_s is not None
        self._logs[self.gateway(k)].answered(k, engine.finish_s)
        gaps = engine.target_tokens - 1
        in_time = engine.first_token_s - request.arrival_s <= request.ttft_slo_s
        fluent = gaps == 0 or engine.finish_s - engine.first_token_s <= request.tpot_slo_s * gaps
        if engine.target_tokens < engine.output_tokens:
            self.settle(k, enums.LENGTH_CAPPED, engine.finish_s)
        else:
            self.settle(k, enums.ATTAINED if in_time and fluent else enums.LATE, engine.finish_s)

    def never_send(self, k: int) -> None:
        """Note that a later turn of a session that is over will not be sent: it is not offered."""
        self.requests[k].status = enums.UNSENT
        self.counts[enums.UNSENT] += 1
        self._left -= 1


def _engine_request(k: int, row: np.ndarray) -> ReferenceRequest:
    return ReferenceRequest(
        id=k,
        arrival_s=float(row["arrival_s"]),
        prompt_tokens=int(row["prompt_tokens"]),
        output_tokens=int(row["output_tokens"]),
        priority=int(row["priority"]),
        predicted_tokens=float(row["predicted_tokens"]),
        ttft_slo_s=float(row["ttft_slo_s"]),
        session=int(row["session"]) if row["session"] >= 0 else None,
        class_code=int(row["class_code"]),
    )
