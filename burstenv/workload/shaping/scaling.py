"""The three ways to scale a trace to another rate.

Effects of each, relative to the original trace (``f`` is the factor of the rate):

=========================  =====================  ==============================  ===========================
                           ``compress``           ``superpose``                   ``thin``
=========================  =====================  ==============================  ===========================
rate                       times ``f``            times ``f``                     times ``f`` (below 1)
inter-arrival CV           kept, in windows       falls towards 1 (Poisson),      falls towards 1 inside
                           that shrink alike      inside dense bursts last        bursts without sessions
count CV                   kept, in windows       falls with the root of ``f``    kept, but for the chance
                           that shrink alike                                      of fewer requests
Fano factor of counts      moves to scales ``f``  kept at every scale below the   excess over 1 times ``f``
by time scale              times shorter          window                          where there is no session
burst length               divided by ``f``       kept                            kept
think times                divided by ``f``       kept                            kept
sessions                   whole                  whole, and those of copies      whole, or gone
                                                  distinct; cut at the seam
daily wave                 kept, ``f`` times      flattened: every copy begins    kept
                           faster                 at another hour
lengths, their order       kept                   kept per copy                   kept per session
=========================  =====================  ==============================  ===========================

Thirty hours compressed into two minutes have the daily wave in place of bursts, and no think times; superposing is
therefore the default of episodes. Whole-second timestamps have no structure below a second. They are first spread
inside their second (:mod:`burstenv.workload.shaping.detie`), so no scaling makes ties.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import checked, number, optional
from burstenv.errors import BurstenvError
from burstenv.workload.conversations import link_turns
from burstenv.workload.shaping.detie import detied
from burstenv.workload.trace import COLUMNS, Failures, Trace

MAX_REQUESTS = 200_000_000  # a larger scaled trace does not fit into the memory of ordinary machines
_STREAM = 0x7363616C  # separates these draws from all others of the same seed
Integers = NDArray[np.integer[Any]]


@checked(factor=number(above=0.0))
def compress(trace: Trace, factor: float) -> Trace:
    """Run the clock of a trace faster: every time since its start is divided by ``factor``.

    Keeps the coefficients of variation of inter-arrival times and of counts (over windows that shrink alike), the
    order of requests, lengths and sessions. Divides think times, burst lengths, recorded elapsed times and the day:
    after it, hours of day mean nothing.

    Args:
        trace: The trace.
        factor: Above 0; below 1 slows time.

    Raises:
        BurstenvError: When the factor is not a number above 0.
    """
    if not 0 < factor < np.inf:
        raise BurstenvError(f"compress: factor must be a number above 0, got {factor!r}")
    trace = detied(trace)
    start_s, _ = extent_s(trace)
    columns = _columns(trace)
    columns["arrival_s"] = squeezed(trace.arrival_s, start_s, factor) + start_s
    columns["elapsed_s"] = (trace.elapsed_s / factor).astype(np.float32)
    clock = float(trace.metadata.get("clock", 1.0)) * factor
    failed = trace.failures
    kept = _failures(failed, slice(None), arrival_s=squeezed(failed.arrival_s, start_s, factor) + start_s)
    made = _made(trace, columns, kept, f"compress by {factor:g}")
    made.metadata["clock"] = clock  # estimates of services, in seconds of the original, are divided by it
    return made


@checked()
def thin(trace: Trace, share: float, seed: int = 0) -> Trace:
    """Keep each session, with its failures, and each request and failure without one, with probability ``share``.

    Keeps the clock, the daily wave, bursts' lengths, and of every session that stays all turns, so think times and
    context growth exactly. Requests without a session become sparser inside their bursts: inter-arrival CV and Fano
    factor move towards those of a Poisson process.

    Args:
        trace: The trace.
        share: Within (0, 1].
        seed: Seed of what stays.

    Raises:
        BurstenvError: When the share is out of range or nothing is left.
    """
    if not 0 < share <= 1:
        raise BurstenvError(f"thin: share must be above 0 and at most 1, got {share!r}")
    failed = trace.failures
    both = keep_sessions(np.concatenate([trace.session, _failed_session(failed)]), share, _generator(seed))
    kept, stays = both[: len(trace)], both[len(trace) :]
    if not kept.any():
        raise BurstenvError(f"thin: a share of {share:g} leaves none of {len(trace):,} requests")
    columns = {name: values[kept] for name, values in _columns(trace).items()}
    failures = _failures(failed, stays)
    return _made(trace, columns, failures, f"thin to a share of {share:g} (seed {seed})")


@checked(copies=number(above=0.0), window_s=optional(number(above=0.0)))
def superpose(trace: Trace, copies: float, seed: int = 0, window_s: float | None = None) -> Trace:
    """Superpose circularly shifted copies of a trace.

    Every copy begins at another instant, drawn uniformly, and continues from the trace's end to its start. Keeps every
    time scale below the trace's span: think times, burst lengths, and the Fano factor of counts. Flattens the daily
    wave and, as copies are independent, lowers the CV of inter-arrival times and of counts. Sessions of copies are
    distinct; one that runs over the end of the window or of the trace is cut there, and opens again as another session
    in the middle of its turns.

    Args:
        trace: The trace, of at least 2 requests.
        copies: Number of copies; a fraction is one more copy, thinned to that share (:func:`thin`).
        seed: Seed of the copies' begins.
        window_s: Length of the result; by default the trace's own span. A copy contributes its first ``window_s``.

    Raises:
        BurstenvError: When copies or window are out of range, or the result would be too large.
    """
    if not 0 < copies < np.inf:
        raise BurstenvError(f"superpose: copies must be a number above 0, got {copies!r}")
    trace = detied(trace)
    _, period_s = extent_s(trace)
    if len(trace) < 2 or period_s <= 0:
        raise BurstenvError(f"superpose: needs requests at two instants at least, got {len(trace)} request(s)")
    window = period_s if window_s is None else window_s
    if not 0 < window <= period_s:
        raise BurstenvError(
            f"superpose: window_s must be above 0 and at most the trace's {period_s:g} s, got {window!r}"
        )
    expected = len(trace) * copies * window / period_s
    if expected > MAX_REQUESTS:
        raise BurstenvError(
            f"superpose: {copies:g} copies would hold {expected:,.0f} requests, more than {MAX_REQUESTS:,}; "
            "give a shorter window_s"
        )
    random = _generator(seed)
    whole, part = int(copies), copies % 1.0
    offset_s = random.random(whole + (part > 0)) * period_s  # (copies,) where in the trace each copy begins
    step = f"superpose {copies:g} copies over {window:g} s (seed {seed})"
    return _laid_over(trace, offset_s, part or 1.0, window, random, step)


def superpose_to_count(trace: Trace, count: int, seed: int, window_s: float) -> Trace:
    """Superpose shifted copies of a trace until a window holds a number of requests.

    Like :func:`superpose`, but copies are added until the window is full, with the last one thinned. The content of a
    copy's window varies by orders of magnitude if traffic clusters over hours; a fixed number of copies would meet a
    rate only in the mean.

    Args:
        trace: The trace, of at least 2 requests.
        count: Requests to reach; met up to the conversations of the last copy.
        seed: Seed of where copies begin.
        window_s: Length of the result, at most the trace's span.

    Raises:
        BurstenvError: When count or window are out of range.
    """
    trace = detied(trace)
    start_s, period_s = extent_s(trace)
    if len(trace) < 2 or period_s <= 0:
        raise BurstenvError(f"superpose: needs requests at two instants at least, got {len(trace)} request(s)")
    if not 0 < window_s <= period_s:
        raise BurstenvError(
            f"superpose: window_s must be above 0 and at most the trace's {period_s:g} s, got {window_s!r}"
        )
    if not 0 < count <= MAX_REQUESTS:
        raise BurstenvError(f"superpose: need a count from 1 to {MAX_REQUESTS:,}, got {count!r}")
    random = _generator(seed)
    circle_s = _twice(trace.arrival_s - start_s, period_s)
    expected = len(trace) * window_s / period_s  # requests of one copy
    offset_s, held = np.empty(0), np.empty(0, np.int64)
    while held.sum() < count:
        more = random.random(16 + int(1.2 * count / expected)) * period_s
        offset_s = np.concatenate([offset_s, more])
        held = np.concatenate([held, circle_s.searchsorted(more + window_s) - circle_s.searchsorted(more)])
    before = np.cumsum(held) - held
    last = int(np.flatnonzero(before + held >= count)[0])
    share = float((count - before[last]) / held[last])
    step = f"superpose to {count} requests in {window_s:g} s, {last + share:.2f} copies (seed {seed})"
    return _laid_over(trace, offset_s[: last + 1], share, window_s, random, step)


def keep_sessions(thread: Integers, share: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Keep each conversation, and each request without one, with probability ``share``.

    Args:
        thread: Conversation of each request, -1 for none, shape ``(n,)``.
        share: The probability.
        random: Source of randomness.

    Returns:
        What stays, shape ``(n,)``.
    """
    drawn = random.random(len(thread)) < share
    talking = thread >= 0
    if talking.any():
        _, first, of = np.unique(thread[talking], return_index=True, return_inverse=True)
        drawn[talking] = drawn[talking][first][of]
    return drawn


