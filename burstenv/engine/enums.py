"""Codes in records and kernels: states of a request, queue orders, batching rules."""

from __future__ import annotations

# Request status. `offered = attained + late + rejected + failed + pending` at every instant,
# where pending counts all requests sent and not settled, late includes the abandoned ones and failed those whose
# answer was cut.
UNSEEN = 0  # has not arrived yet
AT_GATEWAY = 1  # at the gateway: awaiting a decision, or deferred
WAITING = 2  # in a replica's waiting queue (new or preempted)
RUNNING = 3  # holds KV blocks
ATTAINED = 4  # finished within both objectives
LATE = 5  # finished, but an objective was missed
REJECTED = 6  # rejected by the admission decision
FAILED = 7  # could never be served by the replica it was sent to, or failed before the gateway
ABANDONED = 8  # its client's patience ran out before it was served
AWAY = 9  # with its client, which will send it again
UNSENT = 10  # a later turn of a session that is over: never sent, and not offered
LENGTH_CAPPED = 11  # answered, but the answer was cut at the model length of the replica: not served
TRANSFERRING = 12  # between two batches: the last of its KV blocks are on their way
FAULTED = 13  # its replica failed, and it went on nowhere else
STATUS_NAMES = (
    "unseen", "at_gateway", "waiting", "running", "attained", "late", "rejected", "failed", "abandoned", "away",
    "unsent", "length_capped", "transferring", "faulted",
)  # fmt: skip
SETTLED = (ATTAINED, LATE, REJECTED, FAILED, ABANDONED, LENGTH_CAPPED, FAULTED)  # offered requests at their end

# Replica states.
ACTIVE = 0  # serves
OFF = 1  # costs nothing
BOOTING = 2  # loads the model: no service yet, but it costs
DRAINING = 3  # serves the requests that it has, and takes no others
DOWN = 4  # crashed, hung or lost; the gateway learns of it later
REPLICA_STATE_NAMES = ("active", "off", "booting", "draining", "down")

# Roles of a replica.
MIXED_ROLE = 0  # computes prompts and decodes
PREFILL = 1  # computes prompts: requests decode elsewhere
DECODE = 2  # decodes requests that come prefilled, and whole requests where a rule sends it some
FLEXIBLE = 3  # computes prompts as PREFILL, and decodes requests that come prefilled

# Queue orders of a batching mode. The last two run in the general engine.
FCFS = 0  # first come, first served; a preempted request goes to the head
SHORTEST_PROMPT = 1
SHORTEST_PREDICTED = 2  # by predicted output tokens
PRIORITY = 4  # vLLM's policy: smaller is more urgent, in admission and, from the other end, in eviction
EARLIEST_DEADLINE = 3  # by the latest start that still meets the TTFT objective; hopeless ones last
LONGEST_PROMPT = 5  # bad on purpose
ORACLE_SHORTEST = 6  # by true remaining output tokens
FAIR = 7  # the client with the least service (VTC)
MLFQ = 8  # the highest level of a skip-join multi-level feedback queue
ORDER_NAMES = (
    "fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline", "priority", "longest-prompt",
    "oracle-shortest", "fair", "mlfq",
)  # fmt: skip
FIRST_SCANNED = FAIR  # from here on the queue is a list, searched for the next request

# Composition of an iteration.
MIXED = 0  # decodes, and chunks of prompts
PREFILL_FIRST = 1  # whole prompts alone while any can be admitted, decodes otherwise
WHOLE_PROMPTS = 2  # decodes, and whole prompts
BATCH_NAMES = ("mixed", "prefill-first", "whole-prompts")

# KV cache required at an admission.
AS_NEEDED = 0  # the prompt's blocks
PROJECTED = 1  # the blocks of all running requests at every time that one of them ends
RESERVED = 2  # the greatest possible number of outputs
ORACLE_PROJECTED = 3  # the same with true lengths
ORACLE_RESERVED = 4
MEMORY_NAMES = ("as-needed", "projected", "reserved", "oracle-projected", "oracle-reserved")

CLIENT_NAMES = ("class", "session")  # the units of fairness
CLIENTS = 16  # counters of a replica; sessions share the first 15 by number modulo 15

NO_REQUEST = -1  # no request
NO_PLACE = -1  # no slot among the sequences
LIVELOCK_PREEMPTIONS = 1_000  # this number without a token in between: the real scheduler would also never end
STANDS_STILL, COMPUTES_APART = 1, 2  # why a replica is frozen: crashed or hung, or see cluster/token_rounds.py
ABORT_CAUSES = 7  # see AbortCause of cluster/transfer_config.py
SEEN_FIELDS = 8  # published numbers of a replica
SEEN_FREE_BLOCKS = 2  # the position of one of them
HORIZONS_S = (1.0, 10.0, 60.0)  # of the recent arrival counts
BINS = 60  # whole seconds over which the Fano factor of arrivals is taken
