"""Parameters of the workload generator. Values and their sources are in ``configs/workloads``.

There are no defaults here: every figure is stated once, in YAML, beside the name of its source.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from burstenv.config import Config

HOURS_PER_DAY = 24


class QuantileTable(Config):
    """A positive distribution given by quantiles.

    Between the points, the logarithm of the value is linear in ``-log(1 - q)``, which draws the tails of
    heavy-tailed data as power laws; outside of them the nearest value holds.

    Attributes:
        q: Rising quantile levels in ``[0, 1)``.
        value: The values at these levels, positive and never falling.
    """

    q: tuple[float, ...] = Field(min_length=2)
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _increasing(self) -> QuantileTable:
        if len(self.q) != len(self.value):
            raise ValueError(f"q has {len(self.q)} levels and value {len(self.value)}; they must pair up")
        if min(self.q) < 0 or max(self.q) >= 1 or (np.diff(self.q) <= 0).any():
            raise ValueError("q must rise within [0, 1)")
        if min(self.value) <= 0 or (np.diff(self.value) < 0).any():
            raise ValueError("value must be positive and never fall")
        return self

    def at_exponential(self, exponential: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map unit-exponential draws, ``-log(1 - q)``, to values of this distribution."""
        return np.exp(np.interp(exponential, -np.log1p(-np.array(self.q)), np.log(self.value)))

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Draw ``count`` values, shape ``(count,)``."""
        return self.at_exponential(random.standard_exponential(count))


class LogNormal(Config):
    """A log-normal distribution by its median and the standard deviation of its logarithm."""

    median: float = Field(gt=0)
    sigma: float = Field(ge=0)

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Draw ``count`` values, shape ``(count,)``."""
        return self.median * np.exp(self.sigma * random.standard_normal(count))


class Drift(Config):
    """A slow multiplicative log-normal drift of a rate, with mean 1.

    Attributes:
        sigma: Standard deviation of the logarithm.
        correlation_h: Hours in which its autocorrelation falls to 1/e.
    """

    sigma: float = Field(ge=0)
    correlation_h: float = Field(gt=0)


class SessionTurns(Config):
    """Requests per session: tabulated up to a length, a power law above.

    Attributes:
        share: P(turns = 1), P(turns = 2), ... up to the length of the table; the rest is the tail.
        tail_exponent: Exponent a of ``P(turns > k) ~ k**-a`` above the table.
        maximum: Most turns of a session.
    """

    share: tuple[float, ...] = Field(min_length=1)
    tail_exponent: float = Field(gt=1)
    maximum: int = Field(ge=1)

    @model_validator(mode="after")
    def _shares(self) -> SessionTurns:
        if min(self.share) < 0 or sum(self.share) > 1:
            raise ValueError("share must hold probabilities with sum at most 1")
        if self.maximum < len(self.share):
            raise ValueError(f"maximum must be at least the {len(self.share)} turns of share")
        return self


class ContextGrowth(Config):
    """How the next prompt of a session follows from the last one.

    Usually the next prompt is the last prompt, its response and some new text. Sometimes the client trims
    the history, sometimes the topic starts afresh; and every session has a length beyond which its
    client always trims.

    Attributes:
        new_text_tokens: Length of the new text.
        trim_share: Probability that a turn loses history.
        trim_kept: Least share of the history that such a turn keeps (uniform between this and 1).
        fresh_share: Probability that a turn starts afresh, as a first turn.
        history_limit_tokens: Longest prompt of a session, drawn per session.
        limit_kept: Least share of that limit that remains when it is reached (uniform between this and 1).
    """

    new_text_tokens: LogNormal
    trim_share: float = Field(ge=0, le=1)
    trim_kept: float = Field(ge=0, le=1)
    fresh_share: float = Field(ge=0, le=1)
    history_limit_tokens: LogNormal
    limit_kept: float = Field(gt=0, le=1)


class ResponseGivenPrompt(Config):
    """Response lengths: a mean that depends on the prompt times a two-humped spread of mean 1.

    Attributes:
        prompt_tokens: Prompt lengths at which the mean is given, rising.
        mean_tokens: Mean response at these (linear in the logarithm of the prompt between them).
        short_share: Weight of the short hump.
        short: Short hump, in multiples of the mean.
        long: Long hump, in multiples of the mean.
    """

    prompt_tokens: tuple[float, ...] = Field(min_length=2)
    mean_tokens: tuple[float, ...]
    short_share: float = Field(ge=0, le=1)
    short: LogNormal
    long: LogNormal

    @model_validator(mode="after")
    def _paired(self) -> ResponseGivenPrompt:
        if len(self.prompt_tokens) != len(self.mean_tokens):
            raise ValueError("prompt_tokens and mean_tokens must have the same length")
        if min(self.prompt_tokens) <= 0 or (np.diff(self.prompt_tokens) <= 0).any():
            raise ValueError("prompt_tokens must be positive and rise")
        if min(self.mean_tokens) <= 0:
            raise ValueError("mean_tokens must be positive")
        return self


