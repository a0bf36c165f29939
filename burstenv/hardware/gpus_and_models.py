"""GPUs and models of the serving model, from ``configs/hardware`` and ``configs/models``."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

from burstenv.config import Config, load, shipped
from burstenv.errors import unknown_name

Positive = Annotated[float, Field(ge=1e-3, le=1e6)]  # of GPUs and models; a thousand times the largest
Size = Annotated[int, Field(ge=1, le=1_000_000)]  # of a model
PositiveInt = Annotated[int, Field(ge=1)]
ACTIVATION_RESERVE_GIB = 5.5  # BLIS, sim/latency/kv_capacity.go (dense models)


class HardwareConfig(Config):
    """One GPU type, and the engine defaults that vLLM derives from it."""

    name: str
    aliases: tuple[str, ...] = ()  # its names in profiles and servers
    memory_gib: Positive
    bf16_tflops: Positive  # dense, accumulating in 32 bits
    memory_tb_per_s: Positive
    link_gb_per_s: Positive = 25.0  # to the other GPUs of a replica, in one direction; PCIe 4.0 x16 in practice
    all_reduce_latency_us: Positive = 20.0  # of a small one
    activation_reserve_gib: Positive = ACTIVATION_RESERVE_GIB  # a replica's memory besides weights and KV
    default_max_num_batched_tokens: Annotated[int, Field(ge=1, le=1 << 24)]
    default_max_num_seqs: Annotated[int, Field(ge=1, le=8_192)]
    source: str


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
    vocab_size: Size | None = None
    dtype_bytes: Annotated[int, Field(ge=1, le=8)] = 2
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
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype_bytes


N = TypeVar("N", HardwareConfig, ModelConfig)


def known_as(kind: type[N], folder: str, *names: str) -> N:
    """Return the shipped model or hardware with one of ``names`` as its name or alias.

    Raises:
        BurstenvError: If there is none; lists the valid names.
    """
    wanted = {name.lower() for name in names if name}
    known: list[str] = []
    for shipped_name in shipped(folder):
        config: N = load(kind, folder, shipped_name)
        if wanted & {alias.lower() for alias in (config.name, *config.aliases)}:
            return config
        known += [config.name, *config.aliases]
    raise unknown_name(
        folder.rstrip("s") if folder != "hardware" else folder, " or ".join(n for n in names if n), known
    )
