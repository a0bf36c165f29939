"""KV blocks on the move between replicas: what a transfer costs, and when it is given up.

Sources: Llumnix (Sun et al., OSDI'24; the artifact AlibabaPAI/llumnix, branch osdi24ae, and its main branch of 2025),
Mooncake's measurements (vllm-v1-pd-performance.md), vLLM RFC #50913.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field

from burstenv.config import Config
from burstenv.hardware.gpus_and_models import Positive

Milliseconds = Annotated[float, Field(ge=0.0, le=1e6)]


class HandOverConfig(Config):
    """How a request that a prefill replica has prefilled comes to the replica where it decodes.

    The gateway chooses that replica when the prompt is computed. The copy begins as soon as the replica has free blocks
    for the prompt, and both ends for another transfer; until it ends, the prefill replica holds its own blocks.
    """

    orchestration_ms: Milliseconds = 20.0  # beside the copy: vLLM RFC #50913 measures 20 to 150 for NIXL
    when_full: Literal["wait", "local"] = "wait"  # for blocks where it is to decode, or decode where the prompt is
    retry_ms: Annotated[float, Field(gt=0.0, le=1e6)] = 10.0  # from one look for free blocks to the next
    spare_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # left free beside the prompt; SGLang: 512
    lease_s: Annotated[float, Field(gt=0.0, le=1e6)] = 30.0  # then a copy is given up: vLLM's NIXL connector
    layerwise: bool = False  # each layer is sent as soon as it is computed


class TransfersConfig(Config):
    """What it takes to move the KV blocks of a request from one replica to another.

    A stage of a transfer takes ``base_ms`` + bytes / bandwidth. A replica's bandwidth is shared evenly by the transfers
    that it sends, and apart from these by those that it receives; the slower end counts. The first stage takes
    ``orchestration_ms`` more, the last stage of a migration, in which the request stands still, ``downtime_ms`` more.
    With ``by: tokens`` migrations move no KV: in each stage the destination computes it again from the tokens, as in
    ServerlessLLM (Fu et al., OSDI'24), in iterations of its own.
    """

    link: str = "ethernet-200g"  # between replicas: a name in configs/links or a YAML file
    base_ms: Milliseconds = 0.4  # of each stage: Mooncake, Qwen3-8B on eight 400 Gbit/s NICs
    orchestration_ms: Milliseconds = 20.0  # of a transfer: messages between gateway and replicas; 20 to 150 measured
    downtime_ms: Milliseconds = 14.0  # of a migration: with it, 256 to 8,192 tokens of LLaMA-7B stand still 18 to 30 ms
    slowdown: Annotated[float, Field(ge=0.0, le=10.0)] = 0.01  # of the iterations of both ends: Llumnix, at most 1 %
    live: bool = True  # migrations copy while the request decodes; otherwise it stands still from beginning to end
    by: Literal["kv", "tokens"] = "kv"  # migrations copy KV blocks, or the destination computes them again from tokens
    gap_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 20  # by tokens: generated meanwhile, then it stands still
    last_stage_blocks: Annotated[int, Field(ge=1, le=1_000_000)] = 16  # left to copy: then the request stands still
    max_stages: Annotated[int, Field(ge=2, le=1_000)] = 3  # of a live migration, the last one included
    at_once: Annotated[int, Field(ge=1, le=64)] = 1  # transfers that a replica takes part in
    timeout_s: Annotated[float, Field(gt=0.0, le=1e6)] = 100.0  # of a migration: Llumnix
    gb_per_s: Positive | None = None  # of each replica in each direction; None: the link's
    hand_over: HandOverConfig = HandOverConfig()  # where replicas have roles


class AbortCause(IntEnum):
    """Why a transfer was given up."""

    FINISHED = 0  # the request finished at the source
    PREEMPTED = 1  # the source preempted it
    BLOCKS = 2  # the destination has no free blocks for the next stage
    SLOT = 3  # the destination runs as many requests as it may
    STAGES = 4  # the request grew faster than it was copied
    TIMEOUT = 5
    LOST = 6  # the source or the destination failed, or its time for draining was over

    @property
    def counted_as(self) -> str:
        """The cause's key in ``Cluster.transfer_counts``."""
        return f"aborted_{self.name.lower()}"

    @property
    def text(self) -> str:
        """The cause in a few words, for pages and pictures."""
        return _CAUSE_TEXTS[self]


_CAUSE_TEXTS = {
    AbortCause.FINISHED: "finished",
    AbortCause.PREEMPTED: "preempted",
    AbortCause.BLOCKS: "no free blocks",
    AbortCause.SLOT: "batch full",
    AbortCause.STAGES: "too many stages",
    AbortCause.TIMEOUT: "timeout",
    AbortCause.LOST: "replica lost",
}


def given_up(counts: Mapping[str, float]) -> str:
    """Return the transfers that were given up as text, by cause, the most frequent first; ``"0"`` if there are none.

    Args:
        counts: With the numbers of ``Cluster.transfer_counts``.
    """
    numbers = {cause: int(counts[cause.counted_as]) for cause in AbortCause if counts[cause.counted_as]}
    if not numbers:
        return "0"
    causes = sorted(numbers, key=lambda cause: -numbers[cause])
    return f"{sum(numbers.values()):,} ({', '.join(f'{cause.text} {numbers[cause]:,}' for cause in causes)})"


class Pick(IntEnum):
    """Which of a replica's decoding requests migrates: of the least urgent ones."""

    SHORTEST = 0  # the fewest KV tokens: Llumnix (paper; ``SR`` in its code)
    NEWEST = 1  # admitted last: the artifact of Llumnix
    LONGEST = 2  # the most KV tokens: ``LR`` in the code of Llumnix


class Phase(IntEnum):
    """What a transfer waits for."""

    FREE = 0  # no transfer has this place
    PREPARING = 1  # the fixed time of a stage
    COPYING = 2
    LEAVING = 3  # the iterations of the source that the request takes part in
    JOINING = 4  # the next iteration of the destination
    RETURNING = 5  # the next iteration of the source, after a transfer that was given up
    COMPUTING = 6  # an iteration of the destination that computes KV in place of a copy
