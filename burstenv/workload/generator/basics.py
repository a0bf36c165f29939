"""Pieces that several parts of the generator's parameters are made of: tables, drifts, failures, schedules."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, model_validator

from burstenv.config import Config

HOURS_PER_DAY = 24


def _per_hour(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != HOURS_PER_DAY or min(values) < 0 or max(values) <= 0:
        raise ValueError("need 24 numbers of at least 0, one per hour of day, not all 0")
    return values


def _days_of_week(days: tuple[int, ...]) -> tuple[int, ...]:
    if any(not 0 <= day < 7 for day in days):
        raise ValueError("weekend_days must be days from 0 to 6")
    return days


PerHour = Annotated[tuple[float, ...], AfterValidator(_per_hour)]
WeekendDays = Annotated[tuple[int, ...], AfterValidator(_days_of_week)]


class QuantileTable(Config):
    """A positive distribution given by quantiles.

    Between the points, the logarithm of the value is linear in ``-log(1 - q)``, which draws the tails of
    heavy-tailed data as power laws; outside of them the nearest value holds.

    Attributes:
        q: Rising quantile levels in ``[0, 1)``.
        value: The values at these levels, positive and never falling.
    """

    q: tuple[float, ...] = Field(min_length=2, max_length=10_000)
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _increasing(self) -> QuantileTable:
        if len(self.q) != len(self.value):
            raise ValueError(f"q has {len(self.q)} levels and value {len(self.value)}; they must pair up")
        if min(self.q) < 0 or max(self.q) >= 1 or (np.diff(self.q) <= 0).any():
            raise ValueError("q must rise within [0, 1)")
        if self.value[0] < 1e-9 or self.value[-1] > 1e9:
            raise ValueError("value must lie between 1e-9 and 1e9")
        if min(self.value) <= 0 or (np.diff(self.value) < 0).any():
            raise ValueError("value must be positive and never fall")
        return self

    def at_exponential(self, exponential: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map unit-exponential draws, ``-log(1 - q)``, to values of this distribution."""
        return np.exp(np.interp(exponential, -np.log1p(-np.array(self.q)), np.log(self.value)))

    def at_normal(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map standard normal scores to values of this distribution."""
        return self.at_exponential(exponential_of_normal(score))

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Draw ``count`` values, shape ``(count,)``."""
        return self.at_exponential(random.standard_exponential(count))

    def mean(self) -> float:
        """Return the mean, by 20,000 equally likely quantiles."""
        middle = (np.arange(20_000) + 0.5) / 20_000
        return float(self.at_exponential(-np.log1p(-middle)).mean())


_NORMAL_GRID = np.linspace(-8.5, 8.5, 6801)
_EXPONENTIAL_GRID = np.array([-math.log(0.5 * math.erfc(z / math.sqrt(2.0))) for z in _NORMAL_GRID])


def exponential_of_normal(score: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit exponential at the quantile of a standard normal score: ``-log(1 - Phi(z))``.

    Interpolated in a grid of 1/400; the error is below 1e-6 of the value for scores above -8.5.
    """
    return np.interp(score, _NORMAL_GRID, _EXPONENTIAL_GRID)


class LogNormal(Config):
    """A log-normal distribution by its median and the standard deviation of its logarithm."""

    median: float = Field(ge=1e-6, le=1e9)
    sigma: float = Field(ge=0, le=5)

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Draw ``count`` values, shape ``(count,)``."""
        return self.median * np.exp(self.sigma * random.standard_normal(count))


class Drift(Config):
    """A slow multiplicative log-normal drift of a rate, with mean 1.

    Attributes:
        sigma: Standard deviation of the logarithm.
        correlation_h: Hours in which its autocorrelation falls to 1/e.
    """

    sigma: float = Field(ge=0, le=5)
    correlation_h: float = Field(ge=1e-3, le=1e6)


class SessionTurns(Config):
    """Requests per session: tabulated up to a length, a power law above.

    Attributes:
        share: P(turns = 1), P(turns = 2), ... up to the length of the table; the rest is the tail.
        tail_exponent: Exponent a of ``P(turns > k) ~ k**-a`` above the table.
        maximum: Most turns of a session.
    """

    share: tuple[float, ...] = Field(min_length=1)
    tail_exponent: float = Field(gt=1, le=100)
    maximum: int = Field(ge=1, le=1_000_000)

    @model_validator(mode="after")
    def _shares(self) -> SessionTurns:
        if min(self.share) < 0 or sum(self.share) > 1:
            raise ValueError("share must hold probabilities with sum at most 1")
        if self.maximum < len(self.share):
            raise ValueError(f"maximum must be at least the {len(self.share)} turns of share")
        return self


class FailureConfig(Config):
    """Failed submissions of a class: a share that drifts by the hour and rises with the load.

    An hour's odds of failure are its class's odds times a log-normal drift times
    ``(requests of the hour / mean requests of an hour)**load_exponent``, normed so that ``share`` is kept.

    Attributes:
        share: Failed share of all submissions.
        drift: Slow drift of the odds.
        load_exponent: How the odds rise with the hour's requests; 0 for not at all.
        gpt4_odds: Odds of GPT-4 requests as a multiple of the others'.
    """

    share: float = Field(ge=0, lt=1)
    drift: Drift = Drift(sigma=0.0, correlation_h=1.0)
    load_exponent: float = Field(default=0.0, ge=0, le=3)
    gpt4_odds: float = Field(default=1.0, ge=0, le=1e6)
