"""KV blocks of the reference engine: what a request holds, what it can share, and the keys that others find."""

from __future__ import annotations

from burstenv.engine.reference.kv_cache import BlockPool
from burstenv.engine.reference.queue import ReferenceQueue
from burstenv.engine.reference.records import ReferenceRequest


class ReferenceBlocks(ReferenceQueue):
    """The part of :class:`burstenv.engine.reference.engine.ReferenceReplica` that gives requests their KV blocks."""

    pool: BlockPool

    def _empty_pool(self) -> BlockPool:
        return BlockPool(self.limits.num_blocks)

    @property
    def free_blocks(self) -> int:
        """Free KV blocks, cached ones included."""
        return self.pool.free

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.limits.block_size)

    def _grow(self, request: ReferenceRequest, tokens: int) -> bool:
        """Give the request the blocks for ``tokens`` tokens, if enough are free."""
        missing = self._blocks(min(tokens, self.limits.max_model_len)) - len(request.blocks)
        if missing > self.pool.free:
            return False
        request.blocks += self.pool.take(max(0, missing))
        return True

    def _cached_prefix(self, request: ReferenceRequest) -> list[int]:
        """Return the cached blocks a request can share; at least one token is always computed."""
        if not self.limits.prefix_caching:
            return []
        size = self.limits.block_size
        return self.pool.cached_prefix([request.block_key(k, size) for k in range((request.known_tokens - 1) // size)])

    def _publish(self, request: ReferenceRequest, tokens: int) -> None:
        """Set the keys of the request's blocks that are full with known tokens."""
        if not self.limits.prefix_caching:
            return
        size = self.limits.block_size
        for index in range(min(tokens, request.known_tokens) // size - 1, -1, -1):
            if self.pool.is_published(request.blocks[index]):
                break
            self.pool.publish(request.blocks[index], request.block_key(index, size))
