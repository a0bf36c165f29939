"""Small clusters and request lists for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from burstenv.cluster import Cluster, HingeLatency, ModeConfig, ReplicaSpec, request_array

LATENCY = HingeLatency(
    h0_ms=19.37,
    h1_ms=15.08,
    h2_ms_per_token=0.0899,
    h3_ms_per_pair=3.86e-6,
    h4_ms_per_context_token=4.06e-4,
    h5_ms_per_decode=0.0094,
    per_iteration_ms=1.2,
    per_sequence_ms=0.0044,
)
FAST = LATENCY.model_copy(update={"h0_ms": 10.0, "h1_ms": 6.0, "h2_ms_per_token": 0.03})
VLLM = ModeConfig(name="vllm", max_num_batched_tokens=512, max_num_seqs=32)


def replica(**changes: Any) -> ReplicaSpec:
    """A replica of 200 blocks of 16 tokens; the model length is the whole cache unless given."""
    values: dict[str, Any] = {
        "name": "r",
        "model": "m",
        "hardware": "h",
        "tensor_parallel": 1,
        "num_blocks": 200,
        "block_size": 16,
        "reserve_full_prompt": True,
        "default_max_num_batched_tokens": 2048,
        "default_max_num_seqs": 256,
        "latency": LATENCY,
        **changes,
    }
    values.setdefault("max_model_len", values["num_blocks"] * values["block_size"])
    return ReplicaSpec(**values)


def loaded(requests: np.ndarray, specs: list[ReplicaSpec] | None = None, **settings: Any) -> Cluster:
    """A cluster that has been given an episode."""
    settings.setdefault("modes", (VLLM,))
    cluster = Cluster(specs or [replica()], **settings)
    cluster.load(0, requests)
    return cluster


def requests_at(*arrival_s: float, prompt: int = 100, output: int = 10) -> np.ndarray:
    """Equal requests at given times."""
    n = len(arrival_s)
    return request_array(np.array(arrival_s), np.full(n, prompt), np.full(n, output))


def random_requests(rng: np.random.Generator, n: int, longest: int, span_s: float) -> np.ndarray:
    """Requests with ties, long and short prompts, both classes, tight and loose objectives."""
    arrival_s = np.sort(rng.uniform(0, span_s, n))
    if rng.random() < 0.5:
        arrival_s = np.floor(arrival_s / 0.1) * 0.1
    prompt = np.clip(rng.lognormal(4.0, 1.3, n).astype(int), 1, longest)
    output = 1 + rng.geometric(1 / rng.choice([2, 20, 80]), n)
    requests = request_array(arrival_s, prompt, output)
    requests["predicted_tokens"] = np.maximum(1.0, output * rng.lognormal(0, 0.5, n))
    requests["ttft_slo_s"] = rng.choice([0.03, 0.3, 3.0], n)
    requests["tpot_slo_s"] = rng.choice([0.02, 0.05, 1.0], n)
    requests["class_code"] = rng.integers(0, 2, n)
    requests["worth"] = (prompt + output) / 1024.0  # sums are exact
    return requests


def assert_same_records(a: np.ndarray, b: np.ndarray) -> None:
    """Equal byte for byte, field by field (NaN equals NaN; padding between fields is not compared)."""
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    for name in a.dtype.names or ():
        assert a[name].tobytes() == b[name].tobytes(), name
