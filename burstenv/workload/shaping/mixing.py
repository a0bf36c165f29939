"""Superposition of several traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from burstenv.arguments import checked, each, number, optional
from burstenv.errors import BurstenvError
from burstenv.workload.shaping.scaling import extent_s, session_names, superpose, thin
from burstenv.workload.trace import COLUMNS, DAY_S, NAMED, Failures, Trace


@checked(rates_per_s=optional(each(number(above=0.0), 1)), shares=optional(each(number(above=0.0), 1)))
def mix(
    traces: Sequence[Trace],
    *,
    rates_per_s: Sequence[float] | None = None,
    shares: Sequence[float] | None = None,
    seed: int = 0,
) -> Trace:
    """Superpose several traces.

    Each is moved by whole days to begin on day 0, which aligns hours of day, and all are cut to the end of the
    shortest. With rates, each is first scaled to its own: thinned if it carries more, superposed if less. With neither
    rates nor shares they are unchanged. Sessions stay distinct.

    Args:
        traces: At least one.
        rates_per_s: Rate of each, requests per second over the common span.
        shares: Share of each in the mix, with sum 1; the mix keeps the sum of the traces' rates.
        seed: Seed of thinning and superposing.

    Raises:
        BurstenvError: When both or the wrong number of rates or shares are given, or the traces have no common span.
    """
    if not traces:
        raise BurstenvError("mix: needs at least one trace")
    if rates_per_s is not None and shares is not None:
        raise BurstenvError("mix: give rates_per_s or shares, not both")
    moved = [trace.shift(-DAY_S * np.floor(extent_s(trace)[0] / DAY_S)) for trace in traces]
    starts, ends = zip(*[(extent_s(trace)[0], sum(extent_s(trace))) for trace in moved], strict=True)
    start_s, end_s = max(starts), min(ends)
    if end_s <= start_s:
        raise BurstenvError(
            f"mix: the traces have no time in common: the last begins at {start_s:g} s, one ends before"
        )
    cut = [trace.between(start_s, end_s) for trace in moved]
    if shares is not None:
        if min(shares, default=0.0) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise BurstenvError(f"mix: shares must be above 0 and have sum 1, got {list(shares)}")
        total_per_s = sum(len(trace) for trace in cut) / (end_s - start_s)
        rates_per_s = [share * total_per_s for share in shares]
    if rates_per_s is not None:
        if len(rates_per_s) != len(traces):
            raise BurstenvError(
                f"mix: needs one rate or share for each of {len(traces)} traces, got {len(rates_per_s)}"
            )
        scaled = []
        for k, (trace, rate_per_s) in enumerate(zip(cut, rates_per_s, strict=True)):
            factor = rate_per_s * (end_s - start_s) / max(len(trace), 1)
            scaled.append(thin(trace, factor, seed + k) if 0 < factor <= 1 else superpose(trace, factor, seed + k))
        cut = scaled
    columns, failures, names = _merged(cut)
    sources = [str(trace.metadata.get("source", "trace")) for trace in traces]
    steps = [f"mix of {len(traces)} traces over {end_s - start_s:g} s: kept {[len(trace) for trace in cut]} requests"]
    metadata = {
        "source": "mix of " + ", ".join(sources),
        "sources": [dict(trace.metadata) for trace in cut],
        "requests": len(columns["arrival_s"]),
        "failures": len(failures),
        "steps": steps,
        **names,
    }
    return Trace(**columns, failures=failures, metadata=metadata)


def _merged(traces: Sequence[Trace]) -> tuple[dict[str, Any], Failures, dict[str, list[str]]]:
    """Return columns and failures of all traces by arrival, numbers of sessions and shared prefixes kept apart.

    Classes and tenants of one name are one; their names come last.
    """
    names: dict[str, list[str]] = {
        kind: list(dict.fromkeys(name for trace in traces for name in trace.metadata.get(kind, ())))
        for kind in NAMED.values()
    }
    parts: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    sessions = prefixes = 0
    for trace in traces:
        part, fails = (
            {name: getattr(trace, name) for name in COLUMNS},
            {f.name: getattr(trace.failures, f.name) for f in fields(trace.failures)},
        )
        part["session"] = np.where(part["session"] >= 0, part["session"] + np.int32(sessions), np.int32(-1))
        if "session" in fails:
            fails["session"] = np.where(fails["session"] >= 0, fails["session"] + np.int32(sessions), np.int32(-1))
        sessions += session_names(trace)
        if "prefix_id" in part:
            highest = int(part["prefix_id"].max(initial=-1))
            part["prefix_id"] = np.where(part["prefix_id"] >= 0, part["prefix_id"] + np.int32(prefixes), np.int32(-1))
            prefixes += 1 + highest
        for column, kind in NAMED.items():
            own = trace.metadata.get(kind, ())
            part[column] = np.array([*(names[kind].index(name) for name in own), -1], np.int32)[part[column]]
        parts.append(part)
        failed.append(fails)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(columns["arrival_s"], kind="stable")
    failures = {name: np.concatenate([part[name] for part in failed]) for name in failed[0]}
    failed_order = np.argsort(failures["arrival_s"], kind="stable")
    return (
        {name: values[order] for name, values in columns.items()},
        Failures(**{name: values[failed_order] for name, values in failures.items()}),
        {kind: found for kind, found in names.items() if found},
    )
