"""Features of recent arrivals, compiled: counts by horizon, and their burstiness.

The gateway does not update them: each observation first counts the arrivals since the one before. Runs without these
features pay nothing, and the features depend on the arrivals alone. Clients' retries and the returns of deferred
requests are not arrivals.
"""

from __future__ import annotations

import math

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.clients import arrival, arrivals
from burstenv.engine.enums import BINS, HORIZONS_S
from burstenv.envs.observation.features import FORECAST, LIMIT

BIN_S = 1.0
GAPS = 50  # gaps between arrivals are averaged over about this number
_BINS = BINS
_SLOTS = BINS + 1
_HORIZONS_S = HORIZONS_S
_GAPS = GAPS


@kernel
def _go_to_bin(world, number):
    """Advance the bins of whole seconds to the one with a number."""
    environment = world.environment
    while environment.bin < number:
        count = environment.bin_counts[environment.bin % _SLOTS]
        environment.bin_sum += count
        environment.bin_squares += count * count
        environment.bin += 1
        slot = environment.bin % _SLOTS
        leaving = environment.bin_counts[slot]  # 61 seconds ago
        environment.bin_sum -= leaving
        environment.bin_squares -= leaving * leaving
        environment.bin_counts[slot] = 0


@kernel
def _count_gap(world, arrival_s):
    environment = world.environment
    gap_s = arrival_s - environment.gap_from_s
    environment.gap_from_s = arrival_s
    if environment.binned > 0:
        share = 1.0 / min(environment.binned, _GAPS)
        environment.gap_mean_s += share * (gap_s - environment.gap_mean_s)
        environment.gap_square += share * (gap_s * gap_s - environment.gap_square)


@outlined
def observe_recent(out, at, world, capacity_per_s):
    """Write the forecast features, from index ``at`` of ``out``."""
    environment, requests = world.environment, world.requests
    arrived = arrivals(world)
    now_s = environment.now_s
    while environment.binned < arrived:
        arrival_s = requests[arrival(world, environment.binned)].arrival_s
        _go_to_bin(world, int(arrival_s / BIN_S))
        environment.bin_counts[environment.bin % _SLOTS] += 1
        _count_gap(world, arrival_s)
        environment.binned += 1
    _go_to_bin(world, int(now_s / BIN_S))
    for k in range(len(_HORIZONS_S)):
        oldest = environment.recent[k]
        while oldest < arrived and requests[arrival(world, oldest)].arrival_s <= now_s - _HORIZONS_S[k]:
            oldest += 1
        environment.recent[k] = oldest
        out[at + FORECAST.count_1s + k] = min(LIMIT, (arrived - oldest) / (capacity_per_s * _HORIZONS_S[k]))
    whole = min(environment.bin, _BINS)
    fano = 0.0
    if environment.bin_sum > 0:
        mean = environment.bin_sum / whole
        fano = (environment.bin_squares / whole - mean * mean) / mean
    out[at + FORECAST.fano] = min(LIMIT, fano / 8.0)
    spread = environment.gap_square - environment.gap_mean_s * environment.gap_mean_s
    cv = 0.0
    if environment.gap_mean_s > 0.0:
        cv = math.sqrt(max(0.0, spread)) / environment.gap_mean_s
    out[at + FORECAST.gap_cv] = min(LIMIT, cv)
