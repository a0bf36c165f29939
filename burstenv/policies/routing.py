"""Routing rules, compiled: the choice of a request's replica.

Every rule except random and round-robin is an argmin of a score over the replicas that hold the prompt and the whole
predicted answer or, without such a replica, over those that accept the prompt. Ties are broken at random: no rule
favours the first replica of the YAML.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.world import engine_of
from burstenv.engine.prefix_hits import prefix_hit_tokens
from burstenv.engine.queues import blocks_of, tokens_to_compute
from burstenv.policies.estimates import (
    expected_ttft_s,
    is_choice,
    kv_demand,
    measured_speed_load,
    oracle_expected_ttft_s,
    oracle_speed_load,
    outstanding,
    tokens_to_hold,
)
from burstenv.policies.health import is_left_out
from burstenv.policies.known_load import load_of
from burstenv.policies.routing_rules import (
    EXPECTED_TTFT,
    FREENESS,
    JSQ,
    KV_ROUTER,
    LEAST_KV,
    LEAST_TOKENS,
    LMETRIC,
    LONGEST_QUEUE,
    ORACLE_SPEED,
    PEAK_EWMA,
    POWER_OF_TWO,
    PREFIX_AWARE,
    RANDOM,
    ROUND_ROBIN,
    ROUTING_RULES,
    SESSION_AFFINITY,
    VLLM_DP,
)
from burstenv.policies.rule import parameters_of

_PREFIX, _KV = (parameters_of(ROUTING_RULES, name) for name in ("prefix-aware", "kv-router"))
_LONGEST_PREFIX = 100  # the rule of prefix-aware while loads are balanced and the prefix is long enough


@kernel
def next_random(memory):
    """Return the next pseudo-random number in [0, 1) of the stream (xorshift64*) that a MEMORY holds."""
    x = memory.rng
    x ^= x >> np.uint64(12)
    x ^= x << np.uint64(25)
    x ^= x >> np.uint64(27)
    memory.rng = x
    return ((x * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def _place_on_ring(session, index):
    """Return a hash of a session and a replica in [0, 1) (splitmix64)."""
    x = np.uint64(session + 1) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(index + 1) * np.uint64(0xD1B54A32D192ED03)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((x ^ (x >> np.uint64(31))) >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@kernel
def _kv_router_cost(parameters, engine, load, request_id):
    """Return Dynamo's cost of a replica, in KV blocks."""
    spec, requests = engine.spec, engine.requests
    prompt_blocks = blocks_of(tokens_to_compute(requests[request_id]), spec.block_size)
    hits = prefix_hit_tokens(engine, request_id) // spec.block_size
    active = blocks_of(load.backlog_tokens, spec.block_size)
    prefill = max(0.0, active + prompt_blocks - parameters[_KV.overlap] * hits)
    decode = load.used_blocks + (prompt_blocks - hits)
    return parameters[_KV.prefill] * prefill + decode + parameters[_KV.requests] * outstanding(load)


@outlined
def _further_score(rule, source, parameters, engine, index, request_id):
    """Return the score of one of the rules beyond the first eight; smaller is better."""
    request = engine.requests[request_id]
    if rule == SESSION_AFFINITY:
        return _place_on_ring(request.session, index)
    if rule == _LONGEST_PREFIX:
        return -float(prefix_hit_tokens(engine, request_id))
    load = load_of(engine, source)
    if rule == LEAST_TOKENS:
        return float(load.backlog_tokens + load.context_tokens)
    if rule == KV_ROUTER:
        return _kv_router_cost(parameters, engine, load, request_id)
    if rule == FREENESS:
        free = engine.spec.num_blocks - load.used_blocks - load.waiting_blocks
        return -free / float(max(1, outstanding(load)))
    if rule == LONGEST_QUEUE:
        return -float(outstanding(load))
    if rule == ORACLE_SPEED:
        return oracle_speed_load(engine, load)
    if rule == PEAK_EWMA:
        return measured_speed_load(engine, load)
    return oracle_expected_ttft_s(engine, load, request)


