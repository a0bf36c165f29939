"""Chat traffic: sessions that start by hour of day, think, and carry their context along."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.generator.basics import HOURS_PER_DAY, Drift, SessionTurns
from burstenv.workload.generator.config import ConversationConfig
from burstenv.workload.trace import DAY_S, MODELS

HOUR_S = 3600.0
BURN_IN_DAYS = 2  # sessions begin this long before the trace, which makes its first day typical

_CHATGPT, _GPT4 = MODELS.index("ChatGPT"), MODELS.index("GPT-4")


def generate_conversation(
    config: ConversationConfig, days: int, max_prompt: int, max_output: int, random: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Generate chat requests.

    Args:
        config: Parameters.
        days: Days of the trace.
        max_prompt: Prompts are cut to this many tokens.
        max_output: Responses are cut to this many tokens.
        random: Source of all randomness.

    Returns:
        Columns ``arrival_s`` (not sorted), ``prompt_tokens``, ``output_tokens``, ``model``, ``session`` (in
        order of session start) and ``turn``.
    """
    start_s = session_starts(config, days, random)
    count = len(start_s)
    turns = draw_turns(config.turns, random, count)
    gpt4 = random.random(count) < config.gpt4_share

    # Longest sessions first: the sessions that reach a turn are then a leading slice of every array.
    longest_first = np.argsort(-turns, kind="stable")
    reach = np.searchsorted(-turns[longest_first], -np.arange(turns.max(initial=0)), side="left")
    time, gpt4 = start_s[longest_first], gpt4[longest_first]
    walk = _Walk(config, count, gpt4, max_prompt, max_output, random)
    blocks: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS}
    for turn, alive in enumerate(reach):
        if turn > 0:
            pause = config.think_time_s.draw(random, int(alive))
            time = resume(config, config.sitting_h * HOUR_S, time[:alive], pause, random)
        prompt, output = walk.next_turn(turn, int(alive))
        kept = (time >= 0) & (time < days * DAY_S)
        blocks["arrival_s"].append(time[kept])
        blocks["prompt_tokens"].append(prompt[kept])
        blocks["output_tokens"].append(output[kept])
        blocks["model"].append(np.where(gpt4[:alive][kept], _GPT4, _CHATGPT).astype(np.int8))
        blocks["session"].append(longest_first[:alive][kept].astype(np.int32))
        blocks["turn"].append(np.full(int(kept.sum()), turn, dtype=np.int32))
    return {name: np.concatenate(parts) if parts else np.empty(0) for name, parts in blocks.items()}


_COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "model", "session", "turn")


