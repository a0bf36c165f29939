"""What a cluster is made of: hardware, models, replicas and batching modes, from YAML to engine limits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from burstenv.arguments import checked
from burstenv.cluster.transfer_config import TransfersConfig
from burstenv.config import Config, load, parse, shipped
from burstenv.engine.spec import MODE
from burstenv.errors import BurstenvError
from burstenv.hardware.engine_profile import (
    DEFAULT_ENGINE,
    MAX_BLOCK_SIZE,
    MAX_TOKENS,
    EngineSettings,
    Fraction,
    SeqCount,
    TokenCount,
    engine_profile,
    said_of,
)
from burstenv.hardware.gpus_and_models import HardwareConfig, LinkConfig, ModelConfig
from burstenv.hardware.host import OverheadConfig, overhead_of
from burstenv.hardware.latency.entry import LatencyConfig, load_latency
from burstenv.hardware.latency.roofline import roofline
from burstenv.hardware.memory import MAX_BLOCKS, kv_blocks

MAX_REPLICAS = 1_024  # observations and masks grow with them
MAX_TENSOR_PARALLEL = 128  # more GPUs than any replica has
MAX_TIME_S = 1e6  # eleven days, far beyond an episode


Role = Literal["mixed", "prefill", "decode", "flexible"]
HAND_OUT: tuple[Role, ...] = ("prefill", "flexible")  # the gateway decides where requests decode that these prefill
ROLES = get_args(Role)


class ReplicaConfig(EngineSettings):
    """``count`` equal replicas: a model on ``tensor_parallel`` GPUs of one type.

    Settings of their engines that a replica gives stand before those of the cluster.
    """

    model: str
    hardware: str
    tensor_parallel: Annotated[int, Field(ge=1, le=MAX_TENSOR_PARALLEL)] = 1
    count: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1
    role: Role = "mixed"  # prefill: requests decode elsewhere; decode: they come prefilled; flexible: both
    link: str | None = None  # between the GPUs, a name in configs/links or a YAML file; None: the hardware's
    weights: Literal["fp8"] | None = None  # None: as the model is
    kv_cache: Literal["fp8"] | None = None
    num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] | None = None  # usable KV blocks; None: from memory
    kv_tokens: Annotated[int, Field(ge=1)] | None = None  # the same in tokens
    max_model_len: TokenCount | None = None  # [tokens]; None: the whole KV cache
    latency: str | LatencyConfig | None = None  # a name in configs/latency; None: MODEL_HARDWARE_tpN, or a roofline

    @model_validator(mode="after")
    def _said_once(self) -> ReplicaConfig:
        if self.num_blocks is not None and self.kv_tokens is not None:
            raise ValueError("num_blocks and kv_tokens both say how large the KV cache is; give one")
        if self.latency is not None and (self.weights or self.link):
            given = "weights: fp8" if self.weights else f"link: {self.link}"
            raise ValueError(f"{given} is for a roofline; the latency that is named has it in its numbers already")
        return self


class ModeConfig(Config):
    """A batching mode: how a replica forms its batches while the mode is in force."""

    name: str
    max_num_batched_tokens: TokenCount | None = None  # token budget; None: the engine's
    max_num_seqs: SeqCount | None = None  # None: the engine's
    order: Literal[
        "fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline", "priority", "longest-prompt",
        "oracle-shortest", "fair", "mlfq",
    ] = "fcfs"  # fmt: skip
    headroom: Fraction | None = None  # share of the KV blocks kept free at admission; None: the engine's watermark
    hopeless: Literal["last", "drop"] = "last"  # under earliest-deadline: requests that cannot start in time any more
    batch: Literal["mixed", "prefill-first", "whole-prompts"] = "mixed"  # what shares an iteration
    memory: Literal["as-needed", "projected", "reserved", "oracle-projected", "oracle-reserved"] = "as-needed"
    reserve_tokens: TokenCount = 1024  # outputs that memory="reserved" sets KV blocks aside for
    deferral_s: Annotated[float, Field(ge=0.0, le=MAX_TIME_S)] = 0.0  # admission opens once a request waited so long
    fair_by: Literal["class", "session"] = "class"  # the client under order="fair"
    quantum_s: Annotated[float, Field(ge=1e-6, le=MAX_TIME_S)] = 0.05  # of the highest level under order="mlfq"
    starve_s: Annotated[float, Field(ge=1e-6, le=MAX_TIME_S)] = 5.0  # after so long a request is of the highest level

    @model_validator(mode="after")
    def _rules_go_together(self) -> ModeConfig:
        if self.hopeless == "drop" and self.order != "earliest-deadline":
            raise ValueError(f"mode {self.name!r}: hopeless: drop needs order: earliest-deadline, got {self.order}")
        if self.deferral_s > 0.0 and self.order != "fcfs":
            raise ValueError(f"mode {self.name!r}: deferral_s needs order: fcfs, got {self.order}")
        return self

    @property
    def oracle(self) -> bool:
        """Whether it uses true output lengths."""
        return self.order == "oracle-shortest" or self.memory.startswith("oracle-")

    @property
    def needs_general_engine(self) -> bool:
        """Whether its rules go beyond what the fast engine leans on."""
        return (
            self.order in ("priority", "fair", "mlfq")
            or self.batch != "mixed"
            or self.memory != "as-needed"
            or self.deferral_s > 0.0
        )


class ClusterConfig(EngineSettings):
    """The replicas of a cluster and the settings of their engines; an engine's profile says what the YAML does not."""

    name: str
    description: str = ""
    replicas: Annotated[list[ReplicaConfig], Field(min_length=1, max_length=MAX_REPLICAS)]
    engine: str = DEFAULT_ENGINE  # a name in configs/engines, or a YAML file: the defaults by GPU
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)] | None = None  # [tokens]; None: the engine's
    overhead: OverheadConfig = OverheadConfig()
    overhead_by_engine: bool = False  # in place of overhead: by scheduling and tensor parallelism, hardware/host.py
    transfers: TransfersConfig | None = None  # of KV blocks between replicas; None: there are none

    @model_validator(mode="after")
    def _not_too_many(self) -> ClusterConfig:
        count = sum(replica.count for replica in self.replicas)
        if count > MAX_REPLICAS:
            raise ValueError(f"a cluster has at most {MAX_REPLICAS:,} replicas, this one {count:,}")
        return self

    @model_validator(mode="after")
    def _roles_fit(self) -> ClusterConfig:
        roles = {replica.role for replica in self.replicas}
        if roles != {"mixed"} and self.transfers is None:
            raise ValueError("replicas with roles hand requests over; say under transfers: what that takes")
        if roles == {"prefill"} or roles == {"decode"}:
            raise ValueError(f"all replicas have role {roles.pop()}: no request could be computed and decoded")
        return self


