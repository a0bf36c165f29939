"""The server behind a measurement: its model, GPU, latency, KV cache and front end, as recorded and by options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burstenv.config import load, read_yaml, shipped
from burstenv.errors import BurstenvError
from burstenv.hardware.engine_profile import engine_profile
from burstenv.hardware.gpus_and_models import HardwareConfig, LinkConfig, ModelConfig, known_as
from burstenv.hardware.host import NO_FRONT_END, FrontEndConfig, overhead_of
from burstenv.hardware.latency.entry import load_latency
from burstenv.hardware.latency.hinge import HingeLatency
from burstenv.hardware.latency.roofline import roofline
from burstenv.hardware.latency.tables import TablesLatency
from burstenv.hardware.memory import kv_blocks

OLDER_UTILIZATION = 0.9  # vLLM's default share of the memory before captured graphs counted
GRAPHS_COUNT_SINCE = (0, 20)
ASYNCHRONOUS_SINCE = (0, 14)  # vLLM's default from then on
FULL_PROMPT_CHECK_SINCE = (0, 12)

# Flags of a server that change its times and that no replica has; a value that is off is fine.
NOT_MODELLED = {
    "data_parallel_size": "data-parallel ranks run in lockstep over one router",
    "data_parallel": "data-parallel ranks run in lockstep over one router",
    "dp": "data-parallel ranks run in lockstep over one router",
    "pipeline_parallel_size": "stages of a pipeline overlap iterations",
    "pipeline_parallel": "stages of a pipeline overlap iterations",
    "prefill_context_parallel_size": "a prompt is spread over GPUs",
    "decode_context_parallel_size": "a KV cache is spread over GPUs",
    "enable_expert_parallel": "experts are spread over GPUs",
    "expert_parallel": "experts are spread over GPUs",
}
WARNED = (
    "speculative_config", "speculative_model", "num_speculative_tokens", "enable_lora", "kv_transfer_config",
    "kv_cpu_offload", "cpu_offload_gb", "swap_space", "enforce_eager", "enable_dbo", "kv_offloading_size",
    "scheduling_policy", "disable_chunked_mm_input", "max_num_partial_prefills", "enable_sleep_mode",
    "disable_cascade_attn", "calculate_kv_scales",
)  # fmt: skip
READ = (
    "model", "tensor_parallel_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "dtype", "seed",
    "kv_cache_dtype", "quantization", "block_size", "gpu_memory_utilization", "enable_prefix_caching", "num_gpu_blocks",
    "async_scheduling", "no_async_scheduling", "long_prefill_token_threshold", "enable_chunked_prefill",
    "scheduler_reserve_full_isl", "served_model_name", "tokenizer", "trust_remote_code", "host", "port", "load_format",
    "disable_log_requests", "disable_log_stats", "download_dir", "uvicorn_log_level", "generation_config",
    "skip_tokenizer_init", "hf_token", "revision", "api_key", "kv_cache_memory_bytes", "distributed_executor_backend",
    "disable_uvicorn_access_log", "worker_extension_cls", "hf_overrides", "enable_log_requests", "runner", "task",
)  # fmt: skip
OFF = ("", "none", "null", "false", "no", "0", "0.0", "off", "1", "not stated", "auto", "default", "[]", "{}")


@dataclass(frozen=True)
class ServerOptions:
    """What the caller says of a server; it comes before what the record says. None: as recorded, or the default."""

    latency: str | Path | None = None  # a name in configs/latency or a YAML file; None: the shipped entry or a roofline
    gpu: str | None = None
    model: str | None = None
    tensor_parallel: int | None = None
    link: str | None = None
    num_blocks: int | None = None
    kv_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    front_end: bool | None = None  # None: on where the client's clock measured
    asynchronous: bool | None = None
    prefix_caching: bool | None = None


@dataclass(frozen=True)
class Server:
    """One server, resolved."""

    model: ModelConfig | None
    hardware: HardwareConfig | None
    tensor_parallel: int
    latency: HingeLatency | TablesLatency  # host overhead included
    source: str
    notes: tuple[str, ...]


def version_of(text: object) -> tuple[int, int] | None:
    """Return the first number of the kind 0.15 in a text as a pair, None without one."""
    found = re.search(r"(\d+)\.(\d+)", str(text or ""))
    return (int(found[1]), int(found[2])) if found else None


def check_flags(flags: Mapping[str, Any], where: str, strangers: bool = False) -> list[str]:
    """Return a remark for each flag of a server that the model leaves out, with ``strangers`` for each unknown one.

    Raises:
        BurstenvError: On a flag without which the replay would be of another machine: data, pipeline, context or
            expert parallelism.
    """
    notes = []
    for name, value in flags.items():
        key = str(name).lower().lstrip("-").replace("-", "_").strip()
        if str(value).strip().lower() in OFF:
            continue
        if key in NOT_MODELLED:
            raise BurstenvError(
                f"{where}: {name} is {value}, and {NOT_MODELLED[key]}, which is not modelled; give a run without it "
                f"({name} 1 or false), or the measurements of one rank"
            )
        if key in WARNED:
            notes.append(f"warning: {name} {value} is not modelled; the replay is of a server without it")
        elif strangers and key not in READ:
            notes.append(f"warning: the server's flag {name} ({value}) is not known here and not used")
    return notes


def eight_bits(flags: Mapping[str, Any], model_name: str) -> tuple[bool, bool]:
    """Return whether weights and KV cache have 8 bits, from flags and the name of the checkpoint."""
    texts = (flags.get("quantization"), flags.get("dtype"), model_name)
    weights = any("fp8" in str(text or "").lower() for text in texts)
    return weights, "fp8" in str(flags.get("kv_cache_dtype") or "").lower()


def find_model(options: ServerOptions, recorded: str, where: str) -> ModelConfig | None:
    """Return the model of a server: as an option says, else as recorded; None where neither says.

    Raises:
        BurstenvError: When a name is unknown; says which option is missing.
    """
    name = options.model or recorded
    if not name:
        return None
    if str(name).endswith((".yaml", ".yml")):
        return load(ModelConfig, "models", name)
    try:
        return known_as(ModelConfig, "models", *dict.fromkeys((name, re.sub(r"[-_](fp8|FP8)$", "", name))))
    except BurstenvError as error:
        raise BurstenvError(f"{where}: {error}; name one with --model NAME or a YAML file of its shape") from None


def find_hardware(options: ServerOptions, recorded: str, where: str) -> HardwareConfig | None:
    """Return the GPU of a server; see :func:`find_model`."""
    name = options.gpu or recorded
    if not name:
        return None
    if str(name).endswith((".yaml", ".yml")):
        return load(HardwareConfig, "hardware", name)
    try:
        return known_as(HardwareConfig, "hardware", name)
    except BurstenvError as error:
        raise BurstenvError(f"{where}: {error}; name one with --gpu NAME or a YAML file of its figures") from None


def resolve_server(
    options: ServerOptions, model_name: str, gpu_name: str, tensor_parallel: int | None, asynchronous: bool,
    flags: Mapping[str, Any], where: str, profile: Path | None = None,
) -> Server:  # fmt: skip
    """Return a server with its iteration times.

    Without ``options.latency`` these are the fit of ``profile``, else the shipped entry of model, GPU and tensor
    parallelism, else a roofline.

    Args:
        options: The caller's word.
        model_name: As recorded, "" for unknown.
        gpu_name: As recorded, "" for unknown.
        tensor_parallel: As recorded, None for unknown.
        asynchronous: The engine's kind, for its host overhead.
        flags: The server's flags, for 8 bits.
        where: What to call the source in an error message.
        profile: A kernel profile of the same server, None without one.

    Raises:
        BurstenvError: On anything unknown that is needed; names the option that would say it.
    """
    degree = options.tensor_parallel or tensor_parallel or 1
    model = _in_its_bits(find_model(options, model_name, where), flags, model_name)
    notes: list[str] = []
    if options.latency is not None:
        entry = load_latency(options.latency)
        source = str(options.latency)
        try:
            hardware = find_hardware(options, gpu_name, where)
        except BurstenvError:
            hardware = None
    else:
        hardware = find_hardware(options, gpu_name, where)
        entry, source = _own_latency(options, model, hardware, degree, where, profile, notes)
    of = getattr(entry, "tensor_parallel", degree)
    if of != degree:
        raise BurstenvError(f"latency {source} is of tensor parallelism {of}, the run {where} of {degree}")
    measured = getattr(entry, "model", "")
    if measured and model is not None and measured != model.name:
        notes.append(f"the latency is of {measured}, the run of {model.name}")
    overhead = overhead_of(asynchronous, degree)
    entry = entry.with_overhead(overhead.per_iteration_ms, overhead.per_sequence_ms)
    return Server(model, hardware, degree, entry, source, tuple(notes))


def _in_its_bits(model: ModelConfig | None, flags: Mapping[str, Any], name: str) -> ModelConfig | None:
    return None if model is None else model.in_fp8(*eight_bits(flags, name))


def _own_latency(
    options: ServerOptions, model: ModelConfig | None, hardware: HardwareConfig | None, degree: int, where: str,
    profile: Path | None, notes: list[str],
) -> tuple[HingeLatency | TablesLatency, str]:  # fmt: skip
    if profile is not None and options.gpu is None and options.model is None:
        from burstenv.hardware.latency.fit import fit_profile

        fit = fit_profile(profile, "tables", degree if degree > 1 else None, link=options.link)
        notes += fit.notes
        if getattr(fit.entry, "tensor_parallel", degree) == degree:
            return fit.entry, f"fitted to {profile}"
        notes.append(f"the profile in {profile} is of another tensor parallelism, so that it is not used")
    if model is None or hardware is None:
        missing = [f"--{n} NAME" for n, v in (("model", model), ("gpu", hardware)) if v is None]
        raise BurstenvError(
            f"{where}: it does not say {'which model' if model is None else 'on which GPU it'} ran; add "
            f"{' and '.join(missing)}, or name its iteration times with --latency"
        )
    if options.link is not None:
        load(LinkConfig, "links", options.link)
    name = f"{model.name}_{hardware.name}_tp{degree}"
    plain = not model.fp8_weights and model.kv_dtype_bytes is None and options.link in (None, hardware.link)
    if plain and name in shipped("latency"):
        return load_latency(name), name
    notes.append(f"no measured entry {name}: a roofline stands in for it (docs/fidelity.md has its errors)")
    return roofline(model, hardware, degree, options.link), "roofline"


def cache_blocks(
    options: ServerOptions, server: Server, recorded_blocks: int | None, block_size: int,
    utilization: float | None, version: tuple[int, int] | None, budget: int | None, seqs: int | None,
    notes: list[str],
) -> int:  # fmt: skip
    """Return the usable KV blocks: as an option says, as recorded (null block taken off), or from memory."""
    if options.num_blocks is not None:
        return options.num_blocks
    if options.kv_tokens is not None:
        return max(options.kv_tokens // block_size, 1)
    if recorded_blocks is not None and options.gpu_memory_utilization is None:
        return recorded_blocks - 1
    if server.model is None or server.hardware is None:
        missing = "model" if server.model is None else "GPU"
        notes.append(
            f"the run does not record its KV blocks, and its {missing} is not known, so its KV cache is assumed to "
            f"hold all requests (--gpu, --model or --kv-tokens would say it)"
        )
        return 2**24 // block_size
    older = version is not None and version < GRAPHS_COUNT_SINCE
    share = (
        options.gpu_memory_utilization
        or utilization
        or (OLDER_UTILIZATION if older else engine_profile().gpu_memory_utilization)
    )
    blocks = kv_blocks(server.model, server.hardware, server.tensor_parallel, block_size, share, budget, seqs)
    notes.append(
        f"the run does not record its KV blocks; {blocks + 1} follow from {share:g} of the memory of "
        f"{server.hardware.name} ({blocks * block_size:,} tokens)"
    )
    return blocks


def front_end_of(options: ServerOptions, seen_by_client: bool) -> FrontEndConfig:
    """Return the front end of a replay: on where the client's clock measured, unless an option says otherwise."""
    on = seen_by_client if options.front_end is None else options.front_end
    return FrontEndConfig() if on else NO_FRONT_END


def profile_beside(folder: Path) -> Path | None:
    """Return the kernel profile that stands beside a run of the same server, None without one."""
    profile = folder.parent / "profile"
    return profile if (profile / "dense.csv").exists() or (profile / "meta.yaml").exists() else None


def profiled_meta(folder: Path) -> dict[str, Any]:
    """Return the meta data of the profile beside a run, {} without one."""
    profile = profile_beside(folder)
    path = None if profile is None else profile / "meta.yaml"
    return dict(read_yaml(path)) if path is not None and path.exists() else {}
