"""Fit of the hinge form to iterations: non-negative least squares on the relative error."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from burstenv.hardware.latency.hinge import HingeLatency


def nonnegative_fit(columns: np.ndarray, measured: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Return the non-negative coefficients that minimise the relative squared error.

    Exact for the few columns here: every subset of columns is solved, and the best one without a negative coefficient
    wins.

    Args:
        columns: (n, m), m at most 6.
        measured: (n,) positive.
        weight: (n,) weight of each squared relative error; None: all alike.

    Returns:
        (m,) coefficients.
    """
    root = np.ones(len(measured)) if weight is None else np.sqrt(weight)  # (n,)
    scaled = columns * (root / measured)[:, None]
    size = np.linalg.norm(scaled, axis=0)
    size[size == 0.0] = 1.0
    scaled = scaled / size
    gram, moment = scaled.T @ scaled, scaled.T @ root  # (m, m), (m,)
    best, best_gain = np.zeros(columns.shape[1]), 0.0
    for count in range(1, columns.shape[1] + 1):
        for subset in combinations(range(columns.shape[1]), count):
            index = list(subset)
            solution = np.linalg.lstsq(gram[np.ix_(index, index)], moment[index], rcond=None)[0]
            gain = float(solution @ moment[index])  # reduction of the squared error
            if (solution >= 0.0).all() and gain > best_gain:
                best, best_gain = np.zeros(columns.shape[1]), gain
                best[index] = solution
    return best / size


def fit_hinge(
    p: np.ndarray,
    a: np.ndarray,
    d: np.ndarray,
    k: np.ndarray,
    milliseconds: np.ndarray,
    source: str = "",
    weight: np.ndarray | None = None,
) -> HingeLatency:
    """Fit the hinge form to iterations by non-negative least squares on the relative error.

    max(h0, h1 + h2 n) = h0 + h2 max(0, n - n*) at the kink n* = (h0 - h1) / h2. For a given kink the fit is linear; the
    best kink of a grid wins.

    Args:
        p: (n,) prefill tokens.
        a: (n,) prefill attention [query-key pairs].
        d: (n,) decodes.
        k: (n,) context tokens of the decodes.
        milliseconds: (n,) measured times.
        source: Source of the measurements.
        weight: (n,) weight of each iteration; None: all alike.
    """
    tokens = p + d
    most = max(2.0, float(tokens.max()))
    best: tuple[float, HingeLatency] | None = None
    for kink in (0.0, *np.geomspace(2.0, most, 48).tolist()):
        columns = np.stack([np.ones(len(p)), np.maximum(0.0, tokens - kink), a, k, d], axis=1)  # (n, 5)
        h0, h2, h3, h4, h5 = nonnegative_fit(columns, milliseconds, weight).tolist()
        h1 = max(0.0, h0 - h2 * kink)
        fitted = HingeLatency(
            h0_ms=h0, h1_ms=h1, h2_ms_per_token=h2, h3_ms_per_pair=h3, h4_ms_per_context_token=h4,
            h5_ms_per_decode=h5, source=source,
        )  # fmt: skip
        estimate = np.maximum(h0, h1 + h2 * tokens) + h3 * a + h4 * k + h5 * d
        error = float(np.average((estimate / milliseconds - 1.0) ** 2, weights=weight))
        if best is None or error < best[0]:
            best = (error, fitted)
    assert best is not None
    return best[1]
