"""How far an admission rule is from its limit, compiled: the strength of its decision, for agents that correct it."""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import ADMIT
from burstenv.cluster.world import engine_of
from burstenv.engine.enums import NO_REQUEST
from burstenv.policies.admission import (
    CAP,
    DEADLINE,
    EARLY,
    SATURATION,
    THRESHOLD,
    requests_inside,
    saturation,
    size_aware_limit,
)
from burstenv.policies.admission_rules import (
    AIMD,
    EARLY_REJECTION,
    KV_SATURATION,
    KV_THRESHOLD,
    PREDICTED_DEADLINE,
    QUEUE_CAP,
    SIZE_AWARE_KV,
)
from burstenv.policies.estimates import expected_ttft_s, kv_demand, kv_demand_with, ttft_left_s
from burstenv.policies.known_load import load_of

LEAST = 1e-3  # a margin is never nearer to 0, which rounding could cross
WHOLE = 1.0  # of a rule without a limit that moves with the state


@kernel
def _room_in_time(slack, engine, load, request):
    """Return the share of the allowed time that the expected TTFT leaves."""
    allowed_s = slack * ttft_left_s(engine.environment, request)
    return 1.0 - expected_ttft_s(engine, load, request) / allowed_s if allowed_s > 0.0 else -WHOLE


@outlined
def _distance(rule, source, parameters, world, chosen):
    """Return the distance to the rule's limit, in shares of the limit or of the KV cache; the sign is not exact."""
    request, engine = world.requests[world.environment.at_gateway], engine_of(world, chosen)
    if rule == KV_SATURATION:
        return parameters[SATURATION.limit] - saturation(source, parameters, world)
    if rule == AIMD:
        return 1.0 - requests_inside(source, world) / world.memory.concurrency_limit
    load = load_of(engine, source)
    if rule == QUEUE_CAP:
        return 1.0 - load.waiting / parameters[CAP.limit]
    if rule == PREDICTED_DEADLINE:
        return _room_in_time(parameters[DEADLINE.slack], engine, load, request)
    if rule == EARLY_REJECTION:
        return _room_in_time(parameters[EARLY.ttft_slack], engine, load, request)
    if rule == KV_THRESHOLD:
        return parameters[THRESHOLD.limit] - kv_demand(engine, load)
    if rule == SIZE_AWARE_KV:
        limit = size_aware_limit(parameters, request.prompt_tokens, request.predicted_tokens)
        return limit - kv_demand_with(engine, load, request)
    return WHOLE


@kernel
def margin(rule, source, parameters, world, chosen, admission):
    """Return the strength of a decision that an admission rule has just made about a request and its replica.

    Above 0 the rule admits, below 0 it rejects; 1 or -1 for a rule without a limit that moves with the state.
    """
    strength = WHOLE
    if world.environment.at_gateway != NO_REQUEST:
        distance = abs(_distance(rule, source, parameters, world, chosen))
        strength = max(LEAST, distance) if math.isfinite(distance) else WHOLE
    return strength if admission == ADMIT else -strength
