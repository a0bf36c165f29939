"""A router's estimates from its observation: KV use, iteration time, expected TTFT. Compiled.

All functions read the published state of a replica (its ``seen_*`` fields) and the request at the gateway: nothing
hidden from an agent's observation.
"""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.queues import blocks_of
from burstenv.engine.timing import decode_context_cost_s, decode_fixed_cost_s, iteration_time_s


@kernel
def fits(engine, request):
    """Return whether the replica holds the prompt and the whole predicted answer; it would cut a longer one."""
    spec = engine.spec
    return _whole_tokens(request) <= spec.max_model_len


@kernel
def _whole_tokens(request):
    """Return the tokens of the prompt and of the predicted answer."""
    return request.prompt_tokens + max(1, math.ceil(min(request.predicted_tokens, 1e9)))


@kernel
def tokens_to_hold(world, request):
    """Return the smallest model length of a replica that is a choice for the request [tokens].

    If a replica holds prompt and predicted answer, that is their length; otherwise it is the prompt and one output
    token, the smallest length that accepts the request.
    """
    specs = world.specs
    whole = _whole_tokens(request)
    for r in range(len(specs)):
        if whole <= specs[r].max_model_len:
            return whole
    return request.prompt_tokens + 1


@kernel
def outstanding(engine):
    """Return the requests of a replica, waiting and running."""
    replica = engine.replica
    return replica.seen_waiting + replica.seen_running


@kernel
def kv_used(engine):
    """Return the share of the KV cache in use."""
    replica, spec = engine.replica, engine.spec
    return 1.0 - replica.seen_free_blocks / spec.num_blocks


@kernel
def kv_demand(engine):
    """Return the share of the KV cache that is used or asked for by the queue (may exceed 1)."""
    replica, spec = engine.replica, engine.spec
    used = spec.num_blocks - replica.seen_free_blocks
    return (used + replica.seen_waiting_blocks) / spec.num_blocks


@kernel
def kv_demand_with(engine, request):
    """Return :func:`kv_demand` with the request's prompt added to the queue."""
    replica, spec = engine.replica, engine.spec
    own = blocks_of(request.prompt_tokens, spec.block_size)
    used = spec.num_blocks - replica.seen_free_blocks
    return (used + replica.seen_waiting_blocks + own) / spec.num_blocks


@kernel
def prefill_backlog_tokens(engine):
    """Return the tokens to compute before a new request's: the queue's and the one in mid-prefill."""
    replica = engine.replica
    return replica.seen_waiting_tokens + replica.seen_prefill_tokens


@kernel
def decode_iteration_s(engine):
    """Return the time of an iteration in which all running requests decode [s]."""
    replica = engine.replica
    running = replica.seen_running
    return decode_fixed_cost_s(engine, running) + decode_context_cost_s(engine, running) * replica.seen_context_tokens


@kernel
def forecast_iteration_s(engine, request, after_s, decode_s):
    """Return the time of a decode iteration ``after_s`` from now, the request and the queue decoding by then [s].

    Every request is assumed to decode for ``decode_s``; with uniform ages, the share ``after_s / decode_s`` of the
    running ones has left by then (Mooncake's system-level prediction, arXiv 2407.00079, section 7).
    """
    replica = engine.replica
    stays = max(0.0, 1.0 - after_s / decode_s)
    decodes = int(stays * replica.seen_running) + replica.seen_waiting + 1
    context = stays * replica.seen_context_tokens + prefill_backlog_tokens(engine) + request.prompt_tokens
    return decode_fixed_cost_s(engine, decodes) + decode_context_cost_s(engine, decodes) * context


@kernel
def _prefill_wait_s(engine, prompt):
    """Return the time of the iterations that compute the prefill backlog and then the prompt [s]."""
    replica = engine.replica
    tokens = prefill_backlog_tokens(engine) + prompt
    running = replica.seen_running
    room = max(1, replica.token_budget - running)
    iterations = (tokens + room - 1) // room
    attention = prompt * (prompt + 1) // 2
    iteration_s = iteration_time_s(
        engine, tokens // iterations, attention // iterations, running, replica.seen_context_tokens, running + 1
    )
    return iterations * iteration_s


@kernel
def expected_ttft_s(engine, request):
    """Return the expected time to first token on a replica [s], burstenv's own estimate.

    The prefill backlog and the prompt are cut into iterations of the token budget, each with the running
    requests' decodes in it. If the KV cache cannot hold queue and prompt, the wait for the missing blocks
    is added: running requests free the cache once per predicted output length.
    """
    missing = kv_demand_with(engine, request) - 1.0
    wait_s = 0.0
    if missing > 0.0:
        wait_s = missing * max(request.predicted_tokens, 64.0) * decode_iteration_s(engine)
    return _prefill_wait_s(engine, request.prompt_tokens) + wait_s


@outlined
def oracle_expected_ttft_s(engine, request):
    """Return :func:`expected_ttft_s` with the true rate at which running requests free KV blocks [s].

    Each request frees all its blocks with its last token: the sum of blocks over true remaining tokens.
    """
    replica, spec, requests = engine.replica, engine.spec, engine.requests
    missing = kv_demand_with(engine, request) - 1.0
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
        wait_s = missing * spec.num_blocks / max(blocks_per_iteration, 1e-3) * decode_iteration_s(engine)
    return _prefill_wait_s(engine, request.prompt_tokens) + wait_s
