"""Arrays of requests as the engine takes them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from burstenv.config import shortly
from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.records import REQUEST
from burstenv.errors import BurstenvError


def number_streams(requests: np.ndarray) -> None:
    """Number the token streams of requests, (n,) REQUEST, in place: one for a session, one for each other.

    Requests that say themselves which streams they read (``prefix_tokens`` above 0) keep theirs.
    """
    if requests["prefix_tokens"].any():
        return
    session = requests["session"]
    alone = session < 0
    requests["stream"] = np.where(alone, int(session.max(initial=-1)) + 1 + np.cumsum(alone), session)


MOST_S = 1e30  # of an objective that is no infinity; it is kept in 32 bits


def _column(name: str, values: Any, n: int, least: float, most: float) -> np.ndarray:
    """Return a column of ``n`` numbers in a range, or one number for all of them; whole ones where 1 is the least."""
    column = np.asarray(values if isinstance(values, np.ndarray | Sequence | Real) else None)
    sound = column.dtype.kind in "iuf" and column.shape in ((), (n,))
    sound = sound and bool(((column >= least) & ((column <= most) | (column == np.inf))).all())
    whole = sound and bool((np.isfinite(column) & (column == np.floor(column))).all())
    if not sound or (least == 1 and not whole):
        kind, upper = ("whole numbers", f" to {most:g}") if least == 1 else ("numbers", "")
        bounds = "" if least == -np.inf else f" from {least:g}{upper or ' on'}"
        raise BurstenvError(f"{name} must be {kind}{bounds}, {max(n, 0)} or one for all, got {shortly(values)}")
    return column


def request_array(
    arrival_s: np.ndarray, prompt_tokens: np.ndarray, output_tokens: np.ndarray, ttft_slo_s: float = np.inf,
    tpot_slo_s: float = np.inf,
) -> np.ndarray:  # fmt: skip
    """Return a REQUEST array with the given columns, output lengths predicted exactly, objectives open.

    Args:
        arrival_s: (n,) times [s].
        prompt_tokens: (n,) whole numbers of at least 1, or one for all.
        output_tokens: Likewise.
        ttft_slo_s: Objective on the time to first token [s], one for all or (n,).
        tpot_slo_s: Objective on the time per output token [s], likewise.

    Raises:
        BurstenvError: On a column of another shape or out of range.
    """
    n = np.size(arrival_s) if isinstance(arrival_s, np.ndarray | list | tuple) and np.ndim(arrival_s) == 1 else 0
    if n < 1:
        raise BurstenvError(f"arrival_s must be times [s], (n,), of one request at least, got {shortly(arrival_s)}")
    arrivals = _column("arrival_s", arrival_s, n, -np.inf, np.inf)
    requests = np.zeros(n, REQUEST)
    requests["arrival_s"] = arrivals
    requests["prompt_tokens"] = _column("prompt_tokens", prompt_tokens, n, 1, 2**31 - 1)
    requests["output_tokens"] = _column("output_tokens", output_tokens, n, 1, 2**31 - 1)
    requests["predicted_tokens"] = requests["output_tokens"]
    requests["ttft_slo_s"] = _column("ttft_slo_s", ttft_slo_s, n, 0.0, MOST_S)
    requests["tpot_slo_s"] = _column("tpot_slo_s", tpot_slo_s, n, 0.0, MOST_S)
    requests["worth"] = 1.0
    requests["session"] = NO_REQUEST
    return requests
