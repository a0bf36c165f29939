"""Reset of replicas and requests, compiled."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel
from burstenv.engine.background import reset_background
from burstenv.engine.enums import ACTIVE, BINS, CLIENTS, HORIZONS_S, NO_REQUEST, SEEN_FIELDS, SEEN_FREE_BLOCKS
from burstenv.engine.kv_cache import reset_spans

_BINS = BINS
_HORIZONS = len(HORIZONS_S)


@kernel
def empty_engine(engine):
    """Forget all requests, the KV cache and what the scheduler remembers of them; counters and mode stay."""
    replica, spec, arena = engine.replica, engine.spec, engine.arena
    for k in range(spec.block_size):
        arena[spec.phase_base + k] = 0
    replica.in_flight = 0
    replica.under_way = 0
    replica.run_steps = 0
    replica.blocked = 0
    replica.free_blocks = spec.num_blocks
    replica.running = 0
    replica.decoding = 0
    replica.decode_step = 0
    replica.decode_context_tokens = 0
    replica.running_head = NO_REQUEST
    replica.running_tail = NO_REQUEST
    replica.prefill_id = NO_REQUEST
    replica.flight_first_prefill = NO_REQUEST
    replica.flight_hands_out = 0
    replica.waiting = 0
    replica.waiting_head = NO_REQUEST
    replica.waiting_tail = NO_REQUEST
    replica.live_heap_size = 0
    replica.hopeless_heap_size = 0
    for client in range(CLIENTS):
        replica.served_tokens[client] = 0.0
    replica.last_client = NO_REQUEST
    replica.admitting = 0
    replica.waiting_tokens = 0
    replica.waiting_blocks = 0
    replica.admissions = 0
    replica.ahead = 0
    replica.preemptions_without_token = 0
    replica.leaving = 0
    replica.first_flight = 0
    replica.awaited = 0
    replica.coming_tokens = 0
    replica.flight_sequences = 0
    replica.ending_context = 0
    replica.busy_until_s = 0.0
    replica.reserved_blocks = 0
    replica.held_blocks = 0
    replica.held = 0
    if spec.prefix_caching:
        reset_spans(engine)
    if spec.prefix_caching or spec.general:
        for slot in range(spec.slots):
            arena[spec.slot_base + slot] = slot
        replica.free_slots = spec.slots


@kernel
def reset_replica(engine):
    """Empty the replica and rewind it; its batching mode stays."""
    replica, spec = engine.replica, engine.spec
    empty_engine(engine)
    replica.clock_s = 0.0
    replica.iteration_end_s = 0.0
    replica.wake_s = 0.0
    replica.mode_since_s = -np.inf
    replica.token_budget = engine.limits.token_budget
    replica.iterations = 0
    replica.preemptions = 0
    replica.busy_s = 0.0
    replica.used_block_s = 0.0
    replica.most_used_blocks = 0
    replica.seen_waiting = 0
    replica.seen_running = 0
    replica.seen_free_blocks = spec.num_blocks
    replica.seen_prefill_tokens = 0
    replica.seen_waiting_tokens = 0
    replica.seen_waiting_blocks = 0
    replica.seen_context_tokens = 0
    replica.seen_preemptions = 0
    for k in range(SEEN_FIELDS):
        replica.shown[k] = 0
        replica.scraped[k] = 0
    replica.shown[SEEN_FREE_BLOCKS] = spec.num_blocks
    replica.scraped[SEEN_FREE_BLOCKS] = spec.num_blocks
    replica.ended_iterations = 0
    replica.seen_iterations = 0
    replica.livelocked = 0
    replica.livelock_id = NO_REQUEST
    replica.role = spec.role
    replica.transfers = 0
    replica.freeness = np.inf
    replica.paired = 0
    _reset_status(replica)
    if spec.background:
        reset_background(replica)


@kernel
def _reset_status(replica):
    """Let a replica be active, at its own pace."""
    replica.frozen = 0
    replica.slowdown = 0.0
    replica.status = ACTIVE
    replica.known = ACTIVE
    replica.wanted = 1
    replica.warned = 0
    replica.paid = 1
    replica.generation = 0
    replica.loss_generation = 0
    replica.pace_generation = 0
    replica.boots = 0
    replica.since_s = 0.0
    replica.up_s = 0.0
    replica.paid_s = 0.0
    replica.stopped_s = 0.0
    replica.restart_s = 0.0
    replica.repair_s = 0.0
    replica.boot_s = 0.0
    replica.ready_s = 0.0
    replica.base_pace = 1.0
    replica.spell_pace = 1.0


@kernel
def reset_request(request):
    """Reset the request's outcome."""
    request.status = 0
    request.replica = NO_REQUEST
    request.first_scheduled_s = np.nan
    request.first_token_s = np.nan
    request.finish_s = np.nan
    request.preemptions = 0
    request.recomputed_tokens = 0
    request.defers = 0
    request.decoding = 0
    request.demoted = 0
    request.target_tokens = request.output_tokens
    request.produced_tokens = 0
    request.computed_tokens = 0
    request.cached_tokens = -1
    request.in_flight_tokens = 0
    request.left_at = 0


@kernel
def reset_accounts(world):
    """Clear the data of rewards, stale metrics and the features of recent arrivals."""
    environment = world.environment
    environment.attained_tokens = 0
    environment.arrived_s = 0.0
    environment.settled_s = 0.0
    environment.scrape = -1
    environment.shown_s = 0.0
    environment.veiled = 0
    for k in range(_HORIZONS):
        environment.recent[k] = 0
    environment.binned = 0
    environment.bin = 0
    for k in range(_BINS + 1):
        environment.bin_counts[k] = 0
    environment.bin_sum = 0
    environment.bin_squares = 0
    environment.gap_from_s = 0.0
    environment.gap_mean_s = 0.0
    environment.gap_square = 0.0
