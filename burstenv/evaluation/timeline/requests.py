"""Single requests in a timeline: latencies over time, bars on each replica, and the drain; all from the records.

After the last arrival, few decisions remain at which state could be read, but the replicas may work for minutes. There,
waiting requests and KV use are estimated from the records.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np

from burstenv.engine.enums import ATTAINED, LATE, LENGTH_CAPPED

MAX_BARS = 6000  # with more requests, only every k-th has a bar
DRAIN_INSTANTS = 150
PER_BIN = 40  # finished requests of a bin of latencies, about
MAX_COURSE_BINS = 500


def answered(records: np.ndarray) -> np.ndarray:
    """Return a mask of the requests that were answered to an end, (n,) bool."""
    return np.isin(records["status"], (ATTAINED, LATE, LENGTH_CAPPED))


def course(records: np.ndarray) -> dict[str, list[list[float]]]:
    """Return TTFT and TPOT as shares of their objectives, over the time of arrival.

    Returns:
        For ``ttft`` and ``tpot``: the centres of the bins with finished requests [s], and for each bin the median and
        the 90th percentile of latency / objective.
    """
    held = records[answered(records)]
    found: dict[str, list[list[float]]] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        gaps = held["target_tokens"] - 1
        ratios = {
            "ttft": (held["first_token_s"] - held["arrival_s"]) / held["ttft_slo_s"],
            "tpot": np.where(gaps > 0, (held["finish_s"] - held["first_token_s"]) / gaps, np.nan) / held["tpot_slo_s"],
        }
    for name, ratio in ratios.items():
        there = np.isfinite(ratio)
        at_s, ratio = held["arrival_s"][there], ratio[there]
        if len(at_s) == 0:
            found[name] = [[], [], []]
            continue
        bins = int(np.clip(len(at_s) // PER_BIN, 1, MAX_COURSE_BINS))
        edges_s = np.linspace(at_s.min(), at_s.max() + 1e-9, bins + 1)
        order = np.argsort(at_s, kind="stable")
        parts = np.split(ratio[order], np.searchsorted(at_s[order], edges_s[1:-1]))
        rows = [
            [0.5 * (edges_s[k] + edges_s[k + 1]), *np.quantile(part, (0.5, 0.9))]
            for k, part in enumerate(parts)
            if len(part)
        ]
        found[name] = np.array(rows).T.tolist()
    return found


def bars(records: np.ndarray, replicas: int) -> dict[str, Any]:
    """Return the bars of the requests on each replica.

    Returns:
        ``every``: each ``every``-th request has a bar. For each bar: its request's ``id``, ``replica``, ``lane`` (the
        bars of a lane do not overlap), ``arrival``, ``scheduled``, ``first`` (token) and ``finish`` [s], ``late``,
        ``prompt`` and ``output`` tokens; and ``lanes`` of each replica.
    """
    ids = np.flatnonzero(answered(records))
    every = max(1, -(-len(ids) // MAX_BARS))
    ids = ids[::every]
    ids = ids[np.argsort(records["arrival_s"][ids], kind="stable")]
    held = records[ids]
    lane = np.zeros(len(ids), np.int64)
    busy: list[list[tuple[float, int]]] = [[] for _ in range(replicas)]  # when each lane is free again
    lanes = [0] * replicas
    for k, (r, arrival_s, finish_s) in enumerate(
        zip(held["replica"].tolist(), held["arrival_s"].tolist(), held["finish_s"].tolist(), strict=True)
    ):
        if busy[r] and busy[r][0][0] <= arrival_s:
            _, lane[k] = heapq.heapreplace(busy[r], (finish_s, busy[r][0][1]))
        else:
            lane[k] = lanes[r]
            heapq.heappush(busy[r], (finish_s, lanes[r]))
            lanes[r] += 1
    return {
        "every": every,
        "lanes": lanes,
        "id": ids,
        "replica": held["replica"],
        "lane": lane,
        "arrival": held["arrival_s"],
        "scheduled": held["first_scheduled_s"],
        "first": held["first_token_s"],
        "finish": held["finish_s"],
        "late": (held["status"] != ATTAINED).astype(np.int64),
        "prompt": held["prompt_tokens"],
        "output": held["target_tokens"],
    }


def drain(
    records: np.ndarray, since_s: float, until_s: float, num_blocks: np.ndarray, block_size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the state of the replicas between the last arrival and the end from the records.

    A request waits until it is first scheduled. From then on it holds its prompt and its generated tokens, which grow
    evenly from the first to the last token. Preempted requests count as running.

    Args:
        records: (n,) REQUEST.
        since_s: The last arrival.
        until_s: The end.
        num_blocks: Of each replica, (R,).
        block_size: Tokens of a KV block.

    Returns:
        Instants (T,) [s], waiting requests (T, R), and the used share of the KV blocks (T, R).
    """
    held = records[answered(records) & (records["finish_s"] > since_s)]
    at_s = np.linspace(since_s, until_s, DRAIN_INSTANTS + 2)[1:-1]
    waiting = np.zeros((len(at_s), len(num_blocks)), np.int64)
    used = np.zeros((len(at_s), len(num_blocks)))
    length_s = np.maximum(held["finish_s"] - held["first_token_s"], 1e-9)
    for k, now_s in enumerate(at_s):
        there = (held["arrival_s"] <= now_s) & (held["finish_s"] > now_s)
        running = there & (held["first_scheduled_s"] <= now_s)
        waiting[k] = np.bincount(held["replica"][there & ~running], minlength=len(num_blocks))
        grown = np.clip((now_s - held["first_token_s"][running]) / length_s[running], 0.0, 1.0)
        tokens = held["prompt_tokens"][running] + grown * held["target_tokens"][running]
        blocks = np.ceil(tokens / block_size)
        used[k] = np.bincount(held["replica"][running], weights=blocks, minlength=len(num_blocks))
    return at_s, waiting, np.minimum(1.0, used / num_blocks)
