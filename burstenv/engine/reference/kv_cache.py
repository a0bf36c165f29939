"""The KV blocks of one replica with prefix caching, in plain Python (for the reference engine).

Only full blocks are shared. A block's key identifies its tokens and all tokens before them; a freed
block keeps its key until it is taken again: the free list is also the cache. Blocks without a key
are reused first (last freed, first taken), those with one in the order in which they were freed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

Key = Hashable


class BlockPool:
    """Blocks numbered 1 to ``num_blocks``, their keys and reference counts."""

    def __init__(self, num_blocks: int):
        self._free: OrderedDict[int, None] = OrderedDict((block, None) for block in range(1, num_blocks + 1))
        self._references = dict.fromkeys(range(1, num_blocks + 1), 0)
        self._key_of: dict[int, Key] = {}
        self._published: dict[Key, dict[int, None]] = {}  # by key, the blocks that hold it, oldest first

    @property
    def free(self) -> int:
        """Number of free blocks; cached ones count."""
        return len(self._free)

    def cached_prefix(self, keys: Sequence[Key]) -> list[int]:
        """Return the blocks that hold the longest cached run of ``keys`` from the first on."""
        blocks: list[int] = []
        for key in keys:
            if key not in self._published:
                break
            blocks.append(next(iter(self._published[key])))
        return blocks

    def revived(self, blocks: Sequence[int]) -> int:
        """Return the number of ``blocks`` in the free list, which would leave it if shared now."""
        return sum(1 for block in blocks if self._references[block] == 0)

    def share(self, blocks: Sequence[int]) -> None:
        """Give one more request a reference to each of ``blocks``."""
        for block in blocks:
            if self._references[block] == 0:
                del self._free[block]
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """Take ``count`` blocks from the front of the free list; a cached one loses its key."""
        taken = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def publish(self, block: int, key: Key) -> None:
        """Set the key of a full block, by which later requests find it."""
        self._key_of[block] = key
        self._published.setdefault(key, {})[block] = None

    def is_published(self, block: int) -> bool:
        """Return whether the block has a key."""
        return block in self._key_of

    def release(self, blocks: Sequence[int]) -> None:
        """Drop one reference to each of a request's blocks, last block first.

        Blocks without references become free: those without a key go to the front of the
        list as a group, those with one to the back.
        """
        to_front: list[int] = []
        for block in reversed(blocks):
            self._references[block] -= 1
            if self._references[block] > 0:
                continue
            if block in self._key_of:
                self._free[block] = None
            else:
                to_front.append(block)
        for block in reversed(to_front):
            self._free[block] = None
            self._free.move_to_end(block, last=False)

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            holders = self._published[key]
            del holders[block]
            if not holders:
                del self._published[key]
