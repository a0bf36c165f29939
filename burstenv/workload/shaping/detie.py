"""Spread of whole-second timestamps, before any scaling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from burstenv.workload.formats.burstgpt import spread_within_second
from burstenv.workload.trace import Trace

_PEEK = 1000  # arrivals that settle the question for nearly every trace


def detied(trace: Trace, seed: int = 0) -> Trace:
    """Return a trace of whole seconds with every arrival moved to a drawn instant of its second; others as they are.

    The reader of BurstGPT spreads such timestamps itself. Those of other files, and of traces made from columns, stay
    until a scaling. Otherwise dozens of requests of one second, compressed a hundredfold, would arrive as one. Only
    traces with at least two requests in one second are touched.

    Args:
        trace: The trace.
        seed: Seed of the instants.
    """
    arrival = trace.arrival_s
    for times in (arrival[:_PEEK], arrival):
        if (times != np.floor(times)).any():
            return trace
    if not (arrival[1:] == arrival[:-1]).any():
        return trace
    failed = trace.failures
    whole = bool((failed.arrival_s == np.floor(failed.arrival_s)).all())
    failures = replace(failed, arrival_s=spread_within_second(failed.arrival_s, seed + 1)) if whole else failed
    steps = [*trace.metadata.get("steps", ()), f"spread whole-second arrivals inside their second (seed {seed})"]
    metadata = {**trace.metadata, "jitter_seed": seed, "steps": steps}
    return replace(trace, arrival_s=spread_within_second(arrival, seed), failures=failures, metadata=metadata)
