"""How a request ends, compiled: the only place that writes a final status, its time and the counts of outcomes."""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel
from burstenv.engine.enums import ABANDONED, ATTAINED, LATE, LENGTH_CAPPED, REJECTED


@kernel
def settle(environment, request, status, now_s):
    """End a request with a final status at ``now_s``."""
    request.status = status
    request.finish_s = now_s
    environment.settled_s += now_s
    if status == ATTAINED:
        environment.attained += 1
        environment.attained_weight += request.weight
        environment.attained_by_class[request.class_code] += 1
        environment.attained_tokens += request.prompt_tokens + request.output_tokens
        return
    if not math.isnan(request.first_token_s) and request.first_token_s - request.arrival_s <= request.ttft_slo_s:
        environment.first_in_time_lost += 1
    if status == LATE:
        environment.late += 1
    elif status == ABANDONED:
        environment.late += 1
        environment.abandoned += 1
    elif status == REJECTED:
        environment.rejected += 1
    else:
        environment.failed += 1
        environment.length_capped += status == LENGTH_CAPPED


@kernel
def settled(environment):
    """Return how many requests have reached their end."""
    return environment.attained + environment.late + environment.rejected + environment.failed
