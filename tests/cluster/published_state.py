"""What replicas show and what routers know of their prefix caches, counted anew from the requests, in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from burstenv.engine.reference.engine import EngineLimits, Iteration, ReferenceReplica, ReferenceRequest

Shown = dict[str, int]


def _blocks(tokens: int, size: int) -> int:
    return -(-tokens // size)


class WatchedReplica(ReferenceReplica):
    """A reference replica that keeps its published state: as its last iteration ended, and what came and went since."""

    def __init__(self, limits: EngineLimits, latency: Any):
        self.preemptions = 0
        self.scheduled_since = False  # an iteration, since the last one ended
        self.queue_shown: dict[int, int] = {}  # request id -> tokens to compute
        self.rest_shown: Shown = {}
        # A block in one of its lives, from one time it is taken to the next: (block, how often it was taken).
        self.taken: dict[int, int] = {}
        self.keys: dict[tuple[int, int], Any] = {}  # of all lives that got one
        self.computing: list[list[tuple[int, int]]] = []  # by iteration in flight: lives whose last token it computes
        self.ending: list[list[tuple[int, int]]] = []  # and lives that it ends
        self.cached: set[tuple[int, int]] = set()  # as the last iteration ended
        self._ended_now: list[tuple[int, int]] = []
        super().__init__(limits, latency)
        forget, publish = self.pool._forget, self.pool.publish

        def forgetting(block: int) -> None:
            self._ended_now.append((block, self.taken.get(block, 0)))
            self.taken[block] = self.taken.get(block, 0) + 1
            forget(block)

        def publishing(block: int, key: Any) -> None:
            self.keys[block, self.taken[block]] = key
            publish(block, key)

        self.pool._forget, self.pool.publish = forgetting, publishing  # type: ignore[method-assign]
        self.take()

    def take(self) -> None:
        """Publish the state, counted from the requests."""
        size = self.limits.block_size
        requests = self.requests.values()
        running = [r for r in requests if r.status == "running"]
        self.queue_shown = {r.id: r.prompt_tokens + r.produced_tokens for r in requests if r.status == "waiting"}
        used = {block for r in running for block in r.blocks}
        context = prefill = 0
        for r in running:
            sampled = r.produced_tokens + r.in_flight_tokens
            left = r.prompt_tokens + sampled - r.computed_tokens
            if sampled > 0 and left <= 1:
                context += r.prompt_tokens + r.produced_tokens
            else:
                prefill += left
        assert all(len(r.blocks) == _blocks(r.computed_tokens, size) for r in running)
        self.rest_shown = {
            "running": len(running),
            "free_blocks": self.limits.num_blocks - len(used),
            "prefill_tokens": prefill,
            "context_tokens": context,
            "preemptions": self.preemptions,
        }

    def shown(self) -> Shown:
        size = self.limits.block_size
        return {
            "waiting": len(self.queue_shown),
            "waiting_tokens": sum(self.queue_shown.values()),
            "waiting_blocks": sum(_blocks(tokens, size) for tokens in self.queue_shown.values()),
            **self.rest_shown,
        }

    def hit_tokens(self, request: ReferenceRequest) -> int:
        """Prompt tokens of a request in blocks that were cached when the last iteration ended."""
        if not self.limits.prefix_caching:
            return 0
        size = self.limits.block_size
        held = {self.keys[life] for life in self.cached if life in self.keys}
        hits = 0
        while (hits + 1) * size < request.prompt_tokens and request.block_key(hits, size) in held:
            hits += 1
        return hits * size

    # -- where the state changes -----------------------------------------------------------------------

    def advance(self, until_s: float) -> None:
        super().advance(until_s)
        if not self.scheduled_since:
            self.take()

    def submit(self, request: ReferenceRequest, now_s: float) -> None:
        super().submit(request, now_s)
        if request.status == "waiting":
            self.queue_shown[request.id] = request.prompt_tokens

    def withdraw(self, request: ReferenceRequest, now_s: float) -> None:
        super().withdraw(request, now_s)
        self.queue_shown.pop(request.id, None)

    def _preempt(self, victim: ReferenceRequest) -> None:
        super()._preempt(victim)
        self.preemptions += 1

    def _schedule(self) -> bool:
        if self.limits.drops_hopeless:
            self._drop_hopeless()
        if not self.scheduled_since:
            self.take()
        if not super()._schedule():
            return False
        self.scheduled_since = True
        size = self.limits.block_size
        blocks = []
        for share in self.in_flight[-1].scheduled:
            request = self.requests[share.id]
            for k in range(share.computed_before // size, (share.computed_before + share.tokens) // size):
                if k < len(request.blocks):
                    block = request.blocks[k]
                    blocks.append((block, self.taken[block]))
        self.computing.append(blocks)
        self.ending.append(self._ended_now)
        self._ended_now = []
        return True

    def _apply(self, iteration: Iteration) -> None:
        super()._apply(iteration)
        self.scheduled_since = False
        self.cached |= set(self.computing.pop(0))
        self.cached -= set(self.ending.pop(0))


class Readings:
    """Metrics of replicas that are read every ``period_s`` and seen ``delay_s`` later; period 0: fresh ones."""

    def __init__(self, replicas: list[WatchedReplica], period_s: float, delay_s: float, count_sent: bool):
        self.replicas = replicas
        self.period_s, self.delay_s, self.count_sent = period_s, delay_s, count_sent
        self.taken: list[tuple[float, list[Shown]]] = [(-1.0, [replica.shown() for replica in replicas])]
        self.sent: list[tuple[float, int, int]] = []  # time, replica, tokens

    def read_until(self, until_s: float, move: Callable[[float], None]) -> None:
        while self.period_s > 0.0 and (at_s := (len(self.taken) - 1) * self.period_s) <= until_s:
            move(at_s)
            self.taken.append((at_s, [replica.shown() for replica in self.replicas]))

    def seen(self, now_s: float) -> list[Shown]:
        """What a decision at ``now_s`` sees of every replica."""
        if self.period_s == 0.0:
            return [replica.shown() for replica in self.replicas]
        before, last = self.taken[-2:] if len(self.taken) > 1 else [self.taken[0]] * 2
        at_s, shown = last if last[0] + self.delay_s <= now_s or last[0] < 0.0 else before
        shown = [dict(values) for values in shown]
        for sent_s, r, tokens in self.sent if self.count_sent else []:
            if sent_s >= at_s:
                shown[r]["waiting"] += 1
                shown[r]["waiting_tokens"] += tokens
                shown[r]["waiting_blocks"] += _blocks(tokens, self.replicas[r].limits.block_size)
        return shown
