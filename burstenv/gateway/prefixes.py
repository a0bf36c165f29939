"""Which KV blocks each engine has cached, by its KV events or, without them, by what it was sent.

A prompt is known by the *keys* of its full blocks. A block's key covers its tokens and all tokens before it, so equal
keys mean equal prompts up to there, as in vLLM's own prefix cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence
from typing import Protocol

ROOT = 0  # the key before a prompt's first block
REMEMBERED = 100_000  # blocks whose numbers are surely remembered

Hash = int | bytes


def block_keys(ids: Sequence[int], block_size: int, parent: int = ROOT) -> list[int]:
    """Return the keys of the full blocks of a prompt's token ids, after the block ``parent``."""
    keys = []
    for begin in range(0, len(ids) - block_size + 1, block_size):
        parent = hash((parent, *ids[begin : begin + block_size]))
        keys.append(parent)
    return keys


class CachedBlocks(Protocol):
    """The cached blocks of one engine."""

    def hits(self, keys: Sequence[int]) -> int:
        """Return how many of a prompt's first blocks are cached."""
        ...

    def note_sent(self, keys: Sequence[int]) -> None:
        """Note that a prompt was sent to the engine."""
        ...

    def clear(self) -> None:
        """Forget all blocks."""
        ...


def _leading(keys: Sequence[int], known: Container[int]) -> int:
    for count, key in enumerate(keys):
        if key not in known:
            return count
    return len(keys)


class ReportedBlocks:
    """What an engine's KV events say.

    Args:
        block_size: Tokens of a block.
    """

    def __init__(self, block_size: int):
        self._block_size = block_size
        self._keys: dict[Hash, int] = {}  # by the engine's own hash
        self._copies: dict[Hash, int] = {}  # an engine may hold several blocks of one hash
        self._known: dict[int, int] = {}  # key -> hashes of it
        self.unknown = 0  # stored blocks whose parent was not heard of

    def __len__(self) -> int:
        return len(self._keys)

    def hits(self, keys: Sequence[int]) -> int:
        """Return how many of a prompt's first blocks are cached."""
        return _leading(keys, self._known)

    def note_sent(self, keys: Sequence[int]) -> None:
        """Ignore it: the engine tells by itself what it keeps."""

    def stored(self, hashes: Sequence[Hash], parent: Hash | None, ids: Sequence[int]) -> None:
        """Note stored blocks, one after another, with the token ids of all."""
        before = ROOT if parent is None else self._keys.get(parent)
        if before is None or len(ids) != len(hashes) * self._block_size:
            self.unknown += len(hashes)
            return
        for name, key in zip(hashes, block_keys(ids, self._block_size, before), strict=True):
            if name in self._keys:
                self._copies[name] += 1
                continue
            self._keys[name], self._copies[name] = key, 1
            self._known[key] = self._known.get(key, 0) + 1

    def removed(self, hashes: Sequence[Hash]) -> None:
        """Note blocks that were taken for other tokens."""
        for name in hashes:
            if name not in self._keys:
                continue
            self._copies[name] -= 1
            if self._copies[name] > 0:
                continue
            del self._copies[name]
            key = self._keys.pop(name)
            self._known[key] -= 1
            if self._known[key] == 0:
                del self._known[key]

    def clear(self) -> None:
        """Forget all blocks."""
        self._keys.clear()
        self._copies.clear()
        self._known.clear()


class SentBlocks:
    """What an engine was sent, the latest first: an estimate, for engines without KV events.

    Answers are not in it, nor what other gateways sent.

    Args:
        capacity: KV blocks of the engine.
    """

    def __init__(self, capacity: int):
        self._capacity = capacity
        self._keys: OrderedDict[int, None] = OrderedDict()

    def hits(self, keys: Sequence[int]) -> int:
        """Return how many of a prompt's first blocks are likely to be cached."""
        return _leading(keys, self._keys)

    def note_sent(self, keys: Sequence[int]) -> None:
        """Note that a prompt was sent to the engine: its last blocks are lost first, as in the engine."""
        for key in reversed(keys):
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def clear(self) -> None:
        """Forget all blocks."""
        self._keys.clear()


class BlockNumbers:
    """Small numbers for block keys, for the log: prompts that begin alike begin with the same numbers.

    The last ``REMEMBERED`` blocks keep their numbers; one that comes back after that is numbered anew.
    """

    def __init__(self) -> None:
        self._new: dict[int, int] = {}
        self._old: dict[int, int] = {}
        self._next = 0

    def runs(self, keys: Sequence[int]) -> list[list[int]]:
        """Return the numbers of a prompt's blocks as runs [first, count]."""
        runs: list[list[int]] = []
        for key in keys:
            number = self._new.get(key)
            if number is None:
                number = self._old.get(key)
                if number is None:
                    number, self._next = self._next, self._next + 1
                self._new[key] = number
            if runs and number == runs[-1][0] + runs[-1][1]:
                runs[-1][1] += 1
            else:
                runs.append([number, 1])
        if len(self._new) > REMEMBERED:
            self._old, self._new = self._new, {}
        return runs
