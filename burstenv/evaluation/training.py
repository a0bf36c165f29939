"""The training log of a run, as the learning curve of a report needs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.evaluation.result import Row

LOG_FILE = "training.json"  # in a run folder of `burstenv train`: one record for each validation


def read_training(run: str | Path, required: bool = False) -> list[Row] | None:
    """Return the learning curve of a training run.

    Args:
        run: A run folder, its ``training.json``, or a checkpoint in the folder.
        required: Raise where there is no log, in place of returning None.

    Returns:
        One row for each validation: ``steps``, ``validation_attainment`` and ``reference_attainment``
        (means over the loads of the validation, shares; the latter None where not recorded) and
        ``run``, the folder's name. None where the run has no log.

    Raises:
        BurstenvError: When the log is damaged, or missing though required.
    """
    path = Path(run)
    log = path / LOG_FILE if path.is_dir() else path.with_name(LOG_FILE)
    if not log.is_file():
        if required:
            raise BurstenvError(f"{log}: no such file; need a run folder of burstenv train")
        return None
    try:
        records = json.loads(log.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BurstenvError(f"{log}: not valid JSON; the log is damaged") from None
    if not isinstance(records, list):
        raise BurstenvError(f"{log}: need a list of records, got a {type(records).__name__}")
    rows = []
    for place, record in enumerate(records):
        attainment = _mean(record, "validation")
        steps = record.get("steps") if isinstance(record, dict) else None
        if attainment is None or not isinstance(steps, int | float):
            raise BurstenvError(f"{log}: record {place + 1}: need 'steps', and 'validation' with attainments by load")
        reference = _mean(record, "reference")
        rows.append(
            {
                "steps": steps,
                "validation_attainment": attainment,
                "reference_attainment": reference,
                "run": log.resolve().parent.name,
            }
        )
    return rows


def _mean(record: Any, key: str) -> float | None:
    """Return the mean of a mapping of load to attainment, or None where there is none."""
    values = record.get(key) if isinstance(record, dict) else None
    if not isinstance(values, dict) or not values or not all(isinstance(v, int | float) for v in values.values()):
        return None
    return sum(values.values()) / len(values)
