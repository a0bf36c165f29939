"""The composites that an evaluation compares with unless told otherwise, from floor to strong."""

from __future__ import annotations

DEFAULT_LADDER = (
    "always/round-robin/vllm",  # what most deployments start from
    "always/jsq/vllm",  # the reference by which capacity is measured
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
