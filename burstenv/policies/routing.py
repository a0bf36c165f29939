"""Routing rules, compiled: choose the replica a request would go to.

Every rule but random and round-robin is an argmin of a score over the replicas that hold the prompt and the whole
predicted answer; where none does, over those that accept the prompt. Ties are broken at random, so that no rule favours
the first replica of the YAML.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.engine.prefix_cache import prefix_hit_tokens
from burstenv.engine.queues import blocks_of
from burstenv.policies.estimates import (
    expected_ttft_s,
    kv_demand,
    oracle_expected_ttft_s,
    outstanding,
    prefill_backlog_tokens,
    tokens_to_hold,
)

RANDOM, ROUND_ROBIN, JSQ, POWER_OF_TWO, LEAST_KV, VLLM_DP, LMETRIC, EXPECTED_TTFT = range(8)
LEAST_TOKENS, SESSION_AFFINITY, PREFIX_AWARE, KV_ROUTER, FREENESS = range(8, 13)
LONGEST_QUEUE, ORACLE_EXPECTED_TTFT = range(13, 15)
_LONGEST_PREFIX = 100  # what prefix-aware comes to while loads are balanced and the prefix is worth it


@kernel
def next_random(environment):
    """Return the next pseudo-random number in [0, 1) of the cluster's own stream (xorshift64*)."""
    x = environment.rng
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    environment.rng = x
    return ((x * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def _place_on_ring(session, index):
    """Return a number in [0, 1) that stands for a session and a replica (splitmix64)."""
    x = np.uint64(session + 1) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(index + 1) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def _kv_router_cost(parameters, replica, pool, requests, request_id):
    """Return Dynamo's cost of a replica, in KV blocks."""
    prompt_blocks = blocks_of(requests[request_id].prompt_tokens, replica.block_size)
    hits = prefix_hit_tokens(replica, pool, requests, request_id) // replica.block_size
    active = blocks_of(prefill_backlog_tokens(replica), replica.block_size)
    prefill = max(0.0, active + prompt_blocks - parameters[0] * hits)
    decode = replica.num_blocks - replica.seen_free_blocks + (prompt_blocks - hits)
    return parameters[1] * prefill + decode + parameters[2] * outstanding(replica)


@outlined
def _further_score(rule, parameters, replica, index, pool, requests, request_id):
    """Return the score of one of the rules beyond the first eight; smaller is better."""
    request = requests[request_id]
    if rule == LEAST_TOKENS:
        return float(prefill_backlog_tokens(replica) + replica.seen_context_tokens)
    if rule == SESSION_AFFINITY:
        return _place_on_ring(request.session, index)
    if rule == KV_ROUTER:
        return _kv_router_cost(parameters, replica, pool, requests, request_id)
    if rule == FREENESS:
        free = replica.seen_free_blocks - replica.seen_waiting_blocks
        return -free / float(max(1, outstanding(replica)))
    if rule == LONGEST_QUEUE:
        return -float(outstanding(replica))
    if rule == _LONGEST_PREFIX:
        return -float(prefix_hit_tokens(replica, pool, requests, request_id))
    return oracle_expected_ttft_s(replica, requests, request)


@kernel
def _score(rule, parameters, replica, index, pool, requests, request_id):
    if rule >= LEAST_TOKENS:
        return _further_score(rule, parameters, replica, index, pool, requests, request_id)
    if rule == LEAST_KV:
        return kv_demand(replica)
    if rule == VLLM_DP:
        return 4.0 * replica.seen_waiting + replica.seen_running
    if rule == LMETRIC:
        tokens = prefill_backlog_tokens(replica) + requests[request_id].prompt_tokens
        return float(tokens) * (replica.seen_waiting + replica.seen_running)
    if rule == EXPECTED_TTFT:
        return expected_ttft_s(replica, requests[request_id])
    return float(outstanding(replica))  # JSQ and power-of-two


@outlined
def _plain_rule(rule, parameters, environment, replicas, pool, requests):
    """Return the rule whose scores decide: of those that depend on the request or on the balance of loads."""
    request_id = environment.at_door
    request = requests[request_id]
    if rule == SESSION_AFFINITY:
        return JSQ if request.session < 0 else SESSION_AFFINITY
    if rule != PREFIX_AWARE:
        return rule
    least, most, hits = np.inf, 0.0, 0
    tokens = tokens_to_hold(environment, replicas, request)
    for r in range(environment.first_replica, environment.first_replica + environment.num_replicas):
        if tokens <= replicas[r].max_model_len:
            load = float(outstanding(replicas[r]))
            least, most = min(least, load), max(most, load)
            hits = max(hits, prefix_hit_tokens(replicas[r], pool, requests, request_id))
    if most - least > parameters[1] and most > parameters[2] * least:
        return JSQ
    return _LONGEST_PREFIX if hits > parameters[0] * request.prompt_tokens else JSQ


@kernel
def _fitting_from(environment, replicas, request, start):
    """Return the first replica at or after ``start`` (cyclically) that is a choice for the request."""
    count = environment.num_replicas
    tokens = tokens_to_hold(environment, replicas, request)
    for k in range(count):
        r = (start + k) % count
        if tokens <= replicas[environment.first_replica + r].max_model_len:
            return r
    return start % count


@kernel
def _random_fitting(environment, replicas, request, other_than):
    """Return a replica that is a choice for the request, all alike, not ``other_than`` unless it is the only one."""
    tokens = tokens_to_hold(environment, replicas, request)
    chosen = other_than
    candidates = 0
    for r in range(environment.num_replicas):
        if r != other_than and tokens <= replicas[environment.first_replica + r].max_model_len:
            candidates += 1
            if next_random(environment) * candidates < 1.0:
                chosen = r
    return max(chosen, 0)


@kernel
def route(rule, parameters, environment, replicas, pool, requests):
    """Return the replica a rule chooses for the request at the door."""
    request = requests[environment.at_door]
    count = environment.num_replicas
    base = environment.first_replica
    if rule == ROUND_ROBIN:
        chosen = _fitting_from(environment, replicas, request, environment.round_robin)
        environment.round_robin = (chosen + 1) % count
        return chosen
    if rule == RANDOM:
        return _random_fitting(environment, replicas, request, -1)
    if rule == POWER_OF_TWO:
        first = _random_fitting(environment, replicas, request, -1)
        second = _random_fitting(environment, replicas, request, first)
        if outstanding(replicas[base + second]) < outstanding(replicas[base + first]):
            return second
        return first
    if rule >= LEAST_TOKENS:
        rule = _plain_rule(rule, parameters, environment, replicas, pool, requests)
    best = 0
    best_score = np.inf
    ties = 0
    tokens = tokens_to_hold(environment, replicas, request)
    for r in range(count):
        if tokens > replicas[base + r].max_model_len:
            continue
        score = _score(rule, parameters, replicas[base + r], r, pool, requests, environment.at_door)
        if score < best_score:
            best, best_score, ties = r, score, 1
        elif score == best_score:
            ties += 1
            if next_random(environment) * ties < 1.0:
                best = r
    return best
