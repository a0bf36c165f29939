"""Rooflines: iteration times from the figures of a GPU and of a model, without measurements of the pair.

The result has the hinge form:

* floor h0: the weights are read once; a constant of each layer (kernels too small for bandwidth to matter: norms,
  rotary embedding, launches inside a CUDA graph) and the latency of two all-reduces;
* slope h2: 2 x parameters floating point operations for a token;
* h3: 4 x heads x head size operations for a query-key pair, in every layer;
* h4: the KV cache of a context token is read once;
* h5 and h6: a token's share of the all-reduces, which nothing hides; of a decode also its row of the sampler.

The shares and constants were fitted jointly to 78 points measured by others on H100: vLLM 0.15.1 with five models on
1, 2 and 4 GPUs and vLLM 0.12.0 with Qwen3-32B on 2, 4 and 8 GPUs (docs/fidelity.md has the errors). They include what
servers lose to power limits: matrix products reach 0.65 of the data sheet there, kernels timed alone 0.8 to 0.9.
All-reduces: a ring over the link, 2 (n - 1) / n of the bytes.
"""

from __future__ import annotations

from burstenv.config import load
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, LinkConfig, ModelConfig
from burstenv.hardware.latency.hinge import HingeLatency

LAYER_MS = 0.04  # of each layer, however many GPUs share it
KV_BANDWIDTH_SHARE = 0.95
ATTENTION_SHARE = 0.4
ABOVE_FLOOR = 0.1  # share of the weights' reading that is left when matrix products bound the iteration
DECODE_MS = 0.014  # of each decode: sampler, block tables, a fixed part of its attention


def all_reduce_ms(
    model: ModelConfig, hardware: HardwareConfig, tensor_parallel: int, link: str | None = None
) -> tuple[float, float]:
    """Return what the all-reduces of an iteration cost: a constant [ms], and per token of the batch [ms].

    Two in each layer, of hidden size x tokens values, as a ring over the link between the GPUs.

    Args:
        model: Its layers and hidden size.
        hardware: Whose own link is taken where none is named.
        tensor_parallel: GPUs.
        link: A name in ``configs/links``, or a YAML file.

    Raises:
        BurstenvError: When the model's shape is not known well enough, or the link is unknown.
    """
    if tensor_parallel == 1:
        return 0.0, 0.0
    if model.hidden_size is None:
        raise BurstenvError(f"model {model.name}: hidden_size is missing; all-reduces need it")
    between = load(LinkConfig, "links", link or hardware.link)
    reductions = 2 * model.layers
    latency_us = between.all_reduce_latency_us + (tensor_parallel - 2) * between.latency_us_per_further_gpu
    token_bytes = model.hidden_size * max(model.dtype_bytes, 2) * 2 * (tensor_parallel - 1) / tensor_parallel
    return reductions * latency_us * 1e-3, reductions * token_bytes / (between.gb_per_s * 1e9) * 1e3


def roofline(
    model: ModelConfig, hardware: HardwareConfig, tensor_parallel: int, link: str | None = None
) -> HingeLatency:
    """Return iteration times of a model on ``tensor_parallel`` GPUs from the figures of both.

    Args:
        model: Dense.
        hardware: One GPU.
        tensor_parallel: How many.
        link: Between them, a name in ``configs/links`` or a YAML file; None: the hardware's own.

    Raises:
        BurstenvError: When the model's shape is not known well enough, or its weights have 8 bits and the GPU cannot
            multiply them.
    """
    if model.is_mixture:
        raise BurstenvError(
            f"model {model.name} is a mixture of experts; no roofline can stand in for its latency, fit one to a "
            f"kernel profile with burstenv latency fit"
        )
    if model.attention_heads is None:
        raise BurstenvError(
            f"model {model.name}: attention_heads is missing; without it (and hidden_size) no roofline can stand in "
            f"for a measured latency"
        )
    if model.fp8_weights and hardware.fp8_tflops is None:
        raise BurstenvError(f"{hardware.name} has no matrix products in 8 bits (fp8_tflops); serve {model.name} in 16")
    reduce_ms, reduce_ms_per_token = all_reduce_ms(model, hardware, tensor_parallel, link)
    bytes_per_ms = hardware.memory_tb_per_s * 1e9 * tensor_parallel
    tflops = hardware.fp8_tflops if model.fp8_weights and hardware.fp8_tflops else hardware.bf16_tflops
    flops_per_ms = tflops * 1e9 * tensor_parallel
    weight_ms = model.streamed_bytes / (bytes_per_ms * hardware.weight_bandwidth_share)
    constant_ms = LAYER_MS * model.layers + reduce_ms
    parameters = model.streamed_bytes / (1 if model.fp8_weights else model.dtype_bytes)
    pair_flops = 4 * model.attention_heads * model.head_dim * model.layers
    kv_ms = model.kv_bytes_per_token / (hardware.memory_tb_per_s * 1e9 * KV_BANDWIDTH_SHARE)
    between = f" over {link or hardware.link}" if tensor_parallel > 1 else ""
    return HingeLatency(
        h0_ms=weight_ms + constant_ms,
        h1_ms=ABOVE_FLOOR * weight_ms + constant_ms,
        h2_ms_per_token=2 * parameters / (flops_per_ms * hardware.matmul_share),
        h3_ms_per_pair=pair_flops / (hardware.bf16_tflops * 1e9 * tensor_parallel * ATTENTION_SHARE),
        h4_ms_per_context_token=kv_ms / min(tensor_parallel, model.kv_heads),
        h5_ms_per_decode=reduce_ms_per_token + DECODE_MS,
        h6_ms_per_prefill_token=reduce_ms_per_token,
        source=f"roofline of {model.name} on {tensor_parallel} x {hardware.name}{between}; GPU: "
        f"{hardware.evidence or 'data sheet'}",
    )
