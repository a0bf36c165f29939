"""Forecasts of the rate: right on series whose future is known, and the fit is that of least squares."""

from __future__ import annotations

import numpy as np
import pytest

from burstenv.cluster.reference.forecast import arima, kalman

BUCKET_S = 10.0


@pytest.mark.parametrize("forecast", [kalman, arima])
def test_a_constant_rate_stays_and_few_windows_say_the_last_one(forecast):
    assert forecast([3.0] * 20, BUCKET_S, 55.0) == pytest.approx(3.0)
    assert forecast([1.0, 2.0, 5.0], BUCKET_S, 55.0) == 5.0


def test_a_ramp_goes_on():
    """Both follow a ramp of 0.1 requests/s for each window: in 30 s three windows more."""
    rates = [0.1 * k for k in range(60)]
    assert kalman(rates, BUCKET_S, 30.0) == pytest.approx(6.2, rel=0.02)
    noisy = np.array(rates) + np.random.default_rng(0).normal(0.0, 0.01, 60)
    assert arima(list(noisy), BUCKET_S, 30.0) == pytest.approx(6.2, rel=0.15)


def test_a_forecast_is_never_below_zero():
    assert kalman([6.0 - 0.1 * k for k in range(60)], BUCKET_S, 300.0) == 0.0
    noise = np.random.default_rng(0).normal(0.0, 0.001, 40)
    assert arima(list(4.1 - 0.1 * np.arange(40) + noise), BUCKET_S, 300.0) == 0.0


def test_the_kalman_filter_is_that_of_the_matrices():
    rates = list(np.random.default_rng(1).uniform(0.0, 4.0, 30))
    transition, seen = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    state, covariance = np.array([rates[0] * BUCKET_S, 0.0]), 10.0 * np.eye(2)
    for rate in rates[1:]:
        state, covariance = transition @ state, transition @ covariance @ transition.T + np.diag([1.0, 0.1])
        gain = covariance @ seen.T / (seen @ covariance @ seen.T + 10.0)
        state = state + (gain * (rate * BUCKET_S - state[0])).ravel()
        covariance = (np.eye(2) - gain @ seen) @ covariance
    assert kalman(rates, BUCKET_S, 25.0) == pytest.approx(max(0.0, (state[0] + 2.5 * state[1]) / BUCKET_S))


def test_the_arima_is_that_of_least_squares():
    rates = list(np.random.default_rng(2).uniform(1.0, 4.0, 30))
    changes = np.diff(rates)
    shares, *_ = np.linalg.lstsq(np.stack([changes[1:-1], changes[:-2]], 1), changes[2:], rcond=None)
    last, before, rate = changes[-1], changes[-2], rates[-1]
    for _ in range(3):
        last, before = shares @ [last, before], last
        rate += last
    assert arima(rates, BUCKET_S, 25.0) == pytest.approx(rate)
