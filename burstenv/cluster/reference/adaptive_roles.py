"""Roles that follow the load, in plain Python: the rules of Llumnix' adaptive prefill and decode (llumnix v1).

Some replicas are flexible: they compute prompts as a prefill replica does, and decode. What they do follows from these
rules.

* A flexible replica with decoding requests takes no prompts, while another one that computes prompts for others has
  none.
* Decoding goes to the replica with the longest iterations that stay below ``fill`` of the request's objective on the
  time per token, with the request in it, and with at most ``fill`` of its KV cache for decoding requests; a replica
  without decoding requests counts only if it is there to decode.
  Without such a replica a flexible one turns to decoding: that with the fewest prompt tokens to compute. Without any
  the replica of the shortest iterations takes it.
* At every time for migrations one request leaves the replica with the longest iterations, from ``high`` of ``tpot_s``
  on, for the one with the longest below ``fill``; and one leaves the flexible replica with the shortest iterations,
  below ``low``, so that it may compute prompts again, for the one with the longest that has decoding requests.
* A replica that drains has iterations without end.
* Iterations are those in which all decode: of the requests and tokens of the gateway's log, or of the metrics.
"""

from __future__ import annotations

import math

from burstenv.cluster.adaptive_roles import FILL, TPOT_S
from burstenv.cluster.migration import HIGH, LOW, PICK
from burstenv.cluster.reference.cluster import ReferenceCluster
from burstenv.cluster.transfer_config import Pick
from burstenv.engine.enums import ACTIVE, DRAINING


def may_decode(cluster: ReferenceCluster, source: int, r: int) -> bool:
    """Return whether prefilled requests of a replica may decode on another one, as far as the gateway knows."""
    here, spec = cluster.specs[source], cluster.specs[r]
    fits = spec.model == here.model and here.max_model_len <= spec.max_model_len
    return cluster.roles[r] != "prefill" and fits and cluster.life.lives[r].known == ACTIVE


def decoding(cluster: ReferenceCluster, r: int, knows_log: bool) -> tuple[int, int]:
    """Return the requests that decode on a replica, and their tokens."""
    if knows_log:
        known = cluster.logs[cluster.viewer].known(r, cluster.now_s)
        return known.in_flight - known.unanswered, known.context_tokens
    seen = cluster.telemetry.seen()[r]
    return seen.running, seen.context_tokens


def _prompt_tokens(cluster: ReferenceCluster, r: int, knows_log: bool) -> int:
    if knows_log:
        return cluster.logs[cluster.viewer].known(r, cluster.now_s).unanswered_tokens
    seen = cluster.telemetry.seen()[r]
    return seen.waiting_tokens + seen.prefill_tokens


def _tpot_s(cluster: ReferenceCluster, r: int, requests: int, tokens: int) -> float:
    return cluster.specs[r].latency.iteration_s(0, 0, requests, tokens, requests)


def pack(cluster: ReferenceCluster, source: int, fill: float, knows_log: bool) -> int:
    """Return the replica where the request decodes that is decided about; it is prefilled on ``source``."""
    request = cluster.lifecycle.requests[cluster.at_gateway]
    candidates = [r for r in range(len(cluster.specs)) if may_decode(cluster, source, r)]
    if not candidates:
        return source
    loads = {r: decoding(cluster, r, knows_log) for r in candidates}
    tpot_s = {
        r: _tpot_s(cluster, r, requests + 1, tokens + request.engine.known_tokens)
        for r, (requests, tokens) in loads.items()
    }
    decodes = [r for r in candidates if loads[r][0] > 0 or cluster.roles[r] == "decode"]
    has_room = {
        r: tokens + request.engine.known_tokens <= fill * (cluster.specs[r].num_blocks * cluster.specs[r].block_size)
        for r, (_, tokens) in loads.items()
    }
    full = [r for r in decodes if has_room[r] and tpot_s[r] < fill * request.tpot_slo_s]
    if full:
        return max(full, key=lambda r: tpot_s[r])
    idle = [r for r in candidates if r not in decodes]
    if idle:
        return min(idle, key=lambda r: _prompt_tokens(cluster, r, knows_log))
    return min(candidates, key=lambda r: tpot_s[r])


def any_without_decodes(cluster: ReferenceCluster, knows_log: bool) -> bool:
    """Return whether any replica that computes prompts for others has no request that decodes."""
    return any(
        life.known == ACTIVE and (role == "prefill" or (role == "flexible" and decoding(cluster, r, knows_log)[0] == 0))
        for r, (life, role) in enumerate(zip(cluster.life.lives, cluster.roles, strict=True))
    )


def adapt(cluster: ReferenceCluster, parameters: list[float]) -> None:
    """Begin the migrations for which it is time."""
    pick, objective_s = Pick(int(parameters[PICK])), parameters[TPOT_S]
    low_s, high_s, limit_s = (parameters[k] * objective_s for k in (LOW, HIGH, FILL))
    known = [life.known for life in cluster.life.lives]
    load_s = [0.0] * len(known)
    for r, replica in enumerate(cluster.replicas):
        seen = replica.published()
        if seen.context_tokens > 0 and known[r] in (ACTIVE, DRAINING):
            own_s = _tpot_s(cluster, r, seen.running, seen.context_tokens)
            load_s[r] = own_s if known[r] == ACTIVE else math.inf

    def fullest(source: int, least_s: float) -> int | None:
        ends = [
            r
            for r, role in enumerate(cluster.roles)
            if r != source and known[r] == ACTIVE and role != "prefill" and (load_s[r] >= least_s or role == "decode")
        ]
        return max((r for r in ends if load_s[r] < limit_s), key=lambda r: load_s[r], default=None)

    hot = [r for r, own_s in enumerate(load_s) if own_s >= high_s]
    cold = [r for r, own_s in enumerate(load_s) if cluster.roles[r] == "flexible" and 0.0 < own_s < low_s]
    if hot:
        source = max(hot, key=lambda r: load_s[r])
        destination = fullest(source, 0.0)
        if destination is not None:
            cluster.migrate(source, destination, pick)
    if cold:
        source = min(cold, key=lambda r: load_s[r])
        destination = fullest(source, load_s[source])
        if destination is not None:
            cluster.migrate(source, destination, pick)
