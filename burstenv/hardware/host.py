"""Time of the host: what each iteration costs beside its kernels, and each request before the engine sees it."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field

from burstenv.config import Config


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


# A synchronous engine plans and posts each iteration while the GPU waits. Beside the asynchronous terms, fitted to 45
# points of vLLM 0.12.0 (Qwen3-32B on 2, 4 and 8 H100, closed loop, ai-dynamo/aiconfigurator): a constant, more of it
# for each doubling of the workers, and a share for each sequence. Mean error of the TPOT there: docs/fidelity.md.
SYNCHRONOUS_MS = 0.6
SYNCHRONOUS_MS_PER_DOUBLING = 0.08
SYNCHRONOUS_MS_PER_SEQUENCE = 0.033


def overhead_of(asynchronous: bool, tensor_parallel: int) -> OverheadConfig:
    """Return the host overhead of an engine by its kind and its GPUs."""
    if asynchronous:
        return OverheadConfig()
    return OverheadConfig(
        per_iteration_ms=SYNCHRONOUS_MS + SYNCHRONOUS_MS_PER_DOUBLING * math.log2(tensor_parallel),
        per_sequence_ms=OverheadConfig().per_sequence_ms + SYNCHRONOUS_MS_PER_SEQUENCE,
        source="synchronous vLLM 0.12; see burstenv/hardware/host.py",
    )


class FrontEndConfig(Config):
    """The API server before the engine: HTTP and validation for each request, tokenisation for each prompt token.

    From 33 stages of vLLM 0.15.1 on H100, seen by the client: measured mean TTFT less the simulated one is 6.6 to 9.7
    ms at 575 tokens and 7 to 12 ms at 1,081. A per-request run whose clock starts in the engine has none of it.
    """

    request_ms: Annotated[float, Field(ge=0.0, le=1e5)] = 4.5
    prompt_token_us: Annotated[float, Field(ge=0.0, le=1e5)] = 5.0

    def delay_s(self, prompt_tokens: Any) -> Any:
        """Return the time from the client's sending to the engine's queue [s], of one prompt or an array of them."""
        return self.request_ms * 1e-3 + self.prompt_token_us * 1e-6 * prompt_tokens


NO_FRONT_END = FrontEndConfig(request_ms=0.0, prompt_token_us=0.0)
