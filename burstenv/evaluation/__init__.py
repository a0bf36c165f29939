"""Evaluation: policies on the same held-out episodes, statistics, and a report.

Heavy modules are imported at their first use::

    from burstenv.evaluation import EvaluationPlan, evaluate, write_report

    result = evaluate(EvaluationPlan(loads=[1.0, 1.5, 2.0], policies=["always/lmetric/vllm"]), agents=[agent])
    write_report(result, "report")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from burstenv.evaluation.metrics import episode_metrics, latencies_s
    from burstenv.evaluation.policy import Agent, fixed_components, is_privileged
    from burstenv.evaluation.report.learning_curve import learning_curve
    from burstenv.evaluation.report.parquet import write_parquet
    from burstenv.evaluation.report.report import write_report
    from burstenv.evaluation.report.text import headline
    from burstenv.evaluation.result import EvaluationResult
    from burstenv.evaluation.runner import EvaluationPlan, evaluate, finished
    from burstenv.evaluation.statistics.intervals import (
        Estimate,
        block_bootstrap,
        interquartile_mean,
        paired_difference,
        probability_of_improvement,
        stratified_bootstrap,
    )

_HOMES = {
    "Agent": "policy",
    "Estimate": "statistics.intervals",
    "EvaluationPlan": "runner",
    "EvaluationResult": "result",
    "block_bootstrap": "statistics.intervals",
    "episode_metrics": "metrics",
    "evaluate": "runner",
    "finished": "runner",
    "fixed_components": "policy",
    "headline": "report.text",
    "interquartile_mean": "statistics.intervals",
    "is_privileged": "policy",
    "latencies_s": "metrics",
    "paired_difference": "statistics.intervals",
    "probability_of_improvement": "statistics.intervals",
    "learning_curve": "report.learning_curve",
    "stratified_bootstrap": "statistics.intervals",
    "write_parquet": "report.parquet",
    "write_report": "report.report",
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
