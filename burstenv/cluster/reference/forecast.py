"""Forecasts of the rate of requests in plain Python: the specification of ``cluster/scaling/forecast.py``.

The rates are means over windows, of whole control periods, one after the other up to now. A forecast says the rate
``ahead_s`` later:

* constant: the last one.
* linear: on with the change of the last two windows.
* kalman: level and trend of the requests in each window, filtered with the noise of Dynamo's planner, and on with them;
  the last one while there are fewer than five windows.
* arima: ARIMA(2, 1, 0) by least squares: each change is a sum of shares of the two before. The last one while there are
  fewer than eight windows, and where the fit would grow without end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from burstenv.cluster.scaling import codes


def kalman(rates: Sequence[float], bucket_s: float, ahead_s: float) -> float:
    """Return the rate ``ahead_s`` after windows of ``bucket_s`` each, oldest first, by a Kalman filter [1/s]."""
    if len(rates) < codes.KALMAN_LEAST:
        return rates[-1]
    level, trend = rates[0] * bucket_s, 0.0
    p = [[codes.KALMAN_NOISE, 0.0], [0.0, codes.KALMAN_NOISE]]  # covariance of level and trend
    for rate in rates[1:]:
        level += trend
        cross = p[0][1] + p[1][1]
        p = [[p[0][0] + 2 * p[0][1] + p[1][1] + codes.LEVEL_NOISE, cross], [cross, p[1][1] + codes.TREND_NOISE]]
        spread = p[0][0] + codes.KALMAN_NOISE
        gain = p[0][0] / spread, p[1][0] / spread
        surprise = rate * bucket_s - level
        level, trend = level + gain[0] * surprise, trend + gain[1] * surprise
        p = [[p[i][j] - gain[i] * p[0][j] for j in range(2)] for i in range(2)]
    return max(0.0, (level + trend * ahead_s / bucket_s) / bucket_s)


def arima(rates: Sequence[float], bucket_s: float, ahead_s: float) -> float:
    """Return the rate ``ahead_s`` after windows of ``bucket_s`` each, oldest first, by ARIMA(2, 1, 0) [1/s]."""
    rate = rates[-1]
    if len(rates) < codes.ARIMA_LEAST:
        return rate
    changes = [after - before for before, after in pairwise(rates)]
    rows = list(zip(changes[2:], changes[1:], changes, strict=False))
    a11, a12, a22 = sum(p * p for _, p, _ in rows), sum(p * q for _, p, q in rows), sum(q * q for _, _, q in rows)
    b1, b2 = sum(c * p for c, p, _ in rows), sum(c * q for c, _, q in rows)
    determinant = a11 * a22 - a12 * a12
    if determinant <= 1e-9 * a11 * a22:
        return rate
    first, second = (b1 * a22 - b2 * a12) / determinant, (b2 * a11 - b1 * a12) / determinant
    if abs(second) >= 1.0 or abs(first) >= 1.0 - second:
        return rate
    before, last = changes[-2:]
    for _ in range(math.ceil(ahead_s / bucket_s - 1e-6)):
        before, last = last, first * last + second * before
        rate += last
    return max(0.0, rate)
