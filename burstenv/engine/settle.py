"""The outcome of a request after its last token, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv.cluster.clients import turn_ended
from burstenv.engine.enums import ATTAINED, LATE, LENGTH_CAPPED
from burstenv.engine.lifecycle import settle


@kernel
def settle_finished(world, request_id, now_s):
    """Settle a request with its last token at ``now_s``: attained, late, or cut at the model length.

    A request with a cut answer is not served, even if it was fast. Its session still continues.
    """
    gateway, requests = world.gateway, world.requests
    request = requests[request_id]
    request.produced_tokens = request.target_tokens
    status = LATE
    if request.target_tokens < request.output_tokens:
        status = LENGTH_CAPPED
    elif request.first_token_s - request.arrival_s <= request.ttft_slo_s:
        gaps = request.target_tokens - 1
        if gaps == 0 or now_s - request.first_token_s <= request.tpot_slo_s * gaps:
            status = ATTAINED
    settle(world, request, status, now_s)
    if gateway.closed_loop:
        turn_ended(world, request_id, now_s, True)
