"""Fit of the generator to a trace, by stream: model and log type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.fidelity.statistics import HOUR_S, clock_of, counts_by, day_range
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.generator.fit_arrivals import fit_arrivals
from burstenv.workload.generator.fit_lengths import fit_lengths
from burstenv.workload.generator.fit_sessions import fit_failures, fit_sessions
from burstenv.workload.generator.stream_config import StreamConfig
from burstenv.workload.trace import CLASSES, MODELS, Trace

LEAST_ROWS = 20  # a stream with fewer requests is left out, and listed


@dataclass(frozen=True)
class Fit:
    """The result of a fit.

    Attributes:
        config: The generator's parameters.
        days: Days of the trace, the default length of what is generated from them.
        streams: One summary per stream: its name, rows, and the figures of its parameters.
        left_out: Streams with too few rows: name and rows.
    """

    config: GeneratorConfig
    days: int
    streams: tuple[dict[str, Any], ...]
    left_out: dict[str, int]


def fit(trace: Trace, *, days: NDArray[np.int64] | None = None) -> Fit:
    """Fit a generator to a trace.

    Every stream (a model and a log type) gets its own arrivals, lengths, failures and, where the trace
    records sessions, conversations. The same trace gives the same parameters, to the last digit.

    Args:
        trace: At least 20 requests of one model and log type.
        days: Days that the trace covers, rising, when it has gaps (days held out, or lost); by default all
            from its first day to its last.

    Raises:
        BurstenvError: If no stream has enough rows.
    """
    hours = _recorded_hours(trace, days)
    stream_model = _model_of_session(trace)
    configs, summaries, left_out = [], [], {}
    for code, log_type in enumerate(CLASSES):
        for model, model_name in enumerate(MODELS):
            rows = np.flatnonzero((trace.log_type == code) & (stream_model == model))
            name = f"{log_type} {model_name}"
            if 0 < len(rows) < LEAST_ROWS:
                left_out[name] = len(rows)
            if len(rows) < LEAST_ROWS:
                continue
            failed = (trace.failures.log_type == code) & (trace.failures.model == model)
            stream = _fit_stream(trace, rows, failed, log_type, model_name, hours)
            configs.append(stream)
            summaries.append(_summary(name, stream, len(rows), int(failed.sum())))
    if not configs:
        raise BurstenvError(
            f"{trace.metadata.get('source', 'trace')}: no model and log type has {LEAST_ROWS} requests, "
            f"which a fit needs at least (found: {left_out or 'none'})"
        )
    config = GeneratorConfig(
        max_prompt_tokens=int(trace.prompt_tokens.max()),
        max_output_tokens=int(trace.output_tokens.max()),
        streams=tuple(configs),
    )
    return Fit(config, len(np.unique(hours // 24)), tuple(summaries), left_out)


def _recorded_hours(trace: Trace, days: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the hours, since the midnight of day 0, from the trace's first row to its last, on its days."""
    ends = [float(end) for times in (trace.arrival_s, trace.failures.arrival_s) if len(times) for end in times[[0, -1]]]
    if not ends:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: no request to fit a generator to")
    hours = np.arange(int(min(ends) // HOUR_S), int(max(ends) // HOUR_S) + 1)
    return hours if days is None else hours[np.isin(hours // 24, days)]


def _model_of_session(trace: Trace) -> NDArray[np.int8]:
    """Return each request's model, in a session that of most of its requests: 5 % of turns switch."""
    model = trace.model.copy()
    rows = np.flatnonzero(trace.session >= 0)
    if len(rows):
        _, of = np.unique(trace.session[rows], return_inverse=True)
        votes = np.bincount(of * len(MODELS) + trace.model[rows], minlength=(int(of.max()) + 1) * len(MODELS))
        model[rows] = votes.reshape(-1, len(MODELS)).argmax(axis=1)[of]
    return model


def _fit_stream(
    trace: Trace,
    rows: NDArray[np.int64],
    failed: NDArray[np.bool_],
    log_type: str,
    model: str,
    hours: NDArray[np.int64],
) -> StreamConfig:
    arrival, prompt, output = trace.arrival_s[rows], trace.prompt_tokens[rows], trace.output_tokens[rows]
    first_day, days = day_range(trace)
    session = trace.session[rows].astype(np.int64)
    talks = bool((session >= 0).any())
    sessions, first_turn = None, None
    if talks:
        alone = session < 0  # a request without a session is a session of one
        session[alone] = session.max() + 1 + np.arange(int(alone.sum()))
        first_turn = np.zeros(len(rows), dtype=bool)
        first_turn[np.unique(session, return_index=True)[1]] = True
    starts = arrival if first_turn is None else arrival[first_turn]
    arrivals = fit_arrivals(starts, hours, clock_of(trace), gaps=not talks)
    if talks:
        sessions = fit_sessions(session, arrival, prompt, output, arrivals)
    return StreamConfig.model_validate(
        {
            "model": model,
            "log_type": log_type,
            "arrivals": arrivals,
            "lengths": fit_lengths(prompt, output, first_turn),
            "sessions": sessions,
            "failures": fit_failures(
                counts_by(trace.failures.arrival_s[failed], HOUR_S, first_day, days),
                counts_by(arrival, HOUR_S, first_day, days),
            ),
        }
    )


def _summary(name: str, config: StreamConfig, rows: int, failed: int) -> dict[str, Any]:
    arrivals, lengths, sessions = config.arrivals, config.lengths, config.sessions
    found: dict[str, Any] = {
        "stream": name,
        "requests": rows,
        "failures": failed,
        "sessions_per_day" if sessions else "requests_per_day": arrivals.per_day,
        "peak_over_mean_hour": max(arrivals.weekday_starts) * 24 / sum(arrivals.weekday_starts),
        "weekend_days": list(arrivals.weekend_days),
        "drift_sigma": arrivals.drift.sigma,
        "drift_correlation_h": arrivals.drift.correlation_h,
        "on_off": arrivals.on_off is not None,
        "prompt_points": len(lengths.prompt_tokens.q),
        "response_bins": len(lengths.response_tokens),
        "job_requests": lengths.job_requests,
        "prompt_repeat": lengths.prompt_alike.repeat,
        "failure_share": config.failures.share,
        "failure_drift_sigma": config.failures.drift.sigma,
    }
    if arrivals.on_off is not None:
        on, off = arrivals.on_off.on_run_h.mean(), arrivals.on_off.off_run_h.mean()
        found |= {"on_share": on / (on + off), "mean_on_run_h": on, "mean_off_run_h": off}
    if sessions is not None:
        found |= {"single_turn_share": sessions.turns.share[0], "turns_tail_exponent": sessions.turns.tail_exponent}
    return found


def fit_lines(found: Fit) -> list[str]:
    """Return a fit's summary as lines of text."""
    lines = []
    for s in found.streams:
        start = "sessions_per_day" if "sessions_per_day" in s else "requests_per_day"
        lines.append(f"{s['stream']}: {s['requests']:,} requests, {s['failures']:,} failed ({s['failure_share']:.2%})")
        weekend = f"weekend days {s['weekend_days']}" if s["weekend_days"] else "no weekend seen"
        lines.append(
            f"  arrivals   {s[start]:,.6g} {start.removesuffix('_per_day')} per day, busiest hour "
            f"{s['peak_over_mean_hour']:.2f} times the mean, {weekend}"
        )
        if s["on_off"]:
            lines.append(
                f"             on {s['on_share']:.0%} of the hours, runs of {s['mean_on_run_h']:.1f} h on and "
                f"{s['mean_off_run_h']:.1f} h off"
            )
        elif s["drift_sigma"]:
            lines.append(
                f"             drift {s['drift_sigma']:.2f} (log), forgotten in {s['drift_correlation_h']:.1f} h"
            )
        jobs = f", jobs of {s['job_requests']:,.0f} requests" if s["job_requests"] > 1 else ""
        lines.append(
            f"  lengths    {s['prompt_points']} points for prompts, responses in {s['response_bins']} prompt bins{jobs}"
        )
        if "single_turn_share" in s:
            tail = f"tail exponent {s['turns_tail_exponent']:.2f}"
            lines.append(f"  sessions   {s['single_turn_share']:.1%} of one request, {tail}")
    lines += [f"left out: {name}, {rows} requests (fewer than {LEAST_ROWS})" for name, rows in found.left_out.items()]
    return lines
