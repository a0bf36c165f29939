"""The compiled encoder of the numbers that :mod:`burstenv.envs.observation.features` documents."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.classes import class_value
from burstenv.cluster.gateway import may_defer
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import DECODE, FLEXIBLE, NO_REQUEST, PREFILL
from burstenv.engine.gateway_log import (
    context_tokens,
    in_flight,
    own_log,
    recent_tpot_s,
    recent_ttft_s,
    since_sent_s,
    unanswered,
    unanswered_tokens,
)
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.envs.observation.advice import observe_advice
from burstenv.envs.observation.arrivals import observe_recent
from burstenv.envs.observation.background import observe_job, observe_training
from burstenv.envs.observation.features import (
    ADVICE,
    ADVISED,
    CLUSTER,
    FORECAST,
    JOB,
    LIMIT,
    LOGGED,
    PREFIX,
    REPLICA,
    REQUEST,
    ROLE,
    TRAINING,
    TURN,
)
from burstenv.envs.observation.groups import PER_GROUP, observe_groups, observe_membership
from burstenv.envs.observation.sessions import observe_prefix, observe_turn
from burstenv.policies.estimates import decode_iteration_s, expected_ttft_s, fits, ttft_left_s
from burstenv.policies.known_load import by_log, by_metrics

G0, Q0, F0 = len(CLUSTER), len(REQUEST), len(REPLICA)
FORECASTS, TURNS, LOGGEDS, PREFIXES, ROLES = len(FORECAST), len(TURN), len(LOGGED), len(PREFIX), len(ROLE)
ADVICES, ADVISEDS, JOBS, TRAININGS = len(ADVICE), len(ADVISED), len(JOB), len(TRAINING)


@kernel
def clip(value):
    """Return a feature within the bounds of all features."""
    return np.float32(min(LIMIT, max(-LIMIT, value)))


@kernel
def _observe_replica(out, at, engine, request, per_tpot_slo, per_ttft_left):
    """Write a replica's own features; products replace divisions by constants."""
    replica, spec = engine.replica, engine.spec
    present = engine.environment.at_gateway != NO_REQUEST
    per_block = spec.per_block
    load = by_metrics(engine)
    demand = load.used_blocks + load.waiting_blocks
    out[at + REPLICA.fits] = 1.0 if not present or fits(engine, request) else 0.0
    out[at + REPLICA.waiting] = clip(load.waiting * (1.0 / 16.0))
    out[at + REPLICA.running] = clip(load.running * (1.0 / 64.0))
    out[at + REPLICA.kv_used] = clip(load.used_blocks * per_block)
    out[at + REPLICA.kv_demand] = clip(demand * per_block)
    out[at + REPLICA.prefill_backlog] = clip(load.backlog_tokens * (1.0 / 4096.0))
    out[at + REPLICA.decode_context] = clip(load.context_tokens * spec.per_cache_token)
    out[at + REPLICA.tpot_ratio] = clip(decode_iteration_s(engine, load) * per_tpot_slo)
    if present:
        own = blocks_of(tokens_to_compute(request), spec.block_size)
        out[at + REPLICA.kv_demand_with] = clip((demand + own) * per_block)
        out[at + REPLICA.ttft_ratio] = clip(expected_ttft_s(engine, load, request) * per_ttft_left)
    else:
        out[at + REPLICA.kv_demand_with] = out[at + REPLICA.kv_demand]
        out[at + REPLICA.ttft_ratio] = 0.0
    out[at + REPLICA.prefill_speed] = clip(spec.prefill_token_s * 1e4)
    out[at + REPLICA.decode_floor] = clip(spec.floor_s * 50.0)
    out[at + REPLICA.kv_capacity] = clip(spec.num_blocks * spec.block_size * (1.0 / 65536.0))
    out[at + REPLICA.preemptions] = clip(replica.seen_preemptions / (16.0 + replica.seen_running))


@outlined
def _observe_log(out, at, engine, request, per_tpot_slo, per_ttft_left):
    """Write what the gateway's own log says of a replica."""
    spec, log = engine.spec, own_log(engine)
    load = by_log(engine)
    demand = load.used_blocks + load.waiting_blocks
    prompts = unanswered(engine, log)
    out[at + LOGGED.in_flight] = clip(in_flight(engine, log) * (1.0 / 64.0))
    out[at + LOGGED.unanswered] = clip(prompts * (1.0 / 16.0))
    out[at + LOGGED.unanswered_tokens] = clip(unanswered_tokens(engine, log) * (1.0 / 4096.0))
    out[at + LOGGED.streaming] = clip((in_flight(engine, log) - prompts) * (1.0 / 64.0))
    out[at + LOGGED.streaming_context] = clip(context_tokens(engine, log) * spec.per_cache_token)
    out[at + LOGGED.recent_ttft] = clip(recent_ttft_s(engine, log))
    out[at + LOGGED.recent_tpot] = clip(recent_tpot_s(engine, log) * 10.0)
    out[at + LOGGED.since_sent] = clip(since_sent_s(engine, log))
    out[at + LOGGED.log_kv_demand] = clip(demand * spec.per_block)
    out[at + LOGGED.log_tpot_ratio] = clip(decode_iteration_s(engine, load) * per_tpot_slo)
    if engine.environment.at_gateway != NO_REQUEST:
        own = blocks_of(tokens_to_compute(request), spec.block_size)
        out[at + LOGGED.log_kv_demand_with] = clip((demand + own) * spec.per_block)
        out[at + LOGGED.log_ttft_ratio] = clip(expected_ttft_s(engine, load, request) * per_ttft_left)
    else:
        out[at + LOGGED.log_kv_demand_with] = out[at + LOGGED.log_kv_demand]
        out[at + LOGGED.log_ttft_ratio] = 0.0


