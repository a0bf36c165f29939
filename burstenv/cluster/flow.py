"""The gateway's queue, compiled: which request is dispatched next, and when.

``cluster/reference/flow.py`` says the rules in plain Python; the functions here have the same names. A request that is
dispatched is decided about as if it had just arrived. ``memory.flow`` holds the rule, declared in ``policies/flow.py``.
"""

from __future__ import annotations

import numpy as np
from numba import types

from burstenv._jit.decorators import detached, kernel, outlined
from burstenv._jit.floats import put_real, put_whole, real_at, whole_at
from burstenv.cluster.classes import is_best_effort
from burstenv.cluster.events import LOOK, foresee
from burstenv.cluster.flow_config import (
    AT_ONCE,
    BANDS,
    CONCURRENCY,
    DETECTOR,
    DRR,
    FCFS,
    FILL,
    FILL_TOKENS,
    IN_FLIGHT,
    KV,
    QUANTUM,
    QUEUE,
    ROUND_ROBIN,
    VTC,
)
from burstenv.cluster.flow_queue import (
    AT,
    append,
    counter_of,
    deficit_of,
    take_out,
    tenancy_at,
    tenant_at,
    tenant_of,
)
from burstenv.cluster.stuck import is_stuck
from burstenv.cluster.telemetry import unveil, veil
from burstenv.cluster.world import engine_of, world_type
from burstenv.engine.enums import ACTIVE, AT_GATEWAY, AWAY, NO_REQUEST, RUNNING, TRANSFERRING, UNSEEN, UNSENT, WAITING
from burstenv.engine.gateway_log import in_flight, own_log, unanswered
from burstenv.engine.iterations import is_left_out, is_set_back, last_ended_iteration

# -- service ---------------------------------------------------------------------------------------------


@kernel
def _streamed(world, request):
    """Return the output tokens of a request that its gateway has relayed, while it is on a replica."""
    if not request.decoding:
        return np.int64(request.produced_tokens)
    engine = engine_of(world, request.replica)
    steps = engine.replica.decode_step
    awaits = engine.spec.depth > 1 and request.in_flight_tokens == 0
    if awaits and not is_left_out(request, last_ended_iteration(engine) + 1):
        steps -= 1  # its token of the iteration in flight has not come
    if is_set_back(engine, request):
        steps += 1  # the step that leaves it out is not counted yet
    return np.int64(request.computed_tokens + steps + 1 - request.prompt_tokens - request.in_flight_tokens)


@outlined
def count_outputs(world):
    """Count the output tokens that have come since they were last counted, and the best-effort tokens in flight."""
    environment, arena, requests = world.environment, world.arena, world.requests
    environment.fill_tokens = 0.0
    begins = True  # all requests so far are settled
    for k in range(environment.oldest, environment.num_requests):
        request = requests[k]
        status = request.status
        if status == UNSEEN and not world.gateway.closed_loop:
            break
        if status in (UNSEEN, AT_GATEWAY, AWAY):
            begins = False
            continue
        if status == UNSENT:
            continue
        at = tenancy_at(world, k)
        runs = status in (WAITING, RUNNING, TRANSFERRING)
        streamed = _streamed(world, request) if runs else np.int64(request.produced_tokens)
        new = streamed - arena[at + 1]
        arena[at + 1] = streamed
        if new > 0:
            place = tenant_at(world, arena[at]) + AT.output_tokens
            put_whole(arena, place, whole_at(arena, place) + new)
        if runs:
            begins = False
            if is_best_effort(world, request.class_code):
                environment.fill_tokens += request.prompt_tokens + np.float64(request.predicted_tokens)
        elif begins:
            environment.oldest = k + 1


@kernel
def counts_outputs(world):
    """Return whether a rule looks at what the replicas have brought, so that none may be left behind."""
    return world.gateway.queues and world.memory.flow != AT_ONCE


@detached(lambda state: state.gateway["queues"].any(), lambda state: (world_type(state), types.int64))
def charge(world, request_id):
    """Charge a request's prompt to its tenant, as it is admitted."""
    place = tenant_at(world, tenant_of(world, request_id)) + AT.prompt_tokens
    prompt_tokens = np.int64(world.requests[request_id].prompt_tokens)
    put_whole(world.arena, place, whole_at(world.arena, place) + prompt_tokens)


# -- saturation ------------------------------------------------------------------------------------------


@outlined
def saturation(world):
    """Return how full the replicas are, as a mean: 1 is saturated. Without any that takes requests: infinity."""
    parameters = world.memory.flow_parameters
    total, count = 0.0, 0
    veil(world)
    for r in range(len(world.replicas)):
        engine = engine_of(world, r)
        replica = engine.replica
        if world.gateway.changes and replica.known != ACTIVE:
            continue
        count += 1
        if parameters[DETECTOR] == CONCURRENCY:
            total += in_flight(engine, own_log(engine)) / parameters[IN_FLIGHT]
        else:
            waiting = np.int64(replica.seen_waiting)
            if world.gateway.knows_log:
                waiting = unanswered(engine, own_log(engine))
            used = (engine.spec.num_blocks - replica.seen_free_blocks) / engine.spec.num_blocks
            total += max(waiting / parameters[QUEUE], used / parameters[KV])
    unveil(world)
    return total / count if count > 0 else np.inf


