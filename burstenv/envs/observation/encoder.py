"""The compiled encoder of the numbers that :mod:`burstenv.envs.observation.features` documents, in the same order."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel
from burstenv.cluster.gateway import may_defer
from burstenv.engine.enums import NOBODY
from burstenv.engine.queues import blocks_of
from burstenv.envs.observation.arrivals import observe_recent
from burstenv.envs.observation.features import (
    CLUSTER_FEATURES,
    FORECAST_FEATURES,
    LIMIT,
    REPLICA_FEATURES,
    REQUEST_FEATURES,
    SESSION_REPLICA_FEATURES,
    SESSION_REQUEST_FEATURES,
)
from burstenv.envs.observation.sessions import observe_prefix, observe_turn
from burstenv.policies.estimates import decode_iteration_s, expected_ttft_s, fits

G0 = len(CLUSTER_FEATURES)
Q0 = len(REQUEST_FEATURES)
F0 = len(REPLICA_FEATURES)
FORECASTS = len(FORECAST_FEATURES)
TURNS = len(SESSION_REQUEST_FEATURES)
PREFIXES = len(SESSION_REPLICA_FEATURES)


@kernel
def _clip(value):
    return np.float32(min(LIMIT, max(-LIMIT, value)))


@kernel
def _observe_replica(out, i, at, replica, request, present, per_tpot_slo, per_ttft_left):
    """Write a replica's own features, divisions by what does not change replaced by products."""
    per_block = replica.per_block
    used = replica.num_blocks - replica.seen_free_blocks
    demand = used + replica.seen_waiting_blocks
    decode_s = decode_iteration_s(replica)
    out[i, at] = 1.0 if not present or fits(replica, request) else 0.0
    out[i, at + 1] = _clip(replica.seen_waiting * (1.0 / 16.0))
    out[i, at + 2] = _clip(replica.seen_running * (1.0 / 64.0))
    out[i, at + 3] = _clip(used * per_block)
    out[i, at + 4] = _clip(demand * per_block)
    out[i, at + 6] = _clip((replica.seen_waiting_tokens + replica.seen_prefill_tokens) * (1.0 / 4096.0))
    out[i, at + 7] = _clip(replica.seen_context_tokens * replica.per_cache_token)
    out[i, at + 8] = _clip(decode_s * per_tpot_slo)
    if present:
        own = blocks_of(request.prompt_tokens, replica.block_size)
        out[i, at + 5] = _clip((demand + own) * per_block)
        out[i, at + 9] = _clip(expected_ttft_s(replica, request) * per_ttft_left)
    else:
        out[i, at + 5] = out[i, at + 4]
        out[i, at + 9] = 0.0
    out[i, at + 10] = _clip(replica.prefill_token_s * 1e4)
    out[i, at + 11] = _clip(replica.floor_s * 50.0)
    out[i, at + 12] = _clip(replica.num_blocks * replica.block_size * (1.0 / 65536.0))
    out[i, at + 13] = _clip(replica.seen_preemptions / (16.0 + replica.seen_running))


@kernel
def observe(out, i, environment, replicas, pool, requests, links, flags, capacity_per_s, elapsed_s):
    """Write the flat observation of one cluster into row ``i`` of ``out``, (N, G + Q + R F) float32.

    Args:
        out: The observations.
        i: Which row.
        environment: The cluster, and this and the next three its state.
        replicas: All replicas.
        pool: What varies in size.
        requests: All requests.
        links: (N E, 2) int32, see ``sessions.turn_links``; anything where session features are off.
        flags: (4,) int64, see ``ObservationLayout.flags``.
        capacity_per_s: Scale of the traffic features.
        elapsed_s: Time since the last decision.
    """
    count = environment.num_replicas
    base = environment.first_replica
    per_capacity = 1.0 / capacity_per_s
    out[i, 0] = _clip(environment.rate_fast_per_s * per_capacity)
    out[i, 1] = _clip(environment.rate_slow_per_s * per_capacity)
    out[i, 2] = _clip(environment.token_rate_per_s * (per_capacity / 500.0))
    out[i, 3] = _clip(environment.api_share)
    out[i, 6] = _clip(environment.deferred * (1.0 / 16.0))
    out[i, 7] = _clip(elapsed_s)
    at = G0
    if flags[0]:
        out[i, at] = _clip(max(0.0, environment.now_s - environment.shown_s))  # nobody decides after the end
        at += 1
    if flags[1]:
        observe_recent(out, i, at, environment, pool, requests, capacity_per_s, LIMIT)
        at += FORECASTS

    request_id = environment.at_door
    present = request_id != NOBODY
    sessions = flags[2]
    per_tpot_slo = 10.0
    per_ttft_left = 1.0
    request = requests[max(0, request_id)]
    if present:
        left_s = request.arrival_s + request.ttft_slo_s - environment.now_s
        per_tpot_slo = 1.0 / request.tpot_slo_s
        per_ttft_left = 1.0 / max(left_s, 1e-3)
        tokens = request.prompt_tokens + request.predicted_tokens
        out[i, at] = 1.0
        out[i, at + 1] = _clip(request.prompt_tokens * (1.0 / 1000.0))
        out[i, at + 2] = _clip(request.predicted_tokens * (1.0 / 500.0))
        out[i, at + 3] = request.class_code
        out[i, at + 4] = _clip(request.ttft_slo_s * 0.5)
        out[i, at + 5] = _clip(request.tpot_slo_s * 10.0)
        out[i, at + 6] = _clip(left_s / request.ttft_slo_s)
        out[i, at + 7] = _clip(environment.class_value[request.class_code] * tokens * (1.0 / 1000.0))
        out[i, at + 8] = 1.0 if may_defer(environment, request) else 0.0
        if sessions:
            observe_turn(out, i, at + Q0, environment, requests, links, request_id)
    else:
        for k in range(Q0 + (TURNS if sessions else 0)):
            out[i, at + k] = 0.0
    at += Q0 + (TURNS if sessions else 0)

    num_modes = flags[3]
    demand = np.float32(0.0)
    waiting = 0.0
    for r in range(count):
        replica = replicas[base + r]
        _observe_replica(out, i, at, replica, request, present, per_tpot_slo, per_ttft_left)
        demand += out[i, at + 4]
        waiting += replica.seen_waiting
        at += F0
        if sessions:
            if present:
                observe_prefix(out, i, at, environment, replica, r, pool, requests, links, request_id)
            else:
                for k in range(PREFIXES):
                    out[i, at + k] = 0.0
            at += PREFIXES
        for m in range(num_modes):
            out[i, at + m] = 0.0
        out[i, at + replica.mode] = 1.0
        at += num_modes
    per_count = 1.0 / count
    out[i, 4] = _clip(demand * per_count)
    out[i, 5] = _clip(waiting * per_count * (1.0 / 16.0))
