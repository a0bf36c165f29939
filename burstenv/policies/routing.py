"""Routing rules, compiled: choose the replica a request would go to.

Every rule but random and round-robin is an argmin of a score over the replicas that can serve the
request, with ties broken at random, so that no rule favours the first replica of the YAML.
"""

from __future__ import annotations

import numpy as np

from burstenv.cluster.kernel import kernel
from burstenv.policies.estimates import expected_ttft_s, fits, kv_demand, prefill_backlog_tokens

RANDOM, ROUND_ROBIN, JSQ, POWER_OF_TWO, LEAST_KV, VLLM_DP, LMETRIC, EXPECTED_TTFT = range(8)


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
def _score(rule, replica, request):
    if rule == LEAST_KV:
        return kv_demand(replica)
    if rule == VLLM_DP:
        return 4.0 * replica.seen_waiting + replica.seen_running
    if rule == LMETRIC:
        tokens = prefill_backlog_tokens(replica) + request.prompt_tokens
        return float(tokens) * (replica.seen_waiting + replica.seen_running)
    if rule == EXPECTED_TTFT:
        return expected_ttft_s(replica, request)
    return float(replica.seen_waiting + replica.seen_running)  # JSQ and power-of-two


@kernel
def _fitting_from(environment, replicas, request, start):
    """Return the first replica at or after ``start`` (cyclically) that can serve the request."""
    count = environment.num_replicas
    for k in range(count):
        r = (start + k) % count
        if fits(replicas[environment.first_replica + r], request):
            return r
    return start % count


@kernel
def _random_fitting(environment, replicas, request, other_than):
    """Return a replica that can serve the request, all alike, not ``other_than`` unless it is the only one."""
    chosen = other_than
    candidates = 0
    for r in range(environment.num_replicas):
        if r != other_than and fits(replicas[environment.first_replica + r], request):
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
        if _score(JSQ, replicas[base + second], request) < _score(JSQ, replicas[base + first], request):
            return second
        return first
    best = 0
    best_score = np.inf
    ties = 0
    for r in range(count):
        if not fits(replicas[base + r], request):
            continue
        score = _score(rule, replicas[base + r], request)
        if score < best_score:
            best, best_score, ties = r, score, 1
        elif score == best_score:
            ties += 1
            if next_random(environment) * ties < 1.0:
                best = r
    return best
