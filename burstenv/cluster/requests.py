"""Arrays of requests as the engine takes them."""

from __future__ import annotations

import numpy as np

from burstenv.engine.enums import NO_REQUEST
from burstenv.engine.records import REQUEST


def number_streams(requests: np.ndarray) -> None:
    """Number the token streams of requests, (n,) REQUEST, in place: one for a session, one for each other.

    Requests that say themselves which streams they read (``prefix_tokens`` above 0) keep theirs.
    """
    if requests["prefix_tokens"].any():
        return
    session = requests["session"]
    alone = session < 0
    requests["stream"] = np.where(alone, int(session.max(initial=-1)) + 1 + np.cumsum(alone), session)


def request_array(
    arrival_s: np.ndarray, prompt_tokens: np.ndarray, output_tokens: np.ndarray, ttft_slo_s: float = np.inf,
    tpot_slo_s: float = np.inf,
) -> np.ndarray:  # fmt: skip
    """Return a REQUEST array with the given columns, output lengths predicted exactly, objectives open."""
    requests = np.zeros(len(arrival_s), REQUEST)
    requests["arrival_s"] = arrival_s
    requests["prompt_tokens"] = prompt_tokens
    requests["output_tokens"] = output_tokens
    requests["predicted_tokens"] = output_tokens
    requests["ttft_slo_s"] = ttft_slo_s
    requests["tpot_slo_s"] = tpot_slo_s
    requests["weight"] = 1.0
    requests["session"] = NO_REQUEST
    return requests