@kernel
def score(rule, source, parameters, engine, index, request_id):
    """Return a replica's score by a rule that is an argmin; smaller is better."""
    if rule >= LEAST_TOKENS:
        return _further_score(rule, source, parameters, engine, index, request_id)
    load = load_of(engine, source)
    if rule == LEAST_KV:
        return kv_demand(engine, load)
    if rule == VLLM_DP:
        return 4.0 * load.waiting + load.running
    if rule == LMETRIC:
        tokens = load.backlog_tokens + tokens_to_compute(engine.requests[request_id])
        return float(tokens) * outstanding(load)
    if rule == EXPECTED_TTFT:
        return expected_ttft_s(engine, load, engine.requests[request_id])
    return float(outstanding(load))  # JSQ and power-of-two


@kernel
def is_allowed(world, r, tokens, judged):
    """Return whether a replica holds ``tokens`` tokens, takes requests and, if ``judged``, is not left out."""
    return is_choice(world, r, tokens) and not (judged and is_left_out(world, r))


@outlined
def plain_rule(rule, source, parameters, world, judged):
    """Return the rule that decides now, for rules that depend on the request or on the balance of loads."""
    environment, requests = world.environment, world.requests
    request_id = environment.at_gateway
    request = requests[request_id]
    if rule == SESSION_AFFINITY:
        return JSQ if request.session < 0 else SESSION_AFFINITY
    if rule != PREFIX_AWARE:
        return rule
    least, most, hits = np.inf, 0.0, 0
    tokens = tokens_to_hold(world, request)
    for r in range(len(world.specs)):
        if is_allowed(world, r, tokens, judged):
            requests_there = float(outstanding(load_of(engine_of(world, r), source)))
            least, most = min(least, requests_there), max(most, requests_there)
            hits = max(hits, prefix_hit_tokens(engine_of(world, r), request_id))
    if most - least > parameters[_PREFIX.balance_abs] and most > parameters[_PREFIX.balance_rel] * least:
        return JSQ
    return _LONGEST_PREFIX if hits > parameters[_PREFIX.threshold] * request.prompt_tokens else JSQ


@kernel
def _fitting_from(world, request, start, judged):
    """Return the first replica at or after ``start`` (cyclically) that is a choice for the request."""
    count = len(world.specs)
    tokens = tokens_to_hold(world, request)
    for k in range(count):
        r = (start + k) % count
        if is_allowed(world, r, tokens, judged):
            return r
    return start % count


@kernel
def _random_fitting(world, request, other_than, judged):
    """Return a random replica among the request's choices, not ``other_than`` unless it is the only one."""
    tokens = tokens_to_hold(world, request)
    chosen = other_than
    candidates = 0
    for r in range(len(world.specs)):
        if r != other_than and is_allowed(world, r, tokens, judged):
            candidates += 1
            if next_random(world.memory) * candidates < 1.0:
                chosen = r
    return max(chosen, 0)


@kernel
def route(rule, source, parameters, world, judged):
    """Return a rule's replica for the request at the gateway; it knows the replicas' load from ``source``.

    If ``judged``, the replicas that a health rule has marked are no choice; others are left.
    """
    environment, memory = world.environment, world.memory
    request = world.requests[environment.at_gateway]
    count = len(world.specs)
    if rule == ROUND_ROBIN:
        chosen = _fitting_from(world, request, memory.round_robin, judged)
        memory.round_robin = (chosen + 1) % count
        return chosen
    if rule == RANDOM:
        return _random_fitting(world, request, -1, judged)
    if rule == POWER_OF_TWO:
        first = _random_fitting(world, request, -1, judged)
        second = _random_fitting(world, request, first, judged)
        second_load, first_load = load_of(engine_of(world, second), source), load_of(engine_of(world, first), source)
        return second if outstanding(second_load) < outstanding(first_load) else first
    if rule >= LEAST_TOKENS:
        rule = plain_rule(rule, source, parameters, world, judged)
    best = 0
    best_score = np.inf
    ties = 0
    tokens = tokens_to_hold(world, request)
    for r in range(count):
        if not is_allowed(world, r, tokens, judged):
            continue
        own_score = score(rule, source, parameters, engine_of(world, r), r, environment.at_gateway)
        if own_score < best_score:
            best, best_score, ties = r, own_score, 1
        elif own_score == best_score:
            ties += 1
            if next_random(world.memory) * ties < 1.0:
                best = r
    return best
