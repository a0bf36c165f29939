"""What clients do, one event at a time in plain Python over the reference engine: written to be read and compared with.

Nothing here is shared with the compiled clients but the numbers drawn for an episode; the rules are those of
``docs/clients.md``.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burstenv.cluster import Clients, ClientsConfig, ModeConfig, ReplicaSpec
from burstenv.engine.reference.engine import EngineLimits, ReferenceReplica, ReferenceRequest

REJECT, ADMIT, DEFER = range(3)
GIVE_UP, RETURN, SEND, ARRIVE, TICK = range(5)  # events of one instant, in this order
Epoch = tuple[float, int]  # time, and the request at the front door, -1 for nobody
Decision = tuple[int, int, int]
OF_MODE = (
    "order", "headroom_blocks", "batch", "memory", "reserve_tokens", "drops_hopeless", "deferral_s", "fair_by",
    "quantum_s", "starve_s",
)  # fmt: skip


def limits_of(spec: ReplicaSpec, mode: ModeConfig) -> EngineLimits:
    resolved = spec.resolve(mode)
    return EngineLimits(
        num_blocks=spec.num_blocks,
        block_size=spec.block_size,
        max_model_len=spec.max_model_len,
        max_num_batched_tokens=resolved["token_budget"],
        max_num_seqs=resolved["max_num_seqs"],
        reserve_full_prompt=spec.reserve_full_prompt,
        long_prefill_token_threshold=spec.long_prefill_token_threshold,
        prefix_caching=spec.prefix_caching,
        asynchronous=spec.asynchronous,
        **{name: resolved[name] for name in OF_MODE},
    )


def uniform(seed: int, number: int, attempt: int) -> float:
    """SplitMix64 of a count, as a number in [0, 1)."""
    mask = 2**64 - 1
    z = (seed + (64 * number + attempt) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@dataclass
class Sent:
    """One request and how it goes with its client."""

    request: ReferenceRequest
    status: str = "unseen"
    replica: int = -1
    arrival_s: float = math.nan
    finish_s: float | None = None
    deadline_s: float = math.inf
    attempts: int = 0
    refusals: int = 0
    defers: int = 0


@dataclass
class World:
    """Clients, a front door and replicas, which ``engine`` makes."""

    specs: list[ReplicaSpec]
    modes: tuple[ModeConfig, ...]
    config: ClientsConfig
    clients: Clients
    requests: np.ndarray
    seed: int  # as the engine mixes it
    defer_s: float
    max_defers: int
    tick_s: float = math.inf
    engine: Callable[[EngineLimits, Any], ReferenceReplica] = ReferenceReplica
    now_s: float = 0.0
    events: list[tuple[float, int, int, int]] = field(default_factory=list)  # time, kind, request, attempt

    def __post_init__(self) -> None:
        self.replicas = [self.engine(limits_of(spec, self.modes[0]), spec.latency) for spec in self.specs]
        self.mode_of = [0] * len(self.specs)
        self.next_turn = self.clients.next_turn
        self.sent = [Sent(self.engine_request(k)) for k in range(len(self.requests))]
        self.retry_after = set(self.config.retries.after) if self.config.retries else set()
        self.unsent = self.upstream_failed = 0
        for k, previous in enumerate(self.clients.previous):
            if previous < 0:
                heapq.heappush(self.events, (float(self.requests["arrival_s"][k]), ARRIVE, k, 1))

    def engine_request(self, k: int) -> ReferenceRequest:
        r = self.requests[k]
        return ReferenceRequest(
            k, float(r["arrival_s"]), int(r["prompt_tokens"]), int(r["output_tokens"]),
            predicted_tokens=float(r["predicted_tokens"]), ttft_slo_s=float(r["ttft_slo_s"]),
            session=int(r["session"]) if r["session"] >= 0 else None, class_code=int(r["class_code"]),
            priority=int(r["priority"]),
        )  # fmt: skip

    # -- the loop --------------------------------------------------------------------------------------

    def run(self) -> Generator[Epoch, Decision, None]:
        """Yield every decision epoch and take the decision back."""
        last_decision_s = 0.0
        while not self.over():
            tick = (last_decision_s + self.tick_s, TICK, -1, 0)
            event = min([*self.events[:1], tick])
            boundary_s = min((r.in_flight[0].end_s for r in self.replicas if r.in_flight), default=math.inf)
            if event[0] > self.now_s and self.begin():
                continue
            if boundary_s < event[0]:
                self.move(boundary_s)
                continue
            self.move(event[0])
            if self.over():
                return
            if self.events and min(self.events[0], tick) != event:
                continue  # something that ended just now comes first
            _, kind, k, attempt = event
            if kind != TICK:
                heapq.heappop(self.events)
            if kind == GIVE_UP:
                self.give_up(k, attempt)
            elif (
                kind == TICK
                or (kind == RETURN and self.is_deferred(k, attempt))
                or (kind in (SEND, ARRIVE) and self.send(k))
            ):
                last_decision_s = self.now_s
                admission, r, mode = yield self.now_s, k
                self.decide(k, admission, r, mode)

    def over(self) -> bool:
        done = ("length_capped", "attained", "late", "rejected", "failed", "abandoned", "unsent")
        return all(s.status in done for s in self.sent)

    def begin(self) -> bool:
        """Start the iterations that begin now; return whether there were any."""
        before = [len(r.in_flight) for r in self.replicas]
        for replica in self.replicas:
            replica.advance(math.nextafter(self.now_s, math.inf))
        self.note_dropped()
        return before != [len(r.in_flight) for r in self.replicas]

    def move(self, until_s: float) -> None:
        for replica in self.replicas:
            replica.advance(until_s)
        self.now_s = until_s
        for k, s in enumerate(self.sent):
            if s.status == "admitted" and s.request.status == "finished":
                self.answered(k)
        self.note_dropped()

    def note_dropped(self) -> None:
        """Settle what replicas rejected as hopeless; that is final."""
        for k, s in enumerate(self.sent):
            if s.status == "admitted" and s.request.status == "rejected":
                s.status, s.finish_s = "rejected", s.request.finish_s
                self.turn_ended(k, answered=False)

    # -- what clients do -------------------------------------------------------------------------------

    def send(self, k: int) -> bool:
        s = self.sent[k]
        s.attempts += 1
        if s.attempts == 1:
            s.arrival_s = s.request.arrival_s = self.now_s
            if self.clients.upstream_failed[k]:
                self.upstream_failed += 1
                self.unserved(k, "upstream_failure", "failed")
                return False
        else:
            s.request = self.engine_request(k)
            s.request.arrival_s = s.arrival_s
        s.status, s.defers, s.replica = "at_door", 0, -1
        s.deadline_s = self.now_s + float(self.clients.patience_s[k])
        if s.deadline_s < math.inf:
            heapq.heappush(self.events, (s.deadline_s, GIVE_UP, k, s.attempts))
        return True

    def is_deferred(self, k: int, attempt: int) -> bool:
        return self.sent[k].status == "at_door" and self.sent[k].attempts == attempt

    def give_up(self, k: int, attempt: int) -> None:
        s = self.sent[k]
        if s.attempts != attempt:
            return
        request = s.request
        if s.status == "admitted":
            waits = request.status == "waiting" and request.first_token_s is None and not request.in_flight_tokens
            if not waits:
                return
            replica = self.replicas[s.replica]
            replica.withdraw(request, self.now_s)
        elif s.status != "at_door":
            return
        self.unserved(k, "abandonment", "abandoned")

    def unserved(self, k: int, cause: str, status: str) -> None:
        s, retries = self.sent[k], self.config.retries
        if retries is not None and cause in self.retry_after and s.attempts <= retries.max_retries:
            s.status = "away"
            wait_s = min(retries.base_s * retries.factor ** (s.attempts - 1), retries.max_s)
            wait_s *= 1.0 - retries.jitter * uniform(self.seed, k, s.attempts)
            heapq.heappush(self.events, (self.now_s + wait_s, SEND, k, s.attempts + 1))
            return
        s.status, s.finish_s = status, self.now_s
        self.turn_ended(k, answered=False)

    def answered(self, k: int) -> None:
        s, r, want = self.sent[k], self.requests[k], self.sent[k].request
        assert want.first_token_s is not None
        assert want.finish_s is not None
        in_time = want.first_token_s - s.arrival_s <= r["ttft_slo_s"]
        gaps = want.target_tokens - 1
        fluent = gaps == 0 or want.finish_s - want.first_token_s <= r["tpot_slo_s"] * gaps
        s.status, s.finish_s = "attained" if in_time and fluent else "late", want.finish_s
        if want.target_tokens < want.output_tokens:
            s.status = "length_capped"
        self.turn_ended(k, answered=True)

    def turn_ended(self, k: int, answered: bool) -> None:
        turn = int(self.next_turn[k])
        if turn < 0:
            return
        loop = self.config.closed_loop
        assert loop is not None
        send_s = self.now_s + float(self.clients.think_s[turn])
        if (answered or loop.after_failure == "go_on") and send_s < self.clients.horizon_s:
            heapq.heappush(self.events, (send_s, SEND, turn, 1))
            return
        while turn >= 0:
            self.sent[turn].status = "unsent"
            self.unsent += 1
            turn = int(self.next_turn[turn])

    # -- the front door --------------------------------------------------------------------------------

    def decide(self, k: int, admission: int, r: int, mode: int) -> None:
        if self.mode_of[r] != mode:
            self.mode_of[r] = mode
            self.replicas[r].set_limits(limits_of(self.specs[r], self.modes[mode]), self.now_s)
        if k < 0:
            return
        s = self.sent[k]
        if admission == ADMIT:
            s.status, s.replica = "admitted", r
            self.replicas[r].submit(s.request, self.now_s)
            if s.request.status == "rejected":  # no room for an output
                s.status, s.finish_s = "failed", self.now_s
                self.turn_ended(k, answered=False)
        elif admission == DEFER and s.defers < self.max_defers:
            s.defers += 1
            heapq.heappush(self.events, (self.now_s + self.defer_s, RETURN, k, s.attempts))
        else:
            s.refusals += 1
            self.unserved(k, "rejection", "rejected")
