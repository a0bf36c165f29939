"""Admission rules, compiled: admit the request to the replica that routing chose, or reject it."""

from __future__ import annotations

from burstenv.cluster.frontdoor import ADMIT, REJECT
from burstenv.cluster.kernel import kernel
from burstenv.policies.estimates import expected_ttft_s, kv_demand, kv_demand_with

ALWAYS, NEVER, QUEUE_CAP, TOKEN_BUCKET, PREDICTED_DEADLINE, KV_THRESHOLD, SIZE_AWARE_KV = range(7)


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
        limit = (
            parameters[0]
            - parameters[1] * request.prompt_tokens / 1000.0
            - parameters[2] * request.predicted_tokens / 1000.0
        )
        accepted = kv_demand_with(replica, request) <= limit
    return ADMIT if accepted else REJECT
