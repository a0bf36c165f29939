"""Training seeds: several runs of one algorithm, summarised as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burstenv.evaluation.result import Row
from burstenv.evaluation.statistics.comparisons import performance_profile
from burstenv.evaluation.statistics.intervals import (
    interquartile_mean,
    paired_difference,
    probability_of_improvement,
    stratified_bootstrap,
)

THRESHOLDS = [k / 100 for k in range(0, 101, 2)]  # of the score, in performance profiles


def summarise_groups(episodes: Sequence[Row], groups: Mapping[str, Sequence[str]], best: Sequence[Row]) -> list[Row]:
    """Return one row for each group of training seeds and load.

    Tasks are days: a run's score on a task is its mean over that day's episodes.

    Args:
        episodes: As ``EvaluationResult.episodes``.
        groups: Names of agents by group.
        best: As ``EvaluationResult.best``.

    Returns:
        Rows of ``group``, ``load``, ``members``, ``iqm`` with ``iqm_low`` and ``iqm_high`` (stratified bootstrap over
        the runs of each day: other training seeds), ``other`` (the best heuristic), ``improvement`` with its interval
        (probability that a run beats it on a day), ``mean``, ``low``, ``high`` (mean over runs minus the best
        heuristic, by blocks of days: other traffic) and ``profile`` (share of runs and days above each of
        ``THRESHOLDS``).
    """
    rows = []
    for load in dict.fromkeys(row["load"] for row in best):
        at = [row for row in episodes if row["load"] == load]
        days = np.array([row["day"] for row in at if row["policy"] == at[0]["policy"]])
        other = next(row["policy"] for row in best if row["load"] == load)
        theirs = _scores(at, other)
        for group, members in groups.items():
            runs = np.stack([_scores(at, name) for name in members])  # (runs, episodes)
            scores, others = _by_day(runs, days), _by_day(theirs[None], days)
            difference = paired_difference(runs.mean(axis=0), theirs, days)
            row: Row = {"group": group, "load": load, "members": list(members), "other": other}
            row["iqm"] = interquartile_mean(scores)
            row["improvement"] = probability_of_improvement(scores, others)
            for key, statistic in (("iqm", None), ("improvement", _against(others))):
                ends: tuple[Any, Any] = (None, None)
                if len(members) > 1:
                    ends = stratified_bootstrap(statistic, scores)
                row[f"{key}_low"], row[f"{key}_high"] = ends
            row.update(mean=difference.mean, low=difference.low, high=difference.high, verdict=difference.verdict)
            row["profile"] = performance_profile(scores, THRESHOLDS)
            rows.append(row)
    return rows


def _scores(rows: Sequence[Row], policy: str) -> Any:
    return np.array([row["score"] for row in rows if row["policy"] == policy])


def _by_day(values: Any, days: Any) -> Any:
    """Return means over the episodes of each day, (runs, days)."""
    return np.stack([values[:, days == day].mean(axis=1) for day in np.unique(days)], axis=1)


def _against(others: Any) -> Any:
    return lambda drawn: probability_of_improvement(drawn, np.broadcast_to(others, (len(drawn), *others.shape)))
