"""The state of a batch of clusters: record layouts, with the unit of every field.

Dimensions: ``N`` environments, ``R`` replicas, ``E`` requests of an episode, ``B`` KV block size,
``S`` most sequences a replica may run, ``M`` batching modes. One record per environment, replica and
request, and one pool of integers for what varies in size. Kernels take the four arrays flat, and each
record says where its part of the pool begins: no kernel ever makes a view, and another cluster size
needs no compilation. A request's id is its index in the flat array of all requests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burstenv.cluster.kernel import make_ready
from burstenv.cluster.latency_tables import CONTEXT_KNOTS, DECODE_KNOTS, DENSE_KNOTS, HEAD_KNOTS, PREFILL_KNOTS

# Request status. `offered = attained + late + rejected + failed + pending` at every instant,
# where pending is everything that was sent and is not settled, and late includes the abandoned ones.
UNSEEN = 0  # has not arrived yet
AT_DOOR = 1  # at the front door: being decided about, or deferred
WAITING = 2  # in a replica's waiting queue (new or preempted)
RUNNING = 3  # holds KV blocks
ATTAINED = 4  # finished within both objectives
LATE = 5  # finished, but an objective was missed
REJECTED = 6  # refused by the admission decision
FAILED = 7  # could never be served by the replica it was sent to, or failed before the front door
ABANDONED = 8  # its client's patience ran out before it was served
AWAY = 9  # with its client, who will send it again
UNSENT = 10  # a later turn of a session that is over: never sent, and not offered
STATUS_NAMES = (
    "unseen", "at_door", "waiting", "running", "attained", "late", "rejected", "failed", "abandoned", "away", "unsent",
)  # fmt: skip
SETTLED = (ATTAINED, LATE, REJECTED, FAILED, ABANDONED)  # offered requests at their end

# Queue orders of a batching mode. The last two run in the general engine.
FCFS = 0  # first come, first served; a preempted request goes to the head
SHORTEST_PROMPT = 1
SHORTEST_PREDICTED = 2  # by predicted output tokens
PRIORITY = 4  # vLLM's policy: smaller is more urgent, in admission and, from the other end, in eviction
EARLIEST_DEADLINE = 3  # by the latest start that still meets the TTFT objective; hopeless ones last
LONGEST_PROMPT = 5  # bad on purpose
ORACLE_SHORTEST = 6  # by true output tokens that are left
FAIR = 7  # the client that has been served least (VTC)
MLFQ = 8  # the highest level of a skip-join multi-level feedback queue
ORDER_NAMES = (
    "fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline", "priority", "longest-prompt",
    "oracle-shortest", "fair", "mlfq",
)  # fmt: skip
FIRST_SCANNED = FAIR  # from here on the queue is a list, and whoever is next is looked for

# What shares an iteration.
MIXED = 0  # decodes, and chunks of prompts
PREFILL_FIRST = 1  # whole prompts alone while any can be admitted, decodes otherwise
WHOLE_PROMPTS = 2  # decodes, and whole prompts
BATCH_NAMES = ("mixed", "prefill-first", "whole-prompts")

# How much KV cache an admission looks for.
AS_NEEDED = 0  # what the prompt takes
PROJECTED = 1  # what all running requests will hold at every time that one of them ends
RESERVED = 2  # the most outputs that anybody may have
ORACLE_PROJECTED = 3  # the same with true lengths
ORACLE_RESERVED = 4
MEMORY_NAMES = ("as-needed", "projected", "reserved", "oracle-projected", "oracle-reserved")

CLIENT_NAMES = ("class", "session")  # who is served fairly
CLIENTS = 16  # counters of a replica; sessions share the first 15 by number modulo 15

NOBODY = -1  # no request
SEEN_FIELDS = 8  # numbers of a replica that decisions see
SEEN_FREE_BLOCKS = 2  # the place of one of them
HORIZONS_S = (1.0, 10.0, 60.0)  # of the recent arrival counts
BINS = 60  # whole seconds over which the Fano factor of arrivals is taken


CACHE_LINE = 64  # [bytes]


def _record(*groups: list[tuple[Any, ...]], line: int = CACHE_LINE) -> np.dtype:
    """Return an aligned record type without hidden padding, so that equal states are equal bytes.

    Each group, of fields that are looked at together, takes whole cache lines of its own.
    """
    fields: list[tuple[Any, ...]] = []
    for k, group in enumerate(groups):
        ordered = sorted(group, key=lambda field: -np.dtype(field[1]).itemsize)  # of one element, in arrays too
        size = np.dtype(ordered).itemsize
        fields += ordered + ([(f"unused{k}", "i1", (-size % line,))] if size % line else [])
    return np.dtype(fields, align=True)


ENTRY = 3  # integers of an entry of a heap of requests: its key, which takes two, and the id
ENTRY_ID = 2  # the place of the id among them

REQUEST = _record(
    [  # One cache line: what the trace says, what decides whether it is attained, and where the engine stands with it.
        ("arrival_s", "f8"),
        ("first_token_s", "f8"),  # NaN until then
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),  # true length: hidden from policies that are not privileged
        ("predicted_tokens", "f4"),  # predicted output length
        ("ttft_slo_s", "f4"),
        ("tpot_slo_s", "f4"),
        ("weight", "f4"),  # worth of an attained request under the weighted reward
        ("target_tokens", "i4"),  # output tokens after the clamp to the model length
        ("produced_tokens", "i4"),  # outputs so far (while decoding: at the start of decoding)
        ("computed_tokens", "i4"),  # KV tokens; while decoding: that number minus the replica's decode_step
        ("next", "i4"),  # linked lists: waiting (fcfs) and running (admission order)
        ("previous", "i4"),
        ("replica", "i2"),
        ("class_code", "i1"),
        ("status", "i1"),
    ],
    [  # Another: what is written down once, and what few engines need.
        ("first_scheduled_s", "f8"),  # NaN until then
        ("finish_s", "f8"),
        ("session", "i4"),
        ("preemptions", "i4"),
        ("recomputed_tokens", "i4"),  # computed tokens lost at preemptions
        ("cached_tokens", "i4"),  # prefix hit at the first admission, -1 until then
        ("place", "i4"),  # which of the replica's sequences, while it runs under the general engine or with caching
        ("priority", "i4"),  # smaller is more urgent
        ("stream", "i4"),  # number of the token stream that prompt and outputs are read off
        ("prefix_stream", "i4"),  # the stream of the first `prefix_tokens` tokens
        ("prefix_tokens", "i4"),
        ("defers", "i1"),
        ("decoding", "i1"),  # running, with all known tokens but the newest computed
        ("demoted", "i1"),  # in the queue of hopeless requests
        ("in_flight_tokens", "i1"),  # sampled, and not back yet (general engine)
    ],
)
assert REQUEST.itemsize == 2 * CACHE_LINE  # and 10 million of them in 1.3 GB

# What is known of a running request under the general engine or with prefix caching: numbers in the pool.
PHASE_NEXT, PHASE_PREVIOUS = 0, 1  # decoders of one phase, in order of admission: request ids
STEP_TOKENS = 2  # share of the iteration being scheduled
BLOCKS = 3  # KV blocks held
ADMISSION = 4  # number of its admission
NUMBERS_OF_A_SEQUENCE = 5

REPLICA = _record(
    [  # What every decision looks at.
        ("wake_s", "f8"),  # until then nothing happens but the ordinary iterations of a stretch
        ("iteration_end_s", "f8"),  # of the iteration in flight
        ("clock_s", "f8"),  # the last iteration boundary
        ("in_flight", "i1"),  # iterations scheduled and not applied yet
        ("under_way", "i1"),  # a decode iteration has started at the clock that nothing has been noted of yet
        ("general", "i1"),  # served by cluster/general.py
        ("stretch_steps", "i8"),  # its length; 0: none is open
        ("stretch_done", "i8"),  # of those, committed
        ("stretch_first_s", "f8"),  # duration of its first iteration
        ("stretch_growth_s", "f8"),  # by which each is longer than the one before
        ("busy_s", "f8"),  # an open stretch not included
        ("gpus", "i4"),
        ("latency_kind", "i4"),  # HINGE or TABLES of cluster/latency.py
        ("h0_s", "f8"),
        ("h1_s", "f8"),
        ("h2_s", "f8"),
        ("h3_s", "f8"),
        ("h4_s", "f8"),
        ("h5_s", "f8"),
        ("per_iteration_s", "f8"),
        ("per_sequence_s", "f8"),
        ("prefill_token_s", "f8"),  # what a prefill token adds to a large iteration
        ("floor_s", "f8"),  # the shortest iteration
        ("num_blocks", "i4"),
        ("per_block", "f8"),  # 1 / num_blocks
        ("per_cache_token", "f8"),  # 1 / (num_blocks block_size)
        ("block_size", "i4"),
        ("max_model_len", "i4"),  # [tokens]
        ("mode", "i4"),
        ("mode_since_s", "f8"),
        ("token_budget", "i4"),  # max_num_batched_tokens
        ("seen_waiting", "i4"),
        ("seen_running", "i4"),
        ("seen_free_blocks", "i4"),
        ("seen_prefill_tokens", "i4"),  # left to compute of the request in mid-prefill
        ("seen_waiting_tokens", "i8"),
        ("seen_waiting_blocks", "i8"),
        ("seen_context_tokens", "i8"),
        ("seen_preemptions", "i8"),
    ],
    [  # What every iteration looks at.
        ("stretch_from_s", "f8"),  # the clock at its beginning
        ("stretch_end_s", "f8"),
        ("stretch_demotion_s", "f8"),  # when the head of the queue turns hopeless
        ("stretch_free_blocks", "i4"),  # at its beginning
        ("free_blocks", "i4"),
        ("running", "i4"),
        ("decoding", "i4"),
        ("decode_step", "i8"),  # decode iterations done, the clock of the finish heap
        ("decode_context_tokens", "i8"),  # context the next decode iteration reads, all decoders
        ("running_head", "i4"),
        ("running_tail", "i4"),
        ("admissions", "i4"),
        ("prefill_id", "i4"),  # the request in mid-prefill; always the tail of `running`
        ("flight_first_prefill", "i4"),  # first prefilling request in flight; the rest follow it in `running`
        ("waiting", "i4"),
        ("waiting_head", "i4"),
        ("waiting_tail", "i4"),
        ("live_heap_size", "i4"),
        ("hopeless_heap_size", "i4"),
        ("waiting_tokens", "i8"),  # tokens to compute for the queue
        ("waiting_blocks", "i8"),  # blocks the queue will take when admitted
        ("blocked", "i1"),  # the head of the queue was refused and nothing has changed since
        ("iterations", "i8"),
        ("preemptions", "i8"),
        ("used_block_s", "f8"),  # integral of the KV blocks in use over time
        ("most_used_blocks", "i4"),
        ("phase_base", "i8"),  # B counts: decoders by (KV tokens - decode_step) modulo the block size
        ("finish_base", "i8"),  # heap of decoders, by the decode step at which they finish: steps and ids in turn
        ("live_base", "i8"),  # heap of waiting requests
        ("hopeless_base", "i8"),  # another, which grows towards it from the end of the same stretch
        ("max_num_seqs", "i4"),
        ("order", "i4"),
        ("headroom_blocks", "i4"),  # blocks kept free at admission while anything runs (watermark)
        ("drops_hopeless", "i1"),
        ("reserve_full_prompt", "i1"),  # admit only if the whole prompt fits, not just its first chunk
        ("validate_requests", "i1"),  # refuse what leaves no room for an output, cut outputs at the model length
        ("prefix_caching", "i1"),
    ],
    [  # The rest.
        # tables, as in cluster/latency_tables.py: knots used, their places, the values there [s].
        ("dense_knots", "i4"),
        ("dense_tokens", "f8", (DENSE_KNOTS,)),
        ("dense_s", "f8", (DENSE_KNOTS,)),
        ("dense_beyond_s", "f8"),  # per token above the last knot
        ("head_knots", "i4"),
        ("head_sequences", "f8", (HEAD_KNOTS,)),
        ("head_s", "f8", (HEAD_KNOTS,)),
        ("prefill_knots", "i4"),
        ("prefill_tokens", "f8", (PREFILL_KNOTS,)),
        ("prefill_base_s", "f8", (PREFILL_KNOTS,)),
        ("prefill_context_s", "f8", (PREFILL_KNOTS,)),  # per token of A / P
        ("decode_knots", "i4"),
        ("decode_sequences", "f8", (DECODE_KNOTS,)),
        ("decode_base_s", "f8", (DECODE_KNOTS,)),
        ("decode_context_s", "f8", (DECODE_KNOTS,)),  # per token of K
        ("mixed_knots", "i4"),
        ("mixed_decodes", "f8", (DECODE_KNOTS,)),
        ("mixed_prefill_s", "f8", (DECODE_KNOTS,)),  # per prefill token
        ("mixed_context_knots", "i4"),
        ("mixed_context_tokens", "f8", (CONTEXT_KNOTS,)),  # of K / D
        ("mixed_s", "f8", (DECODE_KNOTS * CONTEXT_KNOTS,)),  # row by row, a row for each knot of decodes
        # Where this replica's integers begin in the pool.
        ("phase_list_base", "i8"),  # with prefix caching: B heads, then B tails, of lists of decoders by phase
        # Used by the general engine or with prefix caching: rules, parts of the pool, iterations in flight.
        ("chunked_prefill", "i1"),
        ("depth", "i1"),  # iterations in flight at most: 2 under asynchronous scheduling
        ("long_prefill_threshold", "i4"),  # [tokens], 0: none
        ("flight_base", "i8"),  # ids of the requests that sample in each of the two iterations in flight
        ("flight_size", "i4"),  # S
        ("block_base", "i8"),  # blocks and hash buckets, see cluster/block_table.py
        ("bucket_count", "i4"),
        ("sequence_base", "i8"),  # what is known of each running request, see NUMBERS_OF_A_SEQUENCE
        ("slot_base", "i8"),  # stack of the places among the sequences that are free
        ("free_slots", "i4"),
        ("table_base", "i8"),  # block tables of running requests
        ("table_size", "i4"),
        ("first_flight", "i1"),  # which of the two is the older
        ("flight0_samples", "i4"),
        ("flight1_samples", "i4"),
        ("flight0_end_s", "f8"),
        ("flight1_end_s", "f8"),
        ("busy_until_s", "f8"),
        ("preemptions_without_token", "i4"),
        ("livelocked", "i1"),
        # The batching mode in force.
        ("batch", "i1"),
        ("memory", "i1"),
        ("fair_by", "i1"),
        ("reserve_tokens", "i4"),  # outputs reserved for under RESERVED
        ("deferral_s", "f8"),  # admission waits until somebody has waited so long; 0: it does not
        ("quantum_s", "f8"),  # of the highest level
        ("starve_s", "f8"),  # after so long anybody is of the highest level
        # Waiting queue: a linked list (fcfs), or heaps of live and of hopeless requests.
        ("served_tokens", "f8", (CLIENTS,)),  # under FAIR: prompt tokens + 2 x output tokens, see cluster/scanned.py
        ("last_client", "i4"),  # that left the queue last
        ("admitting", "i1"),  # deferral: admission is open until the queue is empty
        # With stale metrics, in this order of the fields above: as they are, as decisions see them, as last read.
        ("fresh", "i8", (SEEN_FIELDS,)),
        ("shown", "i8", (SEEN_FIELDS,)),
        ("scraped", "i8", (SEEN_FIELDS,)),
        # Shares of the traffic, where an agent sets them: see envs/interval_kernels.py.
        ("routing_weight", "f8"),
        ("routing_credit", "f8"),
    ],
)

ENVIRONMENT = _record(
    [  # What every decision looks at.
        ("first_replica", "i8"),  # index of the first of its replicas
        ("num_replicas", "i4"),  # R
        ("first_request", "i8"),  # id of the first request of its episode
        ("num_requests", "i4"),
        ("door_base", "i8"),  # heap of deferred requests, in the pool
        ("now_s", "f8"),
        ("next_arrival", "i4"),  # id of the first request that has not arrived
        ("at_door", "i4"),  # request being decided about; NOBODY at a tick
        ("deferred", "i4"),  # size of the heap of deferred requests
        ("done", "i1"),
        ("max_defers", "i4"),
        ("batching_period_s", "f8"),  # a replica's mode may change this often
        ("tick_s", "f8"),  # longest time without a decision; infinity: none
        ("last_decision_s", "f8"),
        ("decisions", "i8"),
        ("offered", "i4"),
        ("attained", "i4"),
        ("late", "i4"),
        ("rejected", "i4"),
        ("failed", "i4"),
        ("first_tokens", "i4"),
        ("first_in_time", "i4"),  # of those, within the TTFT objective
        ("first_in_time_late", "i4"),  # of those, finished with TPOT missed
        ("attained_weight", "f8"),
        ("offered_weight", "f8"),
        ("rate_fast_per_s", "f8"),  # requests/s over about 5 s
        ("rate_slow_per_s", "f8"),  # requests/s over about 60 s
        ("token_rate_per_s", "f8"),  # prompt tokens/s over about 5 s
        ("api_share", "f8"),  # of the recent requests
        ("rate_s", "f8"),  # when the averages were last brought up to date
        ("gpus", "i4"),  # of all replicas
        ("class_value", "f8", (2,)),  # worth of a token of each class
        ("attained_by_class", "i4", (2,)),
        ("attained_tokens", "i8"),  # prompt and output
        ("arrived_s", "f8"),  # sum of the arrival times of offered requests
        ("settled_s", "f8"),  # sum of the times at which requests were settled
        ("scrape_period_s", "f8"),  # 0: metrics are always fresh
        ("count_sent", "i1"),  # what was sent since a reading is added to it
        ("veiled", "i1"),  # decisions see the stale metrics at the moment
        ("clients", "i1"),  # whether they do anything but send and wait
        ("closed_loop", "i1"),  # turns of a session follow upon the answer to the turn before
    ],
    [  # The rest.
        # The front door.
        ("defer_s", "f8"),
        # State of the policies that live in the kernel.
        ("rng", "u8"),
        ("round_robin", "i4"),
        ("bucket_tokens", "f8"),
        ("bucket_s", "f8"),
        ("concurrency_limit", "f8"),  # requests; below 0: not set yet
        ("window_s", "f8"),  # since when it has been as it is
        ("window_first_tokens", "i4"),  # and the counts of first tokens then
        ("window_in_time", "i4"),
        # Stale metrics, see cluster/staleness.py.
        ("scrape_delay_s", "f8"),
        ("scrape", "i8"),  # number of the last reading
        ("shown_s", "f8"),  # when what decisions see was read
        # Recent arrivals, brought up to date only for those who look, see envs/forecast.py.
        ("recent", "i4", (len(HORIZONS_S),)),  # first request within each horizon
        ("binned", "i4"),  # requests counted so far in what follows
        ("bin", "i8"),  # the present second
        ("bin_counts", "i4", (BINS + 1,)),  # a ring: arrivals of the present second and of those before
        ("bin_sum", "i8"),  # of the whole seconds
        ("bin_squares", "i8"),
        ("gap_from_s", "f8"),  # the last arrival
        ("gap_mean_s", "f8"),
        ("gap_square", "f8"),  # mean square [s^2]
        # The clients, see cluster/clients.py.
        ("session_goes_on", "i1"),  # after a turn that was not answered, too
        ("retry_after", "i1"),  # of what: a sum of AFTER_... bits
        ("max_retries", "i4"),
        ("retry_base_s", "f8"),
        ("retry_factor", "f8"),
        ("retry_max_s", "f8"),
        ("retry_jitter", "f8"),
        ("horizon_s", "f8"),  # from then on no new request is sent
        ("client_seed", "u8"),
        ("client_base", "i8"),  # a CLIENT for each request, in the pool
        ("coming_base", "i8"),  # heap of requests that will be sent at a known time, in the pool
        ("coming", "i4"),  # its size
        ("patience_base", "i8"),  # heap of requests by the time at which their clients give up, in the pool
        ("impatient", "i4"),  # its size
        ("arrival_base", "i8"),  # requests in the order in which they first came to the front door, in the pool
        ("arrivals", "i4"),  # how many these are
        ("advanced_s", "f8"),  # up to when the replicas were moved, with a closed loop
        ("attempts", "i4"),
        ("refusals", "i4"),
        ("abandoned", "i4"),  # of the late ones
        ("upstream_failed", "i4"),
        ("unsent", "i4"),
        # An admission rate that an agent sets: see envs/interval_kernels.py.
        ("admission_rate_per_s", "f8"),  # infinity: everybody is admitted
        ("admission_credit", "f8"),  # requests that may be admitted at once
        ("credit_s", "f8"),  # when it was last brought up to date
        # A waiting queue that an agent chooses from, in the place of deferred requests: see envs/iteration_kernels.py.
        ("queue_first", "i4"),  # where it begins
        ("queue_size", "i4"),
        ("queue_tokens", "i8"),
        ("queue_blocks", "i8"),
        ("chosen", "i4"),  # for the iteration that is about to begin
    ],
)

# What is known of a request's client: numbers in the pool, where any clients do more than send and wait.
CLIENT = np.dtype(
    [
        ("patience_s", "f8"),  # how long it waits for its first token to be on the way, at each attempt
        ("think_s", "f8"),  # from the end of the turn before to the sending
        ("deadline_s", "f8"),  # when it gives up the present attempt
        ("next_turn", "i4"),  # number, within the episode, of the request that follows upon this one; -1: none
        ("kind", "i4"),  # a sum of FOLLOWS and FAILS_UPSTREAM
        ("attempts", "i4"),  # times it was sent
        ("refusals", "i4"),
        ("place", "i4"),  # in the heap of deadlines; -1: not there
        ("unused", "i4"),
    ]
)
FOLLOWS = 1  # it is sent upon the end of the turn before
FAILS_UPSTREAM = 2  # its first attempt does not reach the front door

# The same names as in REPLICA.
MODE = _record(
    [
        ("token_budget", "i4"), ("max_num_seqs", "i4"), ("order", "i4"), ("headroom_blocks", "i4"), ("batch", "i1"),
        ("memory", "i1"), ("drops_hopeless", "i1"), ("fair_by", "i1"), ("reserve_tokens", "i4"), ("deferral_s", "f8"),
        ("quantum_s", "f8"), ("starve_s", "f8"),
    ],
    line=8,
)  # fmt: skip


# Fields that hold request ids, which shift when the arrays grow.
ID_FIELDS = {
    "environments": ("next_arrival", "at_door"),
    "replicas": (
        "running_head",
        "running_tail",
        "prefill_id",
        "flight_first_prefill",
        "waiting_head",
        "waiting_tail",
    ),
    "requests": ("next", "previous"),
}


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
        return _whole_lines(sum(self.sizes().values()))

    def ids(self) -> np.ndarray:
        """Return which of them are request ids, (fixed,) bool."""
        marked = np.zeros(self.fixed, bool)
        offsets = self.offsets()
        marked[offsets["finish"] + 1 : offsets["flight"] : 2] = True
        marked[offsets["flight"] : offsets["block"]] = True
        numbers = marked[offsets["sequence"] : offsets["table"]].reshape(-1, NUMBERS_OF_A_SEQUENCE)
        numbers[:, [PHASE_NEXT, PHASE_PREVIOUS]] = True
        return marked


def _whole_lines(integers: int) -> int:
    """Return how many integers there are in the cache lines that hold so many."""
    return -(-integers // (CACHE_LINE // 4)) * (CACHE_LINE // 4)


def _zeros(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of zeros that begins with a cache line; its pages are touched only as they are used."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + CACHE_LINE, np.uint8)
    first = -memory.ctypes.data % CACHE_LINE
    return memory[first : first + size].view(dtype).reshape(shape)


def _copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins with a cache line, byte by byte: field by field is far slower."""
    copied = _zeros(array.shape, array.dtype)
    copied.view(np.uint8)[...] = array.view(np.uint8)
    return copied


