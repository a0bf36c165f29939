"""Records that lie in the arena as numbers, where a cluster needs them: logs, clients, faults, tenants, transfers."""

from __future__ import annotations

import numpy as np

from burstenv.engine.records import record

# What a gateway has logged of a replica, see engine/gateway_log.py: numbers in the arena, one such record for each
# replica and gateway.
REPLICA_LOG = record(
    [
        ("prompt_tokens", "i8"),  # of the requests in flight
        ("unanswered_tokens", "i8"),  # prompt tokens of those without a first token
        ("streamed_tokens", "i8"),  # output tokens of those in flight, less decode_step for each of `decoders`
        ("sent_s", "f8"),  # the last sending
        ("head_s", "f8"),  # the last sending after a time without unanswered prompts
        ("in_flight", "i4"),
        ("unanswered", "i4"),
        ("decoders", "i4"),  # of the fast engine
    ],
    [  # Moving averages (sum of the values, sum of the weights, time of the last one) and decoders held back.
        ("ttft_total", "f8"),
        ("ttft_weight", "f8"),
        ("ttft_at_s", "f8"),
        ("tpot_total", "f8"),
        ("tpot_weight", "f8"),
        ("tpot_at_s", "f8"),
        ("held0", "i4"),  # decoders without a token in the iteration of this even number, or this odd one
        ("held0_at", "i4"),
        ("held1", "i4"),
        ("held1_at", "i4"),
    ],
    [  # What the log said when the metrics were read: last, and those that decisions see.
        ("read_in_flight", "i4"),
        ("read_unanswered", "i4"),
        ("read_unanswered_tokens", "i8"),
        ("read_context_tokens", "i8"),
        ("shown_in_flight", "i4"),
        ("shown_unanswered", "i4"),
        ("shown_unanswered_tokens", "i8"),
        ("shown_context_tokens", "i8"),
    ],
    [  # Requests that the replica lost, where replicas fail; and what health rules remember, see policies/health.py.
        ("failures", "i4"),  # in a row, without a first token between them
        ("failed", "i4"),  # all of them
        ("served", "i4"),  # first tokens
        ("failed_s", "f8"),  # the last one
        ("health", "i4"),  # a state of the rule
        ("until_s", "f8"),  # for which it lasts
        ("swept_s", "f8"),  # the last comparison with the other replicas
        ("failed_before", "i4"),  # numbers as the replica was taken back on trial
        ("served_before", "i4"),
        ("ejections", "i4"),  # one after the other
        ("left_out", "i4"),  # of the present decision
    ],
)

# What is one gateway's own among several, see cluster/seats.py: numbers in the arena, one such record for each gateway.
# The fields of MEMORY and ENVIRONMENT of the same names are those of the gateway that decides.
OWN = np.dtype(
    [
        ("bucket_tokens", "f8"),
        ("bucket_s", "f8"),
        ("concurrency_limit", "f8"),
        ("window_s", "f8"),
        ("rate_fast_per_s", "f8"),
        ("rate_slow_per_s", "f8"),
        ("token_rate_per_s", "f8"),
        ("api_share", "f8"),
        ("rate_s", "f8"),
        ("round_robin", "i4"),
        ("window_first_tokens", "i4"),
        ("window_in_time", "i4"),
        ("deferred", "i4"),
        ("first_tokens", "i4"),  # that it has relayed; those of all gateways are in ENVIRONMENT
        ("first_in_time", "i4"),
    ]
)
assert OWN.itemsize % 8 == 0

