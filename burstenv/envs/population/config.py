"""The configuration of classes and tenants: how they are found, and what each is entitled to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from burstenv.config import Config
from burstenv.workload import CLASSES
from burstenv.workload.trace import MODELS

MOST_CLASSES = 100
MOST_TENANTS = 10_000
SERVICES = tuple(f"{model} {name}" for model in MODELS for name in CLASSES)
NAMES_BY = {"log-type": CLASSES, "model": MODELS, "service": SERVICES}  # the names that a column of every trace gives

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$", max_length=60)]
Share = Annotated[float, Field(ge=1e-6, le=1.0)]


def check_shares(shares: dict[str, float]) -> dict[str, float]:
    """Raise unless shares sum to 1."""
    if abs(sum(shares.values()) - 1.0) > 1e-6:
        raise ValueError(f"shares must sum to 1, these sum to {sum(shares.values()):g}")
    return shares


class ClassesConfig(Config):
    """How the class of a request is found; the classes themselves are those of ``slo``.

    ``log-type``: conversation and api, as BurstGPT logs them. ``model``: ChatGPT, GPT-4 and other. ``service``: the
    model and the log type, such as ``GPT-4 api``. ``trace``: the column ``class`` of the trace. ``mix``: drawn for each
    session, or request without one, by the shares of ``mix``.
    """

    by: Literal["log-type", "model", "service", "trace", "mix"] = "log-type"
    mix: Annotated[dict[Name, Share], Field(min_length=1, max_length=MOST_CLASSES)] | None = None

    @model_validator(mode="after")
    def _mix_or_not(self) -> ClassesConfig:
        if (self.mix is not None) != (self.by == "mix"):
            raise ValueError("classes.mix gives the shares of classes by: mix, and of no others")
        if self.mix is not None:
            check_shares(self.mix)
        return self


class BurstsConfig(Config):
    """A tenant's own bursts: every ``every_s``, for ``for_s``, ``factor`` times its mean rate, and less in between.

    The first one begins at a random instant of each episode.
    """

    every_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 60.0
    for_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 10.0
    factor: Annotated[float, Field(gt=1.0, le=100.0)] = 5.0

    @model_validator(mode="after")
    def _has_a_mean(self) -> BurstsConfig:
        if self.for_s >= self.every_s or self.for_s * self.factor > self.every_s * (1.0 + 1e-9):
            raise ValueError(
                f"for_s {self.for_s:g} at {self.factor:g} times the mean rate is more than every_s {self.every_s:g} "
                "at the mean rate"
            )
        return self

    @property
    def calm(self) -> float:
        """Times the mean rate between bursts."""
        return max(0.0, (self.every_s - self.for_s * self.factor) / (self.every_s - self.for_s))


class TenantConfig(Config):
    """One tenant: its share of the traffic, its weight in fair rules, its bursts, and the classes of its requests."""

    share: Share | None = None
    weight: Annotated[float, Field(ge=1e-3, le=1e3)] = 1.0
    bursts: BurstsConfig | None = None
    classes: Annotated[dict[Name, Share], Field(min_length=1)] | None = None  # in place of classes.mix

    @field_validator("classes")
    @classmethod
    def _whole(cls, classes: dict[str, float] | None) -> dict[str, float] | None:
        return None if classes is None else check_shares(classes)


class TenantsConfig(Config):
    """The tenants of the requests.

    ``mix``: drawn for each session, or request without one, by the shares in ``of``. ``trace``: the column ``tenant``
    of the trace, requests without one belonging to ``none``. ``log-type``, ``model`` and ``service`` as for classes.
    Tenants that ``of`` does not list have weight 1.
    """

    by: Literal["mix", "trace", "log-type", "model", "service"] = "mix"
    of: Annotated[dict[Name, TenantConfig], Field(max_length=MOST_TENANTS)] = {}

    @model_validator(mode="after")
    def _whole(self) -> TenantsConfig:
        mixed = self.by == "mix"
        if mixed and not self.of:
            raise ValueError("tenants.of must list the tenants of a mix")
        for name, tenant in self.of.items():
            if (tenant.share is not None) != mixed:
                raise ValueError(f"tenants.of.{name}: a tenant has a share in tenants by: mix, and in no others")
            if not mixed and (tenant.bursts is not None or tenant.classes is not None):
                raise ValueError(f"tenants.of.{name}: bursts and classes are of tenants by: mix")
            if self.by in NAMES_BY and name not in NAMES_BY[self.by]:
                raise ValueError(f"unknown tenant {name!r}; valid: {', '.join(NAMES_BY[self.by])}")
        if mixed:
            check_shares({name: tenant.share or 0.0 for name, tenant in self.of.items()})
        return self
