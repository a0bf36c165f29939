"""Parameters of the workload generator. Values and their sources are in ``configs/workloads``.

There are no defaults here: every figure is stated once, in YAML, beside the name of its source.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from burstenv.config import Config
from burstenv.workload.generator.basics import (
    Drift,
    FailureConfig,
    LogNormal,
    PerHour,
    QuantileTable,
    SessionTurns,
    WeekendDays,
)
from burstenv.workload.generator.stream_config import StreamConfig


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
        failures: Failed submissions.
    """

    scale: float = Field(ge=1e-6, le=1e6)
    sessions_per_day: float = Field(ge=1e-3, le=1e9)
    weekday_starts: PerHour
    weekend_starts: PerHour
    weekend_days: WeekendDays
    drift: Drift
    turns: SessionTurns
    think_time_s: QuantileTable
    sitting_h: float = Field(gt=0, le=24)
    gpt4_share: float = Field(ge=0, le=1)
    first_prompt_tokens: QuantileTable
    context: ContextGrowth
    response: ResponseGivenPrompt
    chatgpt_response_factor: float = Field(ge=1e-6, le=1e6)
    gpt4_response_factor: float = Field(ge=1e-6, le=1e6)
    failures: FailureConfig


class ApiLengths(Config):
    """Lengths of API requests of one model. Requests come in jobs that repeat one template.

    Attributes:
        share: Share of the jobs on this model.
        prompt_factor: Multiple of the template's prompt length.
        long_answer_share: Share of the jobs that ask for long answers; the others ask for a word or two.
    """

    share: float = Field(ge=0, le=1)
    prompt_factor: float = Field(ge=1e-6, le=1e6)
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
        own_part_sigma: Log standard deviation of the part of a prompt that is the request's own. A job whose prompts
            spread by ``s`` then shares ``1 - s / own_part_sigma`` of its template: its requests begin with the same
            tokens. None: they share nothing.
        short_answer_tokens: Typical answer of a short-answer job.
        long_answer_tokens: Typical answer of a long-answer job.
        short_answer_sigma: Log standard deviation of short answers within a job.
        long_answer_sigma: Log standard deviation of long answers within a job.
        chatgpt: Lengths of ChatGPT jobs.
        gpt4: Lengths of GPT-4 jobs.
        failures: Failed submissions.
    """

    scale: float = Field(ge=1e-6, le=1e6)
    on_run_h: QuantileTable
    on_start_share: PerHour
    on_requests_per_hour: QuantileTable
    on_hour_correlation: float = Field(ge=0, lt=1)
    off_active_share: float = Field(ge=0, le=1)
    off_requests_per_hour: float = Field(ge=0, le=1e9)
    interarrival_cv: QuantileTable
    dense_gap_s: float = Field(ge=0, le=1e6)
    job_requests: float = Field(ge=1, le=1e9)
    template_prompt_tokens: QuantileTable
    prompt_sigma: LogNormal
    own_part_sigma: float | None = Field(default=None, ge=1e-3, le=1e3)
    short_answer_tokens: LogNormal
    long_answer_tokens: LogNormal
    short_answer_sigma: float = Field(ge=0, le=5)
    long_answer_sigma: float = Field(ge=0, le=5)
    chatgpt: ApiLengths
    gpt4: ApiLengths
    failures: FailureConfig

    @field_validator("on_start_share")
    @classmethod
    def _probabilities(cls, starts: tuple[float, ...]) -> tuple[float, ...]:
        if max(starts) > 1:
            raise ValueError("probabilities must be at most 1")
        return starts

    @model_validator(mode="after")
    def _models(self) -> ApiConfig:
        if abs(self.chatgpt.share + self.gpt4.share - 1) > 1e-6:
            raise ValueError("chatgpt.share and gpt4.share must have sum 1")
        return self


class GeneratorConfig(Config):
    """Everything the generator needs: at least one of its three parts.

    Attributes:
        max_prompt_tokens: Prompts are cut to this.
        max_output_tokens: Responses are cut to this.
        conversation: Chat traffic, described by published figures.
        api: Program traffic, described by published figures.
        streams: Classes of requests, described by tables fitted to a trace.
    """

    max_prompt_tokens: int = Field(ge=1, le=1 << 24)
    max_output_tokens: int = Field(ge=1, le=1 << 24)
    conversation: ConversationConfig | None = None
    api: ApiConfig | None = None
    streams: tuple[StreamConfig, ...] = ()

    @model_validator(mode="after")
    def _something(self) -> GeneratorConfig:
        if self.conversation is None and self.api is None and not self.streams:
            raise ValueError("a generator needs at least one of conversation, api and streams")
        return self

    def scaled(self, factor: float) -> GeneratorConfig:
        """Return these parameters with every class's population multiplied by ``factor``, above 0.

        More people or programs of the same habits: think times, cycles and lengths stay as they are.
        """

        def times(part: Any) -> Any:
            return None if part is None else part.model_copy(update={"scale": part.scale * factor})

        changed = {"conversation": times(self.conversation), "api": times(self.api)}
        return self.model_copy(update={**changed, "streams": tuple(times(stream) for stream in self.streams)})
