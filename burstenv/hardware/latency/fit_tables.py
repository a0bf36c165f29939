"""Fit of the tables form to a kernel profile, part by part, by least squares on the relative error."""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.hardware.latency.fit_hinge import nonnegative_fit
from burstenv.hardware.latency.profile import Profile
from burstenv.hardware.latency.tables import (
    CONTEXT_KNOTS,
    DECODE_KNOTS,
    DENSE_KNOTS,
    HEAD_KNOTS,
    PREFILL_KNOTS,
    TablesLatency,
)

DENSE_TOLERANCE = 0.003  # relative error below which a knot is left out
FITTED_CONTEXT = (128, 8192)  # context tokens of the fits of decode and mixed attention


def fit_tables(profile: Profile, dense: tuple[np.ndarray, np.ndarray], source: str) -> TablesLatency:
    """Return the tables of a profile.

    Args:
        profile: The profile.
        dense: Tokens (n,) and the whole model's dense time [ms] (n,), all-reduces included.
        source: Source of the measurements.

    Raises:
        BurstenvError: If attention rows needed by a table are missing.
    """
    tokens, dense_ms = dense
    kept = _knots(tokens, dense_ms[:, None], DENSE_KNOTS, DENSE_TOLERANCE)
    upper = tokens >= tokens[-1] / 2
    beyond = float(np.polyfit(tokens[upper], dense_ms[upper], 1)[0]) if upper.sum() > 1 else 0.0
    sequences, head_ms = profile.head_ms()
    head_kept = _knots(sequences, head_ms[:, None], HEAD_KNOTS, DENSE_TOLERANCE)
    prefill = _fit_prefill_attention(profile)
    decode = _fit_decode_attention(profile)
    mixed = _fit_mixed_attention(profile, prefill, decode)
    values = {
        "kind": "tables",
        "model": profile.model.name,
        "hardware": profile.hardware.name,
        "tensor_parallel": profile.tensor_parallel,
        "source": source,
        "dense": {"tokens": tokens[kept], "ms": dense_ms[kept], "ms_per_token_beyond": max(0.0, beyond)},
        "head": {"sequences": sequences[head_kept], "ms": head_ms[head_kept]},
        "prefill_attention": prefill,
        "decode_attention": decode,
        "mixed_attention": mixed,
    }
    return TablesLatency.model_validate(_plain(values))