class ReplicaSpec(Config):
    """One replica with everything resolved: what the engines are built from."""

    name: str
    model: str
    hardware: str
    tensor_parallel: int
    role: Role = "mixed"
    num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)]
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)]
    max_model_len: TokenCount
    reserve_full_prompt: bool
    watermark: Fraction = 0.0  # share of the KV blocks kept free at admission while anything runs
    prefix_caching: bool = False
    asynchronous: bool = False  # schedule an iteration when the one before it starts
    chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0  # [tokens]; 0: none
    validate_requests: bool = True  # False only to replay recordings made without the server's front end
    default_max_num_batched_tokens: TokenCount
    default_max_num_seqs: SeqCount
    kv_bytes_per_token: Annotated[int, Field(ge=0)] = 0
    layers: Annotated[int, Field(ge=1)] = 1  # of the model
    copy_bytes_per_s: Annotated[float, Field(gt=0.0)] = 25e9  # of KV blocks to other replicas, and from them
    latency: LatencyConfig
    latency_source: str = ""  # which entry of configs/latency, or that it is a roofline

    @model_validator(mode="after")
    def _fits(self) -> ReplicaSpec:
        if self.validate_requests and math.ceil(self.max_model_len / self.block_size) > self.num_blocks:
            raise ValueError(
                f"max_model_len {self.max_model_len} needs "
                f"{math.ceil(self.max_model_len / self.block_size)} KV blocks but {self.name} has "
                f"{self.num_blocks}: lower max_model_len or raise num_blocks"
            )
        return self

    def resolve(self, mode: ModeConfig) -> dict[str, Any]:
        """Return the limits of a batching mode on this replica, under the engine's field names."""
        budget = mode.max_num_batched_tokens or self.default_max_num_batched_tokens
        seqs = mode.max_num_seqs or min(self.default_max_num_seqs, budget)
        if mode.batch != "mixed":  # a whole prompt must fit beside all decodes: V0's max(2048, max_model_len)
            budget = max(budget, self.max_model_len + seqs)
        if budget < seqs:
            raise BurstenvError(
                f"batching mode {mode.name!r} on {self.name}: max_num_batched_tokens {budget} is below "
                f"max_num_seqs {seqs}, which the real engine refuses; raise the one or lower the other"
            )
        headroom = self.watermark if mode.headroom is None else mode.headroom
        return {
            **{name: getattr(mode, name) for name in ModeConfig.model_fields if name in (MODE.fields or ())},
            "token_budget": budget,
            "max_num_seqs": seqs,
            "headroom_blocks": int(headroom * (self.num_blocks + 1)),  # as vLLM's watermark counts
            "drops_hopeless": mode.hopeless == "drop",
        }


