"""Where a prefilled request decodes, in plain Python: the rules of ``cluster/placement.py``.

* Candidates are the replicas of another role than prefill that can hold the request and are active, by what the gateway
  knows. Of those the one with the fewest
  requests in flight, the fewest tokens (prompts and outputs of the requests with a first token) or the least KV in use
  is chosen, of equals the first; or each in turn.
* A prompt with at most ``local_tokens`` tokens to compute, on the replica of another role than prefill that has most of
  it cached, is computed where it decodes; so is every prompt while at least ``queue`` prompts wait for the prefill
  replicas, or while all replicas that could compute it for others are known to be down. By the log all unanswered
  prompts of a prefill replica wait but one.
* Requests and tokens are those of the gateway's log or, where decisions do not see it, of the metrics.
"""

from __future__ import annotations

from burstenv.cluster.cluster_config import HAND_OUT
from burstenv.cluster.placement import BIN_PACKING, FEWEST_REQUESTS, FEWEST_TOKENS, LEAST_KV, ROUND_ROBIN
from burstenv.cluster.reference.adaptive_roles import any_without_decodes, decoding, may_decode, pack
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.engine.enums import ACTIVE


def choose_place(
    cluster: ReferenceCluster, source: int, rule: int, turn: int, knows_log: bool, fill: float = 1.0
) -> tuple[int, int]:
    """Return the replica where a request of a prefill replica decodes, and whose turn it is next.

    Args:
        cluster: The cluster, at the decision.
        source: The prefill replica; it is returned if no other one can hold the request.
        rule: A code of ``cluster/placement.py``.
        turn: Whose turn it is in a round robin.
        knows_log: Whether decisions see the gateway's log.
        fill: Parameter of the rule BIN_PACKING.
    """
    specs, count = cluster.specs, len(cluster.specs)
    if rule == BIN_PACKING:
        return pack(cluster, source, fill, knows_log), turn
    candidates = [r for r in range(count) if may_decode(cluster, source, r)]
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


def stays_whole(cluster: ReferenceCluster, local_tokens: float, queue: float, knows_log: bool) -> bool:
    """Return whether the prompt at the gateway is computed where it decodes."""
    seen, log = cluster.telemetry.seen(), cluster.logs[cluster.viewer]
    request = cluster.lifecycle.requests[cluster.at_gateway].engine
    active = [r for r, life in enumerate(cluster.life.lives) if life.known == ACTIVE]
    if all(cluster.roles[r] == "decode" for r in active):
        return True
    hits = max((cluster.replicas[r].hit_tokens(request) for r in active if cluster.roles[r] != "prefill"), default=0)
    waiting = 0
    for r, role in enumerate(cluster.roles):
        if role in HAND_OUT:
            waiting += max(0, log.known(r, cluster.now_s).unanswered - 1) if knows_log else seen[r].waiting
    return (local_tokens > 0.0 and request.known_tokens - hits <= local_tokens) or waiting >= queue


def takes_prompts(cluster: ReferenceCluster, r: int, knows_log: bool) -> bool:
    """Return whether rules send prompts to a replica that do not stay whole."""
    role = cluster.roles[r]
    if role != "flexible" or not any_without_decodes(cluster, knows_log):
        return role != "decode"
    return decoding(cluster, r, knows_log)[0] == 0
