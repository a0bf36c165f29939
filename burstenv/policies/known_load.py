"""The load of a replica as a gateway knows it, from one of its sources. Compiled.

``metrics`` are what the engine has published and the gateway has scraped: exact, but as old as the scenario says.

``log`` is the gateway's own log, always fresh. What it does not hold is estimated: the KV blocks in use are those of
prompts and answers so far, with half a block more for each sequence (its last one, half full on average). A replica is
taken to have computed its unanswered prompts at the speed of its prefill since the last first token, by no more than
one mean prompt, and by none where the KV cache has no room for that.

``both`` is the metrics, plus what has changed in the log since they were read. It knows what the log cannot see
(preemption, cached prefixes, other gateways' requests) and is as fresh as the log.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import kernel
from burstenv._jit.floats import whole_at
from burstenv.engine.gateway_log import (
    AT,
    context_tokens,
    in_flight,
    own_log,
    since_head_s,
    unanswered,
    unanswered_tokens,
)
from burstenv.engine.queues import blocks_of, full_blocks
from burstenv.policies.rule import SOURCES

AUTO, LOG, METRICS, BOTH = range(len(SOURCES))


class Load(NamedTuple):
    """The load of one replica, whole numbers.

    Attributes:
        waiting: Requests that wait; by the log, those without a first token.
        running: Requests that run; by the log, those with a first token.
        used_blocks: KV blocks in use.
        waiting_blocks: KV blocks that the waiting requests will take.
        backlog_tokens: Prompt tokens to compute before those of another request.
        context_tokens: Prompt and output tokens of the requests that decode.
    """

    waiting: Any
    running: Any
    used_blocks: Any
    waiting_blocks: Any
    backlog_tokens: Any
    context_tokens: Any


@kernel
def by_metrics(engine):
    """Return the load that the metrics show."""
    replica, spec = engine.replica, engine.spec
    return Load(
        np.int64(replica.seen_waiting),
        np.int64(replica.seen_running),
        np.int64(spec.num_blocks - replica.seen_free_blocks),
        np.int64(replica.seen_waiting_blocks),
        np.int64(replica.seen_waiting_tokens + replica.seen_prefill_tokens),
        np.int64(replica.seen_context_tokens),
    )


@kernel
def _computed_tokens(engine, log, prompts, tokens, used_blocks):
    """Return the estimated number of tokens, of unanswered prompts, that are computed already."""
    spec = engine.spec
    if prompts == 0:
        return np.int64(0)
    mean = tokens // prompts
    if used_blocks + blocks_of(mean, spec.block_size) > spec.num_blocks:
        return np.int64(0)
    return np.int64(min(since_head_s(engine, log) / spec.prefill_token_s, float(mean)))


@kernel
def by_log(engine):
    """Return the load that the log shows."""
    size, log = engine.spec.block_size, own_log(engine)
    prompts, tokens = unanswered(engine, log), unanswered_tokens(engine, log)
    context, decoding = context_tokens(engine, log), in_flight(engine, log) - prompts
    half_full = decoding * (size // 2)
    computed = _computed_tokens(engine, log, prompts, tokens, blocks_of(context + half_full, size))
    used = blocks_of(context + half_full + computed, size)
    demand = blocks_of(context + half_full + tokens, size)
    return Load(prompts, decoding, used, demand - used, tokens - computed, context)


@kernel
def by_both(engine):
    """Return the load that the metrics show, brought up to date by the log."""
    arena, size, log = engine.arena, engine.spec.block_size, own_log(engine)
    seen = by_metrics(engine)
    if not engine.gateway.scrape_period_s > 0.0:
        return seen
    prompts = unanswered(engine, log) - arena[log + AT.shown_unanswered]
    requests = in_flight(engine, log) - arena[log + AT.shown_in_flight]
    tokens = unanswered_tokens(engine, log) - whole_at(arena, log + AT.shown_unanswered_tokens)
    context = context_tokens(engine, log) - whole_at(arena, log + AT.shown_context_tokens)
    none = np.int64(0)
    return Load(
        max(none, seen.waiting + prompts),
        max(none, seen.running + requests - prompts),
        max(none, seen.used_blocks + full_blocks(context, size)),
        max(none, seen.waiting_blocks + full_blocks(tokens, size)),
        max(none, seen.backlog_tokens + tokens),
        max(none, seen.context_tokens + context),
    )


@kernel
def load_of(engine, source):
    """Return the load of a replica from a source; ``AUTO`` is the log where decisions see it, else the metrics."""
    if source == METRICS or (source == AUTO and not engine.gateway.knows_log):
        return by_metrics(engine)
    if source == BOTH:
        return by_both(engine)
    return by_log(engine)