class ConversationConfig(Config):
    """Chat traffic: people who hold sessions by day.

    Attributes:
        scale: Multiple of the source's population.
        sessions_per_day: Mean sessions per day at scale 1.
        weekday_starts: Relative session starts by hour of day, Monday to Friday, 24 numbers.
        weekend_starts: The same at weekends, on the same scale, so the two fix the week's shape too.
        weekend_days: Days of the week (day modulo 7) that are weekend.
        drift: Slow drift around that schedule.
        turns: Requests per session.
        think_time_s: Submission to next submission within a session, seconds.
        sitting_h: A pause longer than this is resumed at a time of day drawn from the schedule, hours.
        gpt4_share: Share of the sessions on GPT-4; the others are on ChatGPT.
        first_prompt_tokens: Prompt of a first turn.
        context: How later prompts grow.
        response: Responses given the prompt.
        chatgpt_response_factor: Multiple of the mean response for ChatGPT.
        gpt4_response_factor: The same for GPT-4.
        failure_share: Failed share of all submissions.
    """

    scale: float = Field(gt=0)
    sessions_per_day: float = Field(gt=0)
    weekday_starts: tuple[float, ...]
    weekend_starts: tuple[float, ...]
    weekend_days: tuple[int, ...]
    drift: Drift
    turns: SessionTurns
    think_time_s: QuantileTable
    sitting_h: float = Field(gt=0, le=24)
    gpt4_share: float = Field(ge=0, le=1)
    first_prompt_tokens: QuantileTable
    context: ContextGrowth
    response: ResponseGivenPrompt
    chatgpt_response_factor: float = Field(gt=0)
    gpt4_response_factor: float = Field(gt=0)
    failure_share: float = Field(ge=0, lt=1)

    @field_validator("weekday_starts", "weekend_starts")
    @classmethod
    def _by_hour(cls, starts: tuple[float, ...]) -> tuple[float, ...]:
        return _per_hour(starts)

    @field_validator("weekend_days")
    @classmethod
    def _days_of_week(cls, days: tuple[int, ...]) -> tuple[int, ...]:
        if any(not 0 <= day < 7 for day in days):
            raise ValueError("weekend_days must be days from 0 to 6")
        return days


class ApiLengths(Config):
    """Lengths of API requests of one model. Requests come in jobs that repeat one template.

    Attributes:
        share: Share of the jobs on this model.
        prompt_factor: Multiple of the template's prompt length.
        long_answer_share: Share of the jobs that ask for long answers; the others ask for a word or two.
    """

    share: float = Field(ge=0, le=1)
    prompt_factor: float = Field(gt=0)
    long_answer_share: float = Field(ge=0, le=1)


class ApiConfig(Config):
    """Program traffic: silent or on, with rates over four decades, in bursts of near-identical requests.

    Attributes:
        scale: Multiple of the source's rates.
        on_run_h: Length of an ON run, hours.
        on_start_share: Probability by hour of day that a silent hour is followed by an ON one, 24 numbers.
        on_requests_per_hour: Requests in an ON hour.
        on_hour_correlation: Correlation of the (normal-score) level of consecutive ON hours.
        off_active_share: Share of OFF hours with a few requests.
        off_requests_per_hour: Mean requests in such an hour.
        interarrival_cv: Coefficient of variation of the inter-arrival times, drawn anew every ON hour.
        dense_gap_s: Mean of the least gap between two requests of a burst, seconds.
        job_requests: Mean requests of a job.
        template_prompt_tokens: Prompt length of a job's template.
        prompt_sigma: Log standard deviation of prompts within a job, drawn per job.
        short_answer_tokens: Typical answer of a short-answer job.
        long_answer_tokens: Typical answer of a long-answer job.
        short_answer_sigma: Log standard deviation of short answers within a job.
        long_answer_sigma: Log standard deviation of long answers within a job.
        chatgpt: Lengths of ChatGPT jobs.
        gpt4: Lengths of GPT-4 jobs.
        failure_share: Failed share of all submissions.
    """

    scale: float = Field(gt=0)
    on_run_h: QuantileTable
    on_start_share: tuple[float, ...]
    on_requests_per_hour: QuantileTable
    on_hour_correlation: float = Field(ge=0, lt=1)
    off_active_share: float = Field(ge=0, le=1)
    off_requests_per_hour: float = Field(ge=0)
    interarrival_cv: QuantileTable
    dense_gap_s: float = Field(ge=0)
    job_requests: float = Field(ge=1)
    template_prompt_tokens: QuantileTable
    prompt_sigma: LogNormal
    short_answer_tokens: LogNormal
    long_answer_tokens: LogNormal
    short_answer_sigma: float = Field(ge=0)
    long_answer_sigma: float = Field(ge=0)
    chatgpt: ApiLengths
    gpt4: ApiLengths
    failure_share: float = Field(ge=0, lt=1)

    @field_validator("on_start_share")
    @classmethod
    def _by_hour(cls, starts: tuple[float, ...]) -> tuple[float, ...]:
        if max(starts, default=0) > 1:
            raise ValueError("probabilities must be at most 1")
        return _per_hour(starts)

    @model_validator(mode="after")
    def _models(self) -> ApiConfig:
        if abs(self.chatgpt.share + self.gpt4.share - 1) > 1e-6:
            raise ValueError("chatgpt.share and gpt4.share must have sum 1")
        return self


class GeneratorConfig(Config):
    """Everything the generator needs.

    Attributes:
        max_prompt_tokens: Prompts are cut to this.
        max_output_tokens: Responses are cut to this.
        conversation: Chat traffic.
        api: Program traffic.
    """

    max_prompt_tokens: int = Field(ge=1)
    max_output_tokens: int = Field(ge=1)
    conversation: ConversationConfig
    api: ApiConfig


def _per_hour(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) != HOURS_PER_DAY or min(values) < 0 or max(values) <= 0:
        raise ValueError("need 24 numbers of at least 0, one per hour of day, not all 0")
    return values
