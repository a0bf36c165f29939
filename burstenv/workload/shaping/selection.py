"""Selection of requests by model, log type, class and days."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator

from burstenv.arguments import checked
from burstenv.config import Config
from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload.trace import CLASSES, COLUMNS, DAY_S, LOG_TYPES, MODELS, Failures, Trace

Names = str | Annotated[list[str], Field(min_length=1)]


class SelectConfig(Config):
    """Selection of requests of a trace; in YAML ``select: {model: GPT-4, class: api, days: [5, 60]}``.

    A request is kept if it matches every given key; the same rule selects failures.

    Attributes:
        model: A name or list of names of ``MODELS``.
        log_type: A name or list of names of ``LOG_TYPES``.
        class_name: A name or list of names of ``CLASSES``; the key is written ``class``.
        days: ``[first, last)`` on the trace's own clock, in days from midnight of day 0; fractions are allowed.
    """

    model_config = ConfigDict(populate_by_name=True)  # what is dumped by field names reads back

    model: Names | None = None
    log_type: Names | None = None
    class_name: Names | None = Field(default=None, alias="class")
    days: tuple[float, float] | None = None

    @field_validator("model", "log_type", "class_name")
    @classmethod
    def _known(cls, names: str | list[str] | None, info: Any) -> str | list[str] | None:
        valid = {"model": MODELS, "log_type": LOG_TYPES, "class_name": CLASSES}[info.field_name]
        for name in _listed(names):
            if name not in valid:
                what = {"class_name": "class", "log_type": "log type"}.get(info.field_name, info.field_name)
                raise ValueError(str(unknown_name(what, name, valid)))
        return names

    @field_validator("days")
    @classmethod
    def _in_order(cls, days: tuple[float, float] | None) -> tuple[float, float] | None:
        if days is not None and not 0 <= days[0] < days[1]:
            raise ValueError("days must be [first, last) with 0 <= first < last")
        return days


@checked()
def select(trace: Trace, what: SelectConfig) -> Trace:
    """Return the selected requests and failures, times unchanged.

    Args:
        trace: The trace.
        what: The selection; an empty one returns the trace itself.

    Raises:
        BurstenvError: When no request is left.
    """
    rules = what.model_dump(exclude_none=True, by_alias=True)
    if not rules:
        return trace
    source = trace.metadata.get("source", "trace")
    kept = trace if what.days is None else trace.between(what.days[0] * DAY_S, what.days[1] * DAY_S)
    rows = np.flatnonzero(_mask(what, kept.model, kept.log_type))
    failed = kept.failures
    failed_rows = np.flatnonzero(_mask(what, failed.model, failed.log_type))
    wanted = ", ".join(f"{key} {value}" for key, value in rules.items())
    if len(rows) == 0:
        raise BurstenvError(f"{source}: no request is left by select ({wanted}); {_there(trace)}")
    if len(rows) == len(kept):  # whole columns need no copy
        columns: dict[str, Any] = {name: getattr(kept, name) for name in COLUMNS}
    else:
        columns = {name: getattr(kept, name)[rows] for name in COLUMNS}
    failures = Failures(**{f.name: getattr(failed, f.name)[failed_rows] for f in fields(failed)})
    step = f"select {wanted}: kept {len(rows)} of {len(trace)} requests"
    changed = {
        "requests": len(rows),
        "failures": len(failures),
        "steps": [*trace.metadata.get("steps", ()), step],
    }
    return Trace(**columns, failures=failures, metadata={**trace.metadata, **changed})


def _there(trace: Trace) -> str:
    """Return the values of a trace that can be selected."""
    if len(trace) == 0:
        return "the trace holds no request"
    days = trace.day
    models = ", ".join(MODELS[code] for code in np.unique(trace.model))
    classes = ", ".join(CLASSES[code] for code in np.unique(trace.log_type))
    return f"the trace has days {days[0]} to {days[-1]}, the models {models} and the classes {classes}"


def _mask(what: SelectConfig, model: NDArray[np.int8], log_type: NDArray[np.int8]) -> NDArray[np.bool_]:
    keep = np.ones(len(model), np.bool_)
    for names, valid, codes in (
        (what.model, MODELS, model),
        (what.log_type, LOG_TYPES, log_type),
        (what.class_name, CLASSES, log_type),
    ):
        if names is not None:
            keep &= np.isin(codes, [valid.index(name) for name in _listed(names)])
    return keep


def _listed(names: str | list[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else names
