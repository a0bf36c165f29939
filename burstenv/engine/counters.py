"""The counters of a replica, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import kernel


@kernel
def count_busy(engine, duration_s, free_blocks_before):
    """Count ``duration_s`` of work, with the mean number of blocks in use between its begin and now."""
    replica, spec = engine.replica, engine.spec
    free = replica.free_blocks
    replica.busy_s += duration_s
    replica.used_block_s += duration_s * (spec.num_blocks - 0.5 * (free_blocks_before + free))
    replica.most_used_blocks = max(replica.most_used_blocks, spec.num_blocks - free)
