"""Fit of arrivals: the schedule of day and week, the drift or the ON and OFF hours around it, the gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.describe import windowed_cv
from burstenv.workload.fidelity.statistics import CV_MIN_GAPS, HOUR_S, choose_cv_window, counts_by
from burstenv.workload.generator.basics import Drift, QuantileTable
from burstenv.workload.generator.fit_tables import at_quantiles, normal_scores, table_of_counts, table_of_values
from burstenv.workload.generator.stream import stream_arrivals
from burstenv.workload.generator.stream_config import OnOff, StreamArrivals

WEEKEND_FROM_DAYS = 14  # a shorter trace says nothing about weeks
_QUIET_SHARE = 0.85  # weekend: two neighbouring days of the week below this share of the others
_QUIET_ERRORS = 3.5  # standard errors that the difference has to have: the quietest of seven pairs is chosen
_MOST_DRIFT_VARIANCE = 1.0  # of the logarithm; a rate that varies more is on and off
_ON_REQUESTS = 10.0  # an ON hour has more requests than this (or than a tenth of the mean, where that is less)
_CV_LEVELS = np.array([0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98])
_CV_ROUNDS, _CV_REQUESTS, _CV_MIN_WINDOWS, _CV_MOST_DAYS = 10, 150_000, 10, 400
_CV_LEAST, _CV_MOST = 0.1, 60.0
_POISSON = QuantileTable(q=(0.0, 0.5), value=(1.0, 1.0))


@dataclass(frozen=True)
class Hours:
    """Counts by hour of a stream.

    Attributes:
        counts: Arrivals by hour, shape ``(hours,)``.
        hour: Hours since the midnight of day 0, shape ``(hours,)``.
    """

    counts: NDArray[np.int64]
    hour: NDArray[np.int64]


def fit_arrivals(
    arrival_s: NDArray[np.float64], hours: NDArray[np.int64], clock_s: float, *, gaps: bool
) -> StreamArrivals:
    """Fit the arrivals of a stream's requests (or sessions).

    Args:
        arrival_s: Sorted times in seconds, shape ``(n,)``, n at least 1.
        hours: Hours since the midnight of day 0 in which the trace was recorded, rising, shape ``(hours,)``.
        clock_s: Resolution of the trace's clock, seconds; 0 for exact.
        gaps: Whether to fit the variation of the gaps; sessions begin as a Poisson process.
    """
    seen = _hours(arrival_s, hours)
    weekday, weekend, weekend_days = _schedule(seen)
    per_day = len(arrival_s) / len(hours) * 24
    window_s = choose_cv_window(arrival_s) if gaps else HOUR_S
    base = {
        "per_day": float(f"{per_day:.6g}"),
        "weekday_starts": tuple(float(f"{value:.5g}") for value in weekday),
        "weekend_starts": tuple(float(f"{value:.5g}") for value in weekend),
        "weekend_days": weekend_days,
        "window_s": window_s,
        "window_evenness": _evenness(arrival_s, window_s),
    }
    expected = np.where(np.isin((hours // 24) % 7, weekend_days), weekend[hours % 24], weekday[hours % 24])
    drift = _drift(seen.counts, expected)
    on_off = None
    if _pauses(seen.counts, expected, drift):
        on_off, drift = _on_off(seen, expected), Drift(sigma=0.0, correlation_h=1.0)
    config = StreamArrivals.model_validate({**base, "drift": drift, "on_off": on_off, "interarrival_cv": _POISSON})
    return _calibrate_gaps(config, arrival_s, clock_s) if gaps else config


def _hours(arrival_s: NDArray[np.float64], hours: NDArray[np.int64]) -> Hours:
    first = int(hours[0]) // 24 * 24
    counts = counts_by(arrival_s, HOUR_S, first // 24, int(hours[-1]) // 24 - first // 24 + 1)
    return Hours(counts[hours - first], hours)


def _evenness(arrival_s: NDArray[np.float64], window_s: float) -> float:
    """Fit the Dirichlet parameter of an hour's windows by moments.

    With m windows, n requests in the hour and ``a`` the sum of the m parameters, the expected sum of
    ``(n_w - n/m)^2`` over the windows is ``n (1 - 1/m) (n + a) / (1 + a)``; summed over hours it gives ``a``.
    """
    windows = round(HOUR_S / window_s)
    if windows == 1:
        return 1.0
    hour, inverse = np.unique(arrival_s // HOUR_S, return_inverse=True)
    slot = np.minimum((arrival_s % HOUR_S) // window_s, windows - 1).astype(np.int64)
    counts = np.bincount(inverse * windows + slot, minlength=len(hour) * windows).reshape(-1, windows)
    requests = counts.sum(axis=1).astype(float)
    spread = float(((counts - requests[:, None] / windows) ** 2).sum())
    single, double = float(requests.sum()) * (1 - 1 / windows), float((requests**2).sum()) * (1 - 1 / windows)
    total = (double - spread) / max(spread - single, 1e-9 * double)
    return float(f"{np.clip(total / windows, 0.01, 1e4):.4g}")


def _schedule(hours: Hours) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[int, ...]]:
    """Return mean arrivals by hour of day on working days and at weekends, and the weekend days."""
    day = (hours.hour // 24) % 7
    weekend_days: tuple[int, ...] = ()
    if len(hours.hour) >= WEEKEND_FROM_DAYS * 24:
        weekend_days = _weekend(hours)
    at_weekend = np.isin(day, weekend_days)
    weekday = _by_hour(hours.counts[~at_weekend], hours.hour[~at_weekend] % 24)
    weekend = _by_hour(hours.counts[at_weekend], hours.hour[at_weekend] % 24) if weekend_days else weekday
    return weekday, weekend, weekend_days


def _weekend(hours: Hours) -> tuple[int, ...]:
    """Return the two quietest neighbouring days of the week, if the difference is significant."""
    number = hours.hour // 24
    days, of = np.unique(number, return_inverse=True)
    mean = np.bincount(of, hours.counts) / np.bincount(of)  # (days,) requests per recorded hour
    of_week = days % 7

    def quiet(low: int) -> NDArray[np.bool_]:
        return np.isin(of_week, (low, (low + 1) % 7))

    low = min(range(7), key=lambda first: float(mean[quiet(first)].mean()) if quiet(first).any() else np.inf)
    weekend, others = mean[quiet(low)], mean[~quiet(low)]
    if min(len(weekend), len(others)) < 3 or weekend.mean() > _QUIET_SHARE * others.mean():
        return ()
    error = np.sqrt(weekend.var(ddof=1) / len(weekend) + others.var(ddof=1) / len(others))
    if others.mean() - weekend.mean() < _QUIET_ERRORS * error:
        return ()
    return tuple(sorted((low, (low + 1) % 7)))


def _by_hour(counts: NDArray[np.int64], of_day: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of each hour of day, shrunk towards the mean of all by its sampling noise.

    Positive-part James and Stein: the hours' means keep ``1 - S / B`` of their deviation, where B is their
    variance and S the mean of their sampling variances. Regular traffic keeps nearly all of its shape, a week
    of irregular bursts very little.
    """
    overall = float(counts.mean())
    mean, noise = np.full(24, overall), np.full(24, np.nan)
    for hour in range(24):
        values = counts[of_day == hour]
        if len(values):
            mean[hour] = values.mean()
            spread = values.var(ddof=1) if len(values) > 1 else 0.0
            noise[hour] = max(spread, mean[hour], overall / 24) / len(values)
    seen = ~np.isnan(noise)
    between = float(mean[seen].var(ddof=1)) if seen.sum() > 1 else 0.0
    kept = max(0.0, 1.0 - float(noise[seen].mean()) / between) if between else 0.0
    return np.maximum(overall + kept * (mean - overall), 1e-3 * overall)


