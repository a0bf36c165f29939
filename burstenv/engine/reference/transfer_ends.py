"""The two ends of a transfer of KV blocks, in plain Python: what a replica sets aside, hands over and takes in.

* The destination reserves blocks before they are copied. Blocks that it has cached are shared instead.
* A request leaves the batch between two iterations: from the moment that is asked for, no further iteration takes it,
  and it is out when those in flight have ended. Its blocks are held for it.
* A replica that hands requests out takes one out of its batch with the token that follows the prompt, if it did so when
  the iteration was scheduled that brings the token; its blocks are held for it until it decodes elsewhere, or joins the
  batch again to decode here. While a replica holds as many requests as it may run, it admits no more.
* Where tokens move in place of KV blocks, the destination computes their KV in iterations of its own.
* A request joins a batch behind the requests that decode, before those that still compute their prompts. It has the KV
  of all its tokens but the newest, as one that has just decoded.
"""

from __future__ import annotations

from burstenv.engine.reference.published import PublishingReplica
from burstenv.engine.reference.records import EngineLimits, ReferenceRequest, Scheduled
from burstenv.hardware.latency.hinge import IterationLatency

NOT_RUNNING = -1  # id of a share of an iteration without a request of the replica


def kv_tokens(request: ReferenceRequest) -> int:
    """Return the number of tokens of a decoding request whose KV is computed: all but the newest."""
    return request.known_tokens - 1


class TransferringReplica(PublishingReplica):
    """A reference replica that KV blocks leave and come to."""

    def __init__(self, limits: EngineLimits, latency: IterationLatency):
        self.set_aside: dict[int, list[int]] = {}  # by request: blocks reserved for it, or held for it while it is out
        self.held: dict[int, ReferenceRequest] = {}  # those that are out
        super().__init__(limits, latency)

    def clear(self) -> list[ReferenceRequest]:
        """Lose all requests and blocks, those that are set aside too."""
        held = list(self.held.values())
        for request in held:
            request.computed_tokens, request.decodes = 0, False
        self.set_aside, self.held = {}, {}
        self.leaving.clear()
        return [*super().clear(), *held]

    def _in_use(self) -> set[int]:
        return super()._in_use() | {block for blocks in self.set_aside.values() for block in blocks}

    def decoders(self) -> list[ReferenceRequest]:
        """Return the running requests that can leave, in running order."""
        return [r for r in self.running if r.decodes]

    def head(self) -> ReferenceRequest:
        """Return the next request of the queue, which must not be empty."""
        return self._head()

    def next_schedule_s(self, now_s: float) -> float:
        """Return when the replica can schedule an iteration next: now, or when its oldest one in flight ends [s]."""
        return now_s if len(self.in_flight) < self._depth else self.in_flight[0].end_s

    def _may_admit(self) -> bool:
        return super()._may_admit() and len(self.held) < self.limits.max_num_seqs

    # -- the destination -------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether the batch has no room for another request."""
        return len(self.running) >= self.limits.max_num_seqs

    def reserve(self, request: ReferenceRequest, tokens: int, now_s: float, spare_tokens: int = 0) -> int | None:
        """Reserve the blocks for a request's first ``tokens`` tokens, beyond those that are reserved for it.

        Returns:
            The number of tokens that need not be copied, because the blocks were cached; None: too few are free.
            The first reservation leaves the mode's headroom free, and blocks for ``spare_tokens`` tokens.
        """
        size = self.limits.block_size
        blocks = self.set_aside.get(request.id, [])
        hits, headroom = [], 0
        if not blocks:
            headroom = (self.limits.headroom_blocks if self.running else 0) + self._blocks(spare_tokens)
            if self.limits.prefix_caching:
                hits = self.pool.cached_prefix([request.block_key(k, size) for k in range(tokens // size)])
        missing = max(0, self._blocks(tokens) - len(blocks) - len(hits))
        if missing + self.pool.revived(hits) + headroom > self.pool.free:
            return None
        self.pool.share(hits)
        self.set_aside[request.id] = blocks + hits + self.pool.take(missing)
        ended, self.pool.ended = set(self.pool.ended), []
        self._cached -= ended
        for lives in self._computing:
            lives[:] = [life for life in lives if life not in ended]
        self._changed(now_s)
        return len(hits) * size

    def cancel(self, request: ReferenceRequest, now_s: float) -> None:
        """Free the blocks that are set aside for a request."""
        self.pool.release(self.set_aside.pop(request.id, []))
        self.held.pop(request.id, None)
        self._changed(now_s)

    def join(self, request: ReferenceRequest, now_s: float) -> bool:
        """Add a request to the batch with the blocks that are set aside for it; return False if the batch is full."""
        if self.full:
            return False
        place = next((k for k, r in enumerate(self.running) if not r.decodes), len(self.running))
        self._take_in(request, place)
        new = [block for block in request.blocks if not self.pool.is_published(block)]
        self._publish(request, request.computed_tokens)
        self._cached |= {self.pool.life(block) for block in new if self.pool.is_published(block)}
        self._changed(now_s)
        return True

    def chunk(self, computed_tokens: int, tokens: int) -> tuple[int, float]:
        """Return how many of a request's ``tokens`` the replica computes next, in an iteration of their own.

        Returns:
            The number of tokens, and how long it takes at the replica's present pace [s].
        """
        count = min(self.limits.max_num_batched_tokens, tokens - computed_tokens)
        share = Scheduled(NOT_RUNNING, count, computed_tokens, "running", decode=False, samples=False)
        return count, self._duration_s([share])

    # -- the source ------------------------------------------------------------------------------------

    def begin_leaving(self, request: ReferenceRequest) -> float | None:
        """Schedule a request no further; return when it will be out, None for now [s]."""
        self.leaving.add(request.id)
        return self.in_flight[-1].end_s if self.in_flight else None

    def stay(self, request: ReferenceRequest, now_s: float) -> None:
        """Schedule a request again that was leaving."""
        self.leaving.discard(request.id)
        self._changed(now_s)

    def lift_out(self, request: ReferenceRequest, now_s: float) -> None:
        """Take a leaving request out of the batch; its blocks are held."""
        self.running.remove(request)
        self._hold(request)
        self._changed(now_s)

    def _hand_out(self, request: ReferenceRequest) -> None:
        self.running.remove(request)
        self._hold(request)

    def _hold(self, request: ReferenceRequest) -> None:
        self.leaving.discard(request.id)
        del self.requests[request.id]
        request.status = "transferring"
        self.set_aside[request.id] = request.blocks
        self.held[request.id] = request
        request.blocks = []

    def preempt_returning(self, request: ReferenceRequest, now_s: float) -> None:
        """Preempt a request that comes back to a full batch."""
        self._take_in(request, len(self.running))
        self._preempt(request)
        self._changed(now_s)

    def _take_in(self, request: ReferenceRequest, place: int) -> None:
        self.running.insert(place, request)
        self.requests[request.id] = request
        request.status, request.decodes = "running", True
        request.backward_before_s = self.job.backward_s if self.job else 0.0
        request.blocks = self.set_aside.pop(request.id)
        self.held.pop(request.id, None)
        request.computed_tokens = kv_tokens(request)

    def _changed(self, now_s: float) -> None:
        self._wake(now_s)
        if not self._scheduled_since:
            self._take()
