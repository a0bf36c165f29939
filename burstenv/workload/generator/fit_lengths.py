"""Fit of lengths: prompts, responses given the prompt, and the likeness of consecutive requests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.fit_tables import normal_scores, table_of_counts, table_of_values
from burstenv.workload.generator.stream_config import Alike, ContextTables, StreamLengths

_ROWS_PER_PROMPT_BIN, _MOST_PROMPT_BINS = 300, 12
_ROWS_PER_HISTORY_BIN, _MOST_HISTORY_BINS = 60, 10
_RESPONSE_TOLERANCE = 0.01  # of a bin's distribution; the bins' errors mostly cancel in the whole
_ROWS_FOR_LIKENESS = 500  # fewer rows say nothing about the repetition of jobs
_NEAR_LAG, _FAR_LAG = 20, 100  # requests apart at which a template is forgotten and a job is not
_LONGEST_JOB = 20_000.0


def fit_lengths(
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    first_turn: NDArray[np.bool_] | None,
) -> StreamLengths:
    """Fit the joint lengths of a stream.

    Prompts are divided into up to 12 bins of equal mass, each with its own table of responses, which keeps a
    relation of any form. Likeness is fitted to the autocorrelation of the normal scores along the requests.

    Args:
        prompt_tokens: In order of arrival, shape ``(n,)``, n at least 1.
        output_tokens: Their responses, shape ``(n,)``.
        first_turn: Which requests begin a session; None where the stream has no sessions.
    """
    bins = int(np.clip(len(prompt_tokens) // _ROWS_PER_PROMPT_BIN, 1, _MOST_PROMPT_BINS))
    edges = equal_mass_edges(prompt_tokens, bins)
    bin_of = np.searchsorted(edges, prompt_tokens, side="right")
    of_bins = [output_tokens[bin_of == number] for number in range(len(edges) + 1)]
    responses = tuple(table_of_counts(values, _RESPONSE_TOLERANCE) for values in of_bins)
    prompts = table_of_counts(prompt_tokens if first_turn is None else prompt_tokens[first_turn])
    shared: dict[str, object] = {}
    if first_turn is None and len(prompt_tokens) >= _ROWS_FOR_LIKENESS:
        given_prompt = np.empty(len(prompt_tokens))
        for number, values in enumerate(of_bins):
            given_prompt[bin_of == number] = normal_scores(values)
        job_requests, prompt_alike = _alike(normal_scores(prompt_tokens))
        _, response_alike = _alike(given_prompt, job_requests)
        if prompt_alike == response_alike == Alike():
            job_requests = 1.0
        shared = {"job_requests": job_requests, "prompt_alike": prompt_alike, "response_alike": response_alike}
    return StreamLengths.model_validate(
        {"prompt_tokens": prompts, "prompt_edges": tuple(edges.tolist()), "response_tokens": responses, **shared}
    )


def equal_mass_edges(values: NDArray[np.integer[Any]], bins: int) -> NDArray[np.float64]:
    """Return the values at which the sample falls into at most ``bins`` parts of equal mass, none empty."""
    edges = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="higher")).astype(float)
    return edges[edges > values.min()]


def _alike(score: NDArray[np.float64], job_requests: float | None = None) -> tuple[float, Alike]:
    """Fit jobs and templates to a score's autocorrelation; jobs' length is fitted unless it is given.

    The model's autocorrelation at lag k is ``(1 - s^2) (j d^k + (1 - j) (d r)^k)`` with spread s, shares j and
    r of :class:`Alike`, and ``d = 1 - 1 / job_requests``.
    """
    near, far = _autocorrelation(score, _NEAR_LAG), _autocorrelation(score, _FAR_LAG)
    if job_requests is None:
        decay = np.clip(max(far, 1e-3) / max(near, 1e-3), 1e-3, 1.0) ** (1.0 / (_FAR_LAG - _NEAR_LAG))
        job_requests = float(np.clip(1.0 / max(1.0 - decay, 1.0 / _LONGEST_JOB), 2.0, _LONGEST_JOB))
    decay = 1.0 - 1.0 / job_requests
    step = np.abs(np.diff(score))
    close = step[step < 0.5]
    # The median of |difference| of two normals of deviation s is 0.954 s; pairs far apart are other templates.
    spread = float(np.clip(np.median(close) / 0.954, 0.0, 0.5)) if len(close) else 0.0
    common = 1.0 - spread**2
    job = float(np.clip(near / decay**_NEAR_LAG / common, 0.0, 0.95))
    next_to = _autocorrelation(score, 1) / decay / common
    repeat = float(np.clip((next_to - job) / (1.0 - job), 0.0, 0.98))
    if repeat < 0.01 and job < 0.01:
        return round(job_requests, 1), Alike()
    return round(job_requests, 1), Alike(job=round(job, 4), repeat=round(repeat, 4), spread=round(spread, 4))


def _autocorrelation(score: NDArray[np.float64], lag: int) -> float:
    centred = score - score.mean()
    power = float(centred @ centred)
    return float(centred[lag:] @ centred[:-lag]) / power if power else 0.0


def fit_context(total_tokens: NDArray[np.int64], next_prompt: NDArray[np.int64]) -> ContextTables:
    """Fit how the next prompt follows from the tokens of the last turn, in up to 10 bins of equal mass.

    Args:
        total_tokens: Prompt and response of a turn, shape ``(n,)``.
        next_prompt: Prompt of the turn after it, shape ``(n,)``.
    """
    if len(total_tokens) == 0:
        total_tokens, next_prompt = np.array([1]), np.array([2])
    bins = int(np.clip(len(total_tokens) // _ROWS_PER_HISTORY_BIN, 1, _MOST_HISTORY_BINS))
    edges = equal_mass_edges(total_tokens, bins)
    bin_of = np.searchsorted(edges, total_tokens, side="right")
    grows = next_prompt >= total_tokens
    share, new_text, ratio = [], [], []
    for number in range(len(edges) + 1):
        here = bin_of == number
        added = (next_prompt - total_tokens + 1)[here & grows]
        left = (next_prompt / total_tokens)[here & ~grows]
        share.append(round(float(grows[here].mean()), 4))
        new_text.append(table_of_counts(added if len(added) else np.array([1]), _RESPONSE_TOLERANCE))
        ratio.append(table_of_values(left if len(left) else np.array([1.0]), _RESPONSE_TOLERANCE))
    return ContextTables(
        history_edges=tuple(edges.tolist()),
        grow_share=tuple(share),
        new_text_tokens=tuple(new_text),
        kept_ratio=tuple(ratio),
    )
