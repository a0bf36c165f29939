"""What a replica counts and publishes, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import kernel


@kernel
def publish_counts(replica):
    """Publish what decisions see of the queue, the batch and the KV cache: the present counts."""
    replica.seen_waiting = replica.waiting
    replica.seen_running = replica.running
    replica.seen_free_blocks = replica.free_blocks
    replica.seen_waiting_tokens = replica.waiting_tokens
    replica.seen_waiting_blocks = replica.waiting_blocks
    replica.seen_preemptions = replica.preemptions


@kernel
def count_busy(replica, duration_s, free_blocks_before):
    """Count ``duration_s`` of work, with as many blocks in use, in the mean, as between its begin and now."""
    free = replica.free_blocks
    replica.busy_s += duration_s
    replica.used_block_s += duration_s * (replica.num_blocks - 0.5 * (free_blocks_before + free))
    replica.most_used_blocks = max(replica.most_used_blocks, replica.num_blocks - free)