# -- order -----------------------------------------------------------------------------------------------


@kernel
def _may_go(world, request, fullness):
    """Return whether a request may be dispatched at a saturation: best-effort ones fill slack alone."""
    parameters = world.memory.flow_parameters
    if not is_best_effort(world, request.class_code):
        return fullness < 1.0
    each = world.environment.fill_tokens / len(world.replicas)
    return fullness == -np.inf or (fullness < parameters[FILL] and each < parameters[FILL_TOKENS])


@kernel
def _band(world, request):
    return np.int64(request.priority) if world.memory.flow_parameters[BANDS] > 0.0 else np.int64(0)


@outlined
def _grant(world, band, fullness):
    """Let each tenant with a candidate in a band have as many quanta as let one of them have a deficit above 0."""
    environment, arena, requests = world.environment, world.arena, world.requests
    quantum = world.memory.flow_parameters[QUANTUM]
    most = -np.inf
    request_id = np.int64(environment.queued_first)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if _may_go(world, request, fullness) and _band(world, request) == band:
            tenant = tenant_of(world, request_id)
            arena[tenant_at(world, tenant) + AT.chosen] = 1
            most = max(most, deficit_of(world, tenant))
        request_id = np.int64(request.next)
    quanta = 0.0
    if most <= 0.0:
        quanta = np.floor(-most / quantum) + 1.0
    for tenant in range(world.gateway.tenants):
        at = tenant_at(world, tenant)
        if arena[at + AT.chosen]:
            arena[at + AT.chosen] = 0
            put_real(arena, at + AT.granted, real_at(arena, at + AT.granted) + quanta * quantum)


@kernel
def _rank(world, rule, tenant):
    """Return the place of a tenant in the order of a rule, smallest first."""
    if rule == ROUND_ROBIN:
        return float(whole_at(world.arena, tenant_at(world, tenant) + AT.turn))
    if rule == VTC:
        return counter_of(world, tenant)
    if rule == DRR:
        if deficit_of(world, tenant) <= 0.0:
            return np.inf
        count = np.int64(world.gateway.tenants)
        return float((tenant - np.int64(world.environment.last_tenant) + count) % count)
    return 0.0


@outlined
def choose(world, fullness):
    """Return the request to dispatch at a saturation; NO_REQUEST if none may be."""
    environment, requests = world.environment, world.requests
    rule = np.int64(world.memory.flow)
    band, found = np.int64(0), False
    request_id = np.int64(environment.queued_first)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if _may_go(world, request, fullness):
            own = _band(world, request)
            if not found or own < band:
                band, found = own, True
            if rule == FCFS and world.memory.flow_parameters[BANDS] == 0.0:
                break
        request_id = np.int64(request.next)
    if not found:
        return np.int64(NO_REQUEST)
    if rule == DRR:
        _grant(world, band, fullness)
    best, least = np.int64(NO_REQUEST), np.inf
    request_id = np.int64(environment.queued_first)
    while request_id != NO_REQUEST:
        request = requests[request_id]
        if _may_go(world, request, fullness) and _band(world, request) == band:
            rank = _rank(world, rule, tenant_of(world, request_id))
            if best == NO_REQUEST or rank < least:
                best, least = request_id, rank
            if rule == FCFS:
                break
        request_id = np.int64(request.next)
    return best


@outlined
def _look_at(world, time_s):
    """Foresee the next look, in place of the one that was foreseen before."""
    world.environment.look_number += 1
    world.environment.look_s = time_s
    foresee(world, time_s, LOOK, 0)


@outlined
def _release(world):
    """Put the next request at the gateway, if one may be dispatched, and foresee when to look again."""
    environment = world.environment
    if environment.queued == 0:
        return
    count_outputs(world)
    request_id = choose(world, saturation(world))
    if request_id == NO_REQUEST and environment.look_s == np.inf and is_stuck(world):
        request_id = choose(world, -np.inf)  # nothing else will change
    if request_id == NO_REQUEST:
        if environment.look_s == np.inf:
            _look_at(world, environment.now_s + world.gateway.look_s)
        return
    take_out(world, request_id)
    environment.deferred -= 1
    environment.dispatches += 1
    tenant = tenant_of(world, request_id)
    environment.last_tenant = tenant
    put_whole(world.arena, tenant_at(world, tenant) + AT.turn, np.int64(environment.dispatches))
    environment.at_gateway = request_id
    if environment.queued > 0:
        _look_at(world, environment.now_s)
    elif environment.look_s < np.inf:
        environment.look_number += 1
        environment.look_s = np.inf


@detached(lambda state: state.gateway["queues"].any(), lambda state: (world_type(state),))
def enter_queue(world):
    """Let the request that has come to the gateway wait with the others; the next one, if any, is then there."""
    environment = world.environment
    if world.memory.flow == AT_ONCE:
        return
    request_id = np.int64(environment.at_gateway)
    environment.at_gateway = NO_REQUEST
    count_outputs(world)
    append(world, request_id)
    _release(world)


@detached(lambda state: state.gateway["queues"].any(), lambda state: (world_type(state),))
def look(world):
    """Look whether a request may be dispatched, at the time that was foreseen."""
    world.environment.look_s = np.inf
    _release(world)
