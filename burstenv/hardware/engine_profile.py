"""An engine's defaults by GPU, from ``configs/engines``: what vLLM runs with where a cluster says nothing."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from burstenv.config import Config, load
from burstenv.hardware.gpus_and_models import HardwareConfig

MAX_BLOCK_SIZE = 256  # [tokens]
MAX_TOKENS = 1 << 24  # of a request, an iteration or a reservation; sums of them stay whole numbers
MAX_SEQS = 8_192  # that run at once; vLLM's defaults are 256 and 1,024

TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
SeqCount = Annotated[int, Field(ge=1, le=MAX_SEQS)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Usage = Literal["server", "offline"]

DEFAULT_ENGINE = "vllm"
FOLDER = "engines"  # of configs/


class EngineSettings(Config):
    """Settings of an engine, each under vLLM's own name where it has one; None: as the profile of the engine says."""

    usage: Usage | None = None  # server: the OpenAI-compatible one; offline: the class LLM, with larger budgets
    max_num_batched_tokens: TokenCount | None = None  # token budget of an iteration
    max_num_seqs: SeqCount | None = None  # that run at once
    prefix_caching: bool | None = None  # vLLM's enable_prefix_caching; sessions are token streams
    asynchronous: bool | None = None  # vLLM's async_scheduling
    chunked_prefill: bool | None = None  # vLLM's enable_chunked_prefill
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_TOKENS)] | None = None  # [tokens]; 0: none
    reserve_full_prompt: bool | None = None  # vLLM's scheduler_reserve_full_isl
    watermark: Fraction | None = None  # share of the KV blocks kept free at admission while anything runs
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] | None = None  # share that the engine may use

    def over(self, other: EngineSettings) -> EngineSettings:
        """Return these settings, and those of ``other`` where these say nothing."""
        own = {name: value for name in EngineSettings.model_fields if (value := getattr(self, name)) is not None}
        return EngineSettings(**{**{name: getattr(other, name) for name in EngineSettings.model_fields}, **own})


class ServingLimits(Config):
    """The limits of an iteration."""

    max_num_batched_tokens: TokenCount
    max_num_seqs: SeqCount


class GpuClass(Config):
    """The GPUs that an engine gives the same limits."""

    name: str
    memory_gib: Annotated[float, Field(ge=0.0, le=1e6)]  # at least
    but: tuple[str, ...] = ()  # GPUs of configs/hardware that do not belong to it
    server: ServingLimits
    offline: ServingLimits

    def holds(self, gpu: HardwareConfig) -> bool:
        """Return whether a GPU belongs to the class."""
        return gpu.memory_gib >= self.memory_gib and gpu.name not in self.but


class EngineProfile(Config):
    """The defaults of an engine."""

    name: str
    description: str
    version: str
    source: str
    usage: Usage
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)]  # [tokens]
    prefix_caching: bool
    asynchronous: bool
    chunked_prefill: bool
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_TOKENS)]  # [tokens]; 0: none
    reserve_full_prompt: bool
    watermark: Fraction
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)]
    gpu_classes: Annotated[tuple[GpuClass, ...], Field(min_length=1)]  # the first that a GPU belongs to

    @model_validator(mode="after")
    def _for_every_gpu(self) -> EngineProfile:
        last = self.gpu_classes[-1]
        if last.memory_gib > 0 or last.but:
            raise ValueError("the last of gpu_classes must hold every GPU: memory_gib: 0, and no 'but'")
        return self

    @property
    def described(self) -> str:
        """The settings that do not depend on the GPU, in words."""
        return (
            f"{said_of(self.prefix_caching, self.asynchronous)}, "
            f"{'' if self.chunked_prefill else 'no '}chunked prefill, "
            f"{'' if self.reserve_full_prompt else 'no '}full-prompt check, watermark {self.watermark:g}, "
            f"{self.gpu_memory_utilization:g} of the memory"
        )

    def gpu_class(self, gpu: HardwareConfig | None) -> GpuClass:
        """Return the class of a GPU; of an unknown one, None, the last, as vLLM does."""
        return next((one for one in self.gpu_classes if gpu is not None and one.holds(gpu)), self.gpu_classes[-1])

    def limits(self, gpu: HardwareConfig | None, usage: Usage | None = None) -> ServingLimits:
        """Return the default limits on a GPU; no more sequences than the budget has tokens."""
        of = self.gpu_class(gpu)
        found = of.offline if (usage or self.usage) == "offline" else of.server
        return found.model_copy(update={"max_num_seqs": min(found.max_num_seqs, found.max_num_batched_tokens)})

    def settings(self, gpu: HardwareConfig, said: EngineSettings) -> EngineSettings:
        """Return what is said, and the profile's defaults on a GPU for the rest: no setting is None."""
        limits = self.limits(gpu, said.usage)
        budget = said.max_num_batched_tokens or limits.max_num_batched_tokens
        defaults: dict[str, Any] = {
            **{name: getattr(self, name, None) for name in EngineSettings.model_fields},
            "max_num_batched_tokens": budget,
            "max_num_seqs": min(limits.max_num_seqs, budget),
        }
        return said.over(EngineSettings(**defaults))


def said_of(prefix_caching: bool, asynchronous: bool) -> str:
    """Return the kind of scheduling and of cache in words."""
    kind = "asynchronous" if asynchronous else "synchronous"
    return f"{kind} scheduling, {'prefix caching' if prefix_caching else 'no prefix caching'}"


@cache
def engine_profile(name: str = DEFAULT_ENGINE) -> EngineProfile:
    """Return the profile of an engine, by a name in ``configs/engines`` or the path of a YAML file.

    Raises:
        BurstenvError: If there is no such profile, or a key or value of it is wrong.
    """
    return load(EngineProfile, FOLDER, name)
