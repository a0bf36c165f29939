"""Declarations of the placement rules: names, parameters, sources. Their code is in ``cluster/placement.py``.

Of a cluster with prefill and decode replicas they say where a prefilled request decodes, and which prompts are computed
where they decode.
"""

from __future__ import annotations

from burstenv.cluster.placement import BIN_PACKING, FEWEST_REQUESTS, FEWEST_TOKENS, LEAST_KV, ROUND_ROBIN
from burstenv.config import Config
from burstenv.policies.rule import Parameter, Range, Rule

_NEVER = 1_000_000.0  # prompts in a queue


class PlacementConfig(Config):
    """Where prefilled requests decode."""

    rule: str = "distserve"  # that decides where nothing else does, such as dynamo(local_tokens=500)


def _parameters(local_tokens: float, queue: float, *further: Parameter) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "local_tokens", local_tokens, Range(0.0, 4_000.0),
            "prompts of so many tokens or fewer are computed where they decode", most=1e9,
        ),
        Parameter(
            "queue", queue, Range(1.0, 64.0, "log"),
            "with so many prompts waiting for the prefill replicas, so are all others", most=1e9,
        ),
        *further,
    )  # fmt: skip


# A rule's code is its choice of a decode replica; several rules may share one.
PLACEMENT_RULES = (
    Rule(
        ROUND_ROBIN,
        "in-turn",
        "Decode replicas in turn; every prompt goes to a prefill replica.",
        "The simplest placement; `round_robin` of the SGLang router.",
        declared=_parameters(0.0, _NEVER),
    ),
    Rule(
        FEWEST_REQUESTS,
        "distserve",
        "The decode replica with the fewest requests in flight; every prompt goes to a prefill replica.",
        "DistServe (Zhong et al., OSDI'24): a static split, the least loaded decode instance.",
        "Prefill replicas hold a request's blocks until its decode replica has room, as DistServe's pull does.",
        _parameters(0.0, _NEVER),
    ),
    Rule(
        FEWEST_TOKENS,
        "splitwise",
        "The decode replica with the fewest tokens; behind a queue prompts are computed where they decode.",
        "Splitwise (Patel et al., ISCA'24): shortest queue by tokens, and a pool of mixed machines under load.",
        "Decode replicas take prompts in place of a mixed pool, whose machines change over time; the queue that opens "
        "it is this project's choice.",
        _parameters(0.0, 4.0),
    ),
    Rule(
        FEWEST_TOKENS,
        "mooncake",
        "The decode replica with the fewest tokens in its context; every prompt goes to a prefill replica.",
        "Mooncake (Qin et al., arXiv 2407.00079): the decode instance with the shortest expected time per token.",
        "No cache hits of remote replicas, and early rejection is an admission rule: early-rejection.",
        _parameters(0.0, _NEVER),
    ),
    Rule(
        LEAST_KV,
        "dynamo",
        "The decode replica with the least KV in use; short prompts, and all behind a queue, are computed where they "
        "decode.",
        "NVIDIA Dynamo, disaggregated router: max_local_prefill_length 1,000, max_prefill_queue_size 2.",
        "The gateway decides for the decode replica; its queue holds the prompts unanswered by prefill replicas, but "
        "one on each.",
        _parameters(1_000.0, 2.0),
        sees_cache=True,
    ),
    Rule(
        BIN_PACKING,
        "bin-packing",
        "The replica with the longest iterations that stay below `fill` of the objective on the time per token; "
        "without one, a flexible replica turns from prompts to decoding.",
        "Llumnix v1, adaptive prefill and decode (adaptive_pd_scheduling.md): 0.85 of the objective.",
        "Times are those of iterations in which all decode, not an interpolated profile. Its other half is the "
        "migration rule llumnix-adaptive.",
        _parameters(
            0.0,
            _NEVER,
            Parameter("fill", 0.85, Range(0.5, 1.0), "share of it, and of the KV, up to which one is full", most=10.0),
        ),
        sees_cache=True,
    ),
    Rule(
        LEAST_KV,
        "llm-d",
        "The decode replica with the least KV in use; very short prompts are computed where they decode.",
        "llm-d inference scheduler, its decider by uncached tokens: 16 in its deployments.",
        "Tokens are counted, not characters / 4.",
        _parameters(16.0, _NEVER),
        sees_cache=True,
    ),
)  # fmt: skip
