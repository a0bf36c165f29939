"""The reference engine: one replica in plain Python, one iteration at a time, written for readers.

This file specifies a replica's scheduling. It follows the vLLM V1 scheduler (0.33.0, recompute
preemption) rule by rule, and reproduces its recorded schedules. The compiled engine must agree with it:
same iterations, same preemptions, same times.

The rules, in the scheduler's own terms:

* There is no prefill or decode phase: each request wants all its known tokens computed, and one token
  budget per iteration is shared by all.
* Running requests come first, in the order of their admission. One that cannot get its KV blocks evicts
  the last admitted request (recompute preemption) until it can, or is itself the one evicted.
* Then waiting requests, strictly from the head of the queue, unless this iteration preempted.
* The iteration that computes the last known token of a request samples its next one, whose KV is written
  only in the iteration after.
* With prefix caching, admission skips the longest cached run of full blocks.
* With asynchronous scheduling an iteration is scheduled when the one before it *starts*: a sampled token
  that has not come back counts as known, and blocks of finished requests return one iteration later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from burstenv.engine.enums import LIVELOCK_PREEMPTIONS
from burstenv.engine.livelock import livelock
from burstenv.engine.reference.background import ReferenceJob
from burstenv.engine.reference.modes import TokenCounters, leaves_room
from burstenv.engine.reference.queue import STREAMING_FIRST
from burstenv.engine.reference.records import EngineLimits, Iteration, ReferenceRequest, Scheduled
from burstenv.engine.reference.slack import ReferenceSlack
from burstenv.hardware.latency.hinge import IterationLatency

__all__ = ["EngineLimits", "Iteration", "ReferenceReplica", "ReferenceRequest", "Scheduled"]


class ReferenceReplica(ReferenceSlack):
    """One replica. Give it requests with :meth:`submit`, advance time with :meth:`advance`.

    Args:
        limits: KV cache, model length and batching mode.
        latency: Iteration times.
    """

    def __init__(self, limits: EngineLimits, latency: IterationLatency):
        super().__init__(limits, latency)
        self.cut_iterations = 0  # that were in flight when the replica was lost
        self.pool = self._empty_pool()
        self.requests: dict[int, ReferenceRequest] = {}
        self.in_flight: deque[Iteration] = deque()  # scheduled and not applied yet, oldest first
        self.iterations: list[Iteration] = []
        self._busy_until_s = 0.0
        self._preemptions_without_token = 0
        self.leaving: set[int] = set()  # running requests that no further iteration takes, see transfer_ends.py
        self.hands_out = False  # requests leave with the token that follows their prompt, see transfer_ends.py
        self._pace = 1.0  # the GPU's part of an iteration takes so many times as long,
        self._copy_pace = 1.0  # and so many times while KV blocks come or go
        self.job: ReferenceJob | None = None  # what it works on in the slack, see background.py

    # -- calls from outside ------------------------------------------------------------------------

    def submit(self, request: ReferenceRequest, now_s: float) -> None:
        """Accept a request at ``now_s``, or reject one if its prompt leaves no room for an output.

        Outputs that another replica produced count as a part of the prompt.
        """
        request.target_tokens = request.output_tokens
        if self.limits.validate_requests:
            if request.known_tokens >= self.limits.max_model_len:
                request.status = "rejected"
                request.finish_s = now_s
                return
            request.target_tokens = min(request.output_tokens, self.limits.max_model_len - request.prompt_tokens)
        self._wake(now_s)
        request.backward_before_s = self.job.backward_s if self.job else 0.0
        request.status = "waiting"
        self.requests[request.id] = request
        self._welcome(request)
        self.waiting.append(request)

    def withdraw(self, request: ReferenceRequest, now_s: float) -> None:
        """Remove a waiting request at ``now_s``: its client has left, or its gateway sends it elsewhere."""
        self.waiting.remove(request)
        del self.requests[request.id]
        self._counters.leave(self.limits, request)
        request.status = "withdrawn"
        self._wake(now_s)

    def clear(self) -> list[ReferenceRequest]:
        """Lose all requests, the KV cache and the iterations in flight; return the requests."""
        lost = [*self.running, *self.waiting]
        self.cut_iterations += sum(bool(cut.scheduled or cut.preempted) for cut in self.in_flight)
        self.pool = self._empty_pool()
        self.running, self.waiting = [], []
        self.in_flight.clear()
        self._busy_until_s = 0.0
        self._preemptions_without_token = 0
        self._counters = TokenCounters()
        self._admitting = False
        for request in lost:
            del self.requests[request.id]
            request.computed_tokens = request.in_flight_tokens = 0
            request.decodes = False
            request.blocks = []
        return lost

    def delay(self, still_s: float, now_s: float) -> None:
        """Go on at ``now_s`` after standing still for ``still_s``: what is in flight ends so much later."""
        for iteration in self.in_flight:
            iteration.end_s += still_s
        self._busy_until_s += still_s if self.in_flight else 0.0
        if self.job:
            self.job.delay(still_s)
        self._wake(now_s)

    def stand_still(self, now_s: float) -> None:
        """Stop at ``now_s``; what is in flight does not end before :meth:`delay`."""
        if self.job:
            self.job.stand_still(now_s)

    def set_pace(self, now_s: float, pace: float | None = None, copy_pace: float | None = None) -> bool:
        """Change at ``now_s`` how many times as long the GPU takes, and how many times more while KV blocks move.

        Returns:
            Whether the end of a step that runs apart is to be foreseen anew.
        """
        trains = self.trains
        self._pace = self._pace if pace is None else pace
        self._copy_pace = self._copy_pace if copy_pace is None else copy_pace
        if self.job:
            self.job.set_pace(self._pace * self._copy_pace, now_s)
        return trains

    def set_limits(self, limits: EngineLimits, now_s: float) -> None:
        """Change the batching mode at ``now_s``, from the next iteration on; the waiting queue is sorted anew."""
        self._wake(now_s)
        lists = ("fcfs", "fair", "mlfq")
        if limits.order in lists and self.limits.order != limits.order:
            self.waiting.sort(key=lambda r: (r.arrival_s + (STREAMING_FIRST if r.preemptions else 0.0), r.id))
        self.limits = limits

    def advance(self, until_s: float) -> None:
        """Apply every iteration that ends by ``until_s``; schedule none at or after it."""
        while True:
            if self.job and self.job.end_s is not None:
                if self.job.end_s > until_s:
                    return
                self.clock_s = self.job.end()
            if self.may_schedule or self.may_train:
                if self.clock_s >= until_s:
                    return
                if self.may_train and self.job and self.job.holds(self.limits, self.waiting, self.clock_s):
                    while self.in_flight:  # iterations without work
                        self._apply(self.in_flight.popleft())
                    self.job.begin(self.clock_s)
                    continue
                if not self._schedule():
                    if self.may_train and self.job:
                        self.job.unservable = True
                        continue
                    if not self.in_flight:
                        return  # nothing can be scheduled, and nothing in flight can change that
                elif len(self.in_flight) < self._depth:
                    continue
            if not self.in_flight or self.in_flight[0].end_s > until_s:
                return
            self._apply(self.in_flight.popleft())

    def run(self, requests: Iterable[ReferenceRequest]) -> None:
        """Serve a whole list of requests, given in order of arrival."""
        for request in requests:
            self.advance(request.arrival_s)
            self.submit(request, request.arrival_s)
        self.advance(float("inf"))

    @property
    def may_schedule(self) -> bool:
        """Whether there are requests, and room for another iteration in flight."""
        return len(self.in_flight) < self._depth and bool(self.running or self.waiting)

    # -- one iteration -----------------------------------------------------------------------------

    def _schedule(self) -> bool:
        """Schedule one iteration at the clock; return whether it has work.

        An iteration without work takes no time; asynchronous scheduling still queues it.
        """
        limits = self.limits
        if limits.drops_hopeless:
            self._drop_hopeless()
        free_before = self.pool.free
        # A lone request is never cut by the long-prefill threshold.
        lone = len(self.running) + len(self.waiting) == 1
        threshold = 0 if lone else limits.long_prefill_token_threshold
        scheduled: list[Scheduled] = []
        preempted: list[ReferenceRequest] = []
        budget = limits.max_num_batched_tokens
        if limits.batch == "prefill-first":
            self._schedule_waiting(budget, threshold, scheduled)
            if not scheduled:
                self._schedule_running(budget, threshold, scheduled, preempted)
        else:
            budget = self._schedule_running(budget, threshold, scheduled, preempted)
            if not preempted:
                self._schedule_waiting(budget, threshold, scheduled)
        if not scheduled and not preempted and not any(iteration.scheduled for iteration in self.in_flight):
            return False  # an iteration in flight, if any, is also empty and changes nothing
        for share in scheduled:
            request = self.requests[share.id]
            request.computed_tokens = share.computed_before + share.tokens
            if share.samples and request.in_flight_tokens == 0:
                request.hands_out = self.hands_out
            request.in_flight_tokens += share.samples
        start_s = max(self.clock_s, self._busy_until_s)
        units = self.job.units if self.job else 0
        self._busy_until_s = start_s + self._shared_s(scheduled)
        self.in_flight.append(
            Iteration(
                scheduled_s=self.clock_s,
                start_s=start_s,
                end_s=self._busy_until_s,
                scheduled=scheduled,
                preempted=[r.id for r in preempted],
                free_before=free_before,
                free_after=self.pool.free,
                running=[r.id for r in self.running],
                waiting=[r.id for r in self.queue()],
                shared_units=self.job.units - units if self.job else 0,
            )
        )
        return True

    def _schedule_running(
        self, budget: int, threshold: int, scheduled: list[Scheduled], preempted: list[ReferenceRequest]
    ) -> int:
        """Give running requests their share, in order of admission; return the budget that is left."""
        index = 0
        while index < len(self.running) and budget > 0:
            request = self.running[index]
            in_flight = request.in_flight_tokens
            last = request.prompt_tokens + request.target_tokens
            on_its_way = in_flight and (request.computed_tokens + 2 - in_flight >= last or self._only_prefills(request))
            if request.id in self.leaving or on_its_way:
                index += 1  # it leaves the batch, or its last token here is on its way
                continue
            tokens = request.known_tokens + in_flight - request.computed_tokens
            if 0 < threshold < tokens:
                tokens = threshold
            tokens = min(tokens, budget, self.limits.max_model_len - request.computed_tokens - 1)
            if tokens <= 0:  # below 0: only past the model length, without validation
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
            self._publish(request, request.computed_tokens + tokens)
            scheduled.append(self._share(request, tokens, "running"))
            budget -= tokens
            index += 1
        return budget

    def _schedule_waiting(self, budget: int, threshold: int, scheduled: list[Scheduled]) -> None:
        """Admit waiting requests from the head of the queue while they fit; no request overtakes."""
        limits = self.limits
        if not self._opens():
            return
        whole = not limits.chunked_prefill or limits.batch != "mixed"
        most = len(self.running) + 1 if self._one_by_one else limits.max_num_seqs
        while self.waiting and budget > 0 and len(self.running) < most and self._may_admit():
            request = self._head()
            hits = self._cached_prefix(request)
            cached_tokens = len(hits) * limits.block_size
            tokens = request.known_tokens - cached_tokens
            if 0 < threshold < tokens:
                tokens = threshold
            if whole and tokens > budget:
                break
            tokens = min(tokens, budget)
            must_fit = request.known_tokens if limits.reserve_full_prompt else cached_tokens + tokens
            headroom = limits.headroom_blocks if self.running else 0
            missing = self._blocks(min(must_fit, limits.max_model_len)) - len(hits) + self.pool.revived(hits)
            if missing + headroom > self.pool.free or not leaves_room(limits, self.running, request):
                break
            self.waiting.remove(request)
            self._counters.admit(limits, request)
            kind = "resumed" if request.preemptions else "new"
            request.status = "running"
            self.pool.share(hits)
            request.blocks = list(hits)
            request.computed_tokens = cached_tokens
            if request.cached_tokens is None:
                request.cached_tokens = cached_tokens
            self.running.append(request)
            self._grow(request, cached_tokens + tokens)
            self._publish(request, cached_tokens + tokens)
            if request.first_scheduled_s is None:
                request.first_scheduled_s = self.clock_s
            scheduled.append(self._share(request, tokens, kind))
            budget -= tokens
        if not self.waiting:
            self._admitting = False

    def _apply(self, iteration: Iteration) -> None:
        """Apply the results of an iteration, at its end."""
        self.clock_s = max(self.clock_s, iteration.end_s)
        for share in iteration.scheduled:
            if not share.samples:  # it may have been preempted and withdrawn since
                continue
            request = self.requests[share.id]
            request.in_flight_tokens -= 1
            request.produced_tokens += 1
            self._counters.count_output(self.limits, request)
            self._preemptions_without_token = 0
            if request.first_token_s is None:
                request.first_token_s = self.clock_s
            hands_out = request.status == "running" and self._only_prefills(request)
            if request.status == "running":  # a block may have waited for this token to get its key
                request.decodes = True
                self._publish(request, request.computed_tokens - request.in_flight_tokens)
            if request.produced_tokens >= request.target_tokens or request.known_tokens >= self.limits.max_model_len:
                # A request preempted while its last token was on its way finishes in the queue.
                if request.status == "running":
                    self.running.remove(request)
                    self.leaving.discard(request.id)
                else:
                    self.waiting.remove(request)
                    self._counters.leave(self.limits, request)
                request.status = "finished"
                request.finish_s = self.clock_s
                self.pool.release(request.blocks)
                request.blocks = []
                iteration.finished.append(request.id)
            elif hands_out:
                self._hand_out(request)
                iteration.handed_out.append(request.id)
        iteration.free_after_update = self.pool.free
        if iteration.scheduled or iteration.preempted:
            self.iterations.append(iteration)

    # -- parts -------------------------------------------------------------------------------------

    def _may_admit(self) -> bool:
        """Return whether the batch has room for another request."""
        return len(self.running) < self.limits.max_num_seqs

    def _only_prefills(self, request: ReferenceRequest) -> bool:
        """Return whether a running request will leave with its next token."""
        return request.hands_out and not request.decodes

    def _hand_out(self, request: ReferenceRequest) -> None:
        raise NotImplementedError("only a replica that KV blocks leave, see transfer_ends.py, has this role")

    def _victim(self) -> ReferenceRequest:
        if self.limits.order != "priority":
            return self.running[-1]
        return max(self.running, key=lambda r: (r.priority, r.arrival_s))

    def _preempt(self, victim: ReferenceRequest) -> None:
        """Evict: the KV is lost, the outputs are kept, and it waits again, first under fcfs."""
        self._preemptions_without_token += 1
        if self._preemptions_without_token > LIVELOCK_PREEMPTIONS:
            raise livelock(self.clock_s, victim.id)
        self.running.remove(victim)
        self.leaving.discard(victim.id)
        self.pool.release(victim.blocks)
        victim.blocks = []
        victim.recomputed_tokens += victim.computed_tokens
        victim.computed_tokens = 0
        victim.decodes = False
        victim.preemptions += 1
        victim.status = "waiting"
        self._welcome(victim)
        self.waiting.insert(0, victim)

    def _share(self, request: ReferenceRequest, tokens: int, kind: str) -> Scheduled:
        before = request.computed_tokens
        return Scheduled(
            id=request.id,
            tokens=tokens,
            computed_before=before,
            kind=kind,
            decode=tokens == 1 and before >= request.prompt_tokens,
            samples=before + tokens == request.known_tokens + request.in_flight_tokens,
        )
