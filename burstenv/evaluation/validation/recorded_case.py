"""Recorded schedules of the real vLLM scheduler: the reader of a case folder.

A case folder holds ``config.json`` (the scheduler's settings), ``workload.csv`` (the requests), ``iterations.jsonl``
and ``requests.csv`` (the scheduler's actions, see :mod:`burstenv.evaluation.validation.recorded_rows`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from burstenv.config import Config, parse
from burstenv.engine.reference.engine import EngineLimits, ReferenceRequest
from burstenv.errors import BurstenvError
from burstenv.evaluation.validation.recorded_rows import (
    Recording,
    check_keys,
    read_csv,
    read_iterations,
    read_requests,
    read_text,
    seconds,
    whole,
)
from burstenv.hardware.latency.hinge import HingeLatency

MOST = 2**24  # of blocks, tokens or sequences
MOST_PRIORITY = 2**63 - 1  # the engines keep priorities in 64 bits
# Settings of vLLM 0.33.0 for scheduling rules outside the model of the engines.
NOT_MODELLED = (
    "prefill_schedule_interval",
    "max_num_active_seqs",
    "max_num_scheduled_tokens",
    "adaptive_long_prefill_threshold",
)
WORKLOAD_FIELDS = (
    "arrival_s", "prompt_tokens", "output_tokens", "session_id", "priority", "prefix_id", "prefix_tokens",
)  # fmt: skip
Count = Annotated[int, Field(ge=1, le=MOST)]
Coefficient = Annotated[float, Field(ge=0.0)]  # [s]


class LatencyCoefficients(Config):
    """An iteration takes c0 + c1 prefill tokens + c2 prefill attention + c3 decodes + c4 decode context [s]."""

    c0: Coefficient
    c1: Coefficient
    c2: Coefficient
    c3: Coefficient
    c4: Coefficient


class CaseConfig(Config):
    """``config.json``: the settings of the scheduler, under vLLM's own names."""

    model_config = ConfigDict(strict=True)

    num_gpu_blocks: Annotated[int, Field(ge=2, le=MOST)]  # KV blocks, vLLM's null block included
    block_size: Count  # [tokens]
    max_num_seqs: Count
    max_num_batched_tokens: Count
    max_model_len: Count | None = None  # [tokens]; None: the whole KV cache
    enable_prefix_caching: bool = False
    enable_chunked_prefill: bool = True
    long_prefill_token_threshold: Annotated[int, Field(ge=0, le=MOST)] = 0
    scheduler_reserve_full_isl: bool = True
    watermark: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0  # share of the KV blocks
    policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = False
    validate_requests: bool = (
        True  # whether the front end rejects prompts and cuts outputs that exceed the model length
    )
    latency: LatencyCoefficients
    max_iterations: Annotated[int, Field(ge=1)] | None = None  # limit of the recorder

    def limits(self) -> EngineLimits:
        """Return the same settings in the engines' form."""
        blocks = self.num_gpu_blocks - 1
        return EngineLimits(
            num_blocks=blocks,
            block_size=self.block_size,
            max_model_len=blocks * self.block_size if self.max_model_len is None else self.max_model_len,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_num_seqs=self.max_num_seqs,
            order=self.policy,
            headroom_blocks=int(self.watermark * self.num_gpu_blocks),
            reserve_full_prompt=self.scheduler_reserve_full_isl,
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            chunked_prefill=self.enable_chunked_prefill,
            prefix_caching=self.enable_prefix_caching,
            asynchronous=self.async_scheduling,
            validate_requests=self.validate_requests,
        )


@dataclass(frozen=True)
class RecordedCase:
    """One recorded schedule; without a recording, a case for the engines alone."""

    name: str
    limits: EngineLimits
    latency: HingeLatency
    requests: tuple[ReferenceRequest, ...]
    recording: Recording = field(default_factory=Recording)


def read_case(folder: Path) -> RecordedCase:
    """Read a case folder.

    Raises:
        BurstenvError: If a file is missing or malformed, or the case needs a rule outside the engines' model.
    """
    path = folder / "config.json"
    config = _read_config(path)
    limits, c = config.limits(), config.latency
    if limits.validate_requests and math.ceil(limits.max_model_len / limits.block_size) > limits.num_blocks:
        raise BurstenvError(
            f"{path}: max_model_len {limits.max_model_len} does not fit {limits.num_blocks} KV blocks of "
            f"{limits.block_size} tokens; the real engine does not start"
        )
    if limits.max_num_batched_tokens < limits.max_num_seqs:
        raise BurstenvError(
            f"{path}: max_num_batched_tokens {limits.max_num_batched_tokens} is below max_num_seqs "
            f"{limits.max_num_seqs}; the real engine does not start"
        )
    recording = Recording(
        tuple(read_iterations(folder / "iterations.jsonl")), tuple(read_requests(folder / "requests.csv"))
    )
    if config.max_iterations is not None and len(recording.iterations) >= config.max_iterations:
        raise BurstenvError(
            f"{path}: the recording was cut at max_iterations {config.max_iterations}; a whole one is needed"
        )
    return RecordedCase(
        name=folder.name,
        limits=limits,
        latency=HingeLatency.linear(c.c0, c.c1, c.c2, c.c3, c.c4),
        requests=tuple(_read_workload(folder / "workload.csv")),
        recording=recording,
    )


def _read_config(path: Path) -> CaseConfig:
    try:
        values = json.loads(read_text(path), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BurstenvError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise BurstenvError(f"{path}: expected a JSON object")
    for name in NOT_MODELLED:
        if name in values:
            raise BurstenvError(
                f"{path}: {name} is a scheduling rule that the engines do not model; record the case without it"
            )
    return parse(CaseConfig, values, str(path))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"key {name!r} appears twice")
    return dict(pairs)


def _read_workload(path: Path) -> Iterator[ReferenceRequest]:
    for number, line in read_csv(path):
        try:
            check_keys(line, dict.fromkeys(WORKLOAD_FIELDS), optional=WORKLOAD_FIELDS[3:])
            given = {name: value for name, value in line.items() if value != ""}
            yield ReferenceRequest(
                id=number - 1,
                arrival_s=seconds("arrival_s", line["arrival_s"]),
                prompt_tokens=whole("prompt_tokens", line["prompt_tokens"], 1, MOST),
                output_tokens=whole("output_tokens", line["output_tokens"], 1, MOST),
                priority=whole("priority", given.get("priority", "0"), -MOST_PRIORITY, MOST_PRIORITY),
                session=given.get("session_id"),
                prefix=given.get("prefix_id"),
                prefix_tokens=whole("prefix_tokens", given.get("prefix_tokens", "0"), 0, MOST),
            )
        except ValueError as error:
            raise BurstenvError(f"{path}: row {number}: {error}") from None
