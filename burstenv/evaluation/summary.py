"""From episodes to statements: means with intervals, the best heuristic, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.evaluation.metrics import LATENCIES, groups, latencies_s, share
from burstenv.evaluation.result import Row
from burstenv.evaluation.statistics import block_bootstrap, paired_difference

INTERVALS = ("attainment", "token_weighted_attainment", "goodput_per_s")  # metrics given with intervals
MEANS = (
    "rejection_share", "preemptions_per_finished", "max_replica_share", "kv_use_mean",
)  # fmt: skip
COMPARED = ("attainment", "token_weighted_attainment")
QUANTILE_LEVELS = [0.0, 0.005, *(k / 100 for k in range(1, 100)), 0.995, 0.999, 1.0]
_COUNTS = ("offered", "attained", "late", "rejected", "failed")


class LatencyPool:
    """Latencies of all finished requests of a policy at a load, to be reduced to quantiles."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[np.float64]]] = {name: [] for name in LATENCIES}
        self._offered = 0

    def add(self, records: NDArray[Any]) -> None:
        """Add the records of an episode, (n,) REQUEST."""
        self._offered += len(records)
        for name, values in latencies_s(records).items():
            self._parts[name].append(values)

    def distribution(self) -> Row:
        """Return ``offered``, ``finished``, and by latency its ``QUANTILE_LEVELS`` quantiles and mean [s]."""
        row: Row = {"offered": self._offered}
        for name, parts in self._parts.items():
            values = np.concatenate(parts) if parts else np.empty(0)
            if name == "ttft_s":
                row["finished"] = len(values)
            row[name] = np.quantile(values, QUANTILE_LEVELS).tolist() if len(values) else []
            row[f"{name}_mean"] = float(values.mean()) if len(values) else None
        return row


def summarise(episodes: Sequence[Row], distributions: Sequence[Row]) -> list[Row]:
    """Return one row per policy and load, in order of appearance.

    ``attainment``, ``token_weighted_attainment`` and ``goodput_per_s`` are means over episodes with
    ``_low`` and ``_high`` (None with one block of days); counts are sums; attainment by class and prompt
    bucket is pooled over episodes (attained of all offered, None without any); latencies are over all
    finished requests of all episodes; the rest are means over the episodes in which they are defined.
    """
    summary = []
    latency = {(row["policy"], row["load"]): row for row in distributions}
    for (policy, load), rows in _grouped(episodes).items():
        days = [row["day"] for row in rows]
        out: Row = {"policy": policy, "load": load, "episodes": len(rows), "blocks": len(set(days))}
        for name in INTERVALS:
            estimate = block_bootstrap([row[name] for row in rows], days)
            out.update({name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high})
        out.update({name: sum(row[name] for row in rows) for name in _COUNTS})
        for name in MEANS:
            values = [row[name] for row in rows if row[name] is not None]
            out[name] = float(np.mean(values)) if values else None
        out["kv_use_max"] = max(row["kv_use_max"] for row in rows)
        for group in groups():
            offered, attained = (sum(row[f"{group}_{count}"] for row in rows) for count in ("offered", "attained"))
            out[f"{group}_offered"] = offered
            out[f"{group}_attainment"] = share(attained, offered)
        found = latency[policy, load]
        for name in LATENCIES:
            out[f"{name}_mean"] = found[f"{name}_mean"]
            for percent in (50, 90, 99):
                at = QUANTILE_LEVELS.index(percent / 100)
                out[f"{name}_p{percent}"] = found[name][at] if found[name] else None
        summary.append(out)
    return summary


def best_heuristics(summary: Sequence[Row], policies: Sequence[Row], chosen: str | None) -> list[Row]:
    """Return the best heuristic of each load: ``load``, ``policy``, ``candidates``, ``beforehand``.

    Args:
        summary: As ``summarise`` returns it.
        policies: As ``EvaluationResult.policies``; privileged heuristics are no candidates.
        chosen: A heuristic chosen beforehand, on other episodes; None: the highest attainment on these.
    """
    candidates = {p["name"] for p in policies if p["kind"] == "heuristic" and not p["privileged"]}
    best = []
    for load in dict.fromkeys(row["load"] for row in summary):
        rows = [row for row in summary if row["load"] == load and row["policy"] in candidates]
        top = chosen or max(rows, key=lambda row: row["attainment"])["policy"]
        best.append({"load": load, "policy": top, "candidates": len(rows), "beforehand": chosen is not None})
    return best


def compare(episodes: Sequence[Row], reference: str, best: Sequence[Row]) -> list[Row]:
    """Return the paired per-episode differences of every policy against the reference and the best heuristic.

    Rows hold ``policy``, ``load``, ``against`` (``reference`` or ``best``), ``other`` (that policy's name),
    ``metric``, the ``Estimate`` of the difference (``mean``, ``low``, ``high`` ...), its ``verdict``, and how
    many episodes were better, equal and worse.
    """
    differences = []
    by_policy = {key: {row["seed"]: row for row in rows} for key, rows in _grouped(episodes).items()}
    best_at = {row["load"]: row["policy"] for row in best}
    for (policy, load), mine in by_policy.items():
        for against, other in (("reference", reference), ("best", best_at[load])):
            theirs = by_policy[other, load]
            seeds = sorted(mine)
            days = [mine[seed]["day"] for seed in seeds]
            for metric in COMPARED:
                a = np.array([mine[seed][metric] for seed in seeds])
                b = np.array([theirs[seed][metric] for seed in seeds])
                estimate = paired_difference(a, b, days)
                row = {"policy": policy, "load": load, "against": against, "other": other, "metric": metric}
                row.update(estimate.to_dict())
                row.update(
                    verdict=estimate.verdict,
                    better=int((a > b).sum()),
                    equal=int((a == b).sum()),
                    worse=int((a < b).sum()),
                )
                differences.append(row)
    return differences


def _grouped(episodes: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    found: dict[tuple[str, float], list[Row]] = {}
    for row in episodes:
        found.setdefault((row["policy"], row["load"]), []).append(row)
    return found
