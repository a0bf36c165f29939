"""From a trace's sessions and shared prefixes to the token streams of the engine's prefix cache."""

from __future__ import annotations

import numpy as np

from burstenv.workload import EpisodeRequests, Trace


def write_streams(requests: np.ndarray, trace: Trace | EpisodeRequests) -> None:
    """Set the token streams of requests, (n,) REQUEST, in place; for traces with shared prefixes.

    The first ``prefix_tokens`` tokens of a request come from the stream of its shared prefix, the others from the
    stream of its session after that prefix, or from one of its own. Traces without shared prefixes use
    :func:`burstenv.cluster.cluster.number_streams`.

    Args:
        requests: Its requests, in its order.
        trace: The trace, or an episode of one.
    """
    has_prefix = trace.prefix_tokens > 0
    if not has_prefix.any():
        return
    _, prefix = np.unique(np.where(has_prefix, trace.prefix_id, -1), return_inverse=True)
    begins = np.stack([trace.session.astype(np.int64), prefix, np.where(has_prefix, trace.prefix_tokens, 0)], axis=1)
    alone = trace.session < 0
    _, stream = np.unique(begins, axis=0, return_inverse=True)
    first = int(prefix.max()) + 1
    stream = first + stream.reshape(-1)
    stream[alone] = int(stream.max()) + 1 + np.arange(np.count_nonzero(alone))
    requests["prefix_tokens"] = np.where(has_prefix, trace.prefix_tokens, 0)
    requests["prefix_stream"] = np.where(has_prefix, prefix, stream)
    requests["stream"] = stream
