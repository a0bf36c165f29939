"""From a trace's sessions and shared prefixes to the token streams of the engine's prefix cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload import EpisodeRequests, Trace


def write_streams(requests: np.ndarray, trace: Trace | EpisodeRequests) -> None:
    """Set the token streams of requests, (n,) REQUEST, in place; for traces with shared prefixes.

    Traces without shared prefixes use :func:`burstenv.cluster.cluster.number_streams`.

    Args:
        requests: Its requests, in its order.
        trace: The trace, or an episode of one.
    """
    share_prefixes(requests, trace.session, trace.prefix_id, trace.prefix_tokens)


def share_prefixes(
    requests: np.ndarray, session: NDArray[np.int32], prefix_id: NDArray[np.int32], prefix_tokens: NDArray[np.int32]
) -> None:
    """Set the token streams of requests, (n,) REQUEST, in place, if any shares a prefix.

    The first ``prefix_tokens`` tokens of a request come from the stream of its shared prefix, the others from the
    stream of its session after that prefix, or from one of its own.

    Args:
        requests: The requests.
        session: Their sessions, -1 for none, (n,).
        prefix_id: Their shared prefixes, (n,).
        prefix_tokens: The lengths of these, 0 for none, (n,).
    """
    has_prefix = prefix_tokens > 0
    if not has_prefix.any():
        return
    _, prefix = np.unique(np.where(has_prefix, prefix_id, -1), return_inverse=True)
    alone = session < 0
    first = int(prefix.max()) + 1
    tokens = np.where(has_prefix, prefix_tokens, 0)
    stream = first + _ranks(session, prefix, tokens)
    stream[alone] = int(stream.max()) + 1 + np.arange(np.count_nonzero(alone))
    requests["prefix_tokens"] = tokens
    requests["prefix_stream"] = np.where(has_prefix, prefix, stream)
    requests["stream"] = stream


def _ranks(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """Return the rank of each row among the different rows, (n,); an environment's reset spends most of its time here.

    Rows of small numbers are compared as one number each.
    """
    lows = [int(column.min()) for column in columns]
    spans = [int(column.max()) - low + 1 for column, low in zip(columns, lows, strict=True)]
    if math.prod(spans) >= 2**63:
        return np.unique(np.stack(columns, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    keys = np.zeros(len(columns[0]), np.int64)
    for column, low, span in zip(columns, lows, spans, strict=True):
        keys = keys * span + (column.astype(np.int64) - low)
    return np.unique(keys, return_inverse=True)[1]
