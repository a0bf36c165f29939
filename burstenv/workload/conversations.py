"""Conversations: the previous turn of a request, think times, and the new part of the context."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.trace import MODELS, Trace

# Seconds from submission to last token where no elapsed time is recorded: base + per output token, by model.
# ChatGPT: least squares over the first 302 ChatGPT conversation rows of BurstGPT_3 (1.10 s + 10.9 ms x response,
# R^2 0.65). GPT-4: the same base as there (0.28 s), and the slope that gives the file's median of 11 s at a response of
# 300 tokens, its typical long answer; the first day alone is three times slower. Other models are taken as ChatGPT.
_BASE_S = np.array([{"GPT-4": 0.28}.get(name, 1.10) for name in MODELS])  # (models,)
_PER_OUTPUT_TOKEN_S = np.array([{"GPT-4": 0.036}.get(name, 0.0109) for name in MODELS])  # (models,)


def link_turns(thread: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Number conversations from 0 and find the turn before each.

    Args:
        thread: Conversation of each request, in order of arrival; any numbers of at least 0, -1 for none; shape
            ``(n,)``.

    Returns:
        Conversations numbered from 0 in order of their number, -1 for none, shape ``(n,)``, int32; and the row of the
        request before in the same conversation, -1 where there is none, shape ``(n,)``, int32.
    """
    count = len(thread)
    session = np.full(count, -1, dtype=np.int32)
    previous = np.full(count, -1, dtype=np.int32)
    row = np.flatnonzero(thread >= 0)
    if len(row):
        # One sort of whole numbers, by conversation and then by row: faster than a stable sort of indices.
        bits = max(count - 1, 1).bit_length()
        key = np.sort((thread[row].astype(np.int64) << bits) | row)
        row = key & ((1 << bits) - 1)
        key >>= bits
        again = key[1:] == key[:-1]
        session[row] = np.concatenate([[0], np.cumsum(~again)])
        previous[row[1:]] = np.where(again, row[:-1], -1)
    return session, previous


def service_s(
    model: NDArray[np.int8], output_tokens: NDArray[np.int32], elapsed_s: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return submission to last token of each request in the original service, recorded or else estimated.

    Where ``elapsed_s`` is NaN the estimate is a base plus a time per output token, by model, from BurstGPT_3 (the one
    file that records it): 1.10 s + 10.9 ms for ChatGPT and others, 0.28 s + 36 ms for GPT-4.

    Args:
        model: Codes into ``MODELS``, shape ``(n,)``.
        output_tokens: Response lengths, shape ``(n,)``.
        elapsed_s: As recorded, NaN where not, shape ``(n,)``; None: recorded nowhere.

    Returns:
        Seconds, shape ``(n,)``, float64.
    """
    estimate: NDArray[np.float64] = _BASE_S[model] + _PER_OUTPUT_TOKEN_S[model] * output_tokens
    if elapsed_s is None:
        return estimate
    recorded: NDArray[np.float64] = elapsed_s.astype(np.float64)
    return np.where(np.isnan(recorded), estimate, recorded)


def think_times(trace: Trace) -> NDArray[np.float64]:
    """Return think times: from the end of the turn before to the submission.

    ``arrival_k - (arrival_{k-1} + service_{k-1})``, with the service recorded in ``elapsed_s``, otherwise estimated by
    :func:`service_s`. Recorded clocks tick in whole seconds and an estimate may be too long, so a difference below 0
    counts as 0: the next turn followed at once.

    Args:
        trace: The trace.

    Returns:
        Seconds, NaN for first turns and for requests without a session, shape ``(n,)``, float64.
    """
    _, previous = link_turns(trace.session)
    clock = float(trace.metadata.get("clock", 1.0))
    if clock == 1.0:
        return think_after(trace.arrival_s, previous, trace.model, trace.output_tokens, trace.elapsed_s)
    # Compressing divided the recorded times, but an estimate is in seconds of the original clock.
    estimate = service_s(trace.model, trace.output_tokens) / clock
    elapsed_s = np.where(np.isnan(trace.elapsed_s), estimate, trace.elapsed_s).astype(np.float32)
    return think_after(trace.arrival_s, previous, trace.model, trace.output_tokens, elapsed_s)


def think_after(
    arrival_s: NDArray[np.float64],
    previous: NDArray[np.int32],
    model: NDArray[np.int8],
    output_tokens: NDArray[np.int32],
    elapsed_s: NDArray[np.float32] | None = None,
    clock: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return think times of linked requests, see :func:`think_times`.

    Args:
        arrival_s: Times of the requests, shape ``(n,)``.
        previous: Index of the previous turn, -1 for none, shape ``(n,)``.
        model: Codes into ``MODELS``, shape ``(n,)``.
        output_tokens: Response lengths, shape ``(n,)``.
        elapsed_s: Recorded elapsed times, see :func:`service_s`.
        clock: Speed of each request's clock relative to the service's, shape ``(n,)``; None: 1.

    Returns:
        Seconds on the clock of ``arrival_s``, NaN where there is no previous, shape ``(n,)``, float64.
    """
    think_s = np.full(len(arrival_s), np.nan)
    later = np.flatnonzero(previous >= 0)
    before = previous[later]
    served_s = service_s(model[before], output_tokens[before], None if elapsed_s is None else elapsed_s[before])
    if clock is not None:
        served_s = served_s / clock[before]
    think_s[later] = np.maximum(arrival_s[later] - arrival_s[before] - served_s, 0.0)
    return think_s


def context_growth(trace: Trace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the growth of prompts over the turn before.

    Args:
        trace: The trace.

    Returns:
        For every request that follows another of its session, in order of arrival: growth of the prompt over the
        previous prompt, and prompt less the previous total (prompt and response), tokens, shape ``(m,)`` each. The
        second is at least 0 where the prompt carries the whole conversation along; below 0, history was cut or
        the topic changed.
    """
    _, previous = link_turns(trace.session)
    later = np.flatnonzero(previous >= 0)
    before = previous[later]
    prompt = trace.prompt_tokens[later].astype(np.int64)
    growth = prompt - trace.prompt_tokens[before]
    return growth, growth - trace.output_tokens[before]
