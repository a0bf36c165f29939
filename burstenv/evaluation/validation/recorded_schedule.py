"""Comparison of a recorded schedule of the real vLLM scheduler with the engines, field by field."""

from __future__ import annotations

from pathlib import Path

from burstenv.evaluation.validation.recorded_case import RecordedCase, read_case
from burstenv.evaluation.validation.recorded_rows import first_difference, first_request_difference
from burstenv.evaluation.validation.replay import replay_fast, replay_reference, replay_skipping


def validate_case(folder: Path, engine: str) -> tuple[int, str | None]:
    """Replay a recorded schedule and compare every iteration and every request.

    Args:
        folder: The case folder.
        engine: ``"reference"``, or ``"fast"`` for the compiled engine. The compiled engine is compared twice: stopped
            at every iteration, and running freely with decode runs.

    Returns:
        The number of iterations recorded, and the first difference as a sentence, or None.

    Raises:
        BurstenvError: If the folder cannot be read, the case needs a rule outside the engine's model, or it livelocks.
    """
    case = read_case(folder)
    replay = replay_reference if engine == "reference" else replay_fast
    difference = first_difference(case.recording, replay(case))
    if engine != "reference":
        difference = difference or _skipping_difference(case)
    return len(case.recording.iterations), difference


def _skipping_difference(case: RecordedCase) -> str | None:
    iterations, requests = replay_skipping(case)
    recorded = len(case.recording.iterations)
    if iterations != recorded:
        return f"recorded {recorded} iterations, replayed {iterations} with decode runs"
    difference = first_request_difference(case.recording.requests, requests)
    return None if difference is None else f"{difference} with decode runs"
