"""A router's estimates from its observation: KV use, iteration time, expected TTFT. Compiled.

All functions read a replica's load as the gateway knows it (:mod:`burstenv.policies.known_load`) and the request at the
gateway: nothing hidden from an agent's observation. A request that comes back from a lost replica with a part of its
answer has that part computed anew: it counts as a part of the prompt.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.gateway import takes_requests
from burstenv.cluster.placement import has_role
from burstenv.engine.enums import DOWN, NO_REQUEST
from burstenv.engine.gateway_log import own_log, recent_tpot_s
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.engine.timing import decode_context_cost_s, decode_fixed_cost_s, iteration_time_s


@kernel
def fits(engine, request):
    """Return whether the replica takes the request and holds the prompt and the whole predicted answer."""
    return takes_requests(engine, engine.replica) and _whole_tokens(request) <= engine.spec.max_model_len


@kernel
def _whole_tokens(request):
    """Return the tokens of the prompt and of the predicted answer, which is longer than the part that is there."""
    return request.prompt_tokens + max(request.produced_tokens + 1, math.ceil(min(request.predicted_tokens, 1e9)))


@kernel
def tokens_to_hold(world, request):
    """Return the smallest model length of a replica that is a choice for the request [tokens].

    If a replica holds prompt and predicted answer, that is their length; otherwise it is the prompt and one more output
    token, the smallest length that accepts the request.
    """
    whole = _whole_tokens(request)
    for r in range(len(world.specs)):
        if is_choice(world, r, whole):
            return whole
    return tokens_to_compute(request) + 1


@kernel
def ttft_left_s(environment, request):
    """Return the time that is left for a request's first token [s]; infinity if that is out, from a lost replica."""
    if math.isnan(request.first_token_s):
        return request.arrival_s + request.ttft_slo_s - environment.now_s
    return np.inf


@kernel
def is_choice(world, r, tokens):
    """Return whether a replica holds ``tokens`` tokens of a request, is known to take requests, and has the role."""
    holds = tokens <= world.specs[r].max_model_len and takes_requests(world, world.replicas[r])
    return has_role(world, np.int64(r)) if holds and world.gateway.hands_over else holds


@kernel
def is_legal(world, r, tokens):
    """Return whether a decision may send a request of ``tokens`` tokens to a replica: it holds and takes the request.

    A prompt may go to a replica of any role, a prefilled request to those that decode, or stay.
    """
    if world.gateway.hands_over and world.environment.placing:
        return is_choice(world, r, tokens)
    return tokens <= world.specs[r].max_model_len and takes_requests(world, world.replicas[r])


@kernel
def outstanding(load):
    """Return the requests of a replica, waiting and running."""
    return load.waiting + load.running


@kernel
def kv_used(engine, load):
    """Return the share of the KV cache in use."""
    spec = engine.spec
    return 1.0 - (spec.num_blocks - min(load.used_blocks, np.int64(spec.num_blocks))) / spec.num_blocks


@kernel
def kv_demand(engine, load):
    """Return the share of the KV cache that is used or asked for by the queue (may exceed 1)."""
    return (load.used_blocks + load.waiting_blocks) / engine.spec.num_blocks


@kernel
def kv_demand_with(engine, load, request):
    """Return :func:`kv_demand` with the request's prompt added to the queue."""
    spec = engine.spec
    own = blocks_of(tokens_to_compute(request), spec.block_size)
    return (load.used_blocks + load.waiting_blocks + own) / spec.num_blocks


@kernel
def decode_iteration_s(engine, load):
    """Return the time of an iteration in which all running requests decode [s]."""
    running = load.running
    return decode_fixed_cost_s(engine, running) + decode_context_cost_s(engine, running) * load.context_tokens


@kernel
def forecast_iteration_s(engine, load, request, after_s, decode_s):
    """Return the time of a decode iteration ``after_s`` from now, the request and the queue decoding by then [s].

    Every request is assumed to decode for ``decode_s``; with uniform ages, the share ``after_s / decode_s`` of the
    running ones has left by then (Mooncake's system-level prediction, arXiv 2407.00079, section 7).
    """
    stays = max(0.0, 1.0 - after_s / decode_s)
    decodes = int(stays * load.running) + load.waiting + 1
    context = stays * load.context_tokens + load.backlog_tokens + tokens_to_compute(request)
    return decode_fixed_cost_s(engine, decodes) + decode_context_cost_s(engine, decodes) * context


@kernel
def _prefill_wait_s(engine, load, prompt):
    """Return the time of the iterations that compute the prefill backlog and then the prompt [s]."""
    tokens = load.backlog_tokens + prompt
    running = load.running
    room = max(1, engine.replica.token_budget - running)
    iterations = (tokens + room - 1) // room
    attention = prompt * (prompt + 1) // 2
    iteration_s = iteration_time_s(
        engine, tokens // iterations, attention // iterations, running, load.context_tokens, running + 1
    )
    return iterations * iteration_s


@kernel
def expected_ttft_s(engine, load, request):
    """Return the expected time to first token on a replica [s], burstenv's own estimate.

    The prefill backlog and the prompt are cut into iterations of the token budget, each with the running
    requests' decodes in it. If the KV cache cannot hold queue and prompt, the wait for the missing blocks
    is added: running requests free the cache once per predicted output length.
    """
    missing = kv_demand_with(engine, load, request) - 1.0
    wait_s = 0.0
    if missing > 0.0:
        wait_s = missing * max(request.predicted_tokens, 64.0) * decode_iteration_s(engine, load)
    return _prefill_wait_s(engine, load, tokens_to_compute(request)) + wait_s


@kernel
def oracle_speed_load(engine, load):
    """Return the requests of a replica, one more included, times its GPU's true pace; standing still is worst."""
    stands_still = engine.gateway.changes and engine.replica.status == DOWN
    return (outstanding(load) + 1) * (1.0 + engine.replica.slowdown) + 1e9 * stands_still


@kernel
def measured_speed_load(engine, load):
    """Return the requests of a replica, one more included, times its recent time per token in the log [s]."""
    return (outstanding(load) + 1) * recent_tpot_s(engine, own_log(engine))


@outlined
def oracle_expected_ttft_s(engine, load, request):
    """Return :func:`expected_ttft_s` with the true rate at which running requests free KV blocks [s].

    Each request frees all its blocks with its last token: the sum of blocks over true remaining tokens.
    """
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    missing = kv_demand_with(engine, load, request) - 1.0
    wait_s = 0.0
    if missing > 0.0:
        blocks_per_iteration = 0.0
        running_id = replica.running_head
        while running_id != NO_REQUEST:
            running = requests[running_id]
            held = running.computed_tokens + (replica.decode_step if running.decoding else 0)
            left = max(1, running.prompt_tokens + running.target_tokens - held)
            blocks_per_iteration += blocks_of(held, spec.block_size) / left
            running_id = running.next
        wait_s = missing * spec.num_blocks / max(blocks_per_iteration, 1e-3) * decode_iteration_s(engine, load)
    return _prefill_wait_s(engine, load, tokens_to_compute(request)) + wait_s