@kernel
def _observe_request(out, at, world, request, left_s):
    """Write the features of the request at the gateway."""
    tokens = request.prompt_tokens + world.gateway.output_weight * request.predicted_tokens
    out[at + REQUEST.present] = 1.0
    out[at + REQUEST.prompt] = clip(request.prompt_tokens * (1.0 / 1000.0))
    out[at + REQUEST.predicted_output] = clip(request.predicted_tokens * (1.0 / 500.0))
    out[at + REQUEST.is_api] = request.class_code == 1
    out[at + REQUEST.ttft_slo] = clip(request.ttft_slo_s * 0.5)
    out[at + REQUEST.tpot_slo] = clip(request.tpot_slo_s * 10.0)
    out[at + REQUEST.ttft_left] = clip(min(1.0, left_s / request.ttft_slo_s))
    out[at + REQUEST.value] = clip(class_value(world, request.class_code) * tokens * (1.0 / 1000.0))
    out[at + REQUEST.may_defer] = 1.0 if may_defer(world, request) else 0.0


@kernel
def observe(world, exchange, elapsed_s):
    """Write the flat observation of one cluster, (G + Q + R F,) float32; ``elapsed_s`` since the last decision."""
    settings, out, links = exchange.settings, exchange.observation, exchange.links
    environment = world.environment
    count, num_modes = world.modes.shape
    per_capacity = 1.0 / settings.capacity_per_s
    out[CLUSTER.rate_fast] = clip(environment.rate_fast_per_s * per_capacity)
    out[CLUSTER.rate_slow] = clip(environment.rate_slow_per_s * per_capacity)
    out[CLUSTER.token_rate] = clip(environment.token_rate_per_s * (per_capacity / 500.0))
    out[CLUSTER.api_share] = clip(environment.api_share)
    out[CLUSTER.deferred] = clip(environment.deferred * (1.0 / 16.0))
    out[CLUSTER.elapsed] = clip(elapsed_s)
    at = G0
    if settings.stale:
        out[at] = clip(max(0.0, environment.now_s - environment.shown_s))  # no decision follows the end
        at += 1
    if settings.forecast:
        observe_recent(out, at, world, settings.capacity_per_s)
        at += FORECASTS
    if settings.background:
        observe_job(out, at, world)
        at += JOBS
    groups = settings.classes + settings.tenants
    if groups > 0:
        observe_groups(out, at, world, settings.classes, settings.tenants)
        at += PER_GROUP * groups

    request_id = environment.at_gateway
    present = request_id != NO_REQUEST
    sessions = settings.sessions
    per_tpot_slo = 10.0
    per_ttft_left = 1.0
    request = world.requests[max(0, request_id)]
    if present:
        left_s = ttft_left_s(environment, request)
        per_tpot_slo = 1.0 / request.tpot_slo_s
        per_ttft_left = 1.0 / max(left_s, 1e-3)
        _observe_request(out, at, world, request, left_s)
        if sessions:
            observe_turn(out, at + Q0, world, links, request_id)
    else:
        for k in range(Q0 + (TURNS if sessions else 0)):
            out[at + k] = 0.0
    at += Q0 + (TURNS if sessions else 0)
    if settings.roles:
        out[at] = environment.placing
        at += 1
    if groups > 0:
        observe_membership(out, at, world, request_id, settings.classes, settings.tenants)
        at += groups
    at_advice = at
    if settings.advised:
        at += ADVICES
    first = at_advised = at

    demand = np.float32(0.0)
    waiting = 0.0
    for r in range(count):
        engine = engine_of(world, r)
        _observe_replica(out, at, engine, request, per_tpot_slo, per_ttft_left)
        demand += out[at + REPLICA.kv_demand]
        waiting += engine.replica.seen_waiting
        at += F0
        if settings.log:
            _observe_log(out, at, engine, request, per_tpot_slo, per_ttft_left)
            at += LOGGEDS
        if sessions:
            if present:
                observe_prefix(out, at, engine, r, links, request_id)
            else:
                for k in range(PREFIXES):
                    out[at + k] = 0.0
            at += PREFIXES
        if settings.roles:
            out[at + ROLE.prefills] = engine.replica.role == PREFILL or engine.replica.role == FLEXIBLE
            out[at + ROLE.decodes] = engine.replica.role == DECODE or engine.replica.role == FLEXIBLE
            out[at + ROLE.has_kv] = environment.placing > 0 and request.replica == r
            at += ROLES
        if settings.background:
            observe_training(out, at, engine)
            at += TRAININGS
        at_advised = at
        if settings.advised:
            at += ADVISEDS
        for m in range(num_modes):
            out[at + m] = 0.0
        out[at + engine.replica.mode] = 1.0
        at += num_modes
    if settings.advised:
        stride = (at - first) // count
        observe_advice(out, at_advice, at_advised - (count - 1) * stride, stride, settings, world)
    per_count = 1.0 / count
    out[CLUSTER.kv_demand_mean] = clip(demand * per_count)
    out[CLUSTER.waiting_mean] = clip(waiting * per_count * (1.0 / 16.0))