def session_starts(config: ConversationConfig, days: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Draw session starts: Poisson per hour, with the hour's rate from the schedule and the drift.

    Returns:
        Sorted times in seconds; they begin :data:`BURN_IN_DAYS` before 0.
    """
    hour = np.arange(-BURN_IN_DAYS * HOURS_PER_DAY, days * HOURS_PER_DAY)
    weekend = np.isin((hour // HOURS_PER_DAY) % 7, config.weekend_days)
    weekday_starts, weekend_starts = np.array(config.weekday_starts), np.array(config.weekend_starts)
    shape = np.where(weekend, weekend_starts[hour % HOURS_PER_DAY], weekday_starts[hour % HOURS_PER_DAY])
    weekend_share = len(set(config.weekend_days)) / 7
    per_day = (1 - weekend_share) * weekday_starts.sum() + weekend_share * weekend_starts.sum()
    rate = config.scale * config.sessions_per_day * shape / per_day  # (hours,) sessions per hour
    rate = rate * drift(config.drift, len(hour), random)
    counts = random.poisson(rate)
    starts = (np.repeat(hour, counts) + random.random(int(counts.sum()))) * HOUR_S
    starts.sort()
    return starts


class Schedule(Protocol):
    """The schedule of returns, common to both kinds of session configurations."""

    @property
    def weekday_starts(self) -> tuple[float, ...]: ...  # noqa: D102

    @property
    def weekend_starts(self) -> tuple[float, ...]: ...  # noqa: D102

    @property
    def weekend_days(self) -> tuple[int, ...]: ...  # noqa: D102


def resume(
    config: Schedule,
    sitting_s: float,
    time_s: NDArray[np.float64],
    pause_s: NDArray[np.float64],
    random: np.random.Generator,
) -> NDArray[np.float64]:
    """Return when each session submits again, given its last submissions and its pauses.

    A pause longer than the sitting ends at an active time: on the day the pause ends (or the next, if that would come
    too soon; past most weekends), at an hour drawn from the weekday schedule. Without this rule the long tail of think
    times would fill the nights and weekends.

    Args:
        config: The schedule of active times.
        sitting_s: Longest pause outside this rule, seconds.
        time_s: Last submissions, seconds, shape ``(n,)``.
        pause_s: Pauses, seconds, shape ``(n,)``.
        random: Source of randomness.
    """
    following = time_s + pause_s
    resumed = np.flatnonzero(pause_s > sitting_s)
    schedule = np.cumsum(config.weekday_starts)
    hour = np.searchsorted(schedule, random.random(len(resumed)) * schedule[-1], side="right")
    clock_s = (np.minimum(hour, HOURS_PER_DAY - 1) + random.random(len(resumed))) * HOUR_S
    day = np.floor(following[resumed] / DAY_S)
    day += day * DAY_S + clock_s < time_s[resumed] + sitting_s  # too soon
    weekend_calls = min(1.0, sum(config.weekend_starts) / schedule[-1])  # chance to resume at a weekend
    undecided = np.arange(len(day))
    for _ in config.weekend_days:  # no weekend is longer than this
        undecided = undecided[np.isin(day[undecided] % 7, config.weekend_days)]
        undecided = undecided[random.random(len(undecided)) >= weekend_calls]
        day[undecided] += 1
    following[resumed] = day * DAY_S + clock_s
    return following


def drift(config: Drift, hours: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Draw an hourly Ornstein-Uhlenbeck path and return its exponential, normed to mean 1, ``(hours,)``."""
    path = correlated_normal(np.exp(-1.0 / config.correlation_h), hours, random)
    return np.exp(config.sigma * path - config.sigma**2 / 2)


def correlated_normal(correlation: float, count: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Draw a stationary standard normal series of first-order autocorrelation ``correlation``."""
    noise = random.standard_normal(count)
    fresh = np.sqrt(1 - correlation**2)
    level, path = 0.0, np.empty(count)
    for step in range(count):
        level = noise[step] if step == 0 else correlation * level + fresh * noise[step]
        path[step] = level
    return path


def draw_turns(config: SessionTurns, random: np.random.Generator, count: int) -> NDArray[np.int64]:
    """Draw the number of requests of each session, shape ``(count,)``."""
    table = len(config.share)
    tail_share = max(1.0 - sum(config.share), 1e-12)
    above = 1.0 - random.random(count)  # P(turns > k) at the drawn k, in (0, 1]
    # Inverse of the table: the number of k with P(turns > k) >= above, plus one.
    survival = 1.0 - np.cumsum(config.share)
    turns = 1 + np.searchsorted(-survival, -above, side="right")
    in_tail = turns > table
    tail = np.ceil(table * (above[in_tail] / tail_share) ** (-1.0 / config.tail_exponent))
    turns[in_tail] = np.clip(tail, table + 1, config.maximum)
    return np.minimum(turns, config.maximum)


class _Walk:
    """Prompt and response of every session, one turn after another; sessions are longest first."""

    def __init__(
        self,
        config: ConversationConfig,
        count: int,
        gpt4: NDArray[np.bool_],
        max_prompt: int,
        max_output: int,
        random: np.random.Generator,
    ) -> None:
        self._config, self._random = config, random
        self._max_prompt, self._max_output = max_prompt, max_output
        self._factor = np.where(gpt4, config.gpt4_response_factor, config.chatgpt_response_factor)
        self._limit = config.context.history_limit_tokens.draw(random, count)
        self._total = np.zeros(count)  # tokens of the last prompt and its response

    def next_turn(self, turn: int, alive: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return prompt and response tokens of the first ``alive`` sessions' next turn."""
        prompt = self._first_prompt(alive) if turn == 0 else self._later_prompt(alive)
        prompt = np.clip(np.rint(prompt), 1, self._max_prompt)
        output = np.clip(np.rint(self._response(prompt, alive)), 1, self._max_output)
        self._total = prompt + output
        return prompt.astype(np.int32), output.astype(np.int32)

    def _first_prompt(self, count: int) -> NDArray[np.float64]:
        return self._config.first_prompt_tokens.draw(self._random, count)

    def _later_prompt(self, alive: int) -> NDArray[np.float64]:
        context, random = self._config.context, self._random
        prompt = self._total[:alive] + context.new_text_tokens.draw(random, alive)
        event = random.random(alive)
        trimmed = np.flatnonzero(event < context.trim_share)
        prompt[trimmed] *= random.uniform(context.trim_kept, 1.0, len(trimmed))
        fresh = np.flatnonzero(event > 1.0 - context.fresh_share)
        prompt[fresh] = self._first_prompt(len(fresh))
        limit = self._limit[:alive]
        over = np.flatnonzero(prompt > limit)
        prompt[over] = limit[over] * random.uniform(context.limit_kept, 1.0, len(over))
        return prompt

    def _response(self, prompt: NDArray[np.float64], alive: int) -> NDArray[np.float64]:
        config, random = self._config.response, self._random
        mean = np.interp(np.log(prompt), np.log(config.prompt_tokens), config.mean_tokens)
        short = random.random(alive) < config.short_share
        median = np.where(short, config.short.median, config.long.median)
        sigma = np.where(short, config.short.sigma, config.long.sigma)
        spread = median * np.exp(sigma * random.standard_normal(alive))
        norm = config.short_share * config.short.median * np.exp(config.short.sigma**2 / 2) + (
            1 - config.short_share
        ) * config.long.median * np.exp(config.long.sigma**2 / 2)
        return self._factor[:alive] * mean * spread / norm
