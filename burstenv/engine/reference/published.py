"""A replica's published state, counted from its requests, in plain Python: metrics, and the cached blocks.

The published state is that of the end of the last iteration, with the requests that came or were withdrawn since.
:mod:`burstenv.engine.published` defines it under asynchronous scheduling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from burstenv.engine.reference.cancelling import CancellingReplica
from burstenv.engine.reference.kv_cache import BlockPool, Key
from burstenv.engine.reference.records import EngineLimits, Iteration, ReferenceRequest
from burstenv.hardware.latency.hinge import IterationLatency

Life = tuple[int, int]  # of a block, from one allocation to the next: the block, and its number of allocations


def blocks_for(tokens: int, block_size: int) -> int:
    """Return the number of KV blocks that hold ``tokens``."""
    return -(-tokens // block_size)


@dataclass(frozen=True)
class Published:
    """The published metrics of one replica."""

    waiting: int
    running: int
    free_blocks: int
    prefill_tokens: int  # tokens of running requests to compute before they decode
    waiting_tokens: int
    waiting_blocks: int
    context_tokens: int  # prompt and outputs of the running requests that decode
    preemptions: int

    def with_waiting(self, tokens: int, block_size: int) -> Published:
        """Return these metrics with one more request of ``tokens`` in the queue."""
        return replace(
            self,
            waiting=self.waiting + 1,
            waiting_tokens=self.waiting_tokens + tokens,
            waiting_blocks=self.waiting_blocks + blocks_for(tokens, block_size),
        )


class _BlockLives(BlockPool):
    """A block pool that records the key of each block in each of its lives."""

    def __init__(self, num_blocks: int):
        super().__init__(num_blocks)
        self.taken: dict[int, int] = {}
        self.keys: dict[Life, Key] = {}  # of all lives that got one
        self.ended: list[Life] = []  # since it was last emptied

    def life(self, block: int) -> Life:
        """Return the present life of a block."""
        return block, self.taken.get(block, 0)

    def publish(self, block: int, key: Key) -> None:
        self.keys[self.life(block)] = key
        super().publish(block, key)

    def _forget(self, block: int) -> None:
        self.ended.append(self.life(block))
        self.taken[block] = self.taken.get(block, 0) + 1
        super()._forget(block)


class PublishingReplica(CancellingReplica):
    """A reference replica that keeps its published state."""

    def __init__(self, limits: EngineLimits, latency: IterationLatency):
        super().__init__(limits, latency)
        self.pool: _BlockLives
        self._preemptions = 0
        self._scheduled_since = False  # an iteration, since the last one ended
        self._queue_shown: dict[int, int] = {}  # request id -> tokens to compute
        self._rest_shown: dict[str, int] = {}
        self._computing: list[list[Life]] = []  # by iteration in flight: lives with their last token computed by it
        self._ending: list[list[Life]] = []  # and lives that it ends
        self._cached: set[Life] = set()  # as the last iteration ended
        self._take()

    def _empty_pool(self) -> _BlockLives:
        return _BlockLives(self.limits.num_blocks)

    def published(self) -> Published:
        """Return the published metrics."""
        size = self.limits.block_size
        return Published(
            waiting=len(self._queue_shown),
            waiting_tokens=sum(self._queue_shown.values()),
            waiting_blocks=sum(blocks_for(tokens, size) for tokens in self._queue_shown.values()),
            **self._rest_shown,
        )

    def hit_tokens(self, request: ReferenceRequest) -> int:
        """Return the number of a request's known tokens in blocks cached at the end of the last iteration."""
        if not self.limits.prefix_caching:
            return 0
        size = self.limits.block_size
        held = {self.pool.keys[life] for life in self._cached if life in self.pool.keys}
        hits = 0
        while (hits + 1) * size < request.known_tokens and request.block_key(hits, size) in held:
            hits += 1
        return hits * size

    def _take(self) -> None:
        """Publish the present state, counted from the requests."""
        requests: Any = self.requests.values()
        running = [r for r in requests if r.status == "running"]
        self._queue_shown = {r.id: r.known_tokens for r in requests if r.status == "waiting"}
        context = prefill = 0
        for r in running:
            sampled = r.produced_tokens + r.in_flight_tokens
            left = r.prompt_tokens + sampled - r.computed_tokens
            if sampled > 0 and left <= 1:
                context += r.known_tokens
            else:
                prefill += left
        self._rest_shown = {
            "running": len(running),
            "free_blocks": self.limits.num_blocks - len(self._in_use()),
            "prefill_tokens": prefill,
            "context_tokens": context,
            "preemptions": self._preemptions,
        }

    def _in_use(self) -> set[int]:
        """Return the blocks that are not free, by the requests that hold them."""
        return {block for r in self.requests.values() if r.status == "running" for block in r.blocks}

    # -- changes of the state --------------------------------------------------------------------------

    def advance(self, until_s: float) -> None:
        """Advance, and publish the state if an iteration ended and none has started since."""
        super().advance(until_s)
        if not self._scheduled_since:
            self._take()

    def submit(self, request: ReferenceRequest, now_s: float) -> None:
        """Accept a request, and add it to the published queue."""
        super().submit(request, now_s)
        if request.status == "waiting":
            self._queue_shown[request.id] = request.known_tokens

    def withdraw(self, request: ReferenceRequest, now_s: float) -> None:
        """Remove a waiting request, also from the published queue."""
        super().withdraw(request, now_s)
        self._queue_shown.pop(request.id, None)

    def cancel_copy(self, request: ReferenceRequest, now_s: float) -> bool:
        """Remove one of two copies; the state without one that ran is published if nothing was scheduled since."""
        waits = request.status == "waiting"
        leaves = super().cancel_copy(request, now_s)
        if not waits and not leaves and not self._scheduled_since:
            self._take()
        return leaves

    def rename(self, k: int, other: int) -> None:
        """Let a request have another number, in the published queue, too."""
        super().rename(k, other)
        if k in self._queue_shown:
            self._queue_shown[other] = self._queue_shown.pop(k)

    def clear(self) -> list[ReferenceRequest]:
        """Lose all requests and blocks, and publish that."""
        lost = super().clear()
        self._scheduled_since = False
        self._computing, self._ending, self._cached = [], [], set()
        self._take()
        return lost

    def _preempt(self, victim: ReferenceRequest) -> None:
        super()._preempt(victim)
        self._preemptions += 1

    def _schedule(self) -> bool:
        if self.limits.drops_hopeless:
            self._drop_hopeless()
        if not self._scheduled_since:
            self._take()
        if not super()._schedule():
            return False
        self._scheduled_since = True
        size = self.limits.block_size
        filled: list[Life] = []
        for share in self.in_flight[-1].scheduled:
            request = self.requests[share.id]
            for k in range(share.computed_before // size, (share.computed_before + share.tokens) // size):
                if k < len(request.blocks):
                    filled.append(self.pool.life(request.blocks[k]))
        self._computing.append(filled)
        self._ending.append(self.pool.ended)
        self.pool.ended = []
        return True

    def _apply(self, iteration: Iteration) -> None:
        super()._apply(iteration)
        self._scheduled_since = False
        self._cached |= set(self._computing.pop(0))
        self._cached -= set(self._ending.pop(0))
