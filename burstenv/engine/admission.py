"""The needs of a waiting request for admission into the batch, compiled."""

from __future__ import annotations

from burstenv._jit.decorators import kernel
from burstenv.engine.queues import blocks_of


@kernel
def blocks_to_admit(engine, tokens, scheduled_tokens, running):
    """Return the free KV blocks that the engine needs to admit a request.

    Args:
        engine: The replica.
        tokens: Known tokens of the request.
        scheduled_tokens: Those that are cached or computed by the end of the iteration.
        running: Requests in the batch; if there are any, the mode keeps its headroom free.
    """
    spec, limits = engine.spec, engine.limits
    must_fit = min(tokens if spec.reserve_full_prompt else scheduled_tokens, spec.max_model_len)
    headroom = limits.headroom_blocks if running > 0 else 0
    return blocks_of(must_fit, spec.block_size) + headroom
