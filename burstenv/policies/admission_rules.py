"""The admission rules as users know them: names, parameters, sources. What they do stands in ``admission.py``."""

from __future__ import annotations

from burstenv.policies import admission as code
from burstenv.policies.rule import Parameter, Range, Rule

ADMISSION_RULES = (
    Rule(
        code.ALWAYS,
        "always",
        "Admit every request.",
        "vLLM's default: no queue limit.",
    ),
    Rule(
        code.NEVER,
        "never",
        "Reject every request.",
        "BLIS, reject-all.",
        floor=True,
    ),
    Rule(
        code.QUEUE_CAP,
        "queue-cap",
        "Reject when the chosen replica has `limit` or more waiting requests.",
        "Per-worker queue limit of the Dynamo router (docs/router-design.md).",
        "Dynamo checks before it adds and counts its workers; we look at the chosen replica alone.",
        (Parameter("limit", 16.0, Range(1.0, 128.0, "log"), "waiting requests"),),
    ),
    Rule(
        code.TOKEN_BUCKET,
        "token-bucket",
        "Reject when the cluster's bucket of prompt tokens is short; it starts full.",
        "BLIS admission (docs/guide/admission.md): cost is the prompt, capacity 10,000 and refill 1,000 tokens/s.",
        "Capacity and refill are scaled to the default cluster.",
        (
            Parameter("capacity_tokens", 20_000.0, Range(2_000.0, 200_000.0, "log"), "tokens the bucket holds"),
            Parameter("refill_tokens_per_s", 8_000.0, Range(500.0, 64_000.0, "log"), "tokens that flow in per second"),
        ),
    ),
    Rule(
        code.PREDICTED_DEADLINE,
        "predicted-deadline",
        "Reject when the expected TTFT exceeds `slack` times what is left of the objective.",
        "Deadline shedding at arrival, as in Mooncake (FAST'25, Algorithm 1: reject if TTFT exceeds the SLO).",
        "The TTFT estimate is ours (policies/estimates.py), and `slack` is 1 there. The modes edf-drop-* check again "
        "when a request would be taken from the queue.",
        (Parameter("slack", 1.5, Range(0.5, 4.0, "log"), "allowed multiple of the time that is left"),),
        sees_cache=True,
    ),
    Rule(
        code.KV_THRESHOLD,
        "kv-threshold",
        "Reject when the KV demand of the replica exceeds `limit`.",
        "KV-utilisation limit of the Gateway API Inference Extension (0.8 there).",
        "What the queue will take counts as used, and the limit is 1.",
        (Parameter("limit", 1.0, Range(0.5, 2.0), "share of the KV cache"),),
        sees_cache=True,
    ),
    Rule(
        code.SIZE_AWARE_KV,
        "size-aware-kv",
        "Reject when KV demand with this prompt exceeds `limit` - `prompt` P/1000 - `output` O/1000.",
        "Ours: the KV threshold tightened with the prompt P and the predicted output O, after what PPO agents "
        "were seen to do.",
        "",
        (
            Parameter("limit", 1.25, Range(0.5, 2.0), "share of the KV cache that an empty request may meet"),
            Parameter("prompt", 0.2, Range(0.0, 0.8), "by how much 1,000 prompt tokens tighten it"),
            Parameter("output", 0.3, Range(0.0, 0.8), "by how much 1,000 predicted output tokens tighten it"),
        ),
        sees_cache=True,
    ),
)
