"""What an agent sees: every feature with its unit and scale, and the compiled encoder.

Three groups: the cluster (G features), the request at the front door (Q), and each replica (F). All of
them are causal and public: they read the published state of the replicas, which is the state before the
iteration in flight, and the *predicted* output length. Values are divided by the scale to be of order
one and clipped to [-8, 8].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from burstenv.cluster.frontdoor import may_defer
from burstenv.cluster.kernel import kernel
from burstenv.cluster.state import NOBODY
from burstenv.policies.estimates import (
    decode_iteration_s,
    expected_ttft_s,
    fits,
    kv_demand,
    kv_demand_with,
    prefill_backlog_tokens,
)

LIMIT = 8.0  # features are clipped to [-LIMIT, LIMIT]


@dataclass(frozen=True)
class Feature:
    """One number of an observation: its name, unit, what it is divided by, and what it means."""

    name: str
    unit: str
    scale: str
    meaning: str


CLUSTER_FEATURES = (
    Feature("rate_fast", "requests/s", "capacity", "arrival rate, averaged over 5 s"),
    Feature("rate_slow", "requests/s", "capacity", "arrival rate, averaged over 60 s"),
    Feature("token_rate", "prompt tokens/s", "500 x capacity", "arriving prompt tokens, averaged over 5 s"),
    Feature("api_share", "1", "1", "share of API requests among the last 20 or so"),
    Feature("kv_demand_mean", "1", "1", "mean over replicas of KV blocks used and queued for"),
    Feature("waiting_mean", "requests", "16", "mean waiting requests of a replica"),
    Feature("deferred", "requests", "16", "requests deferred at the front door"),
    Feature("elapsed", "s", "1", "time since the last decision"),
)
REQUEST_FEATURES = (
    Feature("present", "1", "1", "1 if a request stands at the door, 0 at a tick (the rest is then 0)"),
    Feature("prompt", "tokens", "1000", "prompt length"),
    Feature("predicted_output", "tokens", "500", "predicted output length"),
    Feature("is_api", "1", "1", "1 for an API request, 0 for conversation"),
    Feature("ttft_slo", "s", "2", "objective on the time to first token"),
    Feature("tpot_slo", "s", "0.1", "objective on the time per output token"),
    Feature("ttft_left", "1", "1", "share of the TTFT objective that is left"),
    Feature("value", "1", "1", "worth under the weighted reward: class value x predicted kilotokens"),
    Feature("may_defer", "1", "1", "1 if the request may be deferred"),
)
REPLICA_FEATURES = (
    Feature("fits", "1", "1", "1 if the replica can ever serve this request"),
    Feature("waiting", "requests", "16", "waiting requests"),
    Feature("running", "requests", "64", "running requests"),
    Feature("kv_used", "1", "1", "share of KV blocks in use"),
    Feature("kv_demand", "1", "1", "share of KV blocks used and queued for"),
    Feature("kv_demand_with", "1", "1", "the same with this request's prompt"),
    Feature("prefill_backlog", "tokens", "4096", "tokens to compute before this request's"),
    Feature("decode_context", "1", "1", "context tokens of the decodes / KV cache tokens"),
    Feature(
        "tpot_ratio",
        "1",
        "1",
        "time of a decode iteration now / this request's TPOT objective (0.1 s at a tick)",
    ),
    Feature("ttft_ratio", "1", "1", "expected TTFT / what is left of the objective"),
    Feature("prefill_speed", "ms/token", "0.1", "time per prefill token of this hardware and model"),
    Feature("decode_floor", "ms", "20", "shortest iteration of this hardware and model"),
    Feature("preemptions", "1", "1", "preemptions so far / (16 + running)"),
)
# followed, for each replica, by one feature per batching mode: 1 for the mode in force

G = len(CLUSTER_FEATURES)
Q = len(REQUEST_FEATURES)
F0 = len(REPLICA_FEATURES)


def observation_size(num_replicas: int, num_modes: int) -> int:
    """Return the length of a flat observation: G + Q + R (F0 + M)."""
    return G + Q + num_replicas * (F0 + num_modes)


def observation_names(num_replicas: int, mode_names: tuple[str, ...]) -> list[str]:
    """Return the name of every number of a flat observation, in order."""
    names = [f"cluster.{f.name}" for f in CLUSTER_FEATURES] + [f"request.{f.name}" for f in REQUEST_FEATURES]
    for r in range(num_replicas):
        names += [f"replica{r}.{f.name}" for f in REPLICA_FEATURES]
        names += [f"replica{r}.mode={mode}" for mode in mode_names]
    return names


@kernel
def _clip(value):
    return np.float32(min(LIMIT, max(-LIMIT, value)))


@kernel
def observe(out, i, environment, replicas, requests, num_modes, capacity_per_s, elapsed_s):
    """Write the flat observation of one cluster into row ``i`` of ``out``, (N, G + Q + R (F0 + M)) float32."""
    count = environment.num_replicas
    base = environment.first_replica
    demand = 0.0
    waiting = 0.0
    for r in range(count):
        demand += kv_demand(replicas[base + r])
        waiting += replicas[base + r].seen_waiting
    out[i, 0] = _clip(environment.rate_fast_per_s / capacity_per_s)
    out[i, 1] = _clip(environment.rate_slow_per_s / capacity_per_s)
    out[i, 2] = _clip(environment.token_rate_per_s / (500.0 * capacity_per_s))
    out[i, 3] = _clip(environment.api_share)
    out[i, 4] = _clip(demand / count)
    out[i, 5] = _clip(waiting / count / 16.0)
    out[i, 6] = _clip(environment.deferred / 16.0)
    out[i, 7] = _clip(elapsed_s)

    request_id = environment.at_door
    present = request_id != NOBODY
    tpot_slo_s = 0.1
    left_s = 1.0
    request = requests[max(0, request_id)]
    if present:
        tpot_slo_s = request.tpot_slo_s
        left_s = request.arrival_s + request.ttft_slo_s - environment.now_s
        kilotokens = (request.prompt_tokens + request.predicted_tokens) / 1000.0
        true_kilotokens = (request.prompt_tokens + request.output_tokens) / 1000.0
        out[i, G] = 1.0
        out[i, G + 1] = _clip(request.prompt_tokens / 1000.0)
        out[i, G + 2] = _clip(request.predicted_tokens / 500.0)
        out[i, G + 3] = request.class_code
        out[i, G + 4] = _clip(request.ttft_slo_s / 2.0)
        out[i, G + 5] = _clip(request.tpot_slo_s / 0.1)
        out[i, G + 6] = _clip(left_s / request.ttft_slo_s)
        out[i, G + 7] = _clip(request.weight / true_kilotokens * kilotokens)  # the true length cancels
        out[i, G + 8] = 1.0 if may_defer(environment, request) else 0.0
    else:
        for k in range(Q):
            out[i, G + k] = 0.0

    at = G + Q
    for r in range(count):
        replica = replicas[base + r]
        out[i, at] = 1.0 if not present or fits(replica, request) else 0.0
        out[i, at + 1] = _clip(replica.seen_waiting / 16.0)
        out[i, at + 2] = _clip(replica.seen_running / 64.0)
        out[i, at + 3] = _clip(1.0 - replica.seen_free_blocks / replica.num_blocks)
        out[i, at + 4] = _clip(kv_demand(replica))
        out[i, at + 5] = _clip(kv_demand_with(replica, request) if present else kv_demand(replica))
        out[i, at + 6] = _clip(prefill_backlog_tokens(replica) / 4096.0)
        out[i, at + 7] = _clip(replica.seen_context_tokens / float(replica.num_blocks * replica.block_size))
        out[i, at + 8] = _clip(decode_iteration_s(replica) / tpot_slo_s)
        out[i, at + 9] = _clip(expected_ttft_s(replica, request) / max(left_s, 1e-3)) if present else 0.0
        out[i, at + 10] = _clip(replica.prefill_token_s * 1e4)
        out[i, at + 11] = _clip(replica.floor_s * 50.0)
        out[i, at + 12] = _clip(replica.seen_preemptions / (16.0 + replica.seen_running))
        at += F0
        for m in range(num_modes):
            out[i, at + m] = 1.0 if replica.mode == m else 0.0
        at += num_modes
