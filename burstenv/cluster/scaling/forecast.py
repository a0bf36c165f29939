"""The rate of requests when a replica that is started now will serve, forecast from the rates so far, compiled.

``cluster/reference/forecast.py`` says the forecasts in plain Python.
"""

from __future__ import annotations

import math

import numpy as np

from burstenv._jit.decorators import kernel, outlined
from burstenv.cluster.scaling.codes import (
    ARIMA_LEAST,
    CONSTANT,
    KALMAN,
    KALMAN_LEAST,
    KALMAN_NOISE,
    LEVEL_NOISE,
    LINEAR,
    MOST_BUCKETS,
    TREND_NOISE,
)
from burstenv.cluster.scaling.samples import mean_rate, periods, rate_up_to


@kernel
def _buckets(world, count):
    """Return how many whole windows of ``count`` periods are known."""
    known = min(np.int64(world.environment.control), np.int64(world.gateway.samples) - 1)
    return min(known // count, np.int64(MOST_BUCKETS))


@kernel
def _rate(world, count, ago):
    """Return the rate of the window that ended ``ago`` windows before now [1/s]."""
    return rate_up_to(world, world.environment.control - ago * count, count)


@outlined
def _kalman(world, count, ahead_s):
    """Filter level and trend of the requests in each window (local linear trend), and go on with them."""
    total = _buckets(world, count)
    if total < KALMAN_LEAST:
        return _rate(world, count, 0)
    bucket_s = count * world.gateway.control_period_s
    level, trend = _rate(world, count, total - 1) * bucket_s, 0.0
    p00, p01, p11 = KALMAN_NOISE, 0.0, KALMAN_NOISE
    for ago in range(total - 2, -1, -1):
        level += trend
        p00 = p00 + p01 + p01 + p11 + LEVEL_NOISE
        p01 = p01 + p11
        p11 = p11 + TREND_NOISE
        surprise = _rate(world, count, ago) * bucket_s - level
        gain_level, gain_trend = p00 / (p00 + KALMAN_NOISE), p01 / (p00 + KALMAN_NOISE)
        level += gain_level * surprise
        trend += gain_trend * surprise
        p11 -= gain_trend * p01
        p01 -= gain_trend * p00
        p00 -= gain_level * p00
    return max(0.0, (level + trend * ahead_s / bucket_s) / bucket_s)


@outlined
def _arima(world, count, ahead_s):
    """Fit ARIMA(2, 1, 0) to the rates of the windows by least squares, and go on with it."""
    total = _buckets(world, count)
    rate = _rate(world, count, 0)
    if total < ARIMA_LEAST:
        return rate
    a11 = a12 = a22 = b1 = b2 = 0.0
    before = _rate(world, count, total - 2) - _rate(world, count, total - 1)
    last = _rate(world, count, total - 3) - _rate(world, count, total - 2)
    for ago in range(total - 4, -1, -1):
        change = _rate(world, count, ago) - _rate(world, count, ago + 1)
        a11 += last * last
        a12 += last * before
        a22 += before * before
        b1 += change * last
        b2 += change * before
        before, last = last, change
    determinant = a11 * a22 - a12 * a12
    if determinant <= 1e-9 * a11 * a22:
        return rate
    first, second = (b1 * a22 - b2 * a12) / determinant, (b2 * a11 - b1 * a12) / determinant
    if abs(second) >= 1.0 or abs(first) >= 1.0 - second:  # would grow without end
        return rate
    for _ in range(math.ceil(ahead_s / (count * world.gateway.control_period_s) - 1e-6)):
        before, last = last, first * last + second * before
        rate += last
    return max(0.0, rate)


@kernel
def forecast(world, kind, window_s, ahead_s, share):
    """Return the rate of requests in ``ahead_s`` seconds [1/s].

    Args:
        world: The cluster.
        kind: One of FORECASTS.
        window_s: The rates are means over windows of it.
        ahead_s: Time until then [s].
        share: Times the foreseen change.
    """
    now = mean_rate(world, window_s, 0)
    if kind == CONSTANT or share == 0.0:
        return now
    count = periods(world, window_s)
    if kind == LINEAR:
        slope = (now - mean_rate(world, window_s, 1)) / max(window_s, world.gateway.control_period_s)
        then = now + slope * ahead_s
    elif kind == KALMAN:
        then = _kalman(world, count, ahead_s)
    else:
        then = _arima(world, count, ahead_s)
    return max(0.0, now + share * (then - now))
