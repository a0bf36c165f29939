"""Several gateways, compiled: each decides with what it knows itself.

Policies read and write one MEMORY, and the traffic in ENVIRONMENT. Where a cluster has several gateways, those numbers
belong to the one that decides (``environment.viewer``); the others' are put aside in the arena, an OWN for each. The
stream of random numbers is common to all. Logs are apart from each other anyway (:mod:`burstenv.engine.gateway_log`).
"""

from __future__ import annotations

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv.cluster.traffic import decay_rates
from burstenv.engine.gateway_log import OWN_AT, OWN_NUMBERS, own_numbers


@outlined
def put_aside(world):
    """Put aside what the deciding gateway knows."""
    environment, memory, arena = world.environment, world.memory, world.arena
    own = own_numbers(world, environment.viewer)
    put_real(arena, own + OWN_AT.bucket_tokens, memory.bucket_tokens)
    put_real(arena, own + OWN_AT.bucket_s, memory.bucket_s)
    put_real(arena, own + OWN_AT.concurrency_limit, memory.concurrency_limit)
    put_real(arena, own + OWN_AT.window_s, memory.window_s)
    put_real(arena, own + OWN_AT.rate_fast_per_s, environment.rate_fast_per_s)
    put_real(arena, own + OWN_AT.rate_slow_per_s, environment.rate_slow_per_s)
    put_real(arena, own + OWN_AT.token_rate_per_s, environment.token_rate_per_s)
    put_real(arena, own + OWN_AT.api_share, environment.api_share)
    put_real(arena, own + OWN_AT.rate_s, environment.rate_s)
    arena[own + OWN_AT.round_robin] = memory.round_robin
    arena[own + OWN_AT.window_first_tokens] = memory.window_first_tokens
    arena[own + OWN_AT.window_in_time] = memory.window_in_time
    arena[own + OWN_AT.deferred] = environment.deferred


@outlined
def take_up(world, number):
    """Let a gateway be the one whose knowledge policies and observations read."""
    environment, memory, arena = world.environment, world.memory, world.arena
    own = own_numbers(world, number)
    environment.viewer = number
    memory.bucket_tokens = real_at(arena, own + OWN_AT.bucket_tokens)
    memory.bucket_s = real_at(arena, own + OWN_AT.bucket_s)
    memory.concurrency_limit = real_at(arena, own + OWN_AT.concurrency_limit)
    memory.window_s = real_at(arena, own + OWN_AT.window_s)
    environment.rate_fast_per_s = real_at(arena, own + OWN_AT.rate_fast_per_s)
    environment.rate_slow_per_s = real_at(arena, own + OWN_AT.rate_slow_per_s)
    environment.token_rate_per_s = real_at(arena, own + OWN_AT.token_rate_per_s)
    environment.api_share = real_at(arena, own + OWN_AT.api_share)
    environment.rate_s = real_at(arena, own + OWN_AT.rate_s)
    memory.round_robin = arena[own + OWN_AT.round_robin]
    memory.window_first_tokens = arena[own + OWN_AT.window_first_tokens]
    memory.window_in_time = arena[own + OWN_AT.window_in_time]
    environment.deferred = arena[own + OWN_AT.deferred]


@kernel
def seat(world, number):
    """Let a gateway be the one that decides and whose knowledge is seen."""
    environment = world.environment
    if world.gateway.gateways > 1 and environment.viewer != number:
        put_aside(world)
        take_up(world, number)
        decay_rates(world, environment.now_s)


@outlined
def reset_seats(world):
    """Begin an episode: every gateway knows what the first one does, which is nothing, and the first one decides."""
    if world.gateway.gateways == 1:
        world.environment.viewer = 0
        return
    for number in range(world.gateway.gateways - 1, -1, -1):
        world.environment.viewer = number
        for k in range(OWN_NUMBERS):
            world.arena[own_numbers(world, number) + k] = 0
        put_aside(world)