def _latency(
    replica: ReplicaConfig, model: ModelConfig, hardware: HardwareConfig, overhead: OverheadConfig
) -> tuple[LatencyConfig, str]:
    """Return a replica's latency with the cluster's host overhead in it, and where it comes from.

    A name must exist. Without one, the measured entry of model, GPU and tensor parallelism is taken, or a
    roofline where there is none, or where a link or 8 bits make it another machine.
    """
    if replica.latency is not None and not isinstance(replica.latency, str):
        return replica.latency, "given with the cluster"
    name = replica.latency or f"{replica.model}_{replica.hardware}_tp{replica.tensor_parallel}"
    changed = replica.weights or replica.kv_cache or (replica.link and replica.link != hardware.link)
    if replica.latency is None and (changed or name not in shipped("latency")):
        latency: LatencyConfig = roofline(model, hardware, replica.tensor_parallel, replica.link)
        source = "roofline of this variant" if changed else f"roofline: no measured entry {name}"
    else:
        latency = load_latency(name)
        source = name
    return latency.with_overhead(overhead.per_iteration_ms, overhead.per_sequence_ms), source


def _blocks(
    replica: ReplicaConfig,
    model: ModelConfig,
    hardware: HardwareConfig,
    settings: EngineSettings,
    block_size: int,
    where: str,
) -> int:
    """Return the usable KV blocks of a replica: as its configuration says, or as its memory holds."""
    if replica.num_blocks is not None:
        return replica.num_blocks
    if replica.kv_tokens is not None:
        if replica.kv_tokens < block_size:
            raise BurstenvError(f"{where}: kv_tokens {replica.kv_tokens} is less than a block of {block_size}")
        return min(replica.kv_tokens // block_size, MAX_BLOCKS)
    return kv_blocks(
        model, hardware, replica.tensor_parallel, block_size, settings.gpu_memory_utilization,
        settings.max_num_batched_tokens, settings.max_num_seqs,
    )  # fmt: skip


def _copy_bytes_per_s(transfers: TransfersConfig) -> float:
    if transfers.gb_per_s is not None:
        return 1e9 * transfers.gb_per_s
    return load(LinkConfig, "links", transfers.link).copy_bytes_per_s


@checked()
def resolve_cluster(cluster: ClusterConfig) -> tuple[ReplicaSpec, ...]:
    """Return the replicas of a cluster, one spec each, in the order of the YAML.

    Raises:
        BurstenvError: On an unknown model, hardware, link or latency, or a model that does not fit.
    """
    specs: list[ReplicaSpec] = []
    profile = engine_profile(cluster.engine)
    block_size = cluster.block_size or profile.block_size
    where = f"cluster {cluster.name!r}"
    copy_bytes_per_s = _copy_bytes_per_s(cluster.transfers or TransfersConfig())
    for replica in cluster.replicas:
        model = load(ModelConfig, "models", replica.model).in_fp8(replica.weights == "fp8", replica.kv_cache == "fp8")
        hardware = load(HardwareConfig, "hardware", replica.hardware)
        settings = profile.settings(hardware, replica.over(cluster))
        blocks = _blocks(replica, model, hardware, settings, block_size, where)
        overhead = (
            overhead_of(bool(settings.asynchronous), replica.tensor_parallel)
            if cluster.overhead_by_engine
            else cluster.overhead
        )
        latency, source = _latency(replica, model, hardware, overhead)
        for _ in range(replica.count):
            name = f"{len(specs)}:{replica.model}@{replica.hardware}" + (
                f"x{replica.tensor_parallel}" if replica.tensor_parallel > 1 else ""
            )
            values: dict[str, Any] = {
                "name": name,
                "model": replica.model,
                "hardware": replica.hardware,
                "tensor_parallel": replica.tensor_parallel,
                "role": replica.role,
                "num_blocks": blocks,
                "block_size": block_size,
                "max_model_len": replica.max_model_len or min(MAX_TOKENS, blocks * block_size),
                **{
                    key: getattr(settings, key)
                    for key in EngineSettings.model_fields
                    if key in ReplicaSpec.model_fields
                },
                "default_max_num_batched_tokens": settings.max_num_batched_tokens,
                "default_max_num_seqs": settings.max_num_seqs,
                "kv_bytes_per_token": model.kv_bytes_per_token,
                "layers": model.layers,
                "copy_bytes_per_s": copy_bytes_per_s,
                "latency": latency,
                "latency_source": source,
            }
            specs.append(parse(ReplicaSpec, values, where))
    return tuple(specs)


def engines_of(specs: Sequence[ReplicaSpec], limits: bool = True) -> str:
    """Return the engines of a cluster in words: scheduling and cache, then the limits of an iteration by GPU."""
    kinds: dict[str, list[str]] = {}
    sizes: dict[str, list[str]] = {}
    for spec in specs:
        kinds.setdefault(said_of(spec.prefix_caching, spec.asynchronous), []).append(spec.hardware)
        size = f"{spec.default_max_num_batched_tokens:,} tokens and {spec.default_max_num_seqs:,} sequences"
        sizes.setdefault(size, []).append(spec.hardware)
    parts = [kinds, sizes] if limits else [kinds]
    return "; ".join(_by_gpu(part) for part in parts)


def _by_gpu(texts: dict[str, list[str]]) -> str:
    """Join texts, each with its GPUs; a text that holds for all stands alone."""
    if len(texts) == 1:
        return next(iter(texts))
    return ", ".join(f"{text} ({', '.join(dict.fromkeys(gpus))})" for text, gpus in texts.items())
