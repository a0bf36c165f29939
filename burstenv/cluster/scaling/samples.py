"""The load at the decisions about the number of replicas, compiled, and its means over windows of time.

A window has as many whole periods as its length asks for, one at least, and no more than there were.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv._jit.floats import put_real, real_at
from burstenv._jit.positions import places_of
from burstenv.cluster.traffic import request_s
from burstenv.cluster.world import engine_of
from burstenv.engine.arena import SAMPLE_NUMBERS
from burstenv.engine.arena_records import SAMPLE
from burstenv.engine.enums import ACTIVE

AT = places_of(SAMPLE)


@kernel
def sample_of(world, number):
    """Return where the sample of a decision is in the arena; number 0 is the begin."""
    gateway = world.gateway
    return gateway.sample_base + SAMPLE_NUMBERS * (number % np.int64(gateway.samples))


@kernel
def _kv_use(world):
    used, active = 0.0, 0
    for r in range(len(world.replicas)):
        replica = world.replicas[r]
        if replica.known == ACTIVE:
            blocks = engine_of(world, r).spec.num_blocks
            used += (blocks - replica.seen_free_blocks) / blocks
            active += 1
    return used / max(1, active)


@outlined
def take_sample(world, asked):
    """Note the present load as that of the present decision."""
    environment, arena = world.environment, world.arena
    at = sample_of(world, environment.control)
    put_real(arena, at + AT.time_s, environment.now_s)
    put_real(arena, at + AT.request_s, request_s(world))
    put_real(arena, at + AT.offered, float(environment.offered))
    put_real(arena, at + AT.kv_use, _kv_use(world))
    put_real(arena, at + AT.asked, float(asked))


@kernel
def periods(world, window_s):
    """Return the periods of a window."""
    wanted = np.int64(math.ceil(window_s / world.gateway.control_period_s - 1e-6))
    return min(max(np.int64(1), wanted), np.int64(world.environment.control))


@kernel
def _mean(world, field, number, count):
    """Return by how much a sum has grown for each second, in the periods up to that of a decision."""
    now, before = sample_of(world, number), sample_of(world, number - count)
    elapsed_s = real_at(world.arena, now + AT.time_s) - real_at(world.arena, before + AT.time_s)
    return (real_at(world.arena, now + field) - real_at(world.arena, before + field)) / elapsed_s


@kernel
def mean_requests(world, window_s):
    """Return the mean number of requests that were not settled."""
    return _mean(world, AT.request_s, world.environment.control, periods(world, window_s))


@kernel
def mean_rate(world, window_s, ago):
    """Return the mean rate of new requests, in the last window, or ``ago`` windows before, if there was one [1/s]."""
    count = periods(world, window_s)
    return rate_up_to(world, max(world.environment.control - ago * count, count), count)


@kernel
def rate_up_to(world, number, count):
    """Return the mean rate of new requests in the ``count`` periods up to a decision [1/s]."""
    return _mean(world, AT.offered, number, count)


@kernel
def mean_kv_use(world, window_s):
    """Return the mean share of KV blocks in use, at the decisions of the window."""
    count, total = periods(world, window_s), 0.0
    for k in range(count):
        total += real_at(world.arena, sample_of(world, world.environment.control - k) + AT.kv_use)
    return total / count


@kernel
def most_asked(world, window_s, asked):
    """Return the most replicas that the rule asked for, in the window and now."""
    most = float(asked)
    for k in range(1, periods(world, window_s)):
        most = max(most, real_at(world.arena, sample_of(world, world.environment.control - k) + AT.asked))
    return np.int64(most)