def _drift(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> Drift:
    """Fit a log-normal drift by moments, net of Poisson: Var = m + m^2 (e^(s^2) - 1), and so for lags."""
    residual = counts - expected
    excess = max(0.0, float((residual**2 - counts).sum()) / float((expected**2).sum()))
    variance = float(np.log1p(excess))
    if variance < 1e-4 or len(counts) < 3:
        return Drift(sigma=0.0, correlation_h=1.0)
    shared = float((residual[1:] * residual[:-1]).sum()) / float((expected[1:] * expected[:-1]).sum())
    correlation = float(np.clip(np.log1p(max(shared, 0.0)) / variance, 0.01, 0.99))
    return Drift(sigma=round(variance**0.5, 4), correlation_h=round(-1.0 / float(np.log(correlation)), 3))


def _pauses(counts: NDArray[np.int64], expected: NDArray[np.float64], drift: Drift) -> bool:
    """Return whether the stream is on and off: more empty hours than a drift can explain, or too wide a variation."""
    if drift.sigma**2 > _MOST_DRIFT_VARIANCE:
        return True
    level = np.exp(drift.sigma * np.linspace(-2.5, 2.5, 41) - drift.sigma**2 / 2)
    weight = np.exp(-0.5 * np.linspace(-2.5, 2.5, 41) ** 2)
    empty = (np.exp(-expected[:, None] * level) * weight).sum(axis=1) / weight.sum()
    return float((counts == 0).mean() - empty.mean()) > 0.15


def _on_off(hours: Hours, expected: NDArray[np.float64]) -> OnOff:
    counts = hours.counts
    on = counts > min(_ON_REQUESTS, 0.1 * float(counts.mean()))
    edges = np.flatnonzero(np.diff(on.astype(int))) + 1
    runs = np.split(on, edges)
    lengths = {kind: np.array([len(run) for run in runs if run[0] == kind]) for kind in (True, False)}
    level = counts / expected
    mean_on = float(level[on].mean())
    both = on[1:] & on[:-1]
    correlation = 0.0
    if both.sum() > 10:
        score = np.zeros(len(level))
        score[on] = normal_scores(level[on])
        before, after = score[:-1][both], score[1:][both]
        if before.std() > 0 and after.std() > 0:
            correlation = float(np.clip(np.corrcoef(before, after)[0, 1], 0.0, 0.98))
    off = level[~on]

    def run_table(values: NDArray[np.int64]) -> QuantileTable:
        return table_of_counts(values if len(values) else np.array([1]), 0.02)

    return OnOff(
        on_run_h=run_table(lengths[True]),
        off_run_h=run_table(lengths[False]),
        level=table_of_values(level[on] / mean_on, 0.01),
        level_correlation=round(correlation, 4),
        off_level=float(f"{(off.mean() / mean_on if len(off) else 0.0):.5g}"),
    )


def _calibrate_gaps(config: StreamArrivals, arrival_s: NDArray[np.float64], clock_s: float) -> StreamArrivals:
    """Fit the table of gap variation to match the windowed CV of generated and measured arrivals.

    A window shows a lower CV than the one of its distribution, especially with few gaps. The table is therefore moved,
    level by level, by the difference of the measured and generated quantiles, until there is no improvement.
    """
    window_s = choose_cv_window(arrival_s)
    measured = windowed_cv(arrival_s, window_s, CV_MIN_GAPS)
    if len(measured) < _CV_MIN_WINDOWS:
        return config
    target = np.maximum(np.quantile(measured, _CV_LEVELS), 1e-3)
    days = int(np.clip(_CV_REQUESTS / config.per_day, 7, _CV_MOST_DAYS))
    drawn, best, best_error = np.clip(target, _CV_LEAST, _CV_MOST), config, np.inf
    for _ in range(_CV_ROUNDS):
        table = QuantileTable(q=(0.0, *_CV_LEVELS), value=tuple(float(f"{v:.5g}") for v in (drawn[0], *drawn)))
        trial = config.model_copy(update={"interarrival_cv": table})
        random = np.random.Generator(np.random.PCG64(0))
        time = stream_arrivals(trial, 1.0, 0, days, random)
        if clock_s > 0:
            time = np.sort(np.floor(time / clock_s) * clock_s + clock_s * random.random(len(time)))
        generated = windowed_cv(time, window_s, CV_MIN_GAPS)
        if len(generated) < _CV_MIN_WINDOWS:
            return best
        ratio = target / np.maximum(np.quantile(generated, _CV_LEVELS), 1e-3)
        error = float(np.abs(np.log(ratio[1:-1])).max())
        if error < best_error:
            best, best_error = trial, error
        now = at_quantiles(table, _CV_LEVELS)
        drawn = np.maximum.accumulate(np.clip(now * ratio**0.8, _CV_LEAST, _CV_MOST))
    return best
