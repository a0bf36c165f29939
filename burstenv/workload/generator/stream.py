"""A fitted stream: requests of one model and log type, drawn from the tables measured on a trace."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.api import fill_windows
from burstenv.workload.generator.basics import HOURS_PER_DAY, QuantileTable
from burstenv.workload.generator.conversation import HOUR_S, correlated_normal, draw_turns, drift, resume
from burstenv.workload.generator.stream_config import (
    Alike,
    ContextTables,
    OnOff,
    StreamArrivals,
    StreamConfig,
    StreamLengths,
    StreamSessions,
)
from burstenv.workload.trace import DAY_S, MODELS

BURN_IN_DAYS = 2  # sessions begin this long before the trace, which makes its first day typical
DENSE_GAP_S = 0.05  # mean of the least gap inside a burst: the densest real windows carry 4 to 30 requests/s


def generate_stream(
    config: StreamConfig, days: int, max_prompt: int, max_output: int, random: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Generate the requests of a stream.

    Args:
        config: Parameters.
        days: Days of the trace.
        max_prompt: Prompts are cut to this many tokens.
        max_output: Responses are cut to this many tokens.
        random: Source of all randomness.

    Returns:
        Columns ``arrival_s``, ``prompt_tokens``, ``output_tokens``, ``model`` and, for a stream of sessions,
        ``session`` and ``turn``.
    """
    if config.sessions is not None:
        columns = _sessions(config, config.sessions, days, max_prompt, max_output, random)
    else:
        time = stream_arrivals(config.arrivals, config.scale, 0, days, random)
        prompt, output = draw_lengths(config.lengths, len(time), max_prompt, max_output, random)
        columns = {"arrival_s": time, "prompt_tokens": prompt, "output_tokens": output}
    model = np.full(len(columns["arrival_s"]), MODELS.index(config.model), dtype=np.int8)
    return {**columns, "model": model}


