"""Program traffic: silent or on, hourly rates over four decades, Gamma gaps, jobs of one template."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.basics import HOURS_PER_DAY
from burstenv.workload.generator.config import ApiConfig
from burstenv.workload.generator.conversation import HOUR_S, correlated_normal
from burstenv.workload.trace import MODELS

MAX_DENSE_SHARE = 0.5  # of a window that may be spent on the least gaps; matters above 36,000 requests per hour

_CHATGPT, _GPT4 = MODELS.index("ChatGPT"), MODELS.index("GPT-4")


def generate_api(
    config: ApiConfig, days: int, max_prompt: int, max_output: int, random: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Generate API requests.

    Args:
        config: Parameters.
        days: Days of the trace.
        max_prompt: Prompts are cut to this many tokens.
        max_output: Responses are cut to this many tokens.
        random: Source of all randomness.

    Returns:
        Columns ``arrival_s`` (sorted), ``prompt_tokens``, ``output_tokens`` and ``model``; with ``own_part_sigma`` also
        ``prefix_id``, the job, and ``prefix_tokens``.
    """
    on, counts = requests_by_hour(config, days, random)
    # Gamma gaps have coefficient of variation shape**-0.5; OFF hours are Poisson.
    shape = np.where(on, config.interarrival_cv.draw(random, len(on)) ** -2.0, 1.0)
    arrival_s = fill_windows(counts, shape, config.dense_gap_s, random)
    prompt, output, model, job, shared = _lengths(config, len(arrival_s), random)
    prompt_tokens = np.clip(np.rint(prompt), 1, max_prompt).astype(np.int32)
    columns: dict[str, NDArray[Any]] = {
        "arrival_s": arrival_s,
        "prompt_tokens": prompt_tokens,
        "output_tokens": np.clip(np.rint(output), 1, max_output).astype(np.int32),
        "model": model,
    }
    if config.own_part_sigma is not None:
        prefix_tokens = np.minimum(shared.astype(np.int32), prompt_tokens)
        columns |= {"prefix_id": np.where(prefix_tokens > 0, job, -1).astype(np.int32), "prefix_tokens": prefix_tokens}
    return columns


