"""The KV cache that the memory of a replica leaves room for.

As vLLM counts: a share of each GPU's memory, less its part of the weights, less the peak of a profiling run with a full
token budget and as many sequences as may run at once, less what is not PyTorch's (context, communication buffers).
"""

from __future__ import annotations

from burstenv.errors import BurstenvError
from burstenv.hardware.engine_profile import engine_profile
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig

MAX_BLOCKS = 4_194_304  # of a replica: 67 million tokens in blocks of 16, more than a node of eight GPUs holds

# Fitted jointly to the exact capacities known: Llama-3.1-8B on an RTX 4090 (casys-kaist/LLMServingSim), Qwen3-32B on
# two and Llama-3.1-70B on four H100 (llm-d); 0.5, 1.4 and 1.9 % off. The counts are the tensors alive at the peak.
CONTEXT_GIB = 0.75  # of each GPU: CUDA context, captured graphs, workspaces
COMMUNICATION_GIB = 0.6  # of each GPU that has others beside it: buffers of the collectives
HIDDEN_TENSORS = 3  # of tokens x hidden size: residual, input and output of a block
FEED_FORWARD_TENSORS = 3  # of tokens x feed-forward size, split over the GPUs: gate, up and their product
LOGIT_BYTES = 4  # of each vocabulary entry of each sequence: the sampler works in 32 bits
MIXTURE_GIB = 2.5  # of activations, more than a dense model's (BLIS, sim/latency/kv_capacity.go: 8 against 5.5)
UNKNOWN_SHAPE_GIB = 2.0  # of activations, where a model's hidden size is not given


def activation_gib(model: ModelConfig, tensor_parallel: int, max_num_batched_tokens: int, max_num_seqs: int) -> float:
    """Return the activations of one GPU at the peak of the profiling run [GiB]."""
    mixture = MIXTURE_GIB if model.is_mixture else 0.0
    if model.hidden_size is None:
        return UNKNOWN_SHAPE_GIB + mixture
    feed_forward = model.feed_forward_size or 3.5 * model.hidden_size
    width = HIDDEN_TENSORS * model.hidden_size + FEED_FORWARD_TENSORS * feed_forward / tensor_parallel
    logits = max_num_seqs * (model.vocab_size or 0) * LOGIT_BYTES
    return (max_num_batched_tokens * width * max(model.dtype_bytes, 2) + logits) / 2**30 + mixture


def kv_blocks(
    model: ModelConfig,
    hardware: HardwareConfig,
    tensor_parallel: int,
    block_size: int,
    utilization: float | None = None,
    max_num_batched_tokens: int | None = None,
    max_num_seqs: int | None = None,
) -> int:
    """Return the usable KV blocks of a model on ``tensor_parallel`` GPUs, less the null block that vLLM keeps.

    Args:
        model: Its weights and the KV bytes of a token are split over the GPUs; KV heads are not split below one.
        hardware: Its memory.
        tensor_parallel: GPUs.
        block_size: Of a KV block [tokens].
        utilization: Share of the memory that the engine may use (``gpu_memory_utilization``); None: vLLM's default.
        max_num_batched_tokens: Token budget of an iteration; None: vLLM's default on the hardware.
        max_num_seqs: Sequences that may run at once; None: vLLM's default on the hardware.

    Raises:
        BurstenvError: When the weights leave no room.
    """
    profile = engine_profile()
    utilization = utilization or profile.gpu_memory_utilization
    budget = max_num_batched_tokens or profile.limits(hardware).max_num_batched_tokens
    seqs = max_num_seqs or min(profile.limits(hardware).max_num_seqs, budget)
    free_gib = (
        utilization * hardware.memory_gib
        - model.weights_gib / tensor_parallel
        - activation_gib(model, tensor_parallel, budget, seqs)
        - CONTEXT_GIB
        - (COMMUNICATION_GIB if tensor_parallel > 1 else 0.0)
    )
    split = min(tensor_parallel, model.kv_heads)
    blocks = int(free_gib * 2**30 / (model.kv_bytes_per_token / split * block_size)) - 1
    blocks = min(blocks, MAX_BLOCKS)
    if blocks < 1:
        raise BurstenvError(
            f"{model.name} does not fit on {tensor_parallel} x {hardware.name}: {model.weights_gib} GiB of weights "
            f"leave no memory for KV cache at gpu_memory_utilization {utilization:g}; use more GPUs (tensor_parallel) "
            "or a smaller model"
        )
    return blocks
