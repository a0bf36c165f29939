"""Health rules, compiled: which replicas a router leaves out, by its own log. They go with any routing rule.

A rule marks replicas before a request is routed; the routing rule chooses among the others. Nothing here sees more than
the deciding gateway's log, but for the oracle. Where no replica would be left that holds the request, none is left out.
``plain_health.py`` says the rules in plain Python.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import entry, kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.gateway import takes_requests
from burstenv.cluster.world import Arrays, engine_of, world_of
from burstenv.engine.enums import DOWN
from burstenv.engine.gateway_log import AT, forget_latencies, own_log, recent_tpot_s, recent_ttft_s, since_head_s
from burstenv.policies.estimates import is_choice, tokens_to_hold
from burstenv.policies.health_rules import (
    ANY,
    CIRCUIT_BREAKER,
    HEALTH_RULES,
    HEDGE,
    OUTLIER_EJECTION,
    RETRY,
    TIMEOUT,
)
from burstenv.policies.rule import parameters_of

CLOSED, OPEN, ON_TRIAL = range(3)  # states of a circuit breaker
LEAST_WEIGHT = 5.0  # of a recent mean that is compared
LEAST_REPLICAS = 3  # that have one
SWEEP_S = 1.0  # from one comparison to the next
_TIMEOUT, _BREAKER, _OUTLIER, _RETRY, _HEDGE, _ORACLE = (
    parameters_of(HEALTH_RULES, name)
    for name in ("timeout", "circuit-breaker", "outlier-ejection", "retry", "hedge", "oracle-health")
)


@kernel
def _breaker(engine, parameters):
    """Bring a replica's circuit breaker up to date; return whether it is open."""
    arena, log, now_s = engine.arena, own_log(engine), engine.environment.now_s
    state = arena[log + AT.health]
    if state == OPEN and now_s >= real_at(arena, log + AT.until_s):
        state = ON_TRIAL
        arena[log + AT.failed_before] = arena[log + AT.failed]
        arena[log + AT.served_before] = arena[log + AT.served]
    on_trial_failed = state == ON_TRIAL and arena[log + AT.failed] > arena[log + AT.failed_before]
    if on_trial_failed or (state == CLOSED and arena[log + AT.failures] >= parameters[_BREAKER.failures]):
        state = OPEN
        put_real(arena, log + AT.until_s, real_at(arena, log + AT.failed_s) + parameters[_BREAKER.open_s])
    elif state == ON_TRIAL and arena[log + AT.served] - arena[log + AT.served_before] >= parameters[_BREAKER.successes]:
        state = CLOSED
    arena[log + AT.health] = state
    return state == OPEN and now_s < real_at(arena, log + AT.until_s)


@kernel
def _is_given_up(engine, parameters):
    """Return whether a replica is silent, or requests were taken back from it a short while ago."""
    arena, log, now_s = engine.arena, own_log(engine), engine.environment.now_s
    if since_head_s(engine, log) > parameters[_RETRY.after_s]:
        return True
    return arena[log + AT.failures] > 0 and now_s < real_at(arena, log + AT.failed_s) + parameters[_RETRY.hold_s]


@kernel
def _latency_s(world, r, k):
    """Return a recent latency of a replica [s], 0 for too few answers: TTFT, or the time per token."""
    engine = engine_of(world, r)
    log = own_log(engine)
    if real_at(engine.arena, log + (AT.ttft_weight if k == 0 else AT.tpot_weight)) < LEAST_WEIGHT:
        return 0.0
    return recent_ttft_s(engine, log) if k == 0 else recent_tpot_s(engine, log)


@outlined
def _median_s(world, k):
    """Return the lower median of a latency over the replicas that have one; infinity for too few of them."""
    replicas, count = len(world.replicas), 0
    for r in range(replicas):
        count += _latency_s(world, r, k) > 0.0
    if count < LEAST_REPLICAS:
        return np.inf
    for r in range(replicas):
        mine, below, equal = _latency_s(world, r, k), 0, 0
        for other in range(replicas):
            theirs = _latency_s(world, other, k)
            below += 0.0 < theirs < mine
            equal += theirs == mine
        if mine > 0.0 and below <= (count - 1) // 2 < below + equal:
            return mine
    return np.inf


