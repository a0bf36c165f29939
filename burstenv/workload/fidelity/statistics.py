"""The statistics of a trace, for fits and fidelity reports.

A trace is measured by group: conversation and api, and each of them by model if it has several.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.describe import windowed_cv
from burstenv.workload.trace import CLASSES, DAY_S, MODELS, Trace

HOUR_S = 3600.0
FANO_WIDTHS_S: dict[str, float] = {"1 s": 1.0, "1 min": 60.0, "1 h": HOUR_S}
ACF_LAGS_H: tuple[int, ...] = (1, 2, 6, 12, 24, 168)
CV_WINDOWS_S: tuple[float, ...] = (300.0, 1200.0, 3600.0)  # 5 min as published for BurstGPT_3, 20 min as in the paper
CV_MIN_GAPS = 10  # windows with fewer gaps are left out
_CV_COVERED = 0.5  # a window is wide enough if the valid windows hold this share of the requests
_JITTER_SEED = 0x636C6F63


@dataclass(frozen=True, eq=False)
class GroupStatistics:
    """The measured statistics of one group of requests.

    Attributes:
        requests: Requests served.
        days: Days of the trace (first to last day with any row).
        failures: Failed submissions.
        prompt_tokens: Sorted prompt lengths, shape ``(n,)``.
        output_tokens: Sorted response lengths, shape ``(n,)``.
        pairs: Prompt and response of every request as they came, shape ``(2, n)``.
        cv_window_s: Width of the windows of ``cv``, seconds.
        cv: Inter-arrival coefficient of variation in every window that counts, sorted.
        fano: Variance over mean of the counts, by width.
        hourly: Requests by hour from the trace's first midnight to its last, shape ``(24 * days,)``.
        hourly_acf: Autocorrelation of ``hourly``, by lag in hours, where the trace is long enough.
        hour_of_day: Share of the requests by hour of day, shape ``(24,)``.
        turns: Requests per session, sorted; empty where the trace records no sessions.
        think_s: Submission to next submission within a session, seconds, sorted.
        failures_hourly: Failed submissions by hour, as ``hourly``.
    """

    requests: int
    days: int
    failures: int
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    pairs: NDArray[np.int32]
    cv_window_s: float
    cv: NDArray[np.float64]
    fano: dict[str, float]
    hourly: NDArray[np.int64]
    hourly_acf: dict[int, float]
    hour_of_day: NDArray[np.float64]
    turns: NDArray[np.int64]
    think_s: NDArray[np.float64]
    failures_hourly: NDArray[np.int64]

    @property
    def failure_share(self) -> float:
        """Failed share of all submissions."""
        return self.failures / (self.failures + self.requests) if self.requests else 0.0


@dataclass(frozen=True)
class Group:
    """A class of requests, or those of one model in it.

    Attributes:
        name: ``"api"`` or ``"api GPT-4"``.
        log_type: Code into :data:`CLASSES`.
        model: Code into :data:`MODELS`; None for all.
    """

    name: str
    log_type: int
    model: int | None

    def of(self, log_type: NDArray[np.int8], model: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Return the rows of the group."""
        mask = log_type == self.log_type
        return mask if self.model is None else mask & (model == self.model)


def groups_of(trace: Trace, *, by_model: bool = True) -> list[Group]:
    """List the groups with requests in a trace; classes with one model are not divided by model."""
    groups = []
    for code, name in enumerate(CLASSES):
        models = np.flatnonzero(np.bincount(trace.model[trace.log_type == code], minlength=len(MODELS)))
        if len(models):
            groups.append(Group(name, code, None))
        if len(models) > 1 and by_model:
            groups += [Group(f"{name} {MODELS[model]}", code, int(model)) for model in models]
    return groups


def measure(trace: Trace, group: Group, *, cv_window_s: float | None = None) -> GroupStatistics:
    """Measure one group of a trace.

    Args:
        trace: The trace.
        group: The group of its requests.
        cv_window_s: Windows of the inter-arrival CV; by default the narrowest of :data:`CV_WINDOWS_S` in
            which the windows that count hold half of the requests.
    """
    rows = group.of(trace.log_type, trace.model)
    failed = group.of(trace.failures.log_type, trace.failures.model)
    arrival = trace.arrival_s[rows]
    first_day, days = day_range(trace)
    window_s = cv_window_s if cv_window_s is not None else choose_cv_window(arrival)
    hourly = counts_by(arrival, HOUR_S, first_day, days)
    turns, think_s = sessions_of(trace.session[rows], arrival)
    of_day = hourly.reshape(days, 24).sum(axis=0)
    return GroupStatistics(
        requests=len(arrival),
        days=days,
        failures=int(failed.sum()),
        prompt_tokens=np.sort(trace.prompt_tokens[rows]),
        output_tokens=np.sort(trace.output_tokens[rows]),
        pairs=np.stack([trace.prompt_tokens[rows], trace.output_tokens[rows]]),
        cv_window_s=window_s,
        cv=np.sort(windowed_cv(arrival, window_s, CV_MIN_GAPS)),
        fano={name: fano(arrival, width_s, days) for name, width_s in FANO_WIDTHS_S.items()},
        hourly=hourly,
        hourly_acf={lag: acf(hourly, lag) for lag in ACF_LAGS_H if len(hourly) >= 3 * lag},
        hour_of_day=of_day / max(1, of_day.sum()),
        turns=turns,
        think_s=think_s,
        failures_hourly=counts_by(trace.failures.arrival_s[failed], HOUR_S, first_day, days),
    )


