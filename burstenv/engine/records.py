"""The records that change during an episode, with the unit of every field.

One for each environment, replica, request and client; constants are in :mod:`burstenv.engine.spec`. Fields that are
read together share cache lines. A request's id is its number within the episode.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv.engine.enums import ABORT_CAUSES, BINS, CLIENTS, HORIZONS_S, SEEN_FIELDS

CACHE_LINE = 64  # [bytes]


def record(*groups: list[tuple[Any, ...]], line: int = CACHE_LINE) -> np.dtype:
    """Return an aligned record type without hidden padding: equal states are equal bytes.

    Each group of fields that are read together takes its own whole cache lines.
    """
    fields: list[tuple[Any, ...]] = []
    for k, group in enumerate(groups):
        ordered = sorted(group, key=lambda field: -np.dtype(field[1]).itemsize)  # of one element, in arrays too
        size = np.dtype(ordered).itemsize
        fields += ordered + ([(f"unused{k}", "i1", (-size % line,))] if size % line else [])
    return np.dtype(fields, align=True)


ENTRY = 3  # integers of an entry of a heap of requests: its key, which takes two, and the id
ENTRY_ID = 2  # the position of the id among them
EVENT = 5  # integers of an entry of the event queue: time, which takes two, kind, subject, generation

REQUEST = record(
    [  # One cache line: the trace's fields, those that decide attainment, and the engine's progress.
        ("arrival_s", "f8"),
        ("first_token_s", "f8"),  # NaN until then
        ("prompt_tokens", "i4"),
        ("output_tokens", "i4"),  # true length: hidden from policies that are not privileged
        ("predicted_tokens", "f4"),  # predicted output length
        ("ttft_slo_s", "f4"),
        ("tpot_slo_s", "f4"),
        ("worth", "f4"),  # paid if it is attained, see envs/worth.py
        ("target_tokens", "i4"),  # output tokens after the clamp to the model length
        ("produced_tokens", "i4"),  # outputs so far (while decoding: at the start of decoding)
        ("computed_tokens", "i4"),  # KV tokens; while decoding: that number minus the replica's decode_step
        ("next", "i4"),  # linked lists: waiting (fcfs) and running (admission order)
        ("previous", "i4"),
        ("replica", "i2"),
        ("class_code", "i1"),
        ("status", "i1"),
    ],
    [  # Another: fields written once, and those of few engines.
        ("first_scheduled_s", "f8"),  # NaN until then
        ("finish_s", "f8"),
        ("session", "i4"),
        ("preemptions", "i4"),
        ("recomputed_tokens", "i4"),  # computed tokens lost at preemptions
        ("cached_tokens", "i4"),  # prefix hit at the first admission, -1 until then
        ("place", "i4"),  # its slot among the sequences, while it runs in the general engine or with caching
        ("priority", "i8"),  # smaller is more urgent
        ("stream", "i4"),  # number of the token stream of prompt and outputs
        ("prefix_stream", "i4"),  # the stream of the first `prefix_tokens` tokens
        ("prefix_tokens", "i4"),
        ("defers", "i1"),
        ("decoding", "i1"),  # running, with all known tokens except the newest computed
        ("demoted", "i1"),  # in the queue of hopeless requests
        ("in_flight_tokens", "i1"),  # sampled, and not back yet (on the fast path: of those its end must touch)
        ("left_at", "i4"),  # number of the iteration that last preempted it, or left it out, see engine/iterations.py
    ],
)
assert REQUEST.itemsize == 2 * CACHE_LINE  # and 10 million of them in 1.3 GB

# A running request under the general engine or with prefix caching: numbers in the arena.
STEP_TOKENS = 0  # share of the iteration being scheduled (general engine)
BLOCKS = 1  # KV blocks held (general engine)
ADMISSION = 2  # number of its admission
FOUND_BLOCKS = 3  # KV blocks found cached at that admission
FOUND_SPANS = 4  # their spans, which its table has
FIRST_SPAN, LAST_SPAN = 5, 6  # of the blocks that it computes
CONTESTED = 7  # another running request may compute the same blocks
KEYED_BLOCKS = LAST_SPAN  # in its place while the blocks are set aside, see engine/set_aside.py: those with keys
# Where KV blocks move to other replicas: a token came out since the admission; no further iteration takes it (general
# engine).
DECODES, LEAVES = 8, 9
HANDS_OUT = 10  # likewise: it leaves the batch with the token that follows its prompt
NUMBERS_OF_A_SEQUENCE = 11

REPLICA = record(
    [  # Read by every decision.
        ("wake_s", "f8"),  # until then only ordinary iterations of a decode run take place
        ("iteration_end_s", "f8"),  # of the iteration in flight
        ("clock_s", "f8"),  # the last iteration boundary
        ("in_flight", "i1"),  # iterations scheduled and not applied yet
        ("under_way", "i1"),  # a decode iteration has started at the clock and is not yet recorded
        ("frozen", "i1"),  # it makes no progress: STANDS_STILL or COMPUTES_APART
        ("run_steps", "i8"),  # its length; 0: none is open
        ("run_done", "i8"),  # of those, committed
        ("run_first_s", "f8"),  # duration of its first iteration
        ("run_growth_s", "f8"),  # increase from each iteration to the next
        ("busy_s", "f8"),  # without the open decode run
        ("mode", "i4"),  # the batching mode in force
        ("mode_since_s", "f8"),
        ("token_budget", "i4"),  # max_num_batched_tokens: the mode's, unless an agent sets it
        # The published state, see engine/published.py.
        ("seen_waiting", "i4"),
        ("seen_running", "i4"),
        ("seen_free_blocks", "i4"),
        ("seen_prefill_tokens", "i4"),  # tokens of running requests to compute before they decode
        ("seen_waiting_tokens", "i8"),
        ("seen_waiting_blocks", "i8"),
        ("seen_context_tokens", "i8"),  # prompt and outputs of the running requests that decode
        ("seen_preemptions", "i8"),
        ("seen_iterations", "i8"),  # number of the newest one when it was published; not shown to decisions
    ],
    [  # Read by every iteration.
        ("run_from_s", "f8"),  # the clock at its beginning
        ("run_end_s", "f8"),
        ("run_demotion_s", "f8"),  # time at which the head of the queue turns hopeless
        ("run_free_blocks", "i4"),  # at its beginning
        ("free_blocks", "i4"),
        ("running", "i4"),
        ("decoding", "i4"),
        ("decode_step", "i8"),  # decode iterations done, the clock of the finish heap
        ("decode_context_tokens", "i8"),  # context the next decode iteration reads, all decoders
        ("running_head", "i4"),
        ("running_tail", "i4"),
        ("admissions", "i4"),
        ("prefill_id", "i4"),  # the request in mid-prefill; always the tail of `running`
        ("flight_hands_out", "i1"),  # its requests leave with the token that follows their prompt
        ("flight_first_prefill", "i4"),  # first prefilling request in flight; the rest follow it in `running`
        ("waiting", "i4"),
        ("waiting_head", "i4"),
        ("waiting_tail", "i4"),
        ("live_heap_size", "i4"),
        ("hopeless_heap_size", "i4"),
        ("waiting_tokens", "i8"),  # tokens to compute for the queue
        ("waiting_blocks", "i8"),  # blocks the queue will take when admitted
        ("blocked", "i1"),  # the head of the queue was blocked and nothing has changed since
        ("iterations", "i8"),
        ("preemptions", "i8"),
        ("preemptions_without_token", "i4"),
        ("leaving", "i4"),  # cancelled copies in the batch, see engine/copies.py
        ("livelocked", "i1"),
        ("used_block_s", "f8"),  # integral of the KV blocks in use over time
        ("most_used_blocks", "i4"),
        # Prefix caching, see engine/kv_cache.py.
        ("cached_blocks", "i4"),  # free ones with a key
        ("contested", "i4"),  # running requests
        ("spans", "i4"),  # used so far
        ("unused_span", "i4"),  # first of those that are free to be used again
        ("lost", "i8"),  # spans that lost blocks
        # Asynchronous scheduling, see engine/asynchronous.py; the last two also in the general engine.
        ("awaited", "i4"),  # requests that the end of the older iteration in flight must touch
        ("coming_tokens", "i4"),  # that the newest iteration brings
        ("flight_sequences", "i4"),  # in the newest iteration
        ("ending_context", "i8"),  # context of the running requests with their last token on its way
        ("busy_until_s", "f8"),  # end of the newest iteration
        ("ahead", "i1"),  # nothing has ended since the published state: the present is not published
        ("slowdown", "f8"),  # the GPU's part of an iteration takes this much longer, as a share of it
    ],
    [  # The rest.
        # The general engine, or prefix caching: free places, iterations in flight.
        ("free_slots", "i4"),
        ("first_flight", "i1"),  # which of the two is the older
        ("flight0_samples", "i4"),
        ("flight1_samples", "i4"),
        ("flight0_end_s", "f8"),
        ("flight1_end_s", "f8"),
        ("ended_iterations", "i8"),  # without a share too; not kept by the fast engine if synchronous
        ("livelock_id", "i4"),  # the request preempted last when the livelock was found
        # Fair queueing, see engine/fair_queueing.py.
        ("served_tokens", "f8", (CLIENTS,)),  # under FAIR: prompt tokens + 2 x output tokens
        ("last_client", "i4"),  # that left the queue last
        ("admitting", "i1"),  # deferral: admission is open until the queue is empty
        # With stale metrics, in this order of the fields above: as they are, as decisions see them, as last read.
        ("fresh", "i8", (SEEN_FIELDS,)),
        ("shown", "i8", (SEEN_FIELDS,)),
        ("scraped", "i8", (SEEN_FIELDS,)),
        # KV blocks on the move, see cluster/transfers.py.
        ("reserved_blocks", "i4"),  # for requests that come
        ("held_blocks", "i4"),  # for requests that have left the batch, until they are elsewhere
        ("held", "i4"),  # those requests
        ("role", "i1"),  # what it computes for others: at first that of its specification
        ("transfers", "i4"),  # it takes part in
        ("sending", "i4"),  # copies, and those that it receives: 0 but while they share the bandwidth
        ("receiving", "i4"),
        ("freeness", "f8"),  # when it was last looked at, see cluster/migration.py
        ("paired", "i1"),  # in a migration considered then
        ("full", "i1"),  # a prefilled request has found no free blocks just now, see cluster/hand_overs.py
        # Where replicas fail, start or stop, see cluster/faults/handlers.py.
        ("status", "i1"),
        ("known", "i1"),  # the status that the gateway knows of
        ("wanted", "i1"),  # it is started again after a fault
        ("warned", "i1"),  # of a spot loss
        ("paid", "i1"),  # its time costs
        ("generation", "i4"),  # events of its status that were foreseen before no longer hold
        ("loss_generation", "i4"),  # likewise for the end of a warning or of draining
        ("pace_generation", "i4"),  # and of a slow spell
        ("boots", "i4"),
        ("since_s", "f8"),  # it has had its status
        ("up_s", "f8"),  # time in which it could serve, without the present status
        ("paid_s", "f8"),  # time that costs, likewise
        ("stopped_s", "f8"),  # since when it is frozen
        ("restart_s", "f8"),  # no replacement begins to boot before
        ("repair_s", "f8"),  # from detection to the restart
        ("boot_s", "f8"),  # duration of the next boot
        ("ready_s", "f8"),  # end of the present boot
        ("base_pace", "f8"),  # times by which its GPU is slower than its latency says
        ("spell_pace", "f8"),  # and further times, for a spell
    ],
    [  # Fine-tuning in the slack, see engine/background.py: the job's progress, then the rule in force.
        ("trained_units", "i8"),  # of the job's work, without the steps that run apart
        ("lost_units", "i8"),  # done, and lost with the replica
        ("newest_units", "i8"),  # of the iteration that was scheduled last, and of the one before
        ("older_units", "i8"),
        ("training_from_s", "f8"),  # they began,
        ("training_changed_s", "f8"),  # and something changed last
        ("oldest_s", "f8"),  # arrival of the oldest waiting request; minus infinity: one has run before
        ("training_s", "f8"),  # time of steps apart that are over
        ("job_done_s", "f8"),  # infinity until then
        ("backward_s", "f8"),  # of the backward passes of shared steps
        ("least_backward_s", "f8"),  # before any request of the replica came; it may be more
        ("deferral_bound_s", "f8"),
        ("background_target_s", "f8"),
        ("background_allowance_s", "f8"),
        ("background_tokens", "i4"),
        ("run_shared_tokens", "i4"),  # of each iteration of the open decode run
        ("background_flags", "i1"),
        ("halted", "i1"),  # the replica is not active: no step begins
        ("training", "i1"),  # steps run apart
        ("unservable", "i1"),  # nothing that waits can be scheduled, and nothing has changed since
    ],
)
REPLICA_HOT = REPLICA.fields["flight0_end_s"][1]  # type: ignore[index]  # the bytes before the rest
assert REPLICA_HOT % CACHE_LINE == 0

ENVIRONMENT = record(
    [  # Read by every decision.
        ("num_requests", "i4"),
        ("now_s", "f8"),
        ("next_arrival", "i4"),  # id of the first request that has not arrived
        ("at_gateway", "i4"),  # request at the gateway; NO_REQUEST at a tick
        ("viewer", "i4"),  # which of several gateways decides
        ("deferred", "i4"),  # number of deferred requests
        ("events", "i4"),  # entries of the event queue
        ("ended", "i4"),  # ended turns with a next one, and prefilled requests, that the cluster has not looked at
        ("done", "i1"),
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
        ("first_in_time_lost", "i4"),  # of those, settled without attainment
        ("length_capped", "i4"),  # of the failed: answered, but cut at the model length of the replica
        ("stuck_ticks", "i4"),  # ticks in a row without progress on any replica
        ("attained_worth", "f8"),
        ("offered_worth", "f8"),
        ("in_time_worth", "f8"),  # of first tokens in time, less those settled without attainment
        ("lost_worth", "f8"),  # of requests that cannot be attained any more
        ("rate_fast_per_s", "f8"),  # requests/s over about 5 s
        ("rate_slow_per_s", "f8"),  # requests/s over about 60 s
        ("token_rate_per_s", "f8"),  # prompt tokens/s over about 5 s
        ("api_share", "f8"),  # of the recent requests
        ("rate_s", "f8"),  # time of the averages' last update
        ("attained_tokens", "i8"),  # prompt and output
        ("arrived_s", "f8"),  # sum of the arrival times of offered requests
        ("settled_s", "f8"),  # sum of the times at which requests were settled
        ("veiled", "i1"),  # decisions see the stale metrics at the moment
        ("copies", "i4"),  # second copies of requests on replicas, see cluster/faults/hedges.py
    ],
    [  # The rest.
        # Stale metrics, see cluster/telemetry.py.
        ("scrape", "i8"),  # number of the last reading
        ("shown_s", "f8"),  # time of the reading that decisions see
        # Recent arrivals, updated only for observations with these features, see envs/observation/arrivals.py.
        ("recent", "i4", (len(HORIZONS_S),)),  # first request within each horizon
        ("binned", "i4"),  # requests counted so far in the next fields
        ("bin", "i8"),  # the present second
        ("bin_counts", "i4", (BINS + 1,)),  # a ring: arrivals of the present second and of those before
        ("bin_sum", "i8"),  # of the whole seconds
        ("bin_squares", "i8"),
        ("gap_from_s", "f8"),  # the last arrival
        ("gap_mean_s", "f8"),
        ("gap_square", "f8"),  # mean square [s^2]
        # The clients, see cluster/clients.py.
        ("horizon_s", "f8"),  # from then on no new request is sent
        ("client_seed", "u8"),
        ("arrivals", "i4"),  # requests that have come to the gateway
        ("attempts", "i4"),
        ("refusals", "i4"),
        ("abandoned", "i4"),  # of the late ones
        ("upstream_failed", "i4"),
        ("unsent", "i4"),
        # KV blocks on the move, see cluster/transfers.py.
        ("transfer_s", "f8"),  # their next step; infinity: none
        ("transfer_place", "i4"),  # of that transfer
        ("start_place", "i4"),  # of one whose copy begins before that step, alone; NO_PLACE: none
        ("copying", "i4"),  # under way; without any, the step after the next one is known, too:
        ("second_s", "f8"),
        ("second_place", "i4"),
        ("begun_place", "i4"),  # of the transfer that has begun last
        ("transfers", "i4"),  # under way
        ("migrate_s", "f8"),  # next time that a request may migrate; infinity: none
        ("migrate_number", "i8"),  # of that time
        ("migrating", "i1"),  # the decision is about a migration
        ("migrations_begun", "i4"),
        ("migrations", "i4"),  # of those, done
        ("aborted", "i4", (ABORT_CAUSES,)),  # of those, given up, by cause
        ("moved_bytes", "f8"),
        ("still_s", "f8"),  # sum of the times in which requests stood still
        # Prefilled requests, see cluster/hand_overs.py.
        ("placing", "i1"),  # the decision is about where one decodes
        ("placed", "i4"),  # wait to move
        ("placed_first", "i4"),  # of those, a linked list
        ("placed_last", "i4"),
        ("looks_again", "i1"),  # at a time that is foreseen
        ("handed_over", "i4"),
        ("stayed", "i4"),  # decoded where they were prefilled
        # Faults, see cluster/faults/handlers.py.
        ("num_faults", "i4"),  # rows of the episode
        ("faults", "i4"),  # that hit a replica so far
        ("faulted", "i4"),  # of the failed: requests that a fault ended
        ("failovers", "i4"),  # requests that came back to the gateway from a lost replica
        ("resends", "i4"),  # requests that a gateway took back from a silent replica
        ("hedging", "i1"),  # the decision is about a second copy of the request at the gateway
        ("hedges", "i4"),  # second copies that were sent
        ("hedged_tokens", "i8"),  # that cancelled copies had computed
        ("discarded_tokens", "i8"),  # outputs that were streamed and are generated again
        ("refilled_tokens", "i8"),  # tokens whose KV was lost with a replica
        # The gateway's queue, see cluster/flow.py.
        ("queued", "i4"),  # requests in it
        ("queued_first", "i4"),  # of those, a linked list
        ("queued_last", "i4"),
        ("look_number", "i4"),  # of the look that is foreseen
        ("look_s", "f8"),  # its time; infinity: none is
        ("dispatches", "i8"),
        ("last_tenant", "i4"),  # that a request was dispatched of
        ("oldest", "i4"),  # all requests before this one are settled and counted
        ("fill_tokens", "f8"),  # of best-effort requests in flight
        # The number of replicas, see cluster/scaling.
        ("control", "i8"),  # number of the last decision about it
        ("scaling", "i1"),  # the decision is about it
    ],
)
