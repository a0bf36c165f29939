"""What a dispatcher can work out from what it sees: KV use, iteration time, expected TTFT. Compiled.

Everything here reads the published state of a replica (its ``seen_*`` fields) and the request at the
front door: nothing hidden from an agent's observation.
"""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.enums import NOBODY
from burstenv.engine.queues import blocks_of
from burstenv.engine.timing import decode_context_cost_s, decode_fixed_cost_s, iteration_time_s


@kernel
def fits(replica, request):
    """Return whether the replica holds the prompt and the whole predicted answer; it would cut a longer one."""
    return _whole_tokens(request) <= replica.max_model_len


@kernel
def _whole_tokens(request):
    """Return the tokens of the prompt and of the predicted answer."""
    return request.prompt_tokens + max(1, math.ceil(min(request.predicted_tokens, 1e9)))


@kernel
def tokens_to_hold(environment, replicas, request):
    """Return the model length from which on a replica is a choice for the request [tokens].

    That of prompt and predicted answer where any replica holds both, else that of the prompt and one output, below
    which a replica does not accept the request.
    """
    whole = _whole_tokens(request)
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        if whole <= replicas[r].max_model_len:
            return whole
    return request.prompt_tokens + 1


@kernel
def outstanding(replica):
    """Return the requests of a replica, waiting and running."""
    return replica.seen_waiting + replica.seen_running


@kernel
def kv_used(replica):
    """Return the share of the KV cache in use."""
    return 1.0 - replica.seen_free_blocks / replica.num_blocks


@kernel
def kv_demand(replica):
    """Return the share of the KV cache that is used or asked for by the queue (may exceed 1)."""
    used = replica.num_blocks - replica.seen_free_blocks
    return (used + replica.seen_waiting_blocks) / replica.num_blocks


@kernel
def kv_demand_with(replica, request):
    """Return :func:`kv_demand` as it would be with the request's prompt in the queue."""
    own = blocks_of(request.prompt_tokens, replica.block_size)
    used = replica.num_blocks - replica.seen_free_blocks
    return (used + replica.seen_waiting_blocks + own) / replica.num_blocks


@kernel
def prefill_backlog_tokens(replica):
    """Return the tokens to be computed before a new request's: the queue's and the one in mid-prefill."""
    return replica.seen_waiting_tokens + replica.seen_prefill_tokens


@kernel
def decode_iteration_s(replica):
    """Return the time of an iteration over the running requests as if all of them decode [s]."""
    running = replica.seen_running
    return decode_fixed_cost_s(replica, running) + decode_context_cost_s(replica, running) * replica.seen_context_tokens


@kernel
def forecast_iteration_s(replica, request, after_s, decode_s):
    """Return the time of a decode iteration ``after_s`` from now, the request and the queue decoding by then [s].

    Every request is taken to decode for ``decode_s``; with ages spread evenly, the share ``after_s / decode_s`` of
    those that run has left (Mooncake's system-level prediction, arXiv 2407.00079, section 7).
    """
    stays = max(0.0, 1.0 - after_s / decode_s)
    decodes = int(stays * replica.seen_running) + replica.seen_waiting + 1
    context = stays * replica.seen_context_tokens + prefill_backlog_tokens(replica) + request.prompt_tokens
    return decode_fixed_cost_s(replica, decodes) + decode_context_cost_s(replica, decodes) * context


@kernel
def _prefill_wait_s(replica, prompt):
    """Return the time of the iterations that compute the prefill backlog and then the prompt [s]."""
    tokens = prefill_backlog_tokens(replica) + prompt
    running = replica.seen_running
    room = max(1, replica.token_budget - running)
    iterations = (tokens + room - 1) // room
    attention = prompt * (prompt + 1) // 2
    iteration_s = iteration_time_s(
        replica, tokens // iterations, attention // iterations, running, replica.seen_context_tokens, running + 1
    )
    return iterations * iteration_s


@kernel
def expected_ttft_s(replica, request):
    """Return the time to first token to expect on a replica [s], an estimate of ours.

    The prefill backlog and the prompt are cut into iterations of the token budget, each with the running
    requests' decodes in it. When the KV cache cannot hold queue and prompt, the wait for the missing blocks
    is added: running requests give back the cache once per predicted output length.
    """
    missing = kv_demand_with(replica, request) - 1.0
    wait_s = 0.0
    if missing > 0.0:
        wait_s = missing * max(request.predicted_tokens, 64.0) * decode_iteration_s(replica)
    return _prefill_wait_s(replica, request.prompt_tokens) + wait_s


@outlined
def oracle_expected_ttft_s(replica, requests, request):
    """Return :func:`expected_ttft_s` with the true rate at which running requests give back KV blocks [s].

    Each gives back all of its blocks when its last token is out: blocks over true remaining tokens, summed.
    """
    missing = kv_demand_with(replica, request) - 1.0
    wait_s = 0.0
    if missing > 0.0:
        blocks_per_iteration = 0.0
        running_id = replica.running_head
        while running_id != NOBODY:
            running = requests[running_id]
            held = running.computed_tokens + (replica.decode_step if running.decoding else 0)
            left = max(1, running.prompt_tokens + running.target_tokens - held)
            blocks_per_iteration += blocks_of(held, replica.block_size) / left
            running_id = running.next
        wait_s = missing * replica.num_blocks / max(blocks_per_iteration, 1e-3) * decode_iteration_s(replica)
    return _prefill_wait_s(replica, request.prompt_tokens) + wait_s
