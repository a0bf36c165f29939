"""vLLM without a GPU: everything is genuine but the model, whose iterations take as long as a latency entry says.

It is imported by vLLM alone, in the processes that ``burstenv engines`` starts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

from burstenv.gateway.endless import after
from burstenv.gateway.engines.pace import Work
from burstenv.hardware.latency.entry import parse_latency


class _Later(Future):
    """The result of an iteration, there when the iteration is over."""

    def __init__(self, end_s: float, output: ModelRunnerOutput):
        super().__init__()
        self._end_s = end_s
        self._output = output

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Wait until the iteration is over."""
        left_s = self._end_s - time.monotonic()
        if left_s > 0.0:
            time.sleep(left_s)
        return self._output

    def done(self) -> bool:
        """Return whether the iteration is over."""
        return time.monotonic() >= self._end_s


class _Prompt:
    """A request's prompt, and its answer, which goes on with the prompt's text."""

    def __init__(self, ids: Sequence[int]):
        self.length = len(ids)
        self._end = ids[-2:]
        self._sampled = 0

    def token(self, samples: bool) -> list[int]:
        """Return the next token of the answer, if one is sampled."""
        if not samples:
            return []
        self._sampled += 1
        return [after(self._end, self._sampled)]


class PacedExecutor(Executor):
    """An executor that waits in place of computing."""

    def _init_executor(self) -> None:
        told = self.vllm_config.additional_config["burstenv"]
        self._latency = parse_latency(told["latency"], "additional-config")
        self._speed = float(told["speed"])
        self._busy_until_s = 0.0
        self._prompts: dict[str, _Prompt] = {}
        self._next: _Later | None = None

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        """Return that the next iteration may be scheduled while one runs."""
        return True

    def get_kv_cache_specs(self) -> list[dict[str, Any]]:
        """Return one layer of ordinary attention."""
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size, num_kv_heads=1, head_size=64, dtype=torch.bfloat16
        )
        return [{"layer.0": spec}]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        """Return a layout; nothing is laid out."""
        return [["LBNHC"]]

    def set_kv_cache_layout(self, *arguments: Any, **named: Any) -> None:
        """Ignore the layout."""

    def determine_available_memory(self) -> list[int]:
        """Return more than the given number of blocks needs [bytes]."""
        return [1 << 40]

    def initialize_from_config(self, kv_cache_configs: Any) -> None:
        """Allocate nothing."""

    def compile_or_warm_up_model(self) -> None:
        """Compile nothing."""

    def collective_rpc(self, method: Any, *arguments: Any, **named: Any) -> Any:
        """Answer for the one worker that is not there."""
        return [("generate",) if method == "get_supported_tasks" else None]

    def check_health(self) -> None:
        """Be well."""

    def shutdown(self) -> None:
        """Free nothing."""

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """Begin an iteration when the one before ends; its tokens are there when it ends."""
        output, duration_s = self._iteration(scheduler_output)
        self._busy_until_s = max(time.monotonic(), self._busy_until_s) + duration_s
        later = _Later(self._busy_until_s, output)
        if not scheduler_output.total_num_scheduled_tokens:
            return later if non_block else later.result()
        self._next = later
        nothing: Future[None] = Future()
        nothing.set_result(None)
        return nothing if non_block else None

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """Return the tokens of the iteration that has begun last."""
        later, self._next = self._next, None
        assert later is not None
        return later if non_block else later.result()

    def _iteration(self, scheduled: Any) -> tuple[ModelRunnerOutput, float]:
        """Return what an iteration brings, and how long it takes [s]."""
        for request_id in scheduled.finished_req_ids:
            self._prompts.pop(request_id, None)
        if not scheduled.total_num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT, 0.0
        work, names, tokens = Work(), [], []
        shares = scheduled.num_scheduled_tokens
        for new in scheduled.scheduled_new_reqs:
            prompt = self._prompts[new.req_id] = _Prompt(new.prompt_token_ids)
            names.append(new.req_id)
            tokens.append(prompt.token(work.add(shares[new.req_id], new.num_computed_tokens, prompt.length, 0)))
        cached = scheduled.scheduled_cached_reqs
        for request_id, computed, outputs in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            prompt = self._prompts[request_id]
            names.append(request_id)
            tokens.append(prompt.token(work.add(shares[request_id], computed, prompt.length + outputs, outputs)))
        duration_s = self._latency.iteration_s(
            work.prefill_tokens, work.prefill_attention, work.decodes, work.decode_context_tokens, work.sequences
        )
        places = {name: k for k, name in enumerate(names)}
        return ModelRunnerOutput(names, places, tokens), duration_s / self._speed