def hourly_rates(
    config: StreamArrivals, scale: float, first_day: int, last_day: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the expected arrivals of every hour from ``first_day`` to ``last_day``: schedule x drift x on/off."""
    hour = np.arange(first_day * HOURS_PER_DAY, last_day * HOURS_PER_DAY)
    weekday, weekend = np.array(config.weekday_starts), np.array(config.weekend_starts)
    of_day, at_weekend = hour % HOURS_PER_DAY, np.isin((hour // HOURS_PER_DAY) % 7, config.weekend_days)
    weekend_share = len(set(config.weekend_days)) / 7
    per_day = (1 - weekend_share) * weekday.sum() + weekend_share * weekend.sum()
    rate = scale * config.per_day / per_day * np.where(at_weekend, weekend[of_day], weekday[of_day])
    rate = rate * drift(config.drift, len(hour), random)
    return rate if config.on_off is None else rate * on_off_levels(config.on_off, len(hour), random)


def on_off_levels(config: OnOff, hours: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Draw hourly levels of mean 1 in the long run: alternating runs, ON levels by a correlated normal score."""
    on_runs = np.maximum(1, np.rint(config.on_run_h.draw(random, hours + 1)))
    off_runs = np.maximum(1, np.rint(config.off_run_h.draw(random, hours + 1)))
    lengths = np.stack([on_runs, off_runs], axis=1).ravel()  # on, off, on, off, ...
    share_on = config.on_run_h.mean() / (config.on_run_h.mean() + config.off_run_h.mean())
    starts_on = random.random() < share_on
    lengths = lengths[0 if starts_on else 1 :]
    ends = np.cumsum(lengths)
    on = (np.searchsorted(ends, np.arange(hours), side="right") % 2 == 0) == starts_on
    score = correlated_normal(config.level_correlation, hours, random)
    level = np.where(on, config.level.at_normal(score), config.off_level)
    return level / (share_on * config.level.mean() + (1 - share_on) * config.off_level)


def stream_arrivals(
    config: StreamArrivals, scale: float, first_day: int, last_day: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw sorted arrival times in seconds from ``first_day`` to ``last_day``.

    An hour's rate is shared out over its windows by Gamma weights (a Dirichlet draw), and every window is
    filled with Gamma gaps of a variation of its own.
    """
    rate = hourly_rates(config, scale, first_day, last_day, random)  # (hours,)
    windows = round(HOUR_S / config.window_s)
    weight = random.standard_gamma(config.window_evenness, (len(rate), windows)) + 1e-300
    weight /= weight.sum(axis=1, keepdims=True)
    counts = random.poisson(rate[:, None] * weight).ravel()
    shape = config.interarrival_cv.draw(random, len(counts)) ** -2.0  # a Gamma's CV is shape**-0.5
    # The least gap matters only in bursts; a Gamma of shape 1 and above must stay unchanged.
    least_gap_s = np.where(shape < 1, DENSE_GAP_S, 0.0)
    return fill_windows(counts, shape, least_gap_s, random, config.window_s) + first_day * DAY_S


def draw_lengths(
    config: StreamLengths, count: int, max_prompt: int, max_output: int, random: np.random.Generator
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Draw the lengths of ``count`` requests in order of arrival; both of shape ``(count,)``."""
    new_job = random.random(count) < 1.0 / config.job_requests
    prompt = config.prompt_tokens.at_normal(alike_scores(config.prompt_alike, new_job, random))
    prompt_tokens = np.clip(np.rint(prompt), 1, max_prompt).astype(np.int32)
    score = alike_scores(config.response_alike, new_job, random)
    return prompt_tokens, respond(config, prompt_tokens, score, max_output)


def alike_scores(config: Alike, new_job: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.float64]:
    """Draw standard normal scores that requests of one job and of one template share in part.

    ``z = s e + sqrt(1 - s^2) (sqrt(j) z_job + sqrt(1 - j) z_template)``: standard normal whatever the likeness, so
    the lengths keep their distribution and gain their order.

    Args:
        config: Shares of job (j) and spread (s), and how often a template is repeated.
        new_job: Where a job begins, shape ``(n,)``.
        random: Source of randomness.
    """
    own = random.standard_normal(len(new_job))
    if config.job == 0 and config.repeat == 0:
        return own
    job = np.cumsum(new_job)
    template = np.cumsum(new_job | (random.random(len(new_job)) >= config.repeat))
    of_job = random.standard_normal(int(job[-1]) + 1 if len(job) else 0)[job]
    of_template = random.standard_normal(int(template[-1]) + 1 if len(template) else 0)[template]
    shared = np.sqrt(config.job) * of_job + np.sqrt(1 - config.job) * of_template
    return config.spread * own + np.sqrt(1 - config.spread**2) * shared


def respond(
    config: StreamLengths, prompt_tokens: NDArray[np.int32], score: NDArray[np.float64], max_output: int
) -> NDArray[np.int32]:
    """Return the response of each prompt at a normal score: the quantile of its prompt's bin."""
    response = by_bin(config.response_tokens, np.searchsorted(config.prompt_edges, prompt_tokens, "right"), score)
    return np.clip(np.rint(response), 1, max_output).astype(np.int32)


def by_bin(
    tables: tuple[QuantileTable, ...], bin_of: NDArray[np.int64], score: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Map normal scores to values of each row's own table, shape ``(n,)``."""
    value = np.empty(len(score))
    for number, table in enumerate(tables):
        rows = np.flatnonzero(bin_of == number)
        value[rows] = table.at_normal(score[rows])
    return value


def _sessions(
    config: StreamConfig,
    sessions: StreamSessions,
    days: int,
    max_prompt: int,
    max_output: int,
    random: np.random.Generator,
) -> dict[str, NDArray[Any]]:
    """Draw conversations: starts, turns, pauses, and prompts that carry the context along."""
    arrivals = config.arrivals
    start_s = stream_arrivals(arrivals, config.scale, -BURN_IN_DAYS, days, random)
    turns = draw_turns(sessions.turns, random, len(start_s))
    # Longest sessions first: the sessions that reach a turn are then a leading slice of every array.
    longest_first = np.argsort(-turns, kind="stable")
    reach = np.searchsorted(-turns[longest_first], -np.arange(turns.max(initial=0)), side="left")
    time, total = start_s[longest_first], np.zeros(0)
    blocks: list[tuple[NDArray[Any], ...]] = []
    for turn, alive in enumerate(int(n) for n in reach):
        if turn == 0:
            prompt = config.lengths.prompt_tokens.at_normal(random.standard_normal(alive))
        else:
            pause = sessions.think_time_s.draw(random, alive)
            sitting_s = sessions.sitting_h * HOUR_S
            time = resume(arrivals, sitting_s, time[:alive], pause, random)
            prompt = next_prompt(sessions.context, total[:alive], random)
        prompt_tokens = np.clip(np.rint(prompt), 1, max_prompt).astype(np.int32)
        output = respond(config.lengths, prompt_tokens, random.standard_normal(alive), max_output)
        total = (prompt_tokens + output).astype(float)
        kept = (time >= 0) & (time < days * DAY_S)
        numbers = longest_first[:alive][kept].astype(np.int32)
        blocks.append((time[kept], prompt_tokens[kept], output[kept], numbers, np.full(len(numbers), turn, np.int32)))
    names = ("arrival_s", "prompt_tokens", "output_tokens", "session", "turn")
    if not blocks:
        return {name: np.empty(0, dtype=np.float64 if name == "arrival_s" else np.int32) for name in names}
    return {name: np.concatenate([block[k] for block in blocks]) for k, name in enumerate(names)}


def next_prompt(
    config: ContextTables, total_tokens: NDArray[np.float64], random: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the next prompt of each session given the tokens of its last turn, both of shape ``(n,)``."""
    bin_of = np.searchsorted(config.history_edges, total_tokens, "right")
    grows = random.random(len(total_tokens)) < np.array(config.grow_share)[bin_of]
    score = random.standard_normal(len(total_tokens))
    grown = total_tokens + by_bin(config.new_text_tokens, bin_of, score) - 1.0  # tables hold 1 more: they are positive
    return np.where(grows, grown, total_tokens * by_bin(config.kept_ratio, bin_of, score))