@kernel
def _return_ejected(world):
    """Take back the replicas whose time is over; return how many take requests, and how many are still out."""
    arena, now_s, there, out = world.arena, world.environment.now_s, 0, 0
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        log = own_log(engine)
        if arena[log + AT.health] != 0 and now_s >= real_at(arena, log + AT.until_s):
            arena[log + AT.health] = 0
            forget_latencies(engine, log)
        if takes_requests(world, world.replicas[r]):
            there += 1
            out += arena[log + AT.health] != 0
    return there, out


@outlined
def _eject(world, parameters):
    """Leave outliers out, for longer each time."""
    arena, now_s = world.arena, world.environment.now_s
    there, out = _return_ejected(world)
    most = max(1, int(parameters[_OUTLIER.most] * there))
    first_log = own_log(engine_of(world, 0))
    ttft_limit_s = tpot_limit_s = np.inf
    if now_s >= real_at(arena, first_log + AT.swept_s) + SWEEP_S:
        put_real(arena, first_log + AT.swept_s, now_s)
        ttft_limit_s = parameters[_OUTLIER.factor] * _median_s(world, 0)
        tpot_limit_s = parameters[_OUTLIER.factor] * _median_s(world, 1)
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        log = own_log(engine)
        if out >= most or arena[log + AT.health] != 0 or not takes_requests(world, world.replicas[r]):
            continue
        late = since_head_s(engine, log) > parameters[_OUTLIER.limit_s]
        if late or _latency_s(world, r, 0) > ttft_limit_s or _latency_s(world, r, 1) > tpot_limit_s:
            base_s = parameters[_OUTLIER.base_s]
            healthy = int((now_s - real_at(arena, log + AT.until_s)) / base_s)  # periods; each makes up for an ejection
            ejections = max(0, arena[log + AT.ejections] - healthy) + 1
            arena[log + AT.ejections] = ejections
            arena[log + AT.health] = 1
            put_real(arena, log + AT.until_s, now_s + base_s * ejections)
            out += 1


@outlined
def _judge(rule, parameters, world):
    """Mark the replicas that a rule leaves out; return whether a choice for the request at the gateway is left."""
    arena, request = world.arena, world.requests[world.environment.at_gateway]
    tokens, left = tokens_to_hold(world, request), False
    if rule == OUTLIER_EJECTION:
        _eject(world, parameters)
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        log, replica = own_log(engine), world.replicas[r]
        if rule == TIMEOUT:
            out = since_head_s(engine, log) > parameters[_TIMEOUT.limit_s]
        elif rule == CIRCUIT_BREAKER:
            out = _breaker(engine, parameters)
        elif rule == OUTLIER_EJECTION:
            out = arena[log + AT.health] != 0
        elif rule == RETRY:
            out = _is_given_up(engine, parameters)
        elif rule == HEDGE:
            out = world.environment.hedging != 0 and request.replica == r
        else:
            stands_still = world.gateway.changes and replica.status == DOWN
            out = stands_still or 1.0 + replica.slowdown > parameters[_ORACLE.factor]
        arena[log + AT.left_out] = out
        left = left or (not out and is_choice(world, r, tokens))
    return left


@kernel
def judge(rule, parameters, world):
    """Mark the replicas that a health rule leaves out of a decision about a request; return whether the marks hold."""
    memory = world.memory
    memory.take_back_s = 0.0
    memory.most_resends = 0
    memory.hedges = rule == HEDGE
    if rule == RETRY:
        memory.take_back_s = parameters[_RETRY.after_s]
        memory.most_resends = int(parameters[_RETRY.limit])
    elif rule == HEDGE:
        memory.take_back_s = parameters[_HEDGE.after_s]
        memory.most_resends = int(parameters[_HEDGE.limit])
    return rule != ANY and _judge(rule, parameters, world)


@kernel
def is_left_out(world, r):
    """Return whether a replica is marked."""
    engine = engine_of(world, r)
    return world.arena[own_log(engine) + AT.left_out] != 0


@entry
def left_out_at(
    environments, memories, replicas, arenas, requests, gateway, specs, modes, policy, i, out
):  # fmt: skip
    """Write into ``out``, (R,) bool, which replicas the health rule of ``policy``, (1,) POLICY, leaves out.

    The decision is the present one of cluster ``i``, about a request. Call it once per decision: rules remember.
    """
    world = world_of(Arrays(environments, memories, replicas, arenas, requests, gateway, specs, modes), i)
    judged = judge(policy[0].health, policy[0].health_parameters, world)
    for r in range(len(out)):
        out[r] = judged and is_left_out(world, r)
