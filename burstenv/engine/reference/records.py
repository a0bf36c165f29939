"""The data of the reference engine: its limits, its requests and its iterations, in plain Python."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class EngineLimits:
    """The engine's limits: KV cache, model length, and the batching mode in force."""

    num_blocks: int  # usable KV blocks (vLLM's num_gpu_blocks less the null block)
    block_size: int  # [tokens]
    max_model_len: int  # [tokens]
    max_num_batched_tokens: int  # token budget of an iteration
    max_num_seqs: int
    order: str = "fcfs"  # and the others of ModeConfig.order
    headroom_blocks: int = 0  # blocks kept free at admission while a request runs (vLLM's watermark)
    reserve_full_prompt: bool = True  # vLLM's scheduler_reserve_full_isl
    long_prefill_token_threshold: int = 0
    chunked_prefill: bool = True
    prefix_caching: bool = False
    asynchronous: bool = False
    validate_requests: bool = True  # reject prompts that leave no room for an output, cut outputs at the model length
    # Rules of batching modes that are not vLLM V1's, see engine/reference/modes.py.
    drops_hopeless: bool = False
    batch: str = "mixed"  # mixed | prefill-first | whole-prompts
    memory: str = "as-needed"  # as-needed | projected | reserved | oracle-projected | oracle-reserved
    reserve_tokens: int = 1024
    deferral_s: float = 0.0
    fair_by: str = "class"  # class | session
    quantum_s: float = 0.05
    starve_s: float = 5.0


@dataclass
class ReferenceRequest:
    """One request in the engine."""

    id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    priority: int = 0
    predicted_tokens: float = 0.0
    ttft_slo_s: float = float("inf")
    session: Hashable = None  # requests of a session continue one stream of tokens
    class_code: int = 0
    copy_of: int | None = None  # number of the request that has two copies, this being one of them
    prefix: Hashable = None  # stream of a shared prefix, the source of the first `prefix_tokens` tokens
    prefix_tokens: int = 0
    target_tokens: int = 0  # output tokens after the clamp to the model length
    produced_tokens: int = 0
    in_flight_tokens: int = 0  # sampled, and not back yet (asynchronous scheduling)
    computed_tokens: int = 0
    decodes: bool = False  # runs, and a token came out since it was admitted
    hands_out: bool = False  # it leaves with the token that follows its prompt, see transfer_ends.py
    blocks: list[int] = field(default_factory=list)
    cached_tokens: int | None = None  # prefix hit at the first admission
    preemptions: int = 0
    recomputed_tokens: int = 0
    backward_before_s: float = 0.0  # backward passes on its replica before it came, see background.py
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    finish_s: float | None = None
    status: str = "unseen"  # unseen | waiting | running | transferring | finished | rejected | withdrawn | lost

    @property
    def known_tokens(self) -> int:
        """Prompt and outputs so far."""
        return self.prompt_tokens + self.produced_tokens

    def block_key(self, index: int, block_size: int) -> tuple[Hashable, ...]:
        """Return the key of a block: of its tokens and all before them."""
        if (index + 1) * block_size <= self.prefix_tokens:
            return ("prefix", self.prefix, index)
        number = self.id if self.copy_of is None else self.copy_of
        stream = ("request", number) if self.session is None else ("session", self.session)
        return (stream, self.prefix if self.prefix_tokens else None, self.prefix_tokens, index)


@dataclass(frozen=True)
class Scheduled:
    """One request's share of an iteration."""

    id: int
    tokens: int
    computed_before: int
    kind: str  # new | resumed | running
    decode: bool
    samples: bool  # produces a token in this iteration


@dataclass
class Iteration:
    """One iteration as recorded schedules describe it."""

    scheduled_s: float  # before its start, if another one was in flight
    start_s: float
    end_s: float
    scheduled: list[Scheduled]
    preempted: list[int]
    free_before: int
    free_after: int  # after scheduling, before the iteration's finishes
    running: list[int]
    waiting: list[int]
    finished: list[int] = field(default_factory=list)
    handed_out: list[int] = field(default_factory=list)  # to decode elsewhere
    shared_units: int = 0  # of a fine-tuning job, see background.py
    free_after_update: int = 0
