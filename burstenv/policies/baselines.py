"""The default baselines of an evaluation, from floor to strong."""

from __future__ import annotations

DEFAULT_LADDER = (
    "always/round-robin/vllm",  # the start of most deployments
    "always/jsq/vllm",  # the reference policy of capacity
    "always/lmetric/vllm",
    "queue-cap/power-of-two/sarathi-512",
    "token-bucket/jsq/sarathi-512",
    "always/least-kv/spf-512",
    "always/expected-ttft/edf-512",
    "kv-threshold/least-kv/edf-512",
    "predicted-deadline/expected-ttft/edf-512",
    "size-aware-kv/expected-ttft/edf-256",
    "size-aware-kv(limit=1.5)/expected-ttft/edf-256",
)
REFERENCE = "always/jsq/vllm"
# Further start points of a tuner, beside the ladder: rounded results of tuning on several scenarios. A search without
# them spends its budget on finding them again: it ended 18 points lower on
# `unequal` and 7 on `stale`.
STRONG = (
    "size-aware-kv(limit=1.1,prompt=0.45,output=0.45)/expected-ttft/sarathi-512",
    "size-aware-kv(limit=1.2,prompt=0.35,output=0.65)/expected-ttft/sarathi-512",
    "size-aware-kv(limit=1.1,prompt=0.2,output=0.7)/expected-ttft/sarathi-512",
    "size-aware-kv(limit=1.45,prompt=0.35,output=0.35)/expected-ttft/edf-256",
    "size-aware-kv(limit=1.4,prompt=0.55,output=0.25)/expected-ttft/vllm",
    "size-aware-kv(limit=1.3,prompt=0.3,output=0.4)/vllm-dp/edf-256",
    "size-aware-kv(limit=0.85,prompt=0.7,output=0.4)/power-of-two/edf-512",
    "kv-threshold(limit=2)/expected-ttft/sarathi-256",
)
