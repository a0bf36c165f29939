"""The reference engine: one replica in plain Python, one iteration at a time, written to be read.

This file is the specification of how a replica schedules. It follows the vLLM V1 scheduler (0.33.0,
synchronous, recompute preemption) rule by rule, and reproduces its recorded schedules. The compiled
engine must agree with it: same iterations, same preemptions, same times.

The rules, in the scheduler's own terms:

* There is no prefill or decode phase: each request wants all its known tokens computed, and one token
  budget per iteration is shared by everybody.
* Running requests come first, in the order of their admission. One that cannot get its KV blocks evicts
  the last admitted request (recompute preemption) until it can, or is itself the one evicted.
* Then waiting requests, strictly from the head of the queue, unless this iteration preempted.
* The iteration that computes the last known token of a request samples its next one, whose KV is written
  only in the iteration after.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from burstenv.cluster.latency import HingeLatency
from burstenv.errors import BurstenvError

STREAMING_FIRST = -1e12  # queue key of preempted requests whose user is already reading


@dataclass(frozen=True)
class EngineLimits:
    """What the engine may use: KV cache, model length, and the batching mode in force."""

    num_blocks: int  # usable KV blocks (vLLM's num_gpu_blocks less the null block)
    block_size: int  # [tokens]
    max_model_len: int  # [tokens]
    max_num_batched_tokens: int  # token budget of an iteration
    max_num_seqs: int
    order: str = "fcfs"  # fcfs | shortest-prompt | shortest-predicted | earliest-deadline | priority
    headroom_blocks: int = 0  # blocks kept free at admission while anything runs (vLLM's watermark)
    reserve_full_prompt: bool = True  # vLLM's scheduler_reserve_full_isl
    long_prefill_token_threshold: int = 0
    chunked_prefill: bool = True


@dataclass
class ReferenceRequest:
    """One request as the engine sees it."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    predicted_tokens: float = 0.0
    ttft_slo_s: float = float("inf")
    target_tokens: int = 0  # output tokens after the clamp to the model length
    produced_tokens: int = 0
    computed_tokens: int = 0
    blocks: int = 0
    preemptions: int = 0
    recomputed_tokens: int = 0
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None
    status: str = "unseen"  # unseen | waiting | running | finished | rejected

    @property
    def known_tokens(self) -> int:
        """Prompt and outputs so far."""
        return self.prompt_tokens + self.produced_tokens


@dataclass(frozen=True)
class Scheduled:
    """One request's share of an iteration."""

    id: int
    tokens: int
    computed_before: int
    kind: str  # new | resumed | running
    decode: bool
    samples: bool  # produces a token in this iteration


@dataclass
class Iteration:
    """One iteration as recorded schedules describe it."""

    start_s: float
    end_s: float
    scheduled: list[Scheduled]
    preempted: list[int]
    free_before: int
    free_after: int  # after scheduling, before the iteration's finishes
    running: list[int]
    waiting: list[int]
    finished: list[int] = field(default_factory=list)
    free_after_update: int = 0