def day_range(trace: Trace) -> tuple[int, int]:
    """Return the first day of a trace and the number of days to its last, failures included."""
    edges = [
        float(times[index]) for times in (trace.arrival_s, trace.failures.arrival_s) if len(times) for index in (0, -1)
    ]
    if not edges:
        return 0, 1
    first = int(min(edges) // DAY_S)
    return first, int(max(edges) // DAY_S) - first + 1


def counts_by(arrival_s: NDArray[np.float64], width_s: float, first_day: int, days: int) -> NDArray[np.int64]:
    """Count arrivals in windows of a width that divides the day, from the first midnight to the last."""
    windows = round(days * DAY_S / width_s)
    index = ((arrival_s - first_day * DAY_S) // width_s).astype(np.int64)
    return np.bincount(np.clip(index, 0, windows - 1), minlength=windows)


def fano(arrival_s: NDArray[np.float64], width_s: float, days: int) -> float:
    """Return variance over mean of the counts in windows of ``width_s``, empty windows included; NaN for none."""
    windows = days * DAY_S / width_s
    mean = len(arrival_s) / windows
    if mean == 0:
        return float("nan")
    counts = np.unique(arrival_s // width_s, return_counts=True)[1].astype(float)
    return float(((counts**2).sum() / windows - mean**2) / mean)


def acf(series: NDArray[np.int64], lag: int) -> float:
    """Return the autocorrelation of a series at a lag; NaN for a constant series."""
    centred = series - series.mean()
    power = float((centred**2).sum())
    return float((centred[lag:] * centred[:-lag]).sum()) / power if power else float("nan")


def sessions_of(
    session: NDArray[np.int32], arrival_s: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return requests per session and the times between consecutive requests of a session, both sorted."""
    rows = np.flatnonzero(session >= 0)
    if len(rows) == 0:
        return np.empty(0, np.int64), np.empty(0)
    rows = rows[np.argsort(session[rows], kind="stable")]
    same = session[rows][1:] == session[rows][:-1]
    turns = np.unique(session[rows], return_counts=True)[1]
    return np.sort(turns), np.sort(np.diff(arrival_s[rows])[same])


def choose_cv_window(arrival_s: NDArray[np.float64]) -> float:
    """Return the narrowest width in which the windows with enough gaps hold half of the requests."""
    for width_s in CV_WINDOWS_S:
        counts = np.unique(arrival_s // width_s, return_counts=True)[1]
        if counts[counts > CV_MIN_GAPS].sum() >= _CV_COVERED * len(arrival_s):
            return width_s
    return CV_WINDOWS_S[-1]


def ks(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance of two sorted samples.

    The largest difference of the two empirical distribution functions, both taken *after* all rows of a
    value: token counts are whole numbers with many ties, and comparing inside a tie would overstate it.
    """
    if len(first) == 0 or len(second) == 0:
        return float("nan")
    points = np.unique(np.concatenate([first, second]))
    below_first = np.searchsorted(first, points, side="right") / len(first)
    below_second = np.searchsorted(second, points, side="right") / len(second)
    return float(np.abs(below_first - below_second).max())


def clock_of(trace: Trace) -> float:
    """Return the resolution of a trace's clock in seconds: 1 where whole seconds were spread, else 0."""
    return 0.0 if trace.metadata.get("jitter_seed") is None else 1.0


def on_whole_seconds(trace: Trace) -> Trace:
    """Return a trace on a clock of whole seconds: floored, and spread again inside the second.

    A trace recorded in whole seconds shows less burstiness than one with exact times, so both are put on the
    coarser clock before they are compared.
    """
    jitter = np.random.Generator(np.random.PCG64(_JITTER_SEED)).random(len(trace))
    arrival = np.sort(np.floor(trace.arrival_s) + jitter)
    return replace(trace, arrival_s=arrival, metadata={**trace.metadata, "jitter_seed": _JITTER_SEED})