def _plain(value: Any) -> Any:
    """Turn arrays at any depth into lists."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _fit_prefill_attention(profile: Profile) -> dict[str, Any]:
    """Fit a0 + a1 A / P for every chunk size, and keep the relevant chunk sizes."""
    alone = (profile.decodes == 0) & (profile.prefill_tokens > 0)
    sizes: list[float] = []
    lines: list[np.ndarray] = []
    for size in np.unique(profile.prefill_tokens[alone]):
        rows = alone & (profile.prefill_tokens == size)
        context = (profile.prefill_attention / np.maximum(profile.prefill_tokens, 1))[rows]
        if len(np.unique(context)) < 2:
            continue
        columns = np.stack([np.ones(len(context)), context], axis=1)  # (rows, 2)
        sizes.append(float(size))
        lines.append(nonnegative_fit(columns, profile.layers * profile.attention_ms[rows]))
    if len(sizes) < 2:
        raise BurstenvError(
            "attention.csv: prefill rows (n_decode 0) of two chunk sizes or more, each behind two contexts, are missing"
        )
    base_ms, slope_ms = np.array(lines).T  # (sizes,) each
    at = np.array(sizes)
    shape = np.stack(
        [base_ms + slope_ms * context for context in (64, 512, 4096)], axis=1
    )  # values to interpolate well
    kept = _knots(at, shape, PREFILL_KNOTS, DENSE_TOLERANCE)
    return {"tokens": at[kept], "ms": base_ms[kept], "ms_per_context_token": slope_ms[kept]}


def _fit_decode_attention(profile: Profile) -> dict[str, Any]:
    """Fit g0 + g1 K for every number of decodes."""
    alone = (profile.prefill_tokens == 0) & (profile.decodes > 0) & within_context(profile)
    counts: list[float] = []
    lines: list[np.ndarray] = []
    for count in np.unique(profile.decodes[alone]):
        rows = alone & (profile.decodes == count)
        context = count * profile.decode_context[rows]
        if len(np.unique(context)) < 2:
            continue
        columns = np.stack([np.ones(len(context)), context], axis=1)  # (rows, 2)
        counts.append(float(count))
        lines.append(nonnegative_fit(columns, profile.layers * profile.attention_ms[rows]))
    if len(counts) < 2:
        raise BurstenvError(
            "attention.csv: decode rows (prefill_chunk 0) of two batch sizes or more, each behind two contexts of "
            f"{FITTED_CONTEXT[0]} to {FITTED_CONTEXT[1]} tokens, are missing"
        )
    base_ms, slope_ms = np.array(lines).T  # (counts,) each
    at = np.array(counts)
    shape = np.stack([base_ms + slope_ms * at * context for context in (256, 1024)], axis=1)  # to interpolate well
    kept = _knots(at, shape, DECODE_KNOTS, 0.0)
    return {"decodes": at[kept], "ms": base_ms[kept], "ms_per_context_token": slope_ms[kept]}


def _fit_mixed_attention(profile: Profile, prefill: dict[str, Any], decode: dict[str, Any]) -> dict[str, Any]:
    """Fit m[D, K / D] + m1[D] P to the time of rows with a chunk and decodes beyond the chunk alone.

    Without such rows, decodes beside a chunk cost as much as alone.
    """
    mixed = (profile.prefill_tokens > 0) & (profile.decodes > 0) & within_context(profile)
    mixed &= profile.prefill_context <= FITTED_CONTEXT[1]
    counts = np.unique(profile.decodes[mixed])
    contexts = np.unique(profile.decode_context[mixed])
    if len(counts) < 2 or len(contexts) < 2:
        at, contexts = decode["decodes"], np.array(FITTED_CONTEXT, float)
        ms = decode["ms"][:, None] + decode["ms_per_context_token"][:, None] * at[:, None] * contexts
        return {"decodes": at, "mean_context_tokens": contexts, "ms": ms, "ms_per_prefill_token": np.zeros(len(at))}
    counts = _spread(counts, DECODE_KNOTS)
    contexts = _spread(contexts, CONTEXT_KNOTS)
    p = profile.prefill_tokens
    chunk_ms = np.interp(p, prefill["tokens"], prefill["ms"])
    mean_context = profile.prefill_attention / np.maximum(p, 1)
    chunk_ms = chunk_ms + np.interp(p, prefill["tokens"], prefill["ms_per_context_token"]) * mean_context
    table, slopes = [], []
    for count in counts:
        rows = mixed & (profile.decodes == count)
        share = _hat(profile.decode_context[rows], contexts)  # (rows, contexts): interpolation weights
        columns = np.concatenate([share, p[rows, None]], axis=1)
        measured = profile.layers * profile.attention_ms[rows]
        weight = 1.0 / measured
        solution = np.linalg.lstsq(columns * weight[:, None], (measured - chunk_ms[rows]) * weight, rcond=None)[0]
        table.append(solution[:-1])
        slopes.append(solution[-1])
    return {"decodes": counts, "mean_context_tokens": contexts, "ms": table, "ms_per_prefill_token": slopes}


def within_context(profile: Profile) -> np.ndarray:
    """Return the attention rows with decodes at contexts inside the fit."""
    low, high = FITTED_CONTEXT
    return (profile.decode_context >= low) & (profile.decode_context <= high)


def _hat(x: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return the weights (len(x), len(knots)) of the knots in a linear interpolation at ``x``."""
    return np.stack([np.interp(x, knots, unit) for unit in np.eye(len(knots))], axis=1)


def _spread(knots: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` of the knots, ends included, evenly spaced in their logarithms."""
    if len(knots) <= most:
        return knots
    wanted = np.geomspace(knots[0], knots[-1], most)
    return np.unique([knots[np.argmin(np.abs(np.log(knots / w)))] for w in wanted])


def _knots(x: np.ndarray, y: np.ndarray, most: int, tolerance: float) -> np.ndarray:
    """Choose knots: start with the ends, add the worst interpolated point until all are within ``tolerance``.

    Args:
        x: (n,) places of the values.
        y: (n, m) values to be interpolated, several sets at once.
        most: Most knots.
        tolerance: Largest remaining relative error.

    Returns:
        Indices of the knots, increasing.
    """
    kept = [0, len(x) - 1]
    while len(kept) < min(most, len(x)):
        kept.sort()
        estimate = np.stack([np.interp(x, x[kept], column[kept]) for column in y.T], axis=1)
        error = np.max(np.abs(estimate - y) / np.abs(y), axis=1)
        if error.max() <= tolerance:
            break
        kept.append(int(error.argmax()))
    return np.array(sorted(set(kept)))