@dataclass
class ClusterState:
    """All state of ``N`` clusters of ``R`` replicas; every array is owned and contiguous."""

    environments: np.ndarray  # (N,) ENVIRONMENT
    replicas: np.ndarray  # (N, R) REPLICA
    # (N, R fixed + 3 H E + L E + C E) i4: each replica's own integers; H heaps of requests, those of the replicas'
    # queues, of the front door, and of the clients (where they act); L lists of ids and for each request a CLIENT of C
    # integers, likewise.
    pool: np.ndarray
    requests: np.ndarray  # (N, E) REQUEST
    layout: PoolLayout
    ready_in: Any = field(default=None, repr=False, compare=False)  # see kernel.make_ready

    @classmethod
    def allocate(
        cls, num_envs: int, num_replicas: int, num_requests: int, block_size: int, layout: PoolLayout
    ) -> ClusterState:
        """Allocate zeroed state; pages are touched only as they are used."""
        state = cls(
            environments=_zeros((num_envs,), ENVIRONMENT),
            replicas=_zeros((num_envs, num_replicas), REPLICA),
            pool=cls._pool(num_envs, num_replicas, num_requests, layout),
            requests=_zeros((num_envs, num_requests), REQUEST),
            layout=layout,
        )
        state.replicas["block_size"] = block_size
        state.place()
        return state

    @staticmethod
    def _of_each_request(num_replicas: int, layout: PoolLayout) -> tuple[int, int, int]:
        """Return how many heaps and lists of ids the pool holds, and integers for each request beside them."""
        if not layout.clients:
            return num_replicas + 1, 0, 0
        return num_replicas + 2, 2, CLIENT.itemsize // 4

    @classmethod
    def _pool(cls, num_envs: int, num_replicas: int, num_requests: int, layout: PoolLayout) -> np.ndarray:
        heaps, lists, numbers = cls._of_each_request(num_replicas, layout)
        size = num_replicas * layout.fixed + (ENTRY * heaps + lists + numbers) * num_requests
        return _zeros((num_envs, _whole_lines(size)), np.int32)

    def _parts(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        (_, count), length = self.replicas.shape, self.requests.shape[1]
        heaps, lists, numbers = self._of_each_request(count, self.layout)
        rest = self.pool[i, count * self.layout.fixed :]
        a, b = ENTRY * heaps * length, (ENTRY * heaps + lists) * length
        return (
            rest[:a].reshape(heaps, length, ENTRY),
            rest[a:b].reshape(lists, length),
            rest[b : b + numbers * length].view(CLIENT) if numbers else rest[:0].view(CLIENT),
        )

    def heaps(self, i: int) -> np.ndarray:
        """Return the heaps of requests of environment ``i``, a view: of each queue, the front door, the clients.

        Shape (H, E, ENTRY), see :mod:`burstenv.cluster.heap`. A queue has a heap at each end; what lies between means
        nothing.
        """
        return self._parts(i)[0]

    def lists(self, i: int) -> np.ndarray:
        """Return the lists of ids of environment ``i``'s clients, a view, (L, E); behind an end they mean nothing."""
        return self._parts(i)[1]

    def clients(self, i: int) -> np.ndarray:
        """Return what is known of the clients of environment ``i``'s requests, a view, (E,) CLIENT, or (0,)."""
        return self._parts(i)[2]

    def take_pool(self, i: int, other: ClusterState, j: int) -> None:
        """Make environment ``i``'s part of the pool that of another's environment ``j``, of longer episodes or shorter.

        What waits must find room; ids stay as they are.
        """
        fixed = self.replicas.shape[1] * self.layout.fixed
        self.pool[i, :fixed] = other.pool[j, :fixed]
        mine, theirs = self._parts(i), other._parts(j)
        length = min(self.requests.shape[1], other.requests.shape[1])
        mine[0][:, :length] = theirs[0][:, :length]
        for r, size in enumerate(other.replicas[j]["hopeless_heap_size"].tolist()):
            if size > 0:  # these lie at the end
                mine[0][r, -size:] = theirs[0][r, -size:]
        mine[1][:, :length] = theirs[1][:, :length]
        mine[2][:length] = theirs[2][:length]

    def shift_ids(self, i: int, by: int) -> None:
        """Add ``by`` to every request id in environment ``i``'s part of the pool."""
        own = self.pool[i, : self.replicas.shape[1] * self.layout.fixed]
        own += np.int32(by) * (np.tile(self.layout.ids(), self.replicas.shape[1]) & (own != NOBODY))
        self.heaps(i)[..., ENTRY_ID] += by
        lists = self.lists(i)
        lists += by

    def place(self) -> None:
        """Write into every record where its part of the pool, and its requests and replicas, begin."""
        (n, count), num_requests = self.replicas.shape, self.requests.shape[1]
        layout = self.layout
        row = np.arange(n, dtype=np.int64) * self.pool.shape[1]  # (N,)
        r = np.arange(count, dtype=np.int64)
        own = row[:, None] + r * layout.fixed  # (N, R)
        heaps = row[:, None] + count * layout.fixed  # (N, 1)
        for name, offset in layout.offsets().items():
            self.replicas[f"{name}_base"] = own + offset
        self.replicas["flight_size"] = layout.max_num_seqs
        self.replicas["bucket_count"] = layout.buckets
        self.replicas["table_size"] = layout.table_size
        self.replicas["live_base"] = heaps + ENTRY * r * num_requests
        self.replicas["hopeless_base"] = heaps + ENTRY * ((r + 1) * num_requests - 1)
        door_base = heaps[:, 0] + ENTRY * count * num_requests
        self.environments["door_base"] = door_base
        if layout.clients:
            self.environments["coming_base"] = door_base + ENTRY * num_requests
            self.environments["patience_base"] = door_base + 2 * ENTRY * num_requests
            self.environments["arrival_base"] = door_base + (2 * ENTRY + 1) * num_requests
            self.environments["client_base"] = door_base + (2 * ENTRY + 2) * num_requests
        self.environments["num_replicas"] = count
        self.environments["first_replica"] = np.arange(n) * count
        self.environments["first_request"] = np.arange(n) * num_requests

    def arrays(self) -> tuple[np.ndarray, ...]:
        """Return the arrays, flat, in the order in which every kernel takes them, and see that kernels can."""
        make_ready(self)
        return self.environments, self.replicas.reshape(-1), self.pool.reshape(-1), self.requests.reshape(-1)

    def clone(self) -> ClusterState:
        """Return an independent copy, from which the clusters go on exactly alike."""
        return ClusterState(
            _copy(self.environments), _copy(self.replicas), _copy(self.pool), _copy(self.requests), self.layout
        )

    def restore(self, other: ClusterState) -> None:
        """Overwrite this state with a clone of the same shape."""
        for mine, theirs in zip(self.arrays(), other.arrays(), strict=True):
            mine[...] = theirs

    def grow_requests(self, num_requests: int) -> None:
        """Make room for longer episodes; what is there is kept, with its ids shifted."""
        n, old = self.requests.shape
        if num_requests <= old:
            return
        count = self.replicas.shape[1]
        was = ClusterState(self.environments, self.replicas, self.pool, self.requests, self.layout)
        self.requests = _zeros((n, num_requests), REQUEST)
        self.requests.view(np.uint8).reshape(n, -1)[:, : old * REQUEST.itemsize] = was.requests.view(np.uint8).reshape(
            n, -1
        )
        self.pool = self._pool(n, count, num_requests, self.layout)
        shift = np.arange(n) * (num_requests - old)  # (N,) how far each environment's ids move
        for i in range(n):
            self.take_pool(i, was, i)
            self.shift_ids(i, int(shift[i]))
        for name, id_fields in ID_FIELDS.items():
            array = getattr(self, name)
            move = shift.reshape(n, *(1,) * (array.ndim - 1))
            for ids in id_fields:
                array[ids] = np.where(array[ids] == NOBODY, NOBODY, array[ids] + move)
        self.place()
