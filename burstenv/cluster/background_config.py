"""Fine-tuning in the slack of inference, as configuration; see ``docs/background.md``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from burstenv.cluster.cluster_config import MAX_REPLICAS, MAX_TIME_S, ReplicaSpec
from burstenv.config import Config
from burstenv.engine.background_rule import ENDLESS, BackgroundWork
from burstenv.errors import BurstenvError

MOST_TOKENS = 1e12  # of a job, far beyond an episode


class BackgroundConfig(Config):
    """A fine-tuning job that replicas work on beside inference (LoRA: the weights of the model stay as they are).

    A step trains ``step_tokens``. Each costs as much as ``cost`` prefill tokens: one for the forward pass, one for the
    gradients of the activations (none of the frozen weights); 2.66 in all if activations are computed again in place
    of being kept.
    """

    kind: Literal["fine-tuning"] = "fine-tuning"
    rule: str = "idle-only"  # that says when, where nothing else does, such as dcb(bound=0.5)
    step_tokens: Annotated[int, Field(ge=1, le=65_536)] = 256  # FineInfer: one sequence of 256
    sequence_tokens: Annotated[int, Field(ge=1, le=65_536)] = 256  # for the attention
    cost: Annotated[float, Field(ge=1.0, le=100.0)] = 2.0  # prefill tokens of work for each trained token
    interruptible: Literal["step", "layer"] = "step"  # where a step apart gives way to inference
    memory_gb: Annotated[float, Field(ge=0.0, le=1e4)] = 3.14  # taken from the KV cache of each such replica
    withheld_blocks: Annotated[int, Field(ge=0)] | None = None  # the same in KV blocks
    replicas: Annotated[list[int], Field(min_length=1, max_length=MAX_REPLICAS)] | None = None  # None: all
    tokens: Annotated[float, Field(ge=1.0, le=MOST_TOKENS)] | None = None  # to train on all replicas; None: no end
    tokens_per_replica: Annotated[float, Field(ge=1.0, le=MOST_TOKENS)] | None = None  # in place of tokens
    deadline_s: Annotated[float, Field(gt=0.0, le=MAX_TIME_S)] | None = None  # by which they are wanted
    worth_per_ktoken: Annotated[float, Field(ge=0.0, le=1e6)] = 0.0  # of 1,000 tokens; 1 is a mean request

    @model_validator(mode="after")
    def _said_once(self) -> BackgroundConfig:
        if self.tokens is not None and self.tokens_per_replica is not None:
            raise ValueError("tokens and tokens_per_replica both say how long the job is; give one")
        if self.deadline_s is not None and self.tokens is None and self.tokens_per_replica is None:
            raise ValueError("deadline_s needs a job with an end: give tokens or tokens_per_replica")
        if self.replicas is not None and len(set(self.replicas)) != len(self.replicas):
            raise ValueError(f"replicas names a replica twice: {self.replicas}")
        return self

    @property
    def work_tokens(self) -> int:
        """Work of a step, in prefill tokens."""
        return max(round(self.step_tokens * self.cost), self.step_tokens)

    def tunes(self, num_replicas: int) -> list[bool]:
        """Return which replicas of a cluster work on the job.

        Raises:
            BurstenvError: If the cluster has no such replica.
        """
        numbers = range(num_replicas) if self.replicas is None else self.replicas
        for number in numbers:
            if not 0 <= number < num_replicas:
                raise BurstenvError(
                    f"background.replicas names replica {number}; those of this cluster are 0 to {num_replicas - 1}"
                )
        return [r in numbers for r in range(num_replicas)]

    def blocks_of(self, spec: ReplicaSpec) -> int:
        """Return the KV blocks that the job takes from a replica."""
        if self.withheld_blocks is not None:
            return self.withheld_blocks
        block_bytes = spec.kv_bytes_per_token * spec.block_size
        return math.ceil(self.memory_gb * 1e9 / block_bytes) if block_bytes else 0


def works_of(background: BackgroundConfig | None, specs: Sequence[ReplicaSpec]) -> list[BackgroundWork | None]:
    """Return the work of each replica's job; None for a replica without one.

    A job of all replicas is divided evenly among them.
    """
    if background is None:
        return [None] * len(specs)
    tunes = background.tunes(len(specs))
    tokens = background.tokens_per_replica
    if background.tokens is not None:
        tokens = background.tokens / sum(tunes)
    return [_work(background, spec, tokens) if own else None for spec, own in zip(specs, tunes, strict=True)]


def _work(background: BackgroundConfig, spec: ReplicaSpec, tokens: float | None) -> BackgroundWork:
    work_tokens = background.work_tokens
    pieces = 2 * spec.layers if background.interruptible == "layer" else 1
    pairs = work_tokens * ((background.sequence_tokens + 1) // 2)
    units = ENDLESS if tokens is None else math.ceil(tokens * work_tokens * pieces / background.step_tokens)
    step_s = spec.latency.iteration_s(work_tokens, pairs, 0, 0, 1)
    return BackgroundWork(
        step_tokens=background.step_tokens,
        work_tokens=work_tokens,
        pieces=pieces,
        sequence_tokens=background.sequence_tokens,
        step_s=step_s,
        units=units,
        gpu_share=1.0 - spec.latency.host_s(1) / step_s,
    )


def without_memory(background: BackgroundConfig, specs: Sequence[ReplicaSpec]) -> tuple[ReplicaSpec, ...]:
    """Return replicas with the KV blocks that the job leaves them.

    Raises:
        BurstenvError: If it leaves a replica too few for one request.
    """
    tunes = background.tunes(len(specs))
    return tuple(_smaller(background, spec) if own else spec for spec, own in zip(specs, tunes, strict=True))


def _smaller(background: BackgroundConfig, spec: ReplicaSpec) -> ReplicaSpec:
    taken = background.blocks_of(spec)
    left = spec.num_blocks - taken
    whole_cache = spec.num_blocks * spec.block_size
    longest = (
        min(spec.max_model_len, left * spec.block_size) if spec.max_model_len >= whole_cache else spec.max_model_len
    )
    if left < 1 or math.ceil(longest / spec.block_size) > left:
        raise BurstenvError(
            f"background takes {taken} of the {spec.num_blocks} KV blocks of replica {spec.name}, and a request of "
            f"{longest} tokens no longer fits; lower memory_gb or max_model_len"
        )
    return spec.model_copy(update={"num_blocks": left, "max_model_len": longest})