# A request's client: numbers in the arena, if any clients do more than send and wait.
CLIENT = np.dtype(
    [
        ("patience_s", "f8"),  # its patience for the first token, at each attempt
        ("think_s", "f8"),  # from the end of the turn before to the sending
        ("sent_s", "f8"),  # when a gateway last sent the request to a replica
        ("next_turn", "i4"),  # number, within the episode, of the request that follows this one; -1: none
        ("kind", "i4"),  # a sum of FOLLOWS, FAILS_UPSTREAM, RESUMED and WATCHED; of a second copy, HEDGES or CANCELLED
        ("attempts", "i4"),  # times it was sent
        ("refusals", "i4"),
        ("generation", "i4"),  # attempts that are over; their events are stale
        ("failovers", "i4"),  # times that it came back from a lost replica
        ("resends", "i4"),  # times that its gateway took it back from a silent one, or sent a second copy of it
        ("unused", "i4"),
    ]
)

# A change of a replica that an episode brings by itself: numbers in the arena, if replicas change.
FAULT = np.dtype(
    [
        ("time_s", "f8"),
        ("duration_s", "f8"),  # of a hang or a slow spell; from a warning to the loss; longest time of draining
        ("detect_s", "f8"),  # until the gateway knows
        ("repair_s", "f8"),  # from then on until it boots; of a spot loss: from the warning on
        ("boot_s", "f8"),
        ("factor", "f8"),  # how many times as long the GPU's part of an iteration takes
        ("replica", "i4"),
        ("kind", "i4"),  # a FaultKind
        ("elsewhere", "i4"),  # where its replica is not active, it hits the next one that is
        ("unused", "i4"),
    ]
)

# The load at a decision about the number of replicas: numbers in the arena, a ring of them, if a cluster is scaled.
SAMPLE = np.dtype(
    [
        ("time_s", "f8"),
        ("request_s", "f8"),  # integral of the requests that are not settled over time
        ("offered", "f8"),  # requests so far
        ("kv_use", "f8"),  # share of the KV blocks in use, mean of the active replicas
        ("asked", "f8"),  # replicas that the rule asked for, before its limits
    ]
)

# A tenant: numbers in the arena, if requests have any. See cluster/flow.py.
TENANT = np.dtype(
    [
        ("weight", "f8"),
        ("lifted", "f8"),  # what lifts after idleness have added to its counter
        ("granted", "f8"),  # service that deficit round robin has granted
        ("prompt_tokens", "i8"),  # of its requests, dispatched
        ("output_tokens", "i8"),  # of its requests, generated
        ("turn", "i8"),  # number of its last dispatch
        ("waiting", "i4"),  # requests in the gateway's queue
        ("chosen", "i4"),  # it has a request that may be dispatched now
    ]
)

# One transfer of KV blocks: numbers in the arena.
TRANSFER = np.dtype(
    [
        ("due_s", "f8"),  # its next step
        ("left_s", "f8"),  # when the request left the batch
        ("left_bytes", "f8"),  # of the stage, at `since_s`
        ("since_s", "f8"),
        ("byte_s", "f8"),  # time that each takes since then
        ("until_s", "f8"),  # then it is given up; infinity: no longer
        ("phase", "i4"),  # a Phase of cluster/transfer_config.py
        ("request", "i4"),
        ("source", "i4"),
        ("destination", "i4"),
        ("preemptions", "i4"),  # of the request, at the begin
        ("stage", "i4"),
        ("last", "i4"),  # the request stands still
        ("sent_tokens", "i4"),  # at the destination, or on their way
        ("reserved_blocks", "i4"),
        ("reserved_place", "i4"),  # their slot among the sequences of the destination; -1: none
        ("held_blocks", "i4"),
        ("held_place", "i4"),  # likewise at the source
        ("hand_over", "i4"),  # of a prefilled request
        ("computed_tokens", "i4"),  # by tokens: at the destination, of `sent_tokens`
        ("chunk_tokens", "i4"),  # that it computes now
    ]
)
FOLLOWS = 1  # it is sent at the end of the turn before
FAILS_UPSTREAM = 2  # its first attempt does not reach the gateway
RESUMED = 4  # it was sent with a part of its answer streamed before, by a replica that was lost
WATCHED = 8  # a SILENCE of it is foreseen
HEDGES = 16  # a second copy, and neither has brought a token
CANCELLED = 32  # a second copy that leaves its replica as the iteration in flight ends
