"""From episodes to statements: means with intervals, the best heuristic, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster.readings import BACKGROUND_COUNTS, CLIENT_COUNTS, FAULT_COUNTS, TRANSFER_COUNTS
from burstenv.evaluation.metrics import FAILURES, LATENCIES, LOSSES, groups, share
from burstenv.evaluation.result import Row
from burstenv.evaluation.statistics.comparisons import adjusted_p_values, pairwise, ranks
from burstenv.evaluation.statistics.intervals import (
    Estimate,
    block_bootstrap,
    paired_difference,
    paired_share,
    ratio_estimate,
)
from burstenv.evaluation.statistics.latency_sketch import Sketch

INTERVALS = ("score", "attainment", "token_weighted_attainment", "goodput_per_s")  # metrics given with intervals
MEANS = (
    "rejection_share", "preemptions_per_finished", "max_replica_share", "kv_use_mean",
)  # fmt: skip
_SOMETIMES = "jain_index", "net", "fallback_share", *BACKGROUND_COUNTS  # means of what not every policy or scenario has
COMPARED = ("score", "attainment", "token_weighted_attainment")
QUANTILE_LEVELS = [0.0, 0.005, *(k / 100 for k in range(1, 100)), 0.995, 0.999, 1.0]
_COUNTS = (
    "offered", "attained", "late", "rejected", "failed", *(f"lost_{why}" for why in LOSSES),
    *(f"failed_{why}" for why in FAILURES), *CLIENT_COUNTS, *FAULT_COUNTS, "boots", "replica_s", "gpu_s",
    *TRANSFER_COUNTS,
)  # fmt: skip
BURSTINESS_BUCKETS = ("calm", "middling", "bursty")  # terciles of the evaluated episodes
PAIRED_AT_MOST = 24  # policies in the matrix of pairs


def distribution(offered: int, sketches: Mapping[str, Sequence[Sketch]]) -> Row:
    """Return the latencies of all finished requests of a policy at a load.

    Args:
        offered: Number of offered requests.
        sketches: By name of ``LATENCIES``, one for each episode.

    Returns:
        ``offered``, ``finished``, and by latency its ``QUANTILE_LEVELS`` quantiles and its mean [s].
    """
    row: Row = {"offered": offered}
    for name in LATENCIES:
        pooled = Sketch.sum(sketches[name])
        if name == "ttft_s":
            row["finished"] = pooled.count
        row[name] = pooled.quantiles(QUANTILE_LEVELS)
        row[f"{name}_mean"] = pooled.mean
    return row


def summarise(episodes: Sequence[Row], distributions: Sequence[Row]) -> list[Row]:
    """Return one row per policy and load, in order of appearance.

    ``score``, ``attainment``, ``token_weighted_attainment`` and ``goodput_per_s`` are means over episodes with
    ``_low`` and ``_high`` (None with too few days); counts are sums; attainment by class, tenant and prompt
    bucket is pooled over episodes (attained of all offered, None without any); latencies cover all finished requests of
    all episodes; longest waits and service gaps are the greatest of any episode; the others are means over the episodes
    that define them.
    """
    summary = []
    latency = {(row["policy"], row["load"]): row for row in distributions}
    for (policy, load), rows in _grouped(episodes).items():
        days = [row["day"] for row in rows]
        out: Row = {"policy": policy, "load": load, "episodes": len(rows), "blocks": len(set(days))}
        for name in INTERVALS:
            estimate = block_bootstrap([row[name] for row in rows], days).stated()
            out.update({name: estimate.mean, f"{name}_low": estimate.low, f"{name}_high": estimate.high})
        out.update({name: sum(row[name] for row in rows) for name in _COUNTS if name in rows[0]})
        for name in (
            *MEANS,
            *(name for name in ("jain_index", "net", "fallback_share", *BACKGROUND_COUNTS) if name in rows[0]),
        ):
            values = [row[name] for row in rows if row[name] is not None]
            out[name] = float(np.mean(values)) if values else None
        if "availability" in rows[0]:  # the share of all the time that costs
            out["availability"] = share(sum(row["availability"] * row["replica_s"] for row in rows), out["replica_s"])
        out["kv_use_max"] = max(row["kv_use_max"] for row in rows)
        out.update({f"lost_{why}_share": share(out[f"lost_{why}"], out["offered"]) for why in LOSSES})
        for group in groups(rows[0]):
            offered, attained = (sum(row[f"{group}_{count}"] for row in rows) for count in ("offered", "attained"))
            out[f"{group}_offered"] = offered
            out[f"{group}_attainment"] = share(attained, offered)
        for name in (key for key in rows[0] if key.endswith("_longest_wait_s") or key == "service_gap"):
            out[name] = max((row[name] for row in rows if row[name] is not None), default=None)
        found = latency[policy, load]
        for name in LATENCIES:
            out[f"{name}_mean"] = found[f"{name}_mean"]
            for percent in (50, 90, 99):
                at = QUANTILE_LEVELS.index(percent / 100)
                out[f"{name}_p{percent}"] = found[name][at] if found[name] else None
        summary.append(out)
    return summary


def best_heuristics(summary: Sequence[Row], policies: Sequence[Row], chosen: Mapping[float, str]) -> list[Row]:
    """Return the best heuristic of each load: ``load``, ``policy``, ``candidates``, ``beforehand``.

    Args:
        summary: As ``summarise`` returns it.
        policies: As ``EvaluationResult.policies``; privileged heuristics are not candidates.
        chosen: Heuristics by load chosen beforehand, on other episodes; at other loads the best is the one with the
            highest score on these.
    """
    candidates = {p["name"] for p in policies if p["kind"] == "heuristic" and not p["privileged"]}
    best = []
    for load in dict.fromkeys(row["load"] for row in summary):
        rows = [row for row in summary if row["load"] == load and row["policy"] in candidates]
        top = chosen.get(load) or max(rows, key=lambda row: row["score"])["policy"]
        best.append({"load": load, "policy": top, "candidates": len(rows), "beforehand": load in chosen})
    return best


def compare(episodes: Sequence[Row], reference: str, best: Sequence[Row]) -> list[Row]:
    """Return the paired per-episode differences of every policy against the reference and the best heuristic.

    Rows hold ``policy``, ``load``, ``against`` (``reference`` or ``best``), ``other`` (that policy's name),
    ``metric``, the ``Estimate`` of the difference (``mean``, ``low``, ``high`` ...), its ``verdict``, the numbers of
    ``better``, ``equal`` and ``worse`` episodes, and ``p_adjusted``, corrected for the number of policies compared at
    that load (``comparisons.adjusted_p_values``).
    """
    found: dict[tuple[str, float], list[Row]] = {}
    by_policy = _by_policy(episodes)
    for load, top in ((row["load"], row["policy"]) for row in best):
        names = [policy for policy, at in by_policy if at == load]
        days = [row["day"] for row in by_policy[names[0], load]]
        for against, other in (("reference", reference), ("best", top)):
            for metric in COMPARED:
                values = np.array([[row[metric] for row in by_policy[name, load]] for name in names])
                differences = values - values[names.index(other)]
                adjusted = adjusted_p_values(differences, days)
                for name, difference, p in zip(names, differences, adjusted, strict=True):
                    estimate = paired_difference(difference, np.zeros_like(difference), days)
                    row = {"policy": name, "load": load, "against": against, "other": other, "metric": metric}
                    row.update(estimate.to_dict())
                    row.update(
                        verdict=estimate.verdict,
                        better=int((difference > 0).sum()),
                        equal=int((difference == 0).sum()),
                        worse=int((difference < 0).sum()),
                        p_adjusted=p,
                    )
                    found.setdefault((name, load), []).append(row)
    return [row for key in by_policy for row in found[key]]


def compare_groups(episodes: Sequence[Row], best: Sequence[Row]) -> list[Row]:
    """Return the comparison of every policy with the best heuristic within each group of requests or episodes.

    Groups are the classes, tenants, models and prompt lengths of ``metrics.groups``, pooled over episodes, and the
    terciles of the episodes' burstiness at each load (``BURSTINESS_BUCKETS``).

    Returns:
        Rows of ``policy``, ``load``, ``other``, ``group``, ``offered`` requests, ``attainment`` with ``low`` and
        ``high``, and ``difference`` with ``difference_low``, ``difference_high`` and ``verdict``; for burstiness also
        ``from`` and ``to``, the bucket's least and greatest index of dispersion.
    """
    by_policy = _by_policy(episodes)
    best_at = {row["load"]: row["policy"] for row in best}
    rows = []
    for (policy, load), mine in by_policy.items():
        theirs = by_policy[best_at[load], load]
        for group in groups(mine[0]):
            pairs = [
                (a["day"], a[f"{group}_attained"], b[f"{group}_attained"], a[f"{group}_offered"])
                for a, b in zip(mine, theirs, strict=True)
            ]
            rows.append({"policy": policy, "load": load, "other": best_at[load], "group": group, **_group_row(pairs)})
        order = sorted(range(len(mine)), key=lambda k: (mine[k]["burstiness"], mine[k]["seed"]))
        for name, some in zip(BURSTINESS_BUCKETS, np.array_split(np.array(order), 3), strict=True):
            pairs = [(mine[k]["day"], mine[k]["attained"], theirs[k]["attained"], mine[k]["offered"]) for k in some]
            edges = [mine[k]["burstiness"] for k in some]
            row = {"policy": policy, "load": load, "other": best_at[load], "group": name, **_group_row(pairs)}
            row.update({"from": min(edges, default=None), "to": max(edges, default=None)})
            rows.append(row)
    return rows


def _group_row(pairs: Sequence[tuple[int, int, int, int]]) -> Row:
    """Return attainment and difference of (day, attained, other's attained, offered) episodes."""
    offered = sum(pair[3] for pair in pairs)
    row: Row = {"offered": offered}
    if not offered:
        return {**row, **dict.fromkeys(("attainment", "low", "high")), **_difference_row(None)}
    days, mine, theirs, whole = (np.array(column) for column in zip(*pairs, strict=True))
    own = ratio_estimate(mine, whole, days).stated()
    row.update(attainment=own.mean, low=own.low, high=own.high)
    return {**row, **_difference_row(paired_share(mine - theirs, whole, days))}


def _difference_row(estimate: Estimate | None) -> Row:
    if estimate is None:
        return dict.fromkeys(("difference", "difference_low", "difference_high", "verdict"))
    return {
        "difference": estimate.mean,
        "difference_low": estimate.low,
        "difference_high": estimate.high,
        "verdict": estimate.verdict,
    }


def rank(episodes: Sequence[Row], policies: Sequence[Row], always: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """Return the ranks of the policies at each load, and the matrix of pairs.

    Policies that see true output lengths take no rank. At most ``PAIRED_AT_MOST`` policies are paired: the best ones,
    those named in ``always``, and agents.

    Returns:
        Rows of ``load``, ``policy``, ``score``, ``rank`` and ``rank_to`` (its worst possible rank: policies whose
        paired interval contains 0 share it); and for each load ``policies``, ``mean``, ``low`` and ``high``, K x K
        lists of the row's score minus the column's, None without intervals.
    """
    by_policy = _by_policy(episodes)
    privileged = {row["name"] for row in policies if row["privileged"]}
    agents = {row["name"] for row in policies if row["kind"] == "agent"}
    ranked: list[Row] = []
    matrices: list[Row] = []
    for load in dict.fromkeys(at for _, at in by_policy):
        names = [policy for policy, at in by_policy if at == load and policy not in privileged]
        values = np.array([[row["score"] for row in by_policy[name, load]] for name in names])
        order = np.argsort(-values.mean(axis=1), kind="stable")
        names, values = [names[k] for k in order], values[order]
        days = [row["day"] for row in by_policy[names[0], load]]
        pairs = pairwise(values, days)
        for name, mean, (low, high) in zip(names, values.mean(axis=1).tolist(), ranks(pairs), strict=True):
            ranked.append({"load": load, "policy": name, "score": mean, "rank": low, "rank_to": high})
        first = [k for k, name in enumerate(names) if name in agents or name in always]
        kept = sorted(sorted({*first, *range(len(names))}, key=lambda k: (k not in first, k))[:PAIRED_AT_MOST])
        grid = np.ix_(kept, kept)
        matrices.append(
            {
                "load": load,
                "policies": [names[k] for k in kept],
                **{key: _plain(getattr(pairs, key)[grid]) for key in ("mean", "low", "high")},
            }
        )
    return ranked, matrices


def _plain(matrix: NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(value) else float(value) for value in row] for row in matrix]


def _by_policy(episodes: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    """Return the rows of each policy and load in the order of their seeds."""
    return {key: sorted(rows, key=lambda row: int(row["seed"])) for key, rows in _grouped(episodes).items()}


def _grouped(episodes: Sequence[Row]) -> dict[tuple[str, float], list[Row]]:
    found: dict[tuple[str, float], list[Row]] = {}
    for row in episodes:
        found.setdefault((row["policy"], row["load"]), []).append(row)
    return found
