"""What look-ahead works with: the cluster that it looks at, its copies, and the courses of decisions that it tries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

FUTURE = 0  # cluster of the scratch state: the true future, or the first that is imagined; the last one is for trials
SUM, SQUARES = 0, 1  # rows of the moments

LOOKAHEAD = np.dtype(
    [
        ("horizon_s", "f8"),  # arrivals until then are played, and everything they bring to an end
        ("margin", "f8"),  # what a choice must be better by than the base's own [reward]
        ("margin_errors", "f8"),  # the same in standard errors of the difference
        ("futures", "i8"),
        ("replicas", "i8"),  # most replicas that are tried out
        ("history_s", "f8"),  # of the arrivals that futures are made of
        ("patience_kind", "i8"),  # how clients wait: see futures.PATIENCE_KINDS
        ("patience_s", "f8"),
        ("patience_multiple", "f8"),  # of the TTFT objective, in place of the seconds
        ("patience_sigma", "f8"),
        ("reward", "f8", (4,)),  # worth of an attained request, of its weight, of its kilotokens, of its class value
    ],
    align=True,
)


class Bench(NamedTuple):
    """What a trial needs.

    Attributes:
        scratch: Copies of the futures, and of one cluster for trials, with room for as many requests as a future has.
        trial: (E,) int32, the decisions of the last trial by request, written.
        reward: (4,) float64, see REWARD of ``steps.py``.
    """

    scratch: Any
    trial: Any
    reward: Any


class Search(NamedTuple):
    """What a search needs; a Bench too.

    Attributes:
        source: Copies of the clusters that are looked at.
        i: Which of them; a decision epoch, or the beginning of an episode.
        scratch: As of Bench, with room for ``MOST_ARRIVALS`` more.
        readings: Copies of three clusters, for what was read of cluster ``i``; with fresh metrics it is not used.
        notes: NOTES, about the readings; written.
        policies: (P,) POLICY; the first is the base.
        lengths: LengthTables.
        settings: LOOKAHEAD; without futures the true one is looked at.
        plan: (E,) int32, decisions by request, ``UNPLANNED`` for none; written: by the clairvoyant those to come, by
            the causal one those that were taken.
        trial: As of Bench.
        nothing: (E,) int32, all ``UNPLANNED``.
        reward: As of Bench.
        values: (1 + R,) float64, what each choice is worth in the last decision, NaN where it was not tried; written.
        shortlist: (R,) int8, written.
        moments: (2, 1 + R) float64, written.
        ends: (F,) int64, number behind the last request of each imagined future, written.
        owns: (F,) float64, what the base's own choice earns in each, written.
    """

    source: Any
    i: Any
    scratch: Any
    readings: Any
    notes: Any
    policies: Any
    lengths: Any
    settings: Any
    plan: Any
    trial: Any
    nothing: Any
    reward: Any
    values: Any
    shortlist: Any
    moments: Any
    ends: Any
    owns: Any
