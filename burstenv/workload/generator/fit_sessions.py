"""Fit of conversations (turns, think times, context growth) and failures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.basics import Drift, FailureConfig, QuantileTable, SessionTurns
from burstenv.workload.generator.conversation import HOUR_S, resume
from burstenv.workload.generator.fit_lengths import fit_context
from burstenv.workload.generator.fit_tables import table_of_values
from burstenv.workload.generator.stream_config import StreamArrivals, StreamSessions

SITTING_H = 2.0  # a longer pause is resumed by the clock: what empties the nights in BurstGPT_3
_TABULATED_TURNS = 10
_LEAST_THINK_S = 1.0  # the resolution of the official clock
_MOST_FAILURE_VARIANCE = 4.0  # of the logarithm of an hour's odds
_RESUMED, _ROUNDS = 40_000, 8  # pauses drawn to measure the effect of resumption by the clock, and repetitions
_EXPECTED_FOR_LAG = 0.5  # failures expected in an hour that says something about the next one
_FAILURES_FOR_DRIFT = 30  # fewer say nothing about their variation in time


def fit_sessions(
    session: NDArray[np.int64],
    arrival_s: NDArray[np.float64],
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    arrivals: StreamArrivals,
) -> StreamSessions:
    """Fit the conversations of a stream.

    Args:
        session: Conversation number of every request, shape ``(n,)``.
        arrival_s: Times, shape ``(n,)``, sorted.
        prompt_tokens: Prompts, shape ``(n,)``.
        output_tokens: Responses, shape ``(n,)``.
        arrivals: The sessions' fitted starts, whose schedule also says when long pauses end.
    """
    order = np.argsort(session, kind="stable")
    same = np.diff(session[order]) == 0
    total = (prompt_tokens[order].astype(np.int64) + output_tokens[order])[:-1][same]
    following = prompt_tokens[order][1:][same].astype(np.int64)
    think = np.maximum(np.diff(arrival_s[order])[same], _LEAST_THINK_S)
    return StreamSessions(
        turns=fit_turns(np.unique(session, return_counts=True)[1]),
        think_time_s=_pauses(np.round(think, 1) if len(think) else np.array([60.0]), arrival_s, arrivals),
        sitting_h=SITTING_H,
        context=fit_context(total, following),
    )


def _pauses(think_s: NDArray[np.float64], arrival_s: NDArray[np.float64], arrivals: StreamArrivals) -> QuantileTable:
    """Fit the table of pauses: after resumption by the clock they have the measured quantiles.

    Resumption lengthens the longest pauses (users return in the morning, and after the weekend), so the table beyond
    the sitting is moved by the difference of the quantiles.
    """
    table = table_of_values(think_s)
    q, target = np.array(table.q), np.array(table.value)
    value, longest_s = target.copy(), SITTING_H * HOUR_S
    late = target > longest_s
    if not late.any():
        return table
    random = np.random.Generator(np.random.PCG64(0))
    last = random.choice(arrival_s, _RESUMED)
    draws = -np.log1p(-(np.arange(_RESUMED) + 0.5) / _RESUMED)  # of the unit exponential, evenly likely
    for _ in range(_ROUNDS):
        pause = QuantileTable(q=tuple(q), value=tuple(value)).at_exponential(draws)
        resumed = np.quantile(resume(arrivals, longest_s, last, pause, random) - last, q)
        moved = value * np.clip(target / np.maximum(resumed, 1.0), 0.5, 2.0) ** 0.7
        value = np.maximum.accumulate(np.where(late, np.clip(moved, longest_s, target.max()), value))
    return QuantileTable(q=table.q, value=tuple(float(f"{v:.5g}") for v in value))


def fit_turns(turns: NDArray[np.int64]) -> SessionTurns:
    """Fit requests per session: shares of 1 to 10, and above these Hill's estimate of the exponent.

    Args:
        turns: Requests of each session, shape ``(n,)``, n at least 1.
    """
    table = min(_TABULATED_TURNS, int(turns.max()))
    share = np.bincount(np.minimum(turns, table + 1), minlength=table + 2)[1 : table + 1] / len(turns)
    beyond = turns[turns > table]
    # Turns are the ceiling of a power law from the table's end, so their middles are half a turn lower.
    exponent = len(beyond) / float(np.log((beyond - 0.5) / table).sum()) if len(beyond) else 2.0
    share = np.floor(share * 1e6) / 1e6  # the sum of the shares must not pass 1
    return SessionTurns(
        share=tuple(float(value) for value in share),
        tail_exponent=round(max(exponent, 1.05), 4),
        maximum=int(turns.max()),
    )


def fit_failures(failed_hourly: NDArray[np.int64], served_hourly: NDArray[np.int64]) -> FailureConfig:
    """Fit failures: their share, how it rises with an hour's load, and its drift by moments net of Poisson.

    Args:
        failed_hourly: Failed submissions by hour, shape ``(hours,)``.
        served_hourly: Requests served by hour, shape ``(hours,)``.
    """
    failed, served = int(failed_hourly.sum()), int(served_hourly.sum())
    share = failed / (failed + served) if failed + served else 0.0
    share = min(float(f"{share:.5g}"), 0.99)
    with_requests = served_hourly > 0
    if failed < _FAILURES_FOR_DRIFT or with_requests.sum() < 24:
        return FailureConfig(share=share)
    load, lost = served_hourly[with_requests].astype(float), failed_hourly[with_requests].astype(float)
    exponent = _load_exponent(load, lost)
    expected = load * (load / load.mean()) ** exponent
    expected *= lost.sum() / expected.sum()
    residual = lost - expected
    excess = max(0.0, float((residual**2 - lost).sum()) / float((expected**2).sum()))
    variance = min(float(np.log1p(excess)), _MOST_FAILURE_VARIANCE)
    if variance < 1e-3:
        return FailureConfig(share=share, load_exponent=exponent)
    usable = expected >= _EXPECTED_FOR_LAG
    pairs = usable[1:] & usable[:-1]
    rate = lost / expected
    relative = rate / rate[usable].mean() - 1.0 if usable.any() else rate
    around = float((relative[usable] ** 2 - 1.0 / expected[usable]).mean()) if usable.any() else 0.0
    shared = float((relative[1:] * relative[:-1])[pairs].mean()) if pairs.any() else 0.0
    ratio = np.log1p(max(shared, 0.0)) / np.log1p(around) if around > 0 else 0.0
    correlation = float(np.clip(ratio, 0.01, 0.99))
    drift = Drift(sigma=round(variance**0.5, 4), correlation_h=round(-1.0 / float(np.log(correlation)), 3))
    return FailureConfig(share=share, load_exponent=exponent, drift=drift)


def _load_exponent(load: NDArray[np.float64], lost: NDArray[np.float64]) -> float:
    """Return the slope of log odds on log load over four parts of the requests, from quiet to busy hours."""
    order = np.argsort(load, kind="stable")
    part = np.minimum((4 * np.cumsum(load[order]) / load.sum()).astype(int), 3)
    requests, failures = np.bincount(part, load[order], 4), np.bincount(part, lost[order], 4)
    hours = np.bincount(part, minlength=4)
    usable = (requests > 0) & (failures >= 5)
    if usable.sum() < 2:
        return 0.0
    x = np.log(requests[usable] / hours[usable])
    y = np.log(failures[usable] / requests[usable])
    if x.max() - x.min() < 0.3:
        return 0.0
    return round(float(np.clip(np.polyfit(x, y, 1)[0], 0.0, 2.0)), 3)
