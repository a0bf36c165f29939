"""What becomes of a finished request, compiled: attained or late."""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv.cluster.clients import turn_ended
from burstenv.engine.enums import ATTAINED, LATE


@kernel
def settle_finished(environment, pool, requests, request_id, now_s):
    """Count a request whose last token came out at ``now_s`` as attained or late."""
    request = requests[request_id]
    request.finish_s = now_s
    request.produced_tokens = request.target_tokens
    first_in_time = request.first_token_s - request.arrival_s <= request.ttft_slo_s
    environment.settled_s += now_s
    gaps = request.target_tokens - 1
    if first_in_time and (gaps == 0 or now_s - request.first_token_s <= request.tpot_slo_s * gaps):
        request.status = ATTAINED
        environment.attained += 1
        environment.attained_weight += request.weight
        environment.attained_by_class[request.class_code] += 1
        environment.attained_tokens += request.prompt_tokens + request.output_tokens
    else:
        request.status = LATE
        environment.late += 1
        if first_in_time:
            environment.first_in_time_late += 1
    if environment.closed_loop:
        turn_ended(environment, pool, requests, request_id, now_s, True)
