"""The command line of a real vLLM server that stands for one replica."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from burstenv.cluster import ModeConfig, ReplicaSpec
from burstenv.errors import BurstenvError

MODEL_NAME = "tiny"
EXECUTOR = "burstenv.gateway.engines.executor.PacedExecutor"
PLATFORM = "burstenv.gateway.engines.device.PacedPlatform"
PLUGIN = "burstenv_paced"
_OFFERED = {"order": ("fcfs", "priority"), "batch": ("mixed",), "memory": ("as-needed",)}  # by stock vLLM


def kv_events_of(port: int) -> str:
    """Return where the engine on a port publishes its KV events: an abstract socket of this machine, without a file."""
    return f"ipc://@burstenv-kv-events-{port}"


def serve_arguments(spec: ReplicaSpec, mode: ModeConfig, model: Path, port: int, speed: float) -> list[str]:
    """Return the arguments of ``vllm`` for a replica under a batching mode.

    Args:
        spec: The replica.
        mode: The batching mode whose limits the engine gets.
        model: Folder of the model.
        port: Port on loopback.
        speed: Share of the replica's speed at which it is paced.

    Raises:
        BurstenvError: If vLLM has no such mode or engine; says what it lacks.
    """
    limits = spec.resolve(mode)
    for name, offered in _OFFERED.items():
        if getattr(mode, name) not in offered:
            raise BurstenvError(f"batching mode {mode.name}: vLLM has no {name} {getattr(mode, name)!r}")
    latency: dict[str, Any] = spec.latency.model_dump(mode="json")
    paced = {"burstenv": {"latency": latency, "speed": speed}}
    events = {"enable_kv_cache_events": spec.prefix_caching, "publisher": "zmq", "endpoint": kv_events_of(port)}
    return [
        "serve", str(model),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--served-model-name", MODEL_NAME,
        "--load-format", "dummy",
        "--enforce-eager",
        "--dtype", "bfloat16",
        "--max-model-len", str(spec.max_model_len),
        "--distributed-executor-backend", EXECUTOR,
        "--num-gpu-blocks-override", str(spec.num_blocks + 1),  # vLLM keeps one block for itself
        "--block-size", str(spec.block_size),
        "--max-num-seqs", str(limits["max_num_seqs"]),
        "--max-num-batched-tokens", str(limits["token_budget"]),
        "--scheduling-policy", mode.order,
        "--watermark", str(spec.watermark if mode.headroom is None else mode.headroom),
        "--enable-prefix-caching" if spec.prefix_caching else "--no-enable-prefix-caching",
        "--async-scheduling" if spec.asynchronous else "--no-async-scheduling",
        "--enable-chunked-prefill" if spec.chunked_prefill else "--no-enable-chunked-prefill",
        "--scheduler-reserve-full-isl" if spec.reserve_full_prompt else "--no-scheduler-reserve-full-isl",
        "--long-prefill-token-threshold", str(spec.long_prefill_token_threshold),
        "--additional-config", json.dumps(paced),
        *(("--kv-events-config", json.dumps(events)) if spec.prefix_caching else ()),
        "--disable-uvicorn-access-log",
    ]  # fmt: skip
