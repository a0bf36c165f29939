"""The state of a batch of clusters: record layouts, with the unit of every field.

Dimensions: ``N`` environments, ``R`` replicas, ``E`` requests of an episode, ``B`` KV block size,
``S`` most sequences a replica may run, ``M`` batching modes. One record per environment, replica
and request; only array *shapes* depend on sizes, so another cluster size needs no compilation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

# Request status. `offered = attained + late + rejected + failed + pending` at every instant,
# where pending is everything that arrived and is not settled.
UNSEEN = 0  # has not arrived yet
AT_DOOR = 1  # at the front door: being decided about, or deferred
WAITING = 2  # in a replica's waiting queue (new or preempted)
RUNNING = 3  # holds KV blocks
ATTAINED = 4  # finished within both objectives
LATE = 5  # finished, but an objective was missed
REJECTED = 6  # refused by the admission decision
FAILED = 7  # could never be served by the replica it was sent to
STATUS_NAMES = ("unseen", "at_door", "waiting", "running", "attained", "late", "rejected", "failed")

# Queue orders of a batching mode.
FCFS = 0  # first come, first served; a preempted request goes to the head
SHORTEST_PROMPT = 1
SHORTEST_PREDICTED = 2  # by predicted output tokens
EARLIEST_DEADLINE = 3  # by the latest start that still meets the TTFT objective; hopeless ones last
ORDER_NAMES = ("fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline")

NOBODY = -1  # no request

REQUEST = np.dtype(
    [
        # What the trace says and the scenario adds.
        ("arrival_s", "f8"),
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),  # true length: hidden from policies that are not privileged
        ("predicted_tokens", "f4"),  # predicted output length
        ("ttft_slo_s", "f4"),
        ("tpot_slo_s", "f4"),
        ("weight", "f4"),  # worth of an attained request under the weighted reward
        ("session", "i4"),
        ("class_code", "i1"),
        # What happened.
        ("status", "i1"),
        ("replica", "i2"),
        ("first_scheduled_s", "f8"),  # NaN until then
        ("first_token_s", "f8"),
        ("finish_s", "f8"),
        ("preemptions", "i4"),
        ("recomputed_tokens", "i4"),  # computed tokens lost at preemptions
        ("defers", "i2"),
        # Book-keeping of the engine.
        ("decoding", "i1"),  # running, with all known tokens but the newest computed
        ("demoted", "i1"),  # in the queue of hopeless requests
        ("target_tokens", "i4"),  # output tokens after the clamp to the model length
        ("produced_tokens", "i4"),  # outputs so far (while decoding: derived from `key`)
        ("computed_tokens", "i8"),  # KV tokens; while decoding: that number minus the replica's decode_step
        ("key", "f8"),  # heap key: queue order, finish step, or due time at the front door
        ("heap_position", "i4"),
        ("next", "i4"),  # linked lists: waiting (fcfs) and running (admission order)
        ("previous", "i4"),
    ],
    align=True,
)

REPLICA = np.dtype(
    [
        # Iteration time [s]: max(h0, h1 + h2 (P+D)) + h3 A + h4 K + h5 D + per iteration + per sequence.
        ("h0_s", "f8"),
        ("h1_s", "f8"),
        ("h2_s", "f8"),
        ("h3_s", "f8"),
        ("h4_s", "f8"),
        ("h5_s", "f8"),
        ("per_iteration_s", "f8"),
        ("per_sequence_s", "f8"),
        # Limits of the engine.
        ("num_blocks", "i4"),
        ("block_size", "i4"),
        ("max_model_len", "i4"),  # [tokens]
        ("reserve_full_prompt", "i1"),  # admit only if the whole prompt fits, not just its first chunk
        # The batching mode in force.
        ("mode", "i4"),
        ("mode_since_s", "f8"),
        ("token_budget", "i4"),  # max_num_batched_tokens
        ("max_num_seqs", "i4"),
        ("order", "i4"),
        ("headroom_blocks", "i4"),  # blocks kept free at admission while anything runs (watermark)
        # Time.
        ("clock_s", "f8"),  # the last iteration boundary
        ("iteration_end_s", "f8"),  # of the iteration in flight
        ("in_flight", "i1"),
        ("blocked", "i1"),  # the head of the queue was refused and nothing has changed since
        # KV cache and batch.
        ("free_blocks", "i4"),
        ("running", "i4"),
        ("decoding", "i4"),
        ("decode_step", "i8"),  # decode iterations done, the clock of the finish heap
        ("decode_context_tokens", "i8"),  # context the next decode iteration reads, all decoders
        ("running_head", "i4"),
        ("running_tail", "i4"),
        ("prefill_id", "i4"),  # the request in mid-prefill; always the tail of `running`
        ("finish_heap_size", "i4"),
        ("flight_decodes", "i4"),  # decoders taking part in the iteration in flight
        ("flight_first_prefill", "i4"),  # first prefilling request in flight; the rest follow it in `running`
        # Waiting queue: a linked list (fcfs), or heaps of live and of hopeless requests.
        ("waiting", "i4"),
        ("waiting_head", "i4"),
        ("waiting_tail", "i4"),
        ("live_heap_size", "i4"),
        ("hopeless_heap_size", "i4"),
        ("waiting_tokens", "i8"),  # tokens to compute for the queue
        ("waiting_blocks", "i8"),  # blocks the queue will take when admitted
        # Statistics.
        ("iterations", "i8"),
        ("preemptions", "i8"),
        ("busy_s", "f8"),
        # What a decision may see: the state before the iteration in flight, plus what was sent since.
        ("seen_waiting", "i4"),
        ("seen_running", "i4"),
        ("seen_free_blocks", "i4"),
        ("seen_prefill_tokens", "i4"),  # left to compute of the request in mid-prefill
        ("seen_waiting_tokens", "i8"),
        ("seen_waiting_blocks", "i8"),
        ("seen_context_tokens", "i8"),
        ("seen_preemptions", "i8"),
    ],
    align=True,
)

ENVIRONMENT = np.dtype(
    [
        # The front door.
        ("now_s", "f8"),
        ("num_requests", "i4"),
        ("next_arrival", "i4"),  # index of the first request that has not arrived
        ("at_door", "i4"),  # request being decided about; NOBODY at a tick
        ("deferred", "i4"),  # size of the heap of deferred requests
        ("done", "i1"),
        ("defer_s", "f8"),
        ("max_defers", "i4"),
        ("batching_period_s", "f8"),  # a replica's mode may change this often
        ("tick_s", "f8"),  # longest time without a decision; infinity: none
        ("last_decision_s", "f8"),
        # Outcomes so far.
        ("offered", "i4"),
        ("attained", "i4"),
        ("late", "i4"),
        ("rejected", "i4"),
        ("failed", "i4"),
        ("first_in_time", "i4"),  # first tokens within the TTFT objective
        ("first_in_time_late", "i4"),  # of those, finished with TPOT missed
        ("attained_weight", "f8"),
        ("offered_weight", "f8"),
        ("decisions", "i8"),
        # State of the policies that live in the kernel.
        ("rng", "u8"),
        ("round_robin", "i4"),
        ("bucket_tokens", "f8"),
        ("bucket_s", "f8"),
        # Exponentially weighted recent traffic, seen at arrivals.
        ("rate_fast_per_s", "f8"),  # requests/s over about 5 s
        ("rate_slow_per_s", "f8"),  # requests/s over about 60 s
        ("token_rate_per_s", "f8"),  # prompt tokens/s over about 5 s
        ("api_share", "f8"),  # of the recent requests
        ("rate_s", "f8"),  # when the averages were last brought up to date
        # Sums over decisions, for means in reports.
        ("kv_use_sum", "f8"),
        ("kv_use_max", "f8"),
    ],
    align=True,
)

MODE = np.dtype(
    [("token_budget", "i4"), ("max_num_seqs", "i4"), ("order", "i4"), ("headroom_blocks", "i4")], align=True
)


@dataclass
class ClusterState:
    """All state of ``N`` clusters of ``R`` replicas; every array is owned and contiguous."""

    environments: np.ndarray  # (N,) ENVIRONMENT
    replicas: np.ndarray  # (N, R) REPLICA
    phases: np.ndarray  # (N, R, B) i4: decoders by (KV tokens - decode_step) mod block size
    finish_heaps: np.ndarray  # (N, R, S) i4: decoders by the decode step at which they finish
    queue_heaps: np.ndarray  # (N, R + 1, 2, E) i4: waiting (live, hopeless); [R, 0] is the front door's
    requests: np.ndarray  # (N, E) REQUEST

    @classmethod
    def allocate(
        cls, num_envs: int, num_replicas: int, num_requests: int, block_size: int, max_num_seqs: int
    ) -> ClusterState:
        """Allocate zeroed state; pages are touched only as they are used."""
        return cls(
            environments=np.zeros(num_envs, ENVIRONMENT),
            replicas=np.zeros((num_envs, num_replicas), REPLICA),
            phases=np.zeros((num_envs, num_replicas, block_size), np.int32),
            finish_heaps=np.zeros((num_envs, num_replicas, max_num_seqs), np.int32),
            queue_heaps=np.zeros((num_envs, num_replicas + 1, 2, num_requests), np.int32),
            requests=np.zeros((num_envs, num_requests), REQUEST),
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return the arrays in the order in which every kernel takes them."""
        return tuple(getattr(self, field.name) for field in fields(self))

    def clone(self) -> ClusterState:
        """Return an independent copy, from which the clusters go on exactly alike."""
        return ClusterState(*(array.copy() for array in self.arrays()))

    def restore(self, other: ClusterState) -> None:
        """Overwrite this state with a clone of the same shape."""
        for mine, theirs in zip(self.arrays(), other.arrays(), strict=True):
            mine[...] = theirs

    def grow_requests(self, num_requests: int) -> None:
        """Make room for longer episodes; what is there is kept."""
        old = self.requests.shape[1]
        if num_requests <= old:
            return
        n, replicas_plus_door = self.queue_heaps.shape[:2]
        requests = np.zeros((n, num_requests), REQUEST)
        requests[:, :old] = self.requests
        heaps = np.zeros((n, replicas_plus_door, 2, num_requests), np.int32)
        heaps[..., :old] = self.queue_heaps
        self.requests, self.queue_heaps = requests, heaps
