"""The figures of `burstenv trace info`: counts, rates, lengths and burstiness of a trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from burstenv.workload.trace import Trace

CV_WINDOW_S = 300.0  # the window of the published windowed CVs of BurstGPT_3
CV_WINDOW_MIN_GAPS = 10
RAMP_UP_SHARE = 0.25  # of the later median: days below it at the start are ramp-up
RAMP_UP_MIN_DAYS = 8


def describe(trace: Trace) -> dict[str, Any]:
    """Summarise a trace.

    Returns:
        ``requests``, ``failures``, ``failure_share``, ``span_s``, ``days`` (non-empty), ``rate_per_s`` (see
        :func:`rate_per_s`; None where all arrive at one instant), ``models`` (requests by model), ``sessions``,
        ``shared_prefixes``, ``ramp_up`` (see :func:`ramp_up`), ``classes`` and ``metadata``. Each class has its
        counts, rate over the span of the trace, failure share, tokens (mean, p50, p90, p99, max), the coefficient of
        variation of all its inter-arrival times, and quantiles of the same in 5-minute windows.
    """
    from burstenv.workload.trace import CLASSES, MODELS

    failed, asked = len(trace.failures), len(trace) + len(trace.failures)
    classes = {}
    for code, name in enumerate(CLASSES):
        rows = trace.log_type == code
        failures = int(np.count_nonzero(trace.failures.log_type == code))
        if rows.any() or failures:
            classes[name] = _describe_class(trace, rows, failures)
    return {
        "requests": len(trace),
        "failures": failed,
        "failure_share": failed / asked if asked else 0.0,
        "span_s": trace.span_s,
        "days": len(np.unique(trace.day)),
        "rate_per_s": rate_per_s(len(trace), trace.span_s),
        "models": {name: int(np.count_nonzero(trace.model == code)) for code, name in enumerate(MODELS)},
        "sessions": len(np.unique(trace.session[trace.session >= 0])),
        "shared_prefixes": len(np.unique(trace.prefix_id[trace.prefix_id >= 0])),
        "ramp_up": ramp_up(trace),
        "classes": classes,
        "metadata": dict(trace.metadata),
    }


def rate_per_s(count: float, window_s: float) -> float | None:
    """Return the rate per second of a window, used in every report.

    Arrivals are counted over the span from the first to the last, answers and their tokens from the first arrival to
    the last answer, as ``vllm bench serve`` does.

    Args:
        count: Number of events.
        window_s: Length of the window [s].

    Returns:
        The rate; None for events in a window of no length.
    """
    if window_s > 0:
        return count / window_s
    return None if count else 0.0


def span_text(span_s: float) -> str:
    """Return a length of time in its natural unit."""
    for unit, seconds in (("days", 86_400.0), ("hours", 3_600.0)):
        if span_s >= 2 * seconds:
            return f"{span_s / seconds:.2f} {unit}"
    return f"{span_s:,.4g} s"


def rate_text(rate: float | None, span_s: float, digits: str = ".4g") -> str:
    """Return a rate of arrivals with its window."""
    if rate is None:
        return "no rate, because all arrive at one instant"
    return f"{rate:{digits}} requests/s over the {span_text(span_s)} from the first to the last"


def _describe_class(trace: Trace, rows: NDArray[np.bool_], failures: int) -> dict[str, Any]:
    arrival = trace.arrival_s[rows]
    gaps = np.diff(arrival)
    windowed = windowed_cv(arrival)
    return {
        "requests": len(arrival),
        "failures": failures,
        "failure_share": failures / (failures + len(arrival)),
        "rate_per_s": rate_per_s(len(arrival), trace.span_s),
        "prompt_tokens": _lengths(trace.prompt_tokens[rows]),
        "output_tokens": _lengths(trace.output_tokens[rows]),
        "interarrival_cv": float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else None,
        "interarrival_cv_5min": {f"p{q}": float(np.percentile(windowed, q)) for q in (10, 50, 90) if len(windowed)},
    }


def ramp_up(trace: Trace) -> dict[str, float] | None:
    """Return the ramp-up of a trace, a beginning far below its later traffic.

    Submissions, failures included, are counted by day of the trace's clock. The days before the first one
    that reaches a quarter of the median of the later half of the days (days without any left out) are the
    ramp-up. This cuts no requests: a workload skips the days with ``skip_ramp_up_days``.

    Returns:
        ``days``, their ``requests_per_day`` and the ``later_requests_per_day`` (the median); None for fewer
        than 8 days.
    """
    times = np.concatenate([trace.arrival_s, trace.failures.arrival_s])
    if len(times) == 0:
        return None
    day = np.floor_divide(times, 86_400.0).astype(np.int64)
    counts = np.bincount(day - day.min())
    if len(counts) < RAMP_UP_MIN_DAYS:
        return None
    later = counts[len(counts) // 2 :]
    median = float(np.median(later[later > 0]))
    days = int(np.argmax(counts >= RAMP_UP_SHARE * median))
    return {
        "days": days,
        "requests_per_day": float(counts[:days].mean()) if days else 0.0,
        "later_requests_per_day": median,
    }


def windowed_cv(
    arrival_s: NDArray[np.float64], window_s: float = CV_WINDOW_S, min_gaps: int = CV_WINDOW_MIN_GAPS
) -> NDArray[np.float64]:
    """Return the coefficient of variation of the inter-arrival times inside each window.

    Args:
        arrival_s: Sorted times in seconds, shape ``(n,)``.
        window_s: Width of the windows; a gap belongs to the window of its later request, and gaps that
            span a window's start are left out.
        min_gaps: Windows with fewer gaps are left out.

    Returns:
        One CV per kept window, in order of time.
    """
    window = np.floor_divide(arrival_s, window_s)
    inside = window[1:] == window[:-1]
    gaps, of = np.diff(arrival_s)[inside], window[1:][inside]
    if len(gaps) == 0:
        return np.empty(0)
    starts = np.flatnonzero(np.diff(of, prepend=-1.0) != 0)
    counts = np.diff(starts, append=len(gaps))
    mean = np.add.reduceat(gaps, starts) / counts
    spread = np.add.reduceat((gaps - np.repeat(mean, counts)) ** 2, starts) / counts
    kept = (counts >= min_gaps) & (mean > 0)
    return np.sqrt(spread[kept]) / mean[kept]


def _lengths(tokens: NDArray[np.int32]) -> dict[str, float]:
    if len(tokens) == 0:
        return {}
    p50, p90, p99 = np.percentile(tokens, [50, 90, 99])
    return {
        "mean": float(tokens.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": float(tokens.max()),
    }


def describe_lines(description: dict[str, Any]) -> list[str]:
    """Return a description as lines of text."""
    d, m = description, description["metadata"]
    prefixes = f", {d['shared_prefixes']:,} shared prefixes" if d["shared_prefixes"] else ""
    lines = [
        f"{m.get('source', 'trace')}",
        f"  {d['requests']:,} requests and {d['failures']:,} failures ({100 * d['failure_share']:.2f} %), "
        f"{d['sessions']:,} sessions{prefixes}",
        f"  {rate_text(d['rate_per_s'], d['span_s'])}",
        "  models: " + ", ".join(f"{name} {count:,}" for name, count in d["models"].items() if count),
    ]
    for name, c in d["classes"].items():
        rate = "" if c["rate_per_s"] is None else f" {c['rate_per_s']:.4g}/s,"
        lines.append(f"  {name}: {c['requests']:,} requests,{rate} {100 * c['failure_share']:.2f} % failed")
        for tokens in ("prompt_tokens", "output_tokens"):
            t = c[tokens]
            if t:
                parts = "   ".join(f"{key} {value:,.0f}" for key, value in t.items())
                lines.append(f"    {tokens:<14} {parts}")
        if c["interarrival_cv"] is not None:
            lines.append(f"    inter-arrival CV {c['interarrival_cv']:.2f} over the whole trace")
    lines += _read_lines(m, d["ramp_up"])
    return lines


def _read_lines(m: dict[str, Any], start: dict[str, float] | None) -> list[str]:
    """Return the counts of the reader, with the treatment of the rows."""
    lines = [f"  read as {m.get('schema', 'columns')}: {m.get('rows_read', 0):,} rows"]
    if m.get("failures"):
        lines.append(f"    kept aside: {m['failures']:,} rows without a response")
    counted = (
        ("out_of_order", "rows earlier than the one before; sorted by time"),
        ("duplicates", "rows equal to an earlier one, kept"),
        ("zero_prompts", "prompts of 0 tokens with a response, raised to 1"),
        ("total_mismatches", "rows whose total is not request + response, kept as request and response"),
    )
    lines += [f"    {m[key]:,} {what}" for key, what in counted if m.get(key)]
    if m.get("other_models"):
        names = [f"{name} {rows:,}" for name, rows in m["other_models"].items()]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        lines.append(f"    other models: {', '.join(names[:8])}{more}")
    if m.get("ignored_columns"):
        lines.append(f"    columns not used: {', '.join(m['ignored_columns'])}")
    if m.get("jitter_seed") is not None:
        lines.append(f"    whole seconds: every row moved to an instant inside its second (seed {m['jitter_seed']})")
    if "assumed_class" in m:
        lines.append(f"    no class in the file: all taken as {m['assumed_class']}")
    if m.get("reused_blocks"):
        lines.append(
            f"    prefix hashes: blocks of {m['block_tokens']} tokens, {m['reused_blocks']:,} seen before, of which "
            f"sessions and shared prefixes keep {100 * m['reused_blocks_kept'] / m['reused_blocks']:.1f} %"
        )
    if "gaps_over_1h" in m:
        lines.append(f"    longest gap {m['largest_gap_s']:,.0f} s, {m['gaps_over_1h']:,} gaps over an hour")
    if start and start["days"]:
        lines.append(
            f"    ramp-up: the first {start['days']:.0f} days have {start['requests_per_day']:,.0f} rows a day, "
            f"later ones {start['later_requests_per_day']:,.0f} (kept; skip_ramp_up_days skips them)"
        )
    return lines + [f"    {step}" for step in m.get("steps", ())]
