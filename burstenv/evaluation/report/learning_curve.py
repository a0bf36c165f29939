"""The learning curve of a report, from the log of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.evaluation.result import Row


def learning_curve(log: Sequence[Any]) -> list[Row]:
    """Return the points of a learning curve.

    Args:
        log: Records of ``training.json`` of a run: ``steps``, ``validation`` (score by load) and
            optionally ``reference`` (that of the reference policy); or records of the means themselves, as returned
            here. ``run`` names the run if there are several.

    Returns:
        One row for each record: ``steps``, ``validation_score`` and ``reference_score`` (shares,
        means over the loads; the latter None where not recorded), and ``run``.

    Raises:
        BurstenvError: On the first record without its numbers.
    """
    rows = []
    for place, record in enumerate(log):
        values = record if isinstance(record, dict) else {}
        steps, score = values.get("steps"), _mean(values, "validation")
        if score is None or not isinstance(steps, int | float):
            raise BurstenvError(f"training log: record {place + 1}: need 'steps' and 'validation', scores by load")
        rows.append(
            {
                "steps": steps,
                "validation_score": score,
                "reference_score": _mean(values, "reference"),
                "run": str(values.get("run", "")),
            }
        )
    return rows


def _mean(record: dict[str, Any], of: str) -> float | None:
    """Return the mean of a mapping of load to score, or the given mean."""
    by_load = record.get(of)
    if isinstance(by_load, dict) and by_load and all(isinstance(v, int | float) for v in by_load.values()):
        return sum(by_load.values()) / len(by_load)
    mean = record.get(f"{of}_score")
    return mean if isinstance(mean, int | float) else None
