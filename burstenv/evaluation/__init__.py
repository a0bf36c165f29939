"""Evaluation: policies on the same held-out episodes, statistics that hold, and a report.

Nothing heavy is imported until it is used::

    from burstenv.evaluation import EvaluationPlan, evaluate, write_report

    result = evaluate(EvaluationPlan(loads=[1.0, 1.5, 2.0], policies=["always/lmetric/vllm"]), agents=[agent])
    write_report(result, "report")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from burstenv.evaluation.metrics import episode_metrics, latencies_s
    from burstenv.evaluation.parquet import write_parquet
    from burstenv.evaluation.policy import Agent, fixed_components, is_privileged
    from burstenv.evaluation.report import write_report
    from burstenv.evaluation.result import EvaluationResult
    from burstenv.evaluation.runner import EvaluationPlan, evaluate, finished
    from burstenv.evaluation.statistics import (
        Estimate,
        block_bootstrap,
        interquartile_mean,
        paired_difference,
        probability_of_improvement,
        stratified_bootstrap,
    )
    from burstenv.evaluation.text import headline
    from burstenv.evaluation.training import learning_curve

_HOMES = {
    "Agent": "policy",
    "Estimate": "statistics",
    "EvaluationPlan": "runner",
    "EvaluationResult": "result",
    "block_bootstrap": "statistics",
    "episode_metrics": "metrics",
    "evaluate": "runner",
    "finished": "runner",
    "fixed_components": "policy",
    "headline": "text",
    "interquartile_mean": "statistics",
    "is_privileged": "policy",
    "latencies_s": "metrics",
    "paired_difference": "statistics",
    "probability_of_improvement": "statistics",
    "learning_curve": "training",
    "stratified_bootstrap": "statistics",
    "write_parquet": "parquet",
    "write_report": "report",
}

__all__ = [
    "Agent",
    "Estimate",
    "EvaluationPlan",
    "EvaluationResult",
    "block_bootstrap",
    "episode_metrics",
    "evaluate",
    "finished",
    "fixed_components",
    "headline",
    "interquartile_mean",
    "is_privileged",
    "latencies_s",
    "learning_curve",
    "paired_difference",
    "probability_of_improvement",
    "stratified_bootstrap",
    "write_parquet",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
