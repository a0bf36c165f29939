"""The data of look-ahead: the cluster, its copies, and the sequences of decisions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.decorators import merged

FUTURE = 0  # cluster of the scratch state: the true future, or the first sampled one; the last cluster is for trials
SUM, SQUARES = 0, 1  # rows of the moments
UNKNOWN, SERVED, REJECTION, MISSED = 0, 1, 2, 3  # fates: not simulated, attained, rejected, lost in another way

LOOKAHEAD = np.dtype(
    [
        ("horizon_s", "f8"),  # simulated time of arrivals; these requests run to their end
        ("margin", "f8"),  # least gain of a choice over the base's own [reward]
        ("margin_errors", "f8"),  # the same in standard errors of the difference
        ("futures", "i8"),
        ("replicas", "i8"),  # greatest number of simulated replicas
        ("history_s", "f8"),  # length of the past that futures sample arrivals from
        ("patience_kind", "i8"),  # the clients' patience: see futures.PATIENCE_KINDS
        ("patience_s", "f8"),
        ("patience_multiple", "f8"),  # of the TTFT objective, in place of the seconds
        ("patience_sigma", "f8"),
        ("reward", "f8", (3,)),  # of an attained request: its worth, 1, its kilotokens; see REWARD of steps.py
    ],
    align=True,
)


class Bench(NamedTuple):
    """The data of a trial.

    Attributes:
        scratch: Copies of the futures, and of one cluster for trials, with room for the requests of a future.
        trial: (E,) int32, the decisions of the last trial by request, written.
        reward: (3,) float64, see REWARD of ``steps.py``.
    """

    scratch: Any
    trial: Any
    reward: Any


class Search(NamedTuple):
    """The data of a search; also a Bench. Python passes it to entries, which begin with :func:`opened`.

    Attributes:
        source: Copies of the clusters to decide in.
        i: Index of the cluster, at a decision epoch or at the beginning of an episode.
        scratch: As of Bench, with room for ``MOST_ARRIVALS`` more.
        readings: Copies of three clusters, the readings of cluster ``i``; unused with fresh metrics.
        notes: NOTES, about the readings; written.
        policies: (P,) POLICY; the first is the base.
        lengths: LengthTables.
        settings: LOOKAHEAD; without futures the true one is simulated.
        plan: (E,) int32, decisions by request, ``UNPLANNED`` for none; written: the oracle's future decisions, or the
            causal one's past decisions.
        fates: (E,) int8, ends of the requests by the plan, written by the oracle: ``UNKNOWN`` to ``MISSED``.
        covered: (1,) float64, time up to which arrivals were simulated under the plan [s], written.
        trial: As of Bench.
        nothing: (E,) int32, all ``UNPLANNED``.
        reward: As of Bench.
        values: (1 + R,) float64, worth of each choice in the last decision, NaN without a trial; written.
        shortlist: (R,) int8, written.
        moments: (2, 1 + R) float64, written.
        ends: (F,) int64, number after the last request of each sampled future, written.
        owns: (F,) float64, worth of the base's own choice in each, written.
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
    fates: Any
    covered: Any
    trial: Any
    nothing: Any
    reward: Any
    values: Any
    shortlist: Any
    moments: Any
    ends: Any
    owns: Any


@merged  # compiled functions cannot return records
def opened(given):
    """Return a search whose data came from Python, where one record is an array of one: (1,) notes and settings.

    Its values are those of all clusters, (N, 1 + R), and its reward that of the settings.
    """
    return Search(
        given.source, given.i, given.scratch, given.readings, given.notes[0], given.policies, given.lengths,
        given.settings[0], given.plan, given.fates, given.covered, given.trial, given.nothing, given.settings[0].reward,
        given.values[given.i], given.shortlist, given.moments, given.ends, given.owns,
    )  # fmt: skip
