"""Where a prefilled request decodes, in plain Python: the rules of ``cluster/placement.py``.

* Candidates are the replicas of another role than prefill that can hold the request. Of those the one with the fewest
  requests in flight, the fewest tokens (prompts and outputs of the requests with a first token) or the least KV in use
  is chosen, of equals the first; or each in turn.
* A prompt of at most ``local_tokens`` tokens, and every prompt while at least ``queue`` prompts wait for the prefill
  replicas, is computed where it decodes. By the log all unanswered prompts of a prefill replica wait but one.
* Requests and tokens are those of the gateway's log or, where decisions do not see it, of the metrics.
"""

from __future__ import annotations

from burstenv.cluster.placement import FEWEST_REQUESTS, FEWEST_TOKENS, LEAST_KV, ROUND_ROBIN
from burstenv.cluster.reference.cluster import ReferenceCluster


def choose_place(cluster: ReferenceCluster, source: int, rule: int, turn: int, knows_log: bool) -> tuple[int, int]:
    """Return the replica where a request of a prefill replica decodes, and whose turn it is next.

    Args:
        cluster: The cluster, at the decision.
        source: The prefill replica; it is returned if no other one can hold the request.
        rule: A code of ``cluster/placement.py``.
        turn: Whose turn it is in a round robin.
        knows_log: Whether decisions see the gateway's log.
    """
    specs, count = cluster.specs, len(cluster.specs)
    here = specs[source]
    may = [
        spec.role != "prefill" and spec.model == here.model and here.max_model_len <= spec.max_model_len
        for spec in specs
    ]
    candidates = [r for r in range(count) if may[r]]
    if not candidates:
        return source, turn
    if rule == ROUND_ROBIN:
        chosen = min(candidates, key=lambda r: (r - turn) % count)
        return chosen, (chosen + 1) % count
    seen, log = cluster.telemetry.seen(), cluster.logs[cluster.viewer]
    known = [log.known(r, cluster.now_s) for r in range(count)]
    scores = {
        FEWEST_REQUESTS: lambda r: known[r].in_flight if knows_log else seen[r].waiting + seen[r].running,
        FEWEST_TOKENS: lambda r: (
            known[r].context_tokens if knows_log else seen[r].context_tokens + seen[r].waiting_tokens
        ),
        LEAST_KV: lambda r: 1.0 - seen[r].free_blocks / specs[r].num_blocks,
    }
    return min(candidates, key=scores[rule]), turn


def stays_whole(cluster: ReferenceCluster, tokens: int, local_tokens: float, queue: float, knows_log: bool) -> bool:
    """Return whether a prompt of ``tokens`` tokens, at the gateway now, is computed where it decodes."""
    seen, log = cluster.telemetry.seen(), cluster.logs[cluster.viewer]
    waiting = 0
    for r, spec in enumerate(cluster.specs):
        if spec.role == "prefill":
            waiting += max(0, log.known(r, cluster.now_s).unanswered - 1) if knows_log else seen[r].waiting
    return tokens <= local_tokens or waiting >= queue
