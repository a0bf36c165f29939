"""Declarations of the migration rules: names, parameters, sources. Their code is in ``cluster/migration.py``."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from burstenv.cluster.migration import LLUMNIX, LLUMNIX_ADAPTIVE, LLUMNIX_BALANCED, LLUMNIX_PAPER, NO_MIGRATION
from burstenv.config import Config
from burstenv.policies.rule import Parameter, Range, Rule


class MigrationConfig(Config):
    """Requests may move from one replica to another while they decode."""

    rule: str = "none"  # that decides where nothing else does, such as llumnix(low=5)
    period_s: Annotated[float, Field(ge=1e-3, le=1e6)] = 0.1  # between two decisions


_PICK = Parameter("pick", 0.0, Range(0.0, 2.0, "integer"), "which request: 0 the shortest, 1 the newest, 2 the longest")
_SOURCE = "Llumnix (Sun et al., OSDI'24)"


def _parameters(pick: float) -> tuple[Parameter, ...]:
    return (
        Parameter("low", 3.0, Range(0.0, 20.0), "freeness below which a replica gives a request away, in blocks", -1e3),
        Parameter("high", 3.0, Range(0.0, 40.0), "freeness above which a replica takes one, in blocks", -1e3),
        dataclasses.replace(_PICK, default=pick),
    )


MIGRATION_RULES = (
    Rule(NO_MIGRATION, "none", "No request migrates.", "Every cluster without migration."),
    Rule(
        LLUMNIX,
        "llumnix",
        "From replicas of little freeness to those of most: (free blocks - blocks of the queue) / requests.",
        f"{_SOURCE}, the artifact that made the figures (thresholds 3 in most of them, the newest request).",
        "Preempted requests count by the blocks that they ask for, and not as a trigger of their own.",
        _parameters(1.0),
        sees_cache=True,
    ),
    Rule(
        LLUMNIX_PAPER,
        "llumnix-paper",
        "As llumnix, with the virtual usage of the paper: of the queue only the first request counts.",
        f"{_SOURCE}, sections 4.3 and 4.4 (de-fragmentation; the shortest request).",
        "No headroom for priorities.",
        _parameters(0.0),
        sees_cache=True,
    ),
    Rule(
        LLUMNIX_BALANCED,
        "llumnix-balanced",
        "As llumnix, where the two replicas come closer and the destination stays above `low`.",
        "`balanced` of llumnix/global_scheduler (2025).",
        "",
        _parameters(0.0),
        sees_cache=True,
    ),
    Rule(
        LLUMNIX_ADAPTIVE,
        "llumnix-adaptive",
        "From the replica with the longest iterations, and from the flexible one with the shortest, which may compute "
        "prompts then.",
        "Llumnix v1, adaptive prefill and decode (adaptive_pd_scheduling.md): mitigation at 0.95 of the objective, "
        "consolidation below 0.60, each to the fullest replica below 0.85, every 0.1 s.",
        "Times are those of iterations in which all decode, not an interpolated profile.",
        (
            Parameter("low", 0.6, Range(0.0, 0.8), "share of the objective below which a flexible replica is emptied"),
            Parameter("high", 0.95, Range(0.7, 1.2), "share from which one request leaves", most=10.0),
            _PICK,
            Parameter("fill", 0.85, Range(0.5, 1.0), "share up to which a replica is filled", most=10.0),
            Parameter("tpot_s", 0.05, Range(0.01, 0.5, "log"), "the objective on the time per token [s]", most=100.0),
        ),
        sees_cache=True,
    ),
)
