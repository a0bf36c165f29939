"""Admission rules, compiled: admit the request to the replica that routing chose, or reject it."""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import ADMIT, REJECT
from burstenv.policies.estimates import (
    expected_ttft_s,
    forecast_iteration_s,
    kv_demand,
    kv_demand_with,
    kv_used,
    outstanding,
)

ALWAYS, NEVER, QUEUE_CAP, TOKEN_BUCKET, PREDICTED_DEADLINE, KV_THRESHOLD, SIZE_AWARE_KV = range(7)
KV_SATURATION, EARLY_REJECTION, AIMD, TIER_SHEDDING, ORACLE_SIZE_AWARE_KV = range(7, 12)

LATE_SHARE = 0.05  # of a window's first tokens, above which its 95th percentile of TTFT misses the objective


@kernel
def _take_tokens(environment, tokens, capacity_tokens, refill_tokens_per_s):
    if environment.bucket_tokens < 0.0:
        environment.bucket_tokens = capacity_tokens
    else:
        elapsed_s = environment.now_s - environment.bucket_s
        environment.bucket_tokens = min(capacity_tokens, environment.bucket_tokens + refill_tokens_per_s * elapsed_s)
    environment.bucket_s = environment.now_s
    if environment.bucket_tokens < tokens:
        return False
    environment.bucket_tokens -= tokens
    return True


@kernel
def _size_aware_limit(parameters, prompt_tokens, output_tokens):
    return parameters[0] - parameters[1] * prompt_tokens / 1000.0 - parameters[2] * output_tokens / 1000.0


@kernel
def _saturation(parameters, environment, replicas):
    """Return the mean over replicas of max(queue / parameter 0, KV use / parameter 1)."""
    total = 0.0
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        replica = replicas[r]
        total += max(replica.seen_waiting / parameters[0], kv_used(replica) / parameters[1])
    return total / environment.num_replicas


@kernel
def _within_forecast(parameters, environment, replica, request):
    """Return whether the TTFT, and the TPOT at the time of the first token, are expected to be in time."""
    left_s = request.arrival_s + request.ttft_slo_s - environment.now_s
    ttft_s = expected_ttft_s(replica, request)
    if ttft_s > parameters[1] * left_s:
        return False
    return forecast_iteration_s(replica, request, ttft_s, parameters[0]) <= parameters[2] * request.tpot_slo_s


@kernel
def _within_concurrency(parameters, environment, replicas):
    """Return whether the cluster has room under its limit, after moving the limit if a window is over."""
    inside = 0
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        inside += outstanding(replicas[r])
    count = environment.num_replicas
    if environment.concurrency_limit < 0.0:
        environment.concurrency_limit = parameters[0] * count
        environment.window_s = environment.now_s
    elif environment.now_s >= environment.window_s + parameters[3]:
        tokens = environment.first_tokens - environment.window_first_tokens
        in_time = environment.first_in_time - environment.window_in_time
        if tokens - in_time > LATE_SHARE * tokens:
            environment.concurrency_limit = max(float(count), parameters[2] * environment.concurrency_limit)
        elif 2.0 * inside >= environment.concurrency_limit:  # a limit that does not bind proves nothing
            environment.concurrency_limit += parameters[1] * count
        environment.window_s = environment.now_s
        environment.window_first_tokens = environment.first_tokens
        environment.window_in_time = environment.first_in_time
    return inside < environment.concurrency_limit


@kernel
def _keeps_tier(parameters, environment, replicas, request):
    """Return whether the fullest replica leaves room for the request's class."""
    fullest = 0
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        fullest = max(fullest, outstanding(replicas[r]))
    sheddable = request.class_code == parameters[1]
    return fullest <= (parameters[0] if sheddable else parameters[2])


@outlined
def _accept_otherwise(rule, parameters, environment, replicas, request, replica):
    """Return whether one of the rules beyond the first seven admits."""
    if rule == KV_SATURATION:
        return _saturation(parameters, environment, replicas) < parameters[2]
    if rule == EARLY_REJECTION:
        return _within_forecast(parameters, environment, replica, request)
    if rule == AIMD:
        return _within_concurrency(parameters, environment, replicas)
    if rule == TIER_SHEDDING:
        return _keeps_tier(parameters, environment, replicas, request)
    limit = _size_aware_limit(parameters, request.prompt_tokens, request.output_tokens)  # ORACLE_SIZE_AWARE_KV
    return kv_demand_with(replica, request) <= limit


@kernel
def admit(rule, parameters, environment, replicas, pool, requests, chosen):
    """Return the admission decision of a rule about the request at the door and the replica chosen for it."""
    request = requests[environment.at_door]
    replica = replicas[environment.first_replica + chosen]
    accepted = True
    if rule == NEVER:
        accepted = False
    elif rule == QUEUE_CAP:
        accepted = replica.seen_waiting < parameters[0]
    elif rule == TOKEN_BUCKET:
        accepted = _take_tokens(environment, request.prompt_tokens, parameters[0], parameters[1])
    elif rule == PREDICTED_DEADLINE:
        left_s = request.arrival_s + request.ttft_slo_s - environment.now_s
        accepted = expected_ttft_s(replica, request) <= parameters[0] * left_s
    elif rule == KV_THRESHOLD:
        accepted = kv_demand(replica) <= parameters[0]
    elif rule == SIZE_AWARE_KV:
        limit = _size_aware_limit(parameters, request.prompt_tokens, request.predicted_tokens)
        accepted = kv_demand_with(replica, request) <= limit
    elif rule != ALWAYS:
        accepted = _accept_otherwise(rule, parameters, environment, replicas, request, replica)
    return ADMIT if accepted else REJECT