def requests_by_hour(
    config: ApiConfig, days: int, random: np.random.Generator
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Draw which hours are ON and how many requests each hour has.

    Runs of ON hours have drawn lengths; a silent hour turns into one with a probability by hour of day.
    The level of ON hours follows a first-order autoregressive normal score, mapped to the table of rates.

    Returns:
        ``on`` and ``counts``, both of shape ``(24 * days,)``.
    """
    hours = days * HOURS_PER_DAY
    on = np.zeros(hours, dtype=bool)
    starting = random.random(hours)
    runs = np.maximum(1, np.rint(config.on_run_h.draw(random, hours))).astype(int)
    hour = 0
    while hour < hours:
        if starting[hour] < config.on_start_share[hour % HOURS_PER_DAY]:
            on[hour : hour + runs[hour]] = True
            hour += runs[hour] + 1  # at least one silent hour ends a run
        else:
            hour += 1
    score = correlated_normal(config.on_hour_correlation, hours, random)
    # -log(1 - q) at the normal score's quantile q, which is where the table is read.
    exponential = np.array([-math.log(0.5 * math.erfc(z / math.sqrt(2.0))) for z in score])
    busy = config.on_requests_per_hour.at_exponential(exponential)
    idle = np.where(random.random(hours) < config.off_active_share, config.off_requests_per_hour, 0.0)
    rate = config.scale * np.where(on, busy, idle)
    return on, random.poisson(rate)


def fill_windows(
    counts: NDArray[np.int64],
    shape: NDArray[np.float64],
    dense_gap_s: float | NDArray[np.float64],
    random: np.random.Generator,
    width_s: float = HOUR_S,
) -> NDArray[np.float64]:
    """Fill every window with its requests: ``n + 1`` Gamma gaps, scaled to sum to the window.

    Args:
        counts: Requests per window, shape ``(windows,)``.
        shape: Gamma shape of the window's gaps, shape ``(windows,)``.
        dense_gap_s: Mean of the least gap between two calls, seconds, for all windows or by window.
        random: Source of randomness.
        width_s: Width of a window, an hour by default.

    Returns:
        Sorted times in seconds, shape ``(counts.sum(),)``.
    """
    gaps_per_window = np.where(counts > 0, counts + 1, 0)
    window_of_gap = np.repeat(np.arange(len(counts)), gaps_per_window)
    if len(window_of_gap) == 0:
        return np.empty(0)
    end = np.cumsum(gaps_per_window)  # (hours,) one past each window's last gap
    full = np.flatnonzero(gaps_per_window)
    first = (end - gaps_per_window)[full]

    def fill(gap: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scale the gaps of each full window to sum to a share of the window."""
        factor = np.zeros(len(counts))
        factor[full] = width_s * share / np.add.reduceat(gap, first)
        return gap * factor[window_of_gap]

    # Most gaps of a very bursty window are next to nothing: what a client needs between two calls is added.
    least_gap_s = np.broadcast_to(dense_gap_s, counts.shape)[full]
    dense_share = np.minimum(gaps_per_window[full] * least_gap_s / width_s, MAX_DENSE_SHARE)
    bursty = random.standard_gamma(shape[window_of_gap]) + 1e-300  # tiny shapes underflow to an exact 0
    gap = fill(bursty, 1.0 - dense_share)
    gap += fill(random.random(len(gap)) + 1e-9, dense_share)
    arrival = np.cumsum(gap)
    # The running sum passes width_s for every full window before; put each at its own place instead.
    passed = np.concatenate([[0.0], arrival])[(end - gaps_per_window)]
    arrival += (np.arange(len(counts)) * width_s - passed)[window_of_gap]
    is_request = np.ones(len(gap), dtype=bool)
    is_request[end[full] - 1] = False  # the last gap runs to the end of the window
    arrival, window_of = arrival[is_request], window_of_gap[is_request]
    last = np.nextafter((window_of + 1) * width_s, 0.0)
    arrival = np.clip(arrival, window_of * width_s, last)
    return np.maximum.accumulate(arrival)


def _lengths(
    config: ApiConfig, count: int, random: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int8], NDArray[np.int64], NDArray[np.float64]]:
    """Draw prompt tokens, response tokens, model, job and shared tokens of consecutive requests, job by job."""
    new_job = random.random(count) < 1.0 / config.job_requests
    job = np.cumsum(new_job, dtype=np.int64)  # (count,) job number of each request
    jobs = int(job[-1]) + 1 if count else 0
    gpt4 = random.random(jobs) < config.gpt4.share
    factor = np.where(gpt4, config.gpt4.prompt_factor, config.chatgpt.prompt_factor)
    template = config.template_prompt_tokens.draw(random, jobs) * factor
    prompt_sigma = config.prompt_sigma.draw(random, jobs)
    long_share = np.where(gpt4, config.gpt4.long_answer_share, config.chatgpt.long_answer_share)
    long = random.random(jobs) < long_share
    answer = np.where(long, config.long_answer_tokens.draw(random, jobs), config.short_answer_tokens.draw(random, jobs))
    answer_sigma = np.where(long, config.long_answer_sigma, config.short_answer_sigma)
    prompt = template[job] * np.exp(prompt_sigma[job] * random.standard_normal(count))
    output = answer[job] * np.exp(answer_sigma[job] * random.standard_normal(count))
    own_part = np.minimum(prompt_sigma / (config.own_part_sigma or np.inf), 1.0)  # share of the template
    shared = (template * (1.0 - own_part))[job]
    return prompt, output, np.where(gpt4, _GPT4, _CHATGPT).astype(np.int8)[job], job, shared
