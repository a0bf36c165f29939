"""The gateway's queue, compiled: the requests that wait, and the service that each tenant has received.

Requests that wait are a linked list in order of arrival. Service is VTC's: one for each prompt token, as a request is
admitted, and two for each output token that has been relayed, divided by the tenant's weight. The counters belong to
the gateway: all replicas share them.
"""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, put_whole, real_at, whole_at
from burstenv._jit.positions import places_of
from burstenv.cluster.flow_config import OUTPUT_PRICE
from burstenv.engine.arena import NUMBERS_OF_A_TENANCY, TENANT_NUMBERS
from burstenv.engine.arena_records import TENANT
from burstenv.engine.enums import NO_REQUEST

AT = places_of(TENANT)  # the position of each field among a tenant's numbers
_QUEUED = -1  # in the place of the outputs that were counted of a request


# -- what is kept ----------------------------------------------------------------------------------------


@kernel
def tenant_at(world, number):
    """Return where the numbers of a tenant begin in the arena."""
    return world.gateway.tenant_base + TENANT_NUMBERS * number


@kernel
def tenancy_at(world, request_id):
    """Return where the numbers of a request's tenancy begin: its tenant, and the outputs that were counted of it."""
    return world.gateway.tenancy_base + NUMBERS_OF_A_TENANCY * request_id


@kernel
def tenant_of(world, request_id):
    """Return the number of a request's tenant."""
    return np.int64(world.arena[tenancy_at(world, request_id)])


@kernel
def service_of(world, tenant):
    """Return the service that a tenant has received, divided by its weight."""
    arena, at = world.arena, tenant_at(world, tenant)
    tokens = whole_at(arena, at + AT.prompt_tokens) + OUTPUT_PRICE * whole_at(arena, at + AT.output_tokens)
    return tokens / real_at(arena, at + AT.weight)


@kernel
def counter_of(world, tenant):
    """Return the virtual counter of a tenant, as VTC has it."""
    return real_at(world.arena, tenant_at(world, tenant) + AT.lifted) + service_of(world, tenant)


@kernel
def deficit_of(world, tenant):
    """Return the deficit of a tenant, as deficit round robin has it."""
    return real_at(world.arena, tenant_at(world, tenant) + AT.granted) - service_of(world, tenant)


@outlined
def reset_flow(world):
    """Empty the queue and forget all service, as an episode begins."""
    environment, arena = world.environment, world.arena
    for tenant in range(world.gateway.tenants):
        at = tenant_at(world, tenant)
        put_real(arena, at + AT.lifted, 0.0)
        put_real(arena, at + AT.granted, 0.0)
        put_whole(arena, at + AT.prompt_tokens, 0)
        put_whole(arena, at + AT.output_tokens, 0)
        put_whole(arena, at + AT.turn, 0)
        arena[at + AT.waiting] = 0
        arena[at + AT.chosen] = 0
    for k in range(environment.num_requests):
        arena[tenancy_at(world, k) + 1] = 0
    environment.queued = 0
    environment.queued_first = NO_REQUEST
    environment.queued_last = NO_REQUEST
    environment.look_s = np.inf
    environment.look_number = 0
    environment.oldest = 0
    environment.dispatches = 0
    environment.last_tenant = 0
    environment.fill_tokens = 0.0


@outlined
def _welcome(world, tenant):
    """Let a tenant without requests in the queue gain nothing by its absence, before its request joins."""
    arena, own = world.arena, tenant_at(world, tenant)
    if arena[own + AT.waiting] > 0:
        return
    least = np.inf
    for other in range(world.gateway.tenants):
        if arena[tenant_at(world, other) + AT.waiting] > 0:
            least = min(least, counter_of(world, other))
    behind = least - counter_of(world, tenant)
    if 0.0 < behind < np.inf:
        put_real(arena, own + AT.lifted, real_at(arena, own + AT.lifted) + behind)
    granted = real_at(arena, own + AT.granted)
    put_real(arena, own + AT.granted, min(granted, service_of(world, tenant)))


# -- the queue -------------------------------------------------------------------------------------------


@outlined
def append(world, request_id):
    """Let a request wait behind all others."""
    environment, arena, requests = world.environment, world.arena, world.requests
    _welcome(world, tenant_of(world, request_id))
    arena[tenant_at(world, tenant_of(world, request_id)) + AT.waiting] += 1
    arena[tenancy_at(world, request_id) + 1] = _QUEUED
    requests[request_id].next = NO_REQUEST
    requests[request_id].previous = environment.queued_last
    if environment.queued_last == NO_REQUEST:
        environment.queued_first = request_id
    else:
        requests[environment.queued_last].next = request_id
    environment.queued_last = request_id
    environment.queued += 1
    environment.deferred += 1


@outlined
def take_out(world, request_id):
    """Take a request out of the queue."""
    environment, arena, requests = world.environment, world.arena, world.requests
    before, after = np.int64(requests[request_id].previous), np.int64(requests[request_id].next)
    if before == NO_REQUEST:
        environment.queued_first = after
    else:
        requests[before].next = after
    if after == NO_REQUEST:
        environment.queued_last = before
    else:
        requests[after].previous = before
    arena[tenant_at(world, tenant_of(world, request_id)) + AT.waiting] -= 1
    arena[tenancy_at(world, request_id) + 1] = 0
    environment.queued -= 1


@kernel
def leave_queue(world, request_id):
    """Take a request out of the queue whose client has given up, if it is there."""
    if world.gateway.queues and world.arena[tenancy_at(world, request_id) + 1] == _QUEUED:
        take_out(world, request_id)
