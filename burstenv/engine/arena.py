"""How the pool of integers that kernels share with the records is divided: what varies in size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from burstenv.engine.records import CACHE_LINE, NUMBERS_OF_A_SEQUENCE, PHASE_NEXT, PHASE_PREVIOUS


@dataclass(frozen=True)
class PoolLayout:
    """How the integers of one replica lie in the pool, queues apart.

    Attributes:
        block_size: B, [tokens].
        max_num_seqs: S.
        general: Whether any replica runs under the general engine or with prefix caching.
        block_numbers: Integers for blocks and hash buckets; 0 without prefix caching.
        buckets: Hash buckets.
        table_size: Most blocks of one request, with prefix caching.
        clients: Whether clients do more than send and wait.
    """

    block_size: int
    max_num_seqs: int
    general: bool = False
    block_numbers: int = 0
    buckets: int = 1
    table_size: int = 0
    clients: bool = False

    def sizes(self) -> dict[str, int]:
        """Return the length of every section, in order."""
        sequences = self.max_num_seqs if self.general else 0
        return {
            "phase": self.block_size,  # counts
            "finish": 2 * self.max_num_seqs,  # decode steps and request ids in turn
            "flight": 2 * self.max_num_seqs if self.general else 0,  # request ids
            "phase_list": 2 * self.block_size if self.block_numbers else 0,  # request ids
            "block": self.block_numbers,
            "slot": sequences,
            "sequence": sequences * NUMBERS_OF_A_SEQUENCE,
            "table": sequences * self.table_size,
        }

    def offsets(self) -> dict[str, int]:
        """Return where every section begins."""
        ends = np.cumsum(list(self.sizes().values()))
        return {name: int(end) - size for (name, size), end in zip(self.sizes().items(), ends, strict=True)}

    @property
    def fixed(self) -> int:
        """Integers of one replica, whole cache lines of them."""
        return whole_lines(sum(self.sizes().values()))

    def ids(self) -> np.ndarray:
        """Return which of them are request ids, (fixed,) bool."""
        marked = np.zeros(self.fixed, bool)
        offsets = self.offsets()
        marked[offsets["finish"] + 1 : offsets["flight"] : 2] = True
        marked[offsets["flight"] : offsets["block"]] = True
        numbers = marked[offsets["sequence"] : offsets["table"]].reshape(-1, NUMBERS_OF_A_SEQUENCE)
        numbers[:, [PHASE_NEXT, PHASE_PREVIOUS]] = True
        return marked


def whole_lines(integers: int) -> int:
    """Return how many integers there are in the cache lines that hold so many."""
    return -(-integers // (CACHE_LINE // 4)) * (CACHE_LINE // 4)
