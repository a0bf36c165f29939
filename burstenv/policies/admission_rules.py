"""Declarations of the admission rules: names, parameters, sources. Their code is in ``admission.py``."""

from __future__ import annotations

from burstenv.policies.rule import SOURCE, Parameter, Range, Rule

ALWAYS, NEVER, QUEUE_CAP, TOKEN_BUCKET, PREDICTED_DEADLINE, KV_THRESHOLD, SIZE_AWARE_KV = range(7)
KV_SATURATION, EARLY_REJECTION, AIMD, TIER_SHEDDING, ORACLE_SIZE_AWARE_KV = range(7, 12)

ADMISSION_RULES = (
    Rule(
        ALWAYS,
        "always",
        "Admit every request.",
        "vLLM's default: no queue limit.",
    ),
    Rule(
        NEVER,
        "never",
        "Reject every request.",
        "BLIS, reject-all.",
        floor=True,
    ),
    Rule(
        QUEUE_CAP,
        "queue-cap",
        "Reject when the chosen replica has `limit` or more waiting requests.",
        "Per-worker queue limit of the Dynamo router (docs/router-design.md).",
        "Dynamo checks before it adds and counts its workers; here only the chosen replica counts.",
        (Parameter("limit", 16.0, Range(1.0, 128.0, "log"), "waiting requests"), SOURCE),
    ),
    Rule(
        TOKEN_BUCKET,
        "token-bucket",
        "Reject when the cluster's bucket of prompt tokens is short; it starts full.",
        "BLIS admission (docs/guide/admission.md): cost is the prompt, capacity 10,000 and refill 1,000 tokens/s.",
        "Capacity and refill are scaled to the default cluster.",
        (
            Parameter("capacity_tokens", 20_000.0, Range(2_000.0, 200_000.0, "log"), "tokens the bucket holds"),
            Parameter(
                "refill_tokens_per_s",
                8_000.0,
                Range(500.0, 64_000.0, "log"),
                "tokens added per second",
                least=0.0,
            ),
        ),
    ),
    Rule(
        PREDICTED_DEADLINE,
        "predicted-deadline",
        "Reject when the expected TTFT exceeds `slack` times the remaining objective.",
        "Deadline check at arrival, as in Mooncake (FAST'25, Algorithm 1: reject if TTFT exceeds the SLO).",
        "The TTFT estimate is burstenv's (policies/estimates.py); `slack` is 1 in Mooncake. The modes edf-drop-* check "
        "again before a request leaves the queue.",
        (Parameter("slack", 1.5, Range(0.5, 4.0, "log"), "allowed multiple of the remaining time"), SOURCE),
        sees_cache=True,
    ),
    Rule(
        KV_THRESHOLD,
        "kv-threshold",
        "Reject when the KV demand of the replica exceeds `limit`.",
        "KV-utilisation limit of the Gateway API Inference Extension (0.8 there).",
        "The demand of the queue counts as used, and the limit is 1.",
        (Parameter("limit", 1.0, Range(0.5, 2.0), "share of the KV cache"), SOURCE),
        sees_cache=True,
    ),
    Rule(
        SIZE_AWARE_KV,
        "size-aware-kv",
        "Reject when KV demand with this prompt exceeds `limit` - `prompt` P/1000 - `output` O/1000.",
        "burstenv: the KV threshold, tightened with the prompt P and the predicted output O, modelled on the "
        "behaviour of PPO agents.",
        "",
        (
            Parameter("limit", 1.25, Range(0.5, 2.0), "largest KV demand for an empty request, share of the cache"),
            Parameter("prompt", 0.2, Range(0.0, 0.8), "reduction of the limit by 1,000 prompt tokens"),
            Parameter("output", 0.3, Range(0.0, 0.8), "reduction of the limit by 1,000 predicted output tokens"),
            SOURCE,
        ),
        sees_cache=True,
    ),
    Rule(
        KV_SATURATION,
        "kv-saturation",
        "Reject when the mean over replicas of max(waiting / `queue`, KV use / `kv`) reaches `limit`.",
        "The saturation detector of the Gateway API Inference Extension (queue 5, KV 0.8, limit 1).",
        "There only sheddable requests are rejected and metrics may be up to 200 ms old; here all are rejected alike.",
        (
            Parameter("queue", 5.0, Range(1.0, 64.0, "log"), "waiting requests that count as full"),
            Parameter("kv", 0.8, Range(0.4, 1.0), "share of the KV cache in use that counts as full", 1e-3, 1.0),
            Parameter("limit", 1.0, Range(0.5, 2.0), "mean fullness from which requests are rejected"),
            SOURCE,
        ),
        sees_cache=True,
    ),
    Rule(
        EARLY_REJECTION,
        "early-rejection",
        "Reject when the TTFT, or the TPOT forecast for the time of the first token, would miss its objective.",
        "Mooncake's predictive early rejection (arXiv 2407.00079, section 7): it assumes that every request decodes "
        "for `decode_s`, which gives the requests finished by then.",
        "One pool of replicas, not prefill and decode nodes; ages of running requests are assumed to be uniform; "
        "the TTFT estimate is burstenv's.",
        (
            Parameter("decode_s", 10.0, Range(1.0, 60.0, "log"), "assumed decode time of a request [s]"),
            Parameter("ttft_slack", 1.5, Range(0.5, 4.0, "log"), "allowed multiple of the remaining TTFT"),
            Parameter("tpot_slack", 1.5, Range(0.5, 4.0, "log"), "allowed multiple of the TPOT objective"),
            SOURCE,
        ),
        sees_cache=True,
    ),
    Rule(
        AIMD,
        "aimd",
        "Reject at a limit of requests in the cluster that grows while first tokens are in time and shrinks otherwise.",
        "Additive increase, multiplicative decrease, as in TCP and in Breakwater's credit pool (OSDI'20); a limit "
        "that is less than half used does not grow, as in Netflix's concurrency-limits.",
        "The signal is the share of a window's first tokens that were late (above 5 %: their 95th percentile missed).",
        (
            Parameter("start", 32.0, Range(4.0, 128.0, "log"), "first limit, requests per replica"),
            Parameter("increase", 1.0, Range(0.25, 8.0, "log"), "growth in a good window, requests per replica"),
            Parameter("decrease", 0.9, Range(0.5, 0.98), "factor after a bad window", 1e-3, 1.0),
            Parameter("period_s", 1.0, Range(0.25, 8.0, "log"), "length of a window [s]"),
            SOURCE,
        ),
    ),
    Rule(
        TIER_SHEDDING,
        "tier-shedding",
        "Reject one class when the fullest replica holds more than `limit` requests, all requests above `hard_limit`.",
        "BLIS tier shedding (docs/guide/admission.md): it rejects classes below a priority when max(queue + batch) "
        "exceeds a threshold.",
        "Two tiers, by class: API requests are rejected first unless `shed` is 0; BLIS never rejects the upper tier.",
        (
            Parameter("limit", 32.0, Range(4.0, 256.0, "log"), "requests in the fullest replica"),
            Parameter("shed", 1.0, Range(0.0, 1.0, "integer"), "class rejected first: 0 conversation, 1 API"),
            Parameter("hard_limit", 128.0, Range(8.0, 1024.0, "log"), "requests above which all are rejected"),
            SOURCE,
        ),
    ),
    Rule(
        ORACLE_SIZE_AWARE_KV,
        "oracle-size-aware-kv",
        "size-aware-kv with the true output length.",
        "burstenv: the value of perfect length prediction for that rule.",
        "",
        (
            Parameter("limit", 1.25, Range(0.5, 2.0), "largest KV demand for an empty request, share of the cache"),
            Parameter("prompt", 0.2, Range(0.0, 0.8), "reduction of the limit by 1,000 prompt tokens"),
            Parameter("output", 0.3, Range(0.0, 0.8), "reduction of the limit by 1,000 output tokens"),
            SOURCE,
        ),
        sees_cache=True,
        oracle=True,
    ),
)
