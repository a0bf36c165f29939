"""Parameters of a fitted stream: the requests of one model and log type, as tables measured on a trace.

``burstenv trace fit`` writes these; :mod:`burstenv.workload.generator.stream` draws from them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from burstenv.config import Config
from burstenv.workload.generator.basics import Drift, FailureConfig, PerHour, QuantileTable, SessionTurns, WeekendDays


class OnOff(Config):
    """Hours that are on or off, for program traffic.

    Attributes:
        on_run_h: Length of a run of ON hours, hours.
        off_run_h: Length of a run of OFF hours, hours.
        level: Requests in an ON hour, as multiples of the mean ON hour.
        level_correlation: Correlation of the normal scores of the levels of consecutive ON hours.
        off_level: Mean requests of an OFF hour, on the same scale.
    """

    on_run_h: QuantileTable
    off_run_h: QuantileTable
    level: QuantileTable
    level_correlation: float = Field(ge=0, lt=1)
    off_level: float = Field(ge=0, le=1e6)


class StreamArrivals(Config):
    """Arrivals of a stream's requests (or of its sessions, if it has any).

    Attributes:
        per_day: Mean arrivals per day.
        weekday_starts: Relative arrivals by hour of day on working days, 24 numbers.
        weekend_starts: The same at weekends, on the same scale.
        weekend_days: Days of the week (day modulo 7) that are weekend.
        drift: Slow drift around that schedule.
        on_off: ON and OFF hours on top of the schedule; None for a stream that never pauses.
        window_s: Windows within which gaps have one variation, seconds: a divisor of the hour.
        window_evenness: How evenly an hour's requests fall into its windows: the parameter of a symmetric
            Dirichlet distribution of their shares. Large for even, below 1 for most of them in one or two.
        interarrival_cv: Coefficient of variation of the inter-arrival times, drawn anew in every window.
    """

    per_day: float = Field(ge=1e-3, le=1e9)
    weekday_starts: PerHour
    weekend_starts: PerHour
    weekend_days: WeekendDays
    drift: Drift
    on_off: OnOff | None = None
    window_s: float = Field(ge=1, le=3600)
    window_evenness: float = Field(ge=1e-3, le=1e6)
    interarrival_cv: QuantileTable

    @field_validator("window_s")
    @classmethod
    def _divides(cls, window_s: float) -> float:
        if abs(3600 / window_s - round(3600 / window_s)) > 1e-9:
            raise ValueError("window_s must divide an hour (3600)")
        return window_s


class Alike(Config):
    """Share of a length's normal score common to requests of one job or of one template.

    Attributes:
        job: Share of the variance that all requests of a job have in common.
        repeat: Probability that a request repeats the template of the request before it.
        spread: Standard deviation of the normal score within one template.
    """

    job: float = Field(default=0.0, ge=0, lt=1)
    repeat: float = Field(default=0.0, ge=0, lt=1)
    spread: float = Field(default=0.0, ge=0, le=1)


class StreamLengths(Config):
    """Joint distribution of prompt and response lengths: the response's quantiles given the prompt's bin.

    Attributes:
        prompt_tokens: Prompt lengths (of first turns, where the stream has sessions).
        prompt_edges: Rising prompt lengths that divide the bins; a prompt equal to an edge is in the upper bin.
        response_tokens: Responses in each bin, one table more than there are edges.
        job_requests: Mean requests of a job, for ``prompt_alike`` and ``response_alike``.
        prompt_alike: Likeness of prompts within a job.
        response_alike: Likeness of responses, given their prompts, within a job.
    """

    prompt_tokens: QuantileTable
    prompt_edges: tuple[float, ...] = ()
    response_tokens: tuple[QuantileTable, ...] = Field(min_length=1)
    job_requests: float = Field(default=1.0, ge=1, le=1e9)
    prompt_alike: Alike = Alike()
    response_alike: Alike = Alike()

    @model_validator(mode="after")
    def _bins(self) -> StreamLengths:
        if len(self.response_tokens) != len(self.prompt_edges) + 1:
            raise ValueError("response_tokens needs one table more than prompt_edges has edges")
        if (np.diff(self.prompt_edges) <= 0).any():
            raise ValueError("prompt_edges must rise")
        return self


class ContextTables(Config):
    """The next prompt of a session, given the tokens of the last turn (its prompt and response).

    Attributes:
        history_edges: Rising totals of the last turn that divide the bins.
        grow_share: Per bin, the probability that the whole history is kept and new text added.
        new_text_tokens: Per bin, the new text when it is, tokens (at least 1).
        kept_ratio: Per bin, next prompt over last total when history was cut or dropped, below 1.
    """

    history_edges: tuple[float, ...] = ()
    grow_share: tuple[float, ...] = Field(min_length=1)
    new_text_tokens: tuple[QuantileTable, ...]
    kept_ratio: tuple[QuantileTable, ...]

    @model_validator(mode="after")
    def _bins(self) -> ContextTables:
        bins = len(self.history_edges) + 1
        if not len(self.grow_share) == len(self.new_text_tokens) == len(self.kept_ratio) == bins:
            raise ValueError(f"grow_share, new_text_tokens and kept_ratio need {bins} entries each")
        if (np.diff(self.history_edges) <= 0).any():
            raise ValueError("history_edges must rise")
        if min(self.grow_share) < 0 or max(self.grow_share) > 1:
            raise ValueError("grow_share must hold probabilities")
        return self


class StreamSessions(Config):
    """Conversations of a stream.

    Attributes:
        turns: Requests per session.
        think_time_s: Submission to next submission within a session, seconds.
        sitting_h: A pause longer than this is resumed at a time of day drawn from the schedule, hours.
        context: How prompts grow from turn to turn.
    """

    turns: SessionTurns
    think_time_s: QuantileTable
    sitting_h: float = Field(gt=0, le=24)
    context: ContextTables


class StreamConfig(Config):
    """The requests of one model and log type.

    Attributes:
        model: Model of the stream's requests.
        log_type: Class of the stream's requests.
        scale: Multiple of the rates measured.
        arrivals: Their arrivals.
        lengths: Their lengths.
        sessions: Conversations; None where the trace records none.
        failures: Failed submissions.
    """

    model: Literal["ChatGPT", "GPT-4", "other"]
    log_type: Literal["conversation", "api"]
    scale: float = Field(default=1.0, ge=1e-6, le=1e6)
    arrivals: StreamArrivals
    lengths: StreamLengths
    sessions: StreamSessions | None = None
    failures: FailureConfig
