"""Admission rules, compiled: admit the request to the replica that routing chose, or reject it."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import ADMIT, REJECT, takes_requests
from burstenv.cluster.world import engine_of
from burstenv.engine.gateway_log import first_tokens
from burstenv.policies.admission_rules import (
    ADMISSION_RULES,
    AIMD,
    ALWAYS,
    EARLY_REJECTION,
    KV_SATURATION,
    KV_THRESHOLD,
    NEVER,
    PREDICTED_DEADLINE,
    QUEUE_CAP,
    SIZE_AWARE_KV,
    TIER_SHEDDING,
    TOKEN_BUCKET,
)
from burstenv.policies.estimates import (
    expected_ttft_s,
    forecast_iteration_s,
    kv_demand,
    kv_demand_with,
    kv_used,
    outstanding,
    ttft_left_s,
)
from burstenv.policies.known_load import load_of
from burstenv.policies.rule import parameters_of

CAP, _BUCKET, DEADLINE, THRESHOLD, _SIZE, SATURATION, EARLY, _AIMD, _TIER = (
    parameters_of(ADMISSION_RULES, name)
    for name in (
        "queue-cap", "token-bucket", "predicted-deadline", "kv-threshold", "size-aware-kv", "kv-saturation",
        "early-rejection", "aimd", "tier-shedding",
    )
)  # fmt: skip
LATE_SHARE = 0.05  # of a window's first tokens, above which its 95th percentile of TTFT misses the objective


@kernel
def _take_tokens(parameters, world, tokens):
    environment, memory = world.environment, world.memory
    capacity_tokens = parameters[_BUCKET.capacity_tokens]
    if memory.bucket_tokens < 0.0:
        memory.bucket_tokens = capacity_tokens
    else:
        elapsed_s = environment.now_s - memory.bucket_s
        gained = parameters[_BUCKET.refill_tokens_per_s] * elapsed_s
        memory.bucket_tokens = min(capacity_tokens, memory.bucket_tokens + gained)
    memory.bucket_s = environment.now_s
    if memory.bucket_tokens < tokens:
        return False
    memory.bucket_tokens -= tokens
    return True


@kernel
def size_aware_limit(parameters, prompt_tokens, output_tokens):
    """Return the largest KV demand at which size-aware-kv admits a request."""
    tightened = parameters[_SIZE.limit] - parameters[_SIZE.prompt] * prompt_tokens / 1000.0
    return tightened - parameters[_SIZE.output] * output_tokens / 1000.0


@kernel
def saturation(source, parameters, world):
    """Return the mean over the replicas that take requests of max(waiting / `queue`, KV use / `kv`)."""
    count, total = 0, 0.0
    for r in range(len(world.replicas)):
        if takes_requests(world, world.replicas[r]):
            engine = engine_of(world, r)
            load, full = load_of(engine, source), parameters[SATURATION.kv]
            total += max(load.waiting / parameters[SATURATION.queue], kv_used(engine, load) / full)
            count += 1
    return total / count if count > 0 else np.inf


@kernel
def _within_forecast(parameters, engine, load, request):
    """Return whether the TTFT, and the TPOT at the time of the first token, are expected to be in time."""
    ttft_s = expected_ttft_s(engine, load, request)
    if ttft_s > parameters[EARLY.ttft_slack] * ttft_left_s(engine.environment, request):
        return False
    forecast_s = forecast_iteration_s(engine, load, request, ttft_s, parameters[EARLY.decode_s])
    return forecast_s <= parameters[EARLY.tpot_slack] * request.tpot_slo_s


@kernel
def requests_inside(source, world):
    """Return the requests in the cluster, as a source of load knows them."""
    inside = np.int64(0)
    for r in range(len(world.replicas)):
        inside += outstanding(load_of(engine_of(world, r), source))
    return inside


@kernel
def _within_concurrency(source, parameters, world):
    """Return whether the cluster has room under its limit, after moving the limit if a window is over."""
    environment, memory = world.environment, world.memory
    inside, count = requests_inside(source, world), len(world.replicas)
    relayed, relayed_in_time = first_tokens(world)
    if memory.concurrency_limit < 0.0:
        memory.concurrency_limit = parameters[_AIMD.start] * count
        memory.window_s = environment.now_s
    elif environment.now_s >= memory.window_s + parameters[_AIMD.period_s]:
        tokens = relayed - memory.window_first_tokens
        in_time = relayed_in_time - memory.window_in_time
        if tokens - in_time > LATE_SHARE * tokens:
            memory.concurrency_limit = max(float(count), parameters[_AIMD.decrease] * memory.concurrency_limit)
        elif 2.0 * inside >= memory.concurrency_limit:  # a limit that does not bind is no evidence
            memory.concurrency_limit += parameters[_AIMD.increase] * count
        memory.window_s = environment.now_s
        memory.window_first_tokens = relayed
        memory.window_in_time = relayed_in_time
    return inside < memory.concurrency_limit


@kernel
def _keeps_tier(source, parameters, world, request):
    """Return whether the fullest replica leaves room for the request's class."""
    fullest = np.int64(0)
    for r in range(len(world.replicas)):
        fullest = max(fullest, outstanding(load_of(engine_of(world, r), source)))
    lower_tier = request.class_code == parameters[_TIER.shed]
    return fullest <= parameters[_TIER.limit if lower_tier else _TIER.hard_limit]


@outlined
def _accept_otherwise(rule, source, parameters, world, request, chosen):
    """Return whether one of the rules beyond the first seven admits."""
    engine = engine_of(world, chosen)
    if rule == KV_SATURATION:
        return saturation(source, parameters, world) < parameters[SATURATION.limit]
    if rule == EARLY_REJECTION:
        return _within_forecast(parameters, engine, load_of(engine, source), request)
    if rule == AIMD:
        return _within_concurrency(source, parameters, world)
    if rule == TIER_SHEDDING:
        return _keeps_tier(source, parameters, world, request)
    limit = size_aware_limit(parameters, request.prompt_tokens, request.output_tokens)  # ORACLE_SIZE_AWARE_KV
    return kv_demand_with(engine, load_of(engine, source), request) <= limit


@kernel
def admit(rule, source, parameters, world, chosen):
    """Return the admission decision of a rule about the request at the gateway and its chosen replica.

    The rule knows the replicas' load from ``source``.
    """
    environment = world.environment
    request = world.requests[environment.at_gateway]
    engine = engine_of(world, chosen)
    accepted = True
    if rule == NEVER:
        accepted = False
    elif rule == QUEUE_CAP:
        accepted = load_of(engine, source).waiting < parameters[CAP.limit]
    elif rule == TOKEN_BUCKET:
        accepted = _take_tokens(parameters, world, request.prompt_tokens)
    elif rule == PREDICTED_DEADLINE:
        ttft_s = expected_ttft_s(engine, load_of(engine, source), request)
        accepted = ttft_s <= parameters[DEADLINE.slack] * ttft_left_s(environment, request)
    elif rule == KV_THRESHOLD:
        accepted = kv_demand(engine, load_of(engine, source)) <= parameters[THRESHOLD.limit]
    elif rule == SIZE_AWARE_KV:
        limit = size_aware_limit(parameters, request.prompt_tokens, request.predicted_tokens)
        accepted = kv_demand_with(engine, load_of(engine, source), request) <= limit
    elif rule != ALWAYS:
        accepted = _accept_otherwise(rule, source, parameters, world, request, chosen)
    return ADMIT if accepted else REJECT
