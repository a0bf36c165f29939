"""Scaling of a trace to a rate, and windows of it."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from burstenv.arguments import checked, number, optional
from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload.shaping.scaling import compress, extent_s, superpose, superpose_to_count, thin
from burstenv.workload.trace import Trace

Scaling = Literal["compress", "superpose", "thin"]
SCALINGS: tuple[str, ...] = get_args(Scaling)
_STREAM = 0x7261_7465  # begin of a window


def mean_rate_per_s(trace: Trace) -> float:
    """Return the mean rate of served requests over the time that requests and failures span, and one mean gap.

    Raises:
        BurstenvError: When all requests arrive at one instant.
    """
    _, period_s = extent_s(trace)
    if len(trace) < 2 or period_s <= 0:
        raise BurstenvError(
            f"{trace.metadata.get('source', 'trace')}: a rate needs requests at two instants at least, got "
            f"{len(trace)} request(s)"
        )
    return len(trace) / period_s


@checked(rate_per_s=number(above=0.0), duration_s=optional(number(above=0.0)))
def scale_to_rate(
    trace: Trace, rate_per_s: float, scaling: str = "superpose", seed: int = 0, duration_s: float | None = None
) -> Trace:
    """Scale a trace to a mean rate by one of the three methods of :mod:`burstenv.workload.shaping.scaling`.

    With a duration, the result is a window of that length from a drawn instant, not from the start of the trace: the
    first days of BurstGPT_1 carry a ninetieth of its later rate. ``superpose`` superposes the windows of many copies
    until they hold enough; ``compress`` compresses consecutive requests, as in episodes. Both meet the rate. ``thin``
    cuts a window, whose rate varies with the trace's.

    Args:
        trace: The trace, of at least 2 requests.
        rate_per_s: Served requests per second to reach.
        scaling: ``compress``, ``superpose`` or ``thin``.
        seed: Seed of superposing, thinning, and of the window.
        duration_s: Length of the result; None: all of it.

    Raises:
        BurstenvError: On an unknown scaling, a rate or duration out of range, or thinning to a higher rate.
    """
    if scaling not in SCALINGS:
        raise unknown_name("scaling", scaling, SCALINGS)
    if not 0 < rate_per_s < np.inf:
        raise BurstenvError(f"rate_per_s must be a number above 0, got {rate_per_s!r}")
    if duration_s is not None and not 0 < duration_s < np.inf:
        raise BurstenvError(f"duration_s must be a number above 0, got {duration_s!r}")
    own_per_s = mean_rate_per_s(trace)
    factor = rate_per_s / own_per_s
    if scaling == "superpose":
        if duration_s is None:
            return superpose(trace, factor, seed)
        return superpose_to_count(trace, max(1, round(rate_per_s * duration_s)), seed, duration_s)
    if scaling == "thin":
        if factor > 1:
            raise BurstenvError(
                f"thin: the trace carries {own_per_s:.4g} requests/s, thinning cannot raise it to {rate_per_s:.4g}; "
                "use superpose or compress"
            )
        return thin(stretch(trace, duration_s, seed), factor, seed)
    if duration_s is None:
        return compress(trace, factor)
    return _squeezed_stretch(trace, max(1, round(rate_per_s * duration_s)), duration_s, seed)


def stretch(trace: Trace, duration_s: float | None, seed: int = 0) -> Trace:
    """Cut a window of the trace's own time from a drawn instant.

    Args:
        trace: The trace.
        duration_s: Its length; None: the whole trace.
        seed: Seed of its begin.

    Raises:
        BurstenvError: If the trace is shorter than that.
    """
    if duration_s is None:
        return trace
    start_s, period_s = extent_s(trace)
    if not 0 < duration_s <= period_s:
        raise BurstenvError(f"duration_s must be above 0 and at most the trace's {period_s:g} s, got {duration_s:g}")
    begin_s = start_s + (period_s - duration_s) * np.random.Generator(np.random.PCG64([_STREAM, seed])).random()
    return trace.between(begin_s, begin_s + duration_s)


def _squeezed_stretch(trace: Trace, count: int, duration_s: float, seed: int) -> Trace:
    """Return ``count`` consecutive requests from a drawn one on, compressed into a duration."""
    if count >= len(trace):  # one more request is needed, to end the last gap
        raise BurstenvError(
            f"compress: the trace holds {len(trace):,} requests, {duration_s:g} s at this rate need {count + 1:,}; "
            "use superpose or a shorter duration_s"
        )
    begin = int(np.random.Generator(np.random.PCG64([_STREAM, seed])).integers(0, len(trace) - count))
    from_s, to_s = trace.arrival_s[[begin, begin + count]]
    if to_s <= from_s:
        raise BurstenvError(f"compress: requests {begin + 1} to {begin + count + 1} arrive at one instant")
    return compress(trace.between(from_s, to_s), (to_s - from_s) / duration_s)
