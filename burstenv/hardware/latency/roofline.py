"""Rooflines: iteration times from data-sheet numbers, for a model and GPU without measurements.

The result has the hinge form:

* floor h0: every weight is read once, plus the latency of two all-reduces in each layer;
* slope h2: 2 x parameters floating point operations for a token, plus its share of the all-reduces;
* h3: 4 x heads x head size operations for a query-key pair, in every layer;
* h4: the KV cache of a context token is read once.

Efficiencies, as shares of the data sheet. Weights: the trained coefficient of BLIS, 1.363 times the peak
time (inference-sim, defaults.yaml); its prefill shares (0.32 to 0.45) are of whole servers and too low for
kernels. The others are medians of measured kernels: the hinge entries of ``configs/latency`` that were
fitted to AIConfigurator's tables, and the two kernel profiles of LLMServingSim. All-reduces: a ring over
the link, 2 (n - 1) / n of the bytes.
"""

from __future__ import annotations

from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig
from burstenv.hardware.latency.hinge import HingeLatency

WEIGHT_BANDWIDTH_SHARE = 1 / 1.363
KV_BANDWIDTH_SHARE = 0.8
MATMUL_SHARE = 0.9  # of the slope; with the constant part, 2,048 tokens reach about 0.75 of the peak
ATTENTION_SHARE = 0.4
LINK_SHARE = 0.8
ABOVE_FLOOR = 0.8  # h1 / h0: the constant part of iterations above the floor


def all_reduce_ms(model: ModelConfig, hardware: HardwareConfig, tensor_parallel: int) -> tuple[float, float]:
    """Return the time of the all-reduces of an iteration: a constant [ms], and per token of the batch [ms].

    Two in each layer, of hidden size x tokens values, as a ring over the link between the GPUs.

    Raises:
        BurstenvError: If the model's shape is incomplete.
    """
    if tensor_parallel == 1:
        return 0.0, 0.0
    if model.hidden_size is None:
        raise BurstenvError(f"model {model.name}: hidden_size is missing; all-reduces need it")
    reductions = 2 * model.layers
    token_bytes = model.hidden_size * model.dtype_bytes * 2 * (tensor_parallel - 1) / tensor_parallel
    return (
        reductions * hardware.all_reduce_latency_us * 1e-3,
        reductions * token_bytes / (hardware.link_gb_per_s * 1e9 * LINK_SHARE) * 1e3,
    )


def roofline(model: ModelConfig, hardware: HardwareConfig, tensor_parallel: int) -> HingeLatency:
    """Return iteration times of a model on ``tensor_parallel`` GPUs from data-sheet numbers.

    Raises:
        BurstenvError: If the model's shape is incomplete.
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
    constant_ms, per_token_ms = all_reduce_ms(model, hardware, tensor_parallel)
    bytes_per_ms = hardware.memory_tb_per_s * 1e9 * tensor_parallel
    flops_per_ms = hardware.bf16_tflops * 1e9 * tensor_parallel
    weight_bytes = model.weights_gib * 2**30
    floor_ms = weight_bytes / (bytes_per_ms * WEIGHT_BANDWIDTH_SHARE)
    pair_flops = 4 * model.attention_heads * model.head_dim * model.layers
    return HingeLatency(
        h0_ms=floor_ms + constant_ms,
        h1_ms=ABOVE_FLOOR * floor_ms + constant_ms,
        h2_ms_per_token=2 * weight_bytes / model.dtype_bytes / (flops_per_ms * MATMUL_SHARE) + per_token_ms,
        h3_ms_per_pair=pair_flops / (flops_per_ms * ATTENTION_SHARE),
        h4_ms_per_context_token=model.kv_bytes_per_token / (bytes_per_ms * KV_BANDWIDTH_SHARE),
        h5_ms_per_decode=0.0,
        source=f"roofline of {model.name} on {tensor_parallel} x {hardware.name} from data-sheet numbers",
    )