def keep_drifting(
    time_s: NDArray[np.float64],
    thread: Integers,
    shares: tuple[float, float],
    window_s: float,
    random: np.random.Generator,
) -> NDArray[np.bool_]:
    """Thin a window so that what stays of it changes evenly from one share to another.

    Each conversation, and each request without one, stays with the probability at its first request, as a share of the
    greater one.

    Args:
        time_s: Of each request in the window, shape ``(n,)``.
        thread: Conversation of each request, -1 for none, shape ``(n,)``.
        shares: At the begin and at the end of the window; one at least is above 0.
        window_s: Length of the window, seconds.
        random: Source of randomness.

    Returns:
        What stays, shape ``(n,)``.
    """
    begin_s = time_s.copy()
    talking = thread >= 0
    names, of = np.unique(thread[talking], return_inverse=True)
    first_s = np.full(len(names), np.inf)
    np.minimum.at(first_s, of, time_s[talking])
    begin_s[talking] = first_s[of]
    drawn = random.random(len(thread))
    drawn[talking] = random.random(len(names))[of]
    share: NDArray[np.float64] = shares[0] + (shares[1] - shares[0]) * begin_s / window_s
    kept: NDArray[np.bool_] = drawn * max(shares) < share
    return kept


def lay_over(
    time_s: NDArray[np.float64], offset_s: NDArray[np.float64], window_s: float
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut the window ``offset <= time < offset + window_s`` out of a table once for every offset.

    Args:
        time_s: A circle of requests laid out twice in a row, sorted, shape ``(2n,)``.
        offset_s: Where each copy begins, within the first lap, shape ``(copies,)``.
        window_s: Length of the window, at most one lap.

    Returns:
        Times from the window's start, places in the table, and the copy of each; copy after copy.
    """
    first = time_s.searchsorted(offset_s)
    inside = time_s.searchsorted(offset_s + window_s) - first  # (copies,) requests of each copy
    step = np.repeat(first - (np.cumsum(inside) - inside), inside)
    place = step + np.arange(int(inside.sum()))
    copy_of = np.repeat(np.arange(len(offset_s)), inside)
    return time_s[place] - offset_s[copy_of], place, copy_of


def squeezed(arrival_s: NDArray[np.float64], from_s: float, factor: float) -> NDArray[np.float64]:
    """Return times since ``from_s`` on a clock that runs ``factor`` times faster."""
    return (arrival_s - from_s) / factor


def _laid_over(
    trace: Trace,
    offset_s: NDArray[np.float64],
    last_share: float,
    window: float,
    random: np.random.Generator,
    step: str,
) -> Trace:
    """Lay a copy from each offset on over each other, the last one thinned to a share."""
    start_s, period_s = extent_s(trace)
    time, place, copy_of = lay_over(_twice(trace.arrival_s - start_s, period_s), offset_s, window)
    failed = trace.failures
    failed_s, failed_place, failed_copy = lay_over(_twice(failed.arrival_s - start_s, period_s), offset_s, window)
    served = len(time)
    time, copy_of = np.concatenate([time, failed_s]), np.concatenate([copy_of, failed_copy])
    row = np.concatenate([place % len(trace), failed_place % max(len(failed), 1)])
    lap = np.concatenate([place // len(trace), failed_place // max(len(failed), 1)])
    # Sessions of copies are distinct, and one that runs over the trace's end is another one in the second lap.
    session = np.concatenate([trace.session[row[:served]], _failed_session(failed)[row[served:]]]).astype(np.int64)
    thread = np.where(session >= 0, session + session_names(trace) * (2 * copy_of + lap), -1)
    is_served = np.arange(len(time)) < served
    if last_share < 1:
        last = copy_of == len(offset_s) - 1
        stays = np.ones(len(time), np.bool_)
        stays[last] = keep_sessions(thread[last], last_share, random)
        time, row, thread, is_served = time[stays], row[stays], thread[stays], is_served[stays]
    if not is_served.any():
        raise BurstenvError(f"{step}: no request is left")
    order = np.argsort(time, kind="stable")
    time, row, thread, is_served = time[order] + start_s, row[order], thread[order], is_served[order]
    names, _ = link_turns(thread)
    columns = {name: values[row[is_served]] for name, values in _columns(trace).items()}
    columns["arrival_s"], columns["session"] = time[is_served], names[is_served]
    failures = _failures(failed, row[~is_served], arrival_s=time[~is_served], session=names[~is_served])
    return _made(trace, columns, failures, step)


def extent_s(trace: Trace) -> tuple[float, float]:
    """Return the first time of requests and failures, and the length of the circle they fill: span and a mean gap.

    Raises:
        BurstenvError: When the trace holds neither requests nor failures.
    """
    ends = [values[[0, -1]] for values in (trace.arrival_s, trace.failures.arrival_s) if len(values)]
    if not ends:
        raise BurstenvError(f"{trace.metadata.get('source', 'trace')}: holds no requests")
    first, last = min(end[0] for end in ends), max(end[1] for end in ends)
    count = len(trace) + len(trace.failures)
    return float(first), float(last - first) * count / max(count - 1, 1)


def _twice(time_s: NDArray[np.float64], period_s: float) -> NDArray[np.float64]:
    return np.concatenate([time_s, time_s + period_s])


def _failures(failed: Failures, rows: Any, **changed: NDArray[Any]) -> Failures:
    """Return rows of a table of failures, some columns replaced by others of that many rows."""
    columns = {f.name: getattr(failed, f.name)[rows] for f in fields(failed)}
    return Failures(**{name: changed.get(name, values) for name, values in columns.items()})


def _failed_session(failed: Failures) -> NDArray[np.int32]:
    session: NDArray[np.int32] | None = getattr(failed, "session", None)
    return np.full(len(failed), -1, np.int32) if session is None else session


def session_names(trace: Trace) -> int:
    """Return a number above all session numbers of a trace, failures included."""
    failed = _failed_session(trace.failures)
    return 1 + max(int(trace.session.max(initial=-1)), int(failed.max(initial=-1)))


def _columns(trace: Trace) -> dict[str, Any]:
    return {name: getattr(trace, name) for name in COLUMNS}


def _made(trace: Trace, columns: dict[str, Any], failures: Failures, step: str) -> Trace:
    count = len(columns["arrival_s"])
    steps = [*trace.metadata.get("steps", ()), f"{step}: {count} requests of {len(trace)}"]
    changed = {"requests": count, "failures": len(failures), "steps": steps}
    return Trace(**columns, failures=failures, metadata={**trace.metadata, **changed})


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise BurstenvError(f"seed must be at least 0, got {seed}")
    return np.random.Generator(np.random.PCG64([_STREAM, seed]))
