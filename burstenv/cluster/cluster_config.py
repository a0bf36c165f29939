"""What a cluster is made of: hardware, models, replicas and batching modes, from YAML to engine limits."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from burstenv.config import Config, load, parse, shipped
from burstenv.engine.spec import MODE
from burstenv.errors import BurstenvError
from burstenv.hardware.gpus_and_models import HardwareConfig, ModelConfig
from burstenv.hardware.latency.entry import LatencyConfig, load_latency
from burstenv.hardware.latency.roofline import roofline

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

GPU_MEMORY_UTILIZATION = 0.92  # default of vLLM 0.33.0 (vllm/config/cache.py); 0.9 in older versions
RUNTIME_RESERVE_GIB = 0.15  # one GPU; the same file
RUNTIME_RESERVE_PER_GPU_GIB = 0.6  # tensor parallelism above 1; the same file
MIXTURE_RESERVE_GIB = 2.5  # of activations, more than a dense model's; the same file (8 against 5.5)
MAX_BLOCK_SIZE = 256  # [tokens]
MAX_REPLICAS = 1_024  # observations and masks grow with them
MAX_BLOCKS = 4_194_304  # of a replica: 67 million tokens in blocks of 16, more than a node of eight GPUs holds
MAX_TENSOR_PARALLEL = 128  # more GPUs than any replica has
MAX_TOKENS = 1 << 24  # of a request, an iteration or a reservation; sums of them stay whole numbers
MAX_SEQS = 8_192  # that run at once; vLLM's defaults are 256 and 1,024
MAX_TIME_S = 1e6  # eleven days, far beyond an episode

TokenCount = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
SeqCount = Annotated[int, Field(ge=1, le=MAX_SEQS)]


class ReplicaConfig(Config):
    """``count`` equal replicas: a model on ``tensor_parallel`` GPUs of one type."""

    model: str
    hardware: str
    tensor_parallel: Annotated[int, Field(ge=1, le=MAX_TENSOR_PARALLEL)] = 1
    count: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] = 1
    num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)] | None = None  # usable KV blocks; None: from memory
    max_model_len: TokenCount | None = None  # [tokens]; None: the whole KV cache
    latency: str | LatencyConfig | None = None  # a name in configs/latency; None: MODEL_HARDWARE_tpN, or a roofline


class OverheadConfig(Config):
    """Host time that no kernel profile shows: one set of constants for all GPUs, and this is their place.

    Fitted jointly to two measured vLLM 0.19 servers (Llama-3.1-8B on an RTX 4090 and on an RTX PRO 6000, 300
    requests each, casys-kaist/LLMServingSim): the pair, on a grid of 0.1 ms and 0.001 ms, with the least squared
    relative error over the 24 statistics of ``validate_run`` (evaluation/validation/measured_run.py) on both runs,
    kernel times from their tables. That no constant per iteration is left is what asynchronous scheduling promises: the
    host prepares an iteration while the one before it runs, and only what it does for each sequence shows.
    """

    per_iteration_ms: Annotated[float, Field(ge=0.0, le=1e5)] = 0.0
    per_sequence_ms: Annotated[float, Field(ge=0.0, le=1e3)] = 0.011
    source: str = "fitted jointly to two measured vLLM 0.19 servers; see OverheadConfig"


class ModeConfig(Config):
    """A batching mode: how a replica forms its batches while the mode is in force."""

    name: str
    max_num_batched_tokens: TokenCount | None = None  # token budget; None: the hardware's default
    max_num_seqs: SeqCount | None = None  # None: the hardware's default
    order: Literal[
        "fcfs", "shortest-prompt", "shortest-predicted", "earliest-deadline", "priority", "longest-prompt",
        "oracle-shortest", "fair", "mlfq",
    ] = "fcfs"  # fmt: skip
    headroom: Fraction = 0.0  # share of the KV blocks kept free at admission while anything runs
    hopeless: Literal["last", "drop"] = "last"  # under earliest-deadline: requests that cannot start in time any more
    batch: Literal["mixed", "prefill-first", "whole-prompts"] = "mixed"  # what shares an iteration
    memory: Literal["as-needed", "projected", "reserved", "oracle-projected", "oracle-reserved"] = "as-needed"
    reserve_tokens: TokenCount = 1024  # outputs that memory="reserved" sets KV blocks aside for
    deferral_s: Annotated[float, Field(ge=0.0, le=MAX_TIME_S)] = (
        0.0  # admission waits until somebody has waited so long
    )
    fair_by: Literal["class", "session"] = "class"  # who is a client under order="fair"
    quantum_s: Annotated[float, Field(ge=1e-6, le=MAX_TIME_S)] = 0.05  # of the highest level under order="mlfq"
    starve_s: Annotated[float, Field(ge=1e-6, le=MAX_TIME_S)] = 5.0  # after so long anybody is of the highest level

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


class ClusterConfig(Config):
    """The replicas of a cluster and the engine settings they share."""

    name: str
    description: str = ""
    replicas: Annotated[list[ReplicaConfig], Field(min_length=1, max_length=MAX_REPLICAS)]
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)] = 16  # [tokens]
    reserve_full_prompt: bool = True  # vLLM's scheduler_reserve_full_isl
    prefix_caching: bool = False  # vLLM's enable_prefix_caching; sessions are token streams
    asynchronous: bool = False  # vLLM's async_scheduling
    chunked_prefill: bool = True  # vLLM's enable_chunked_prefill
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0  # [tokens]; 0: none
    gpu_memory_utilization: Annotated[float, Field(gt=0.0, le=1.0)] = GPU_MEMORY_UTILIZATION  # share that vLLM may use
    overhead: OverheadConfig = OverheadConfig()

    @model_validator(mode="after")
    def _not_too_many(self) -> ClusterConfig:
        count = sum(replica.count for replica in self.replicas)
        if count > MAX_REPLICAS:
            raise ValueError(f"a cluster has at most {MAX_REPLICAS:,} replicas, this one {count:,}")
        return self


class ReplicaSpec(Config):
    """One replica with everything resolved: what the engines are built from."""

    name: str
    model: str
    hardware: str
    tensor_parallel: int
    num_blocks: Annotated[int, Field(ge=1, le=MAX_BLOCKS)]
    block_size: Annotated[int, Field(ge=1, le=MAX_BLOCK_SIZE)]
    max_model_len: TokenCount
    reserve_full_prompt: bool
    prefix_caching: bool = False
    asynchronous: bool = False  # schedule an iteration when the one before it starts
    chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0  # [tokens]; 0: none
    validate_requests: bool = True  # False only to replay recordings made without the server's front end
    default_max_num_batched_tokens: TokenCount
    default_max_num_seqs: SeqCount
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
        if mode.batch != "mixed":  # a whole prompt must fit beside everybody's decode: V0's max(2048, max_model_len)
            budget = max(budget, self.max_model_len + seqs)
        if budget < seqs:
            raise BurstenvError(
                f"batching mode {mode.name!r} on {self.name}: max_num_batched_tokens {budget} is below "
                f"max_num_seqs {seqs}, which the real engine refuses; raise the one or lower the other"
            )
        return {
            **{name: getattr(mode, name) for name in ModeConfig.model_fields if name in (MODE.fields or ())},
            "token_budget": budget,
            "max_num_seqs": seqs,
            "headroom_blocks": int(mode.headroom * (self.num_blocks + 1)),  # as vLLM's watermark counts
            "drops_hopeless": mode.hopeless == "drop",
        }


def kv_blocks(
    model: ModelConfig,
    hardware: HardwareConfig,
    tensor_parallel: int,
    block_size: int,
    utilization: float = GPU_MEMORY_UTILIZATION,
) -> int:
    """Return the usable KV blocks of a model on ``tensor_parallel`` GPUs.

    (utilization x memory - weights - activation reserve - runtime reserve) / bytes of a block, the formula of BLIS
    (sim/latency/kv_capacity.go); less one, the null block that vLLM keeps.

    Raises:
        BurstenvError: When the weights leave no room.
    """
    runtime = RUNTIME_RESERVE_GIB if tensor_parallel == 1 else RUNTIME_RESERVE_PER_GPU_GIB * tensor_parallel
    free_gib = (
        utilization * hardware.memory_gib * tensor_parallel
        - model.weights_gib
        - hardware.activation_reserve_gib
        - (MIXTURE_RESERVE_GIB if model.is_mixture else 0.0)
        - runtime
    )
    blocks = int(free_gib * 2**30 / (model.kv_bytes_per_token * block_size)) - 1
    blocks = min(blocks, MAX_BLOCKS)
    if blocks < 1:
        raise BurstenvError(
            f"{model.name} does not fit on {tensor_parallel} x {hardware.name}: {model.weights_gib} GiB of weights "
            f"leave no memory for KV cache at gpu_memory_utilization {utilization:g}; use more GPUs (tensor_parallel) "
            "or a smaller model"
        )
    return blocks


def _latency(
    replica: ReplicaConfig, model: ModelConfig, hardware: HardwareConfig, overhead: OverheadConfig
) -> tuple[LatencyConfig, str]:
    """Return a replica's latency with the cluster's host overhead in it, and where it comes from.

    A name must exist. Without one, the measured entry of model, GPU and tensor parallelism is taken, or a
    roofline where there is none.
    """
    if replica.latency is not None and not isinstance(replica.latency, str):
        return replica.latency, "given with the cluster"
    name = replica.latency or f"{replica.model}_{replica.hardware}_tp{replica.tensor_parallel}"
    if replica.latency is None and name not in shipped("latency"):
        latency: LatencyConfig = roofline(model, hardware, replica.tensor_parallel)
        source = f"roofline: no measured entry {name}"
    else:
        latency = load_latency(name)
        source = name
    return latency.with_overhead(overhead.per_iteration_ms, overhead.per_sequence_ms), source


def resolve_cluster(cluster: ClusterConfig) -> tuple[ReplicaSpec, ...]:
    """Return the replicas of a cluster, one spec each, in the order of the YAML.

    Raises:
        BurstenvError: On an unknown model, hardware or latency, or a model that does not fit.
    """
    specs: list[ReplicaSpec] = []
    for replica in cluster.replicas:
        model = load(ModelConfig, "models", replica.model)
        hardware = load(HardwareConfig, "hardware", replica.hardware)
        blocks = replica.num_blocks or kv_blocks(
            model, hardware, replica.tensor_parallel, cluster.block_size, cluster.gpu_memory_utilization
        )
        latency, source = _latency(replica, model, hardware, cluster.overhead)
        for _ in range(replica.count):
            name = f"{len(specs)}:{replica.model}@{replica.hardware}" + (
                f"x{replica.tensor_parallel}" if replica.tensor_parallel > 1 else ""
            )
            values: dict[str, Any] = {
                "name": name,
                "model": replica.model,
                "hardware": replica.hardware,
                "tensor_parallel": replica.tensor_parallel,
                "num_blocks": blocks,
                "block_size": cluster.block_size,
                "max_model_len": replica.max_model_len or min(MAX_TOKENS, blocks * cluster.block_size),
                "reserve_full_prompt": cluster.reserve_full_prompt,
                "prefix_caching": cluster.prefix_caching,
                "asynchronous": cluster.asynchronous,
                "chunked_prefill": cluster.chunked_prefill,
                "long_prefill_token_threshold": cluster.long_prefill_token_threshold,
                "default_max_num_batched_tokens": hardware.default_max_num_batched_tokens,
                "default_max_num_seqs": hardware.default_max_num_seqs,
                "latency": latency,
                "latency_source": source,
            }
            specs.append(parse(ReplicaSpec, values, f"cluster {cluster.name!r}"))
    return tuple(specs)
