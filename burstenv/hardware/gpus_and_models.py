"""GPUs and models of the serving model, from ``configs/hardware`` and ``configs/models``."""

from __future__ import annotations

import re
from typing import Annotated, TypeVar

from pydantic import Field

from burstenv.config import Config, load, shipped
from burstenv.errors import unknown_name

Positive = Annotated[float, Field(ge=1e-3, le=1e6)]  # of GPUs and models; a thousand times the largest
Size = Annotated[int, Field(ge=1, le=1_000_000)]  # of a model
PositiveInt = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]


class LinkConfig(Config):
    """What connects the GPUs of a replica, or replicas: effective figures, not those of a data sheet."""

    name: str
    gb_per_s: Positive  # of a large ring all-reduce, in one direction
    copy_gb_per_s: Positive | None = None  # of a large copy of KV blocks to another replica; None: gb_per_s
    all_reduce_latency_us: Positive  # of a small one between two GPUs
    latency_us_per_further_gpu: Annotated[float, Field(ge=0.0, le=1e4)] = 0.0
    source: str

    @property
    def copy_bytes_per_s(self) -> float:
        """Bytes of KV cache that a replica sends, or takes, in a second."""
        return 1e9 * (self.copy_gb_per_s or self.gb_per_s)


class HardwareConfig(Config):
    """One GPU type."""

    name: str
    aliases: tuple[str, ...] = ()  # its names in profiles and servers
    memory_gib: Positive  # as the driver reports it, a little less than the data sheet's
    bf16_tflops: Positive  # dense, accumulating in 32 bits
    fp8_tflops: Positive | None = None  # None: the GPU has no matrix products in 8 bits
    memory_tb_per_s: Positive
    weight_bandwidth_share: Share = 0.8  # of memory_tb_per_s that reading weights reaches
    matmul_share: Share = 0.65  # of the TFLOPS that matrix products of a large batch reach
    link: str = "pcie-4"  # to the other GPUs of a replica: a name in configs/links
    source: str
    evidence: str = ""  # the measured servers or kernels behind the shares


class ModelConfig(Config):
    """One model's shape, for serving."""

    name: str
    aliases: tuple[str, ...] = ()  # repository names of the weights
    layers: Size
    kv_heads: Size
    head_dim: Size
    weights_gib: Positive
    attention_heads: Size | None = None  # these three: only for a roofline or a profile
    hidden_size: Size | None = None
    feed_forward_size: Size | None = None  # that a token passes through; None: 3.5 times the hidden size
    vocab_size: Size | None = None
    tied_embeddings: bool = False  # input embedding and output head are one matrix
    dtype_bytes: Annotated[int, Field(ge=1, le=8)] = 2  # of weights and activations
    kv_dtype_bytes: Annotated[int, Field(ge=1, le=8)] | None = None  # None: as dtype_bytes
    fp8_weights: bool = False  # matrices of the layers in 8 bits
    experts: Size | None = None  # of a layer, in a mixture of experts; None: a dense model
    experts_per_token: Size | None = None
    source: str

    @property
    def is_mixture(self) -> bool:
        """Whether the model is a mixture of experts."""
        return self.experts is not None and self.experts_per_token is not None

    def active_experts(self, tokens: float) -> float:
        """Return the expected number of experts of a layer used by ``tokens`` tokens, with equal probabilities.

        A token does not use one with probability 1 - experts_per_token / experts.
        """
        if self.experts is None or self.experts_per_token is None:
            return 0.0
        return self.experts * (1.0 - (1.0 - self.experts_per_token / self.experts) ** tokens)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of KV cache per token: keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * (self.kv_dtype_bytes or self.dtype_bytes)

    @property
    def embedding_bytes(self) -> int:
        """Bytes of one embedding matrix, 0 where the shape is not known."""
        return (self.vocab_size or 0) * (self.hidden_size or 0) * self.dtype_bytes

    @property
    def streamed_bytes(self) -> float:
        """Bytes of weights that an iteration reads: all but the input embedding, whose rows are looked up."""
        weights = self.weights_gib * 2**30
        return weights if self.tied_embeddings else weights - self.embedding_bytes

    def in_fp8(self, weights: bool, kv_cache: bool) -> ModelConfig:
        """Return the model with its layers' weights, its KV cache or both in 8 bits.

        Embeddings and the output head stay as they are, as in the FP8 checkpoints of vLLM.
        """
        changes: dict[str, object] = {}
        if weights and not self.fp8_weights:
            kept = min(2 * self.embedding_bytes / 2**30, 0.5 * self.weights_gib)
            changes = {"weights_gib": kept + (self.weights_gib - kept) / self.dtype_bytes, "fp8_weights": True}
        if kv_cache:
            changes["kv_dtype_bytes"] = 1
        return self.model_copy(update=changes)


N = TypeVar("N", HardwareConfig, ModelConfig)


def _bare(name: str) -> str:
    """Return a name without case, punctuation and the vendor: ``NVIDIA H100-SXM`` and ``h100 sxm`` are one."""
    words = re.sub(r"[^a-z0-9.]+", " ", name.lower().rpartition("/")[2]).split()
    return "".join(word for word in words if word not in ("nvidia", "geforce", "amd", "instinct", "blackwell"))


def known_as(kind: type[N], folder: str, *names: str) -> N:
    """Return the shipped model or hardware with one of ``names`` as its name or alias.

    Raises:
        BurstenvError: If there is none; lists the valid names.
    """
    wanted = {_bare(name) for name in names if name}
    known: list[str] = []
    for shipped_name in shipped(folder):
        config: N = load(kind, folder, shipped_name)
        if wanted & {_bare(alias) for alias in (config.name, *config.aliases)}:
            return config
        known += [config.name, *config.aliases]
    raise unknown_name(
        folder.rstrip("s") if folder != "hardware" else folder, " or ".join(n for n in names if n), known
    )