class ReferenceReplica:
    """One replica. Hand it requests with :meth:`submit`, move time with :meth:`advance`.

    Args:
        limits: KV cache, model length and batching mode.
        latency: Iteration times.
    """

    def __init__(self, limits: EngineLimits, latency: HingeLatency):
        self.limits = limits
        self.latency = latency
        self.clock_s = 0.0
        self.free_blocks = limits.num_blocks
        self.running: list[ReferenceRequest] = []
        self.waiting: list[ReferenceRequest] = []  # fcfs: in order; otherwise unordered
        self.in_flight: Iteration | None = None
        self.iterations: list[Iteration] = []

    # -- what the outside does ---------------------------------------------------------------------

    def submit(self, request: ReferenceRequest, now_s: float) -> None:
        """Take a request at ``now_s``, or refuse one whose prompt leaves no room for an output."""
        if request.prompt_tokens >= self.limits.max_model_len:
            request.status = "rejected"
            return
        request.target_tokens = min(request.output_tokens, self.limits.max_model_len - request.prompt_tokens)
        if self.in_flight is None and not self.running and not self.waiting:
            self.clock_s = max(self.clock_s, now_s)
        request.status = "waiting"
        self.waiting.append(request)

    def set_limits(self, limits: EngineLimits) -> None:
        """Change the batching mode from the next iteration on; the waiting queue is sorted anew."""
        if limits.order == "fcfs" and self.limits.order != "fcfs":
            self.waiting.sort(key=lambda r: (r.arrival_s + (STREAMING_FIRST if r.preemptions else 0.0), r.id))
        self.limits = limits

    def advance(self, until_s: float) -> None:
        """Apply every iteration that ends by ``until_s``; start none at or after it."""
        while True:
            if self.in_flight is not None:
                if self.in_flight.end_s > until_s:
                    return
                self._finish_iteration()
            if self.clock_s >= until_s or not (self.running or self.waiting):
                return
            if not self._start_iteration():
                return

    def run(self, requests: Iterable[ReferenceRequest]) -> None:
        """Serve a whole list of requests, given in order of arrival."""
        for request in requests:
            self.advance(request.arrival_s)
            self.submit(request, request.arrival_s)
        self.advance(float("inf"))

    # -- one iteration -----------------------------------------------------------------------------

    def _start_iteration(self) -> bool:
        """Schedule one iteration at the clock; return whether there was anything to run."""
        limits = self.limits
        free_before = self.free_blocks
        budget = limits.max_num_batched_tokens
        # A lone request is never cut by the long-prefill threshold.
        lone = len(self.running) + len(self.waiting) == 1
        threshold = 0 if lone else limits.long_prefill_token_threshold
        scheduled: list[Scheduled] = []
        preempted: list[ReferenceRequest] = []

        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            tokens = request.known_tokens - request.computed_tokens
            if 0 < threshold < tokens:
                tokens = threshold
            tokens = min(tokens, budget, limits.max_model_len - request.computed_tokens - 1)
            if tokens == 0:
                index += 1
                continue
            evicted_itself = False
            while not self._grow(request, request.computed_tokens + tokens):
                victim = self._victim()
                already = next((s for s in scheduled if s.id == victim.id), None)
                if already is not None:  # possible under priorities only: it gives its tokens back
                    scheduled.remove(already)
                    budget += already.tokens
                if self.running.index(victim) < index:
                    index -= 1
                self._preempt(victim)
                preempted.append(victim)
                if victim is request:
                    evicted_itself = True
                    break
            if evicted_itself:
                continue  # the next request, if any, has moved up to this index
            scheduled.append(self._share(request, tokens, "running"))
            budget -= tokens
            index += 1

        if not preempted:
            while self.waiting and budget > 0 and len(self.running) < limits.max_num_seqs:
                request = self._head()
                tokens = request.known_tokens
                if 0 < threshold < tokens:
                    tokens = threshold
                if not limits.chunked_prefill and tokens > budget:
                    break
                tokens = min(tokens, budget)
                must_fit = request.known_tokens if limits.reserve_full_prompt else tokens
                headroom = limits.headroom_blocks if self.running else 0
                if self._blocks(must_fit) + headroom > self.free_blocks:
                    break  # nobody overtakes
                self.waiting.remove(request)
                kind = "resumed" if request.preemptions else "new"
                request.status = "running"
                request.computed_tokens = 0
                self.running.append(request)
                self._grow(request, tokens)
                if request.first_scheduled_s is None:
                    request.first_scheduled_s = self.clock_s
                scheduled.append(self._share(request, tokens, kind))
                budget -= tokens

        if not scheduled and not preempted:
            return False
        self.in_flight = Iteration(
            start_s=self.clock_s,
            end_s=self.clock_s + self._duration_s(scheduled),
            scheduled=scheduled,
            preempted=[r.id for r in preempted],
            free_before=free_before,
            free_after=self.free_blocks,
            running=[r.id for r in self.running],
            waiting=[r.id for r in self.queue()],
        )
        return True

    def _finish_iteration(self) -> None:
        """Apply what the iteration in flight produced."""
        iteration = self.in_flight
        assert iteration is not None
        self.in_flight = None
        self.clock_s = iteration.end_s
        by_id = {request.id: request for request in self.running}
        for share in iteration.scheduled:
            request = by_id[share.id]
            request.computed_tokens = share.computed_before + share.tokens
            if not share.samples:
                continue
            request.produced_tokens += 1
            if request.first_token_s is None:
                request.first_token_s = self.clock_s
            if request.produced_tokens >= request.target_tokens or request.known_tokens >= self.limits.max_model_len:
                request.status = "finished"
                request.finish_s = self.clock_s
                self.running.remove(request)
                self.free_blocks += request.blocks
                request.blocks = 0
                iteration.finished.append(request.id)
        iteration.free_after_update = self.free_blocks
        self.iterations.append(iteration)

    # -- the pieces --------------------------------------------------------------------------------

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def _grow(self, request: ReferenceRequest, tokens: int) -> bool:
        """Give the request the blocks for ``tokens`` tokens, if there are enough."""
        missing = self._blocks(tokens) - request.blocks
        if missing > self.free_blocks:
            return False
        self.free_blocks -= missing
        request.blocks += missing
        return True

    def _victim(self) -> ReferenceRequest:
        if self.limits.order != "priority":
            return self.running[-1]
        return max(self.running, key=lambda r: (r.priority, r.arrival_s))

    def _preempt(self, victim: ReferenceRequest) -> None:
        """Evict: the KV is lost, the outputs are kept, and it waits again, first under fcfs."""
        self.running.remove(victim)
        self.free_blocks += victim.blocks
        victim.blocks = 0
        victim.recomputed_tokens += victim.computed_tokens
        victim.computed_tokens = 0
        victim.preemptions += 1
        victim.status = "waiting"
        self.waiting.insert(0, victim)

    def queue(self) -> list[ReferenceRequest]:
        """Return the waiting requests, next one first."""
        if self.limits.order == "fcfs":
            return self.waiting
        return sorted(self.waiting, key=self._queue_key)

    def _head(self) -> ReferenceRequest:
        return self.waiting[0] if self.limits.order == "fcfs" else min(self.waiting, key=self._queue_key)

    def _queue_key(self, request: ReferenceRequest) -> tuple[float, ...]:
        order = self.limits.order
        if order == "priority":
            return (request.priority, request.arrival_s, request.id)
        if order == "shortest-prompt":
            return (request.prompt_tokens, request.id)
        if order == "shortest-predicted":
            return (request.predicted_tokens, request.id)
        if order == "earliest-deadline":
            if request.produced_tokens > 0:  # its user is reading already: first, and never hopeless
                return (0, STREAMING_FIRST + request.arrival_s, request.id)
            latest_s = request.arrival_s + request.ttft_slo_s - self.latency.lone_prefill_s(request.prompt_tokens)
            return (float(latest_s < self.clock_s), latest_s, request.id)
        raise BurstenvError(f"unknown queue order {order!r}")

    def _share(self, request: ReferenceRequest, tokens: int, kind: str) -> Scheduled:
        before = request.computed_tokens
        return Scheduled(
            id=request.id,
            tokens=tokens,
            computed_before=before,
            kind=kind,
            decode=tokens == 1 and before >= request.prompt_tokens,
            samples=before + tokens == request.known_tokens,
        )

    def _duration_s(self, scheduled: list[Scheduled]) -> float:
        """Return the iteration's time; a step that only preempts takes none."""
        if not scheduled:
            return 0.0
        prefills = [s for s in scheduled if not s.decode]
        decodes = [s for s in scheduled if s.decode]
        return self.latency.iteration_s(
            prefill_tokens=sum(s.tokens for s in prefills),
            prefill_attention=sum(s.tokens * s.computed_before + s.tokens * (s.tokens + 1) // 2 for s in prefills),
            decodes=len(decodes),
            decode_context_tokens=sum(s.computed_before + 1 for s in decodes),
            sequences=len(scheduled),
        )
