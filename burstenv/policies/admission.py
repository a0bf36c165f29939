"""Admission rules, compiled: admit the request to the replica that routing chose, or reject it."""

from __future__ import annotations

from burstenv.cluster.frontdoor import ADMIT, REJECT
from burstenv.cluster.kernel import kernel
from burstenv.policies.estimates import expected_ttft_s, kv_demand, kv_demand_with
from burstenv.policies.rule import Rule

ALWAYS, NEVER, QUEUE_CAP, TOKEN_BUCKET, PREDICTED_DEADLINE, KV_THRESHOLD, SIZE_AWARE_KV = range(7)

ADMISSION_RULES = (
    Rule(ALWAYS, "always", "Admit every request.", "vLLM's default: no queue limit."),
    Rule(NEVER, "never", "Reject every request.", "A floor for comparisons (BLIS reject-all)."),
    Rule(
        QUEUE_CAP,
        "queue-cap",
        "Reject when the chosen replica has `limit` or more waiting requests.",
        "Per-worker queue limit of the Dynamo router; vLLM's max_num_queued_reqs.",
        {"limit": 16.0},
    ),
    Rule(
        TOKEN_BUCKET,
        "token-bucket",
        "Reject when the cluster's bucket of prompt tokens is short; it starts full.",
        "BLIS admission: cost is the prompt, capacity 10,000 and refill 1,000 tokens/s; "
        "our defaults are scaled to the default cluster.",
        {"capacity_tokens": 20_000.0, "refill_tokens_per_s": 8_000.0},
    ),
    Rule(
        PREDICTED_DEADLINE,
        "predicted-deadline",
        "Reject when the expected TTFT exceeds `slack` times what is left of the objective.",
        "SLO-deadline shedding as in Mooncake's early rejection (FAST'25, Algorithm 1), with our TTFT estimate.",
        {"slack": 1.5},
        sees_cache=True,
    ),
    Rule(
        KV_THRESHOLD,
        "kv-threshold",
        "Reject when the KV demand of the replica exceeds `limit`.",
        "KV-utilisation limit of the Gateway API Inference Extension (0.8 there), queue's demand included.",
        {"limit": 1.0},
        sees_cache=True,
    ),
    Rule(
        SIZE_AWARE_KV,
        "size-aware-kv",
        "Reject when KV demand with this prompt exceeds `limit` - `prompt` P/1000 - `output` O/1000.",
        "Ours: the KV threshold tightened with the prompt P and the predicted output O.",
        {"limit": 1.25, "prompt": 0.2, "output": 0.3},
        sees_cache=True,
    ),
)


@kernel
def _take_tokens(environment, tokens, capacity_tokens, refill_tokens_per_s):
    if environment.bucket_tokens < 0.0:
        environment.bucket_tokens = capacity_tokens
    else:
        elapsed_s = environment.now_s - environment.bucket_s
        environment.bucket_tokens = min(capacity_tokens, environment.bucket_tokens + refill_tokens_per_s * elapsed_s)
    environment.bucket_s = environment.now_s
    if environment.bucket_tokens < tokens:
        return False
    environment.bucket_tokens -= tokens
    return True


@kernel
def admit(rule, parameters, environment, replica, request):
    """Return the admission decision of a rule about a request and the replica chosen for it."""
    accepted = True
    if rule == NEVER:
        accepted = False
    elif rule == QUEUE_CAP:
        accepted = replica.seen_waiting < parameters[0]
    elif rule == TOKEN_BUCKET:
        accepted = _take_tokens(environment, request.prompt_tokens, parameters[0], parameters[1])
    elif rule == PREDICTED_DEADLINE:
        left_s = request.arrival_s + request.ttft_slo_s - environment.now_s
        accepted = expected_ttft_s(replica, request) <= parameters[0] * left_s
    elif rule == KV_THRESHOLD:
        accepted = kv_demand(replica) <= parameters[0]
    elif rule == SIZE_AWARE_KV:
        limit = (
            parameters[0]
            - parameters[1] * request.prompt_tokens / 1000.0
            - parameters[2] * request.predicted_tokens / 1000.0
        )
        accepted = kv_demand_with(replica, request) <= limit
    return ADMIT if accepted else REJECT
