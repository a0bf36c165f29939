"""Configuration of episodes: length, scaling to the load, and mix of classes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from burstenv.config import Config
from burstenv.workload.trace import CLASSES, DAY_S


class EpisodeConfig(Config):
    """Configuration of the episodes of a trace.

    Attributes:
        duration_s: Length of the window in which requests arrive, seconds.
        scaling: Method of scaling to the load, one of the three in ``burstenv.workload.shaping.scaling``. ``superpose``
            superposes circularly shifted copies of one day, and thins it below one copy: it keeps every time scale
            below the window, including bursts and think times, and flattens the daily wave. ``compress`` compresses
            consecutive requests: the variation of counts stays, think times and burst lengths shrink by the factor of
            the compression. ``thin`` keeps a share of one day's conversations; loads above the day's own are an error.
        mix: Share of the requests by class, with sum 1; None keeps the composition of the split.
        mix_at_end: The rates by class at the end of the episode, as shares of the whole rate at its begin: they change
            evenly from ``mix`` to these. A sum other than 1 changes the whole rate too; its mean over the episode is
            kept. Superposed conversations are thinned by the time of their first request. None: they stay.
        max_total_tokens: Longest request, prompt plus output tokens; None for no limit.
        oversize: Treatment of longer ones: an error, or ``drop``, which leaves them out and counts them.
        upstream_failures: ``none`` leaves the recorded failures out. ``recorded`` adds each failure in the window as a
            further arrival, beyond the requested rate, marked ``upstream_failed``, with the lengths of a served request
            of the same class and hour.
    """

    duration_s: float = Field(default=180.0, ge=1e-3, le=1e8)
    scaling: Literal["superpose", "compress", "thin"] = "superpose"
    mix: dict[str, float] | None = None
    mix_at_end: dict[str, float] | None = None
    max_total_tokens: int | None = Field(default=None, ge=2, le=1 << 24)
    oversize: Literal["error", "drop"] = "error"
    upstream_failures: Literal["none", "recorded"] = "none"

    @field_validator("mix")
    @classmethod
    def _shares(cls, mix: dict[str, float] | None) -> dict[str, float] | None:
        if mix is None:
            return None
        unknown = sorted(set(mix) - set(CLASSES))
        if unknown:
            raise ValueError(f"unknown class {unknown[0]!r}; valid: {', '.join(CLASSES)}")
        if min(mix.values(), default=0.0) < 0 or abs(sum(mix.values()) - 1.0) > 1e-6:
            raise ValueError("shares by class must be at least 0 and have sum 1")
        return mix

    @model_validator(mode="after")
    def _drifts_where_it_can(self) -> EpisodeConfig:
        if self.mix_at_end is None:
            return self
        if self.mix is None or self.scaling != "superpose" or self.upstream_failures != "none":
            raise ValueError("mix_at_end needs mix, scaling: superpose and upstream_failures: none")
        if set(self.mix_at_end) != set(self.mix) or min(*self.mix.values(), *self.mix_at_end.values()) <= 0.0:
            raise ValueError("mix_at_end must have the classes of mix, and both shares above 0")
        return self

    @model_validator(mode="after")
    def _within_a_day(self) -> EpisodeConfig:
        if self.scaling != "compress" and self.duration_s > DAY_S:
            raise ValueError(f"duration_s must be at most {DAY_S:g} (one day) to {self.scaling}")
        return self
