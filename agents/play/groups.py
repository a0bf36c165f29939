"""Prompt lengths that an agent sacrifices: how far each group of requests is behind the baseline's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burstenv.engine.enums import ATTAINED
from burstenv.evaluation.metrics import PROMPT_BUCKETS, group_title, prompt_bucket

ROOM = 0.01  # share of a group's requests by which it may be behind at no price


class GroupCounts(NamedTuple):
    """Attained and offered requests by prompt bucket, (..., B) each."""

    attained: NDArray[np.int64]
    offered: NDArray[np.int64]

    @classmethod
    def of(cls, records: NDArray[np.void]) -> GroupCounts:
        """Count the records of an episode, (n,) REQUEST."""
        bucket = prompt_bucket(records["prompt_tokens"])
        met = bucket[records["status"] == ATTAINED]
        return cls(*(np.bincount(codes, minlength=len(PROMPT_BUCKETS)) for codes in (met, bucket)))

    @classmethod
    def stacked(cls, counts: Sequence[GroupCounts]) -> GroupCounts:
        """Return counts of many episodes, (E, B)."""
        return cls(np.array([one.attained for one in counts]), np.array([one.offered for one in counts]))

    def summed(self, axis: int) -> GroupCounts:
        """Return the counts of all episodes along an axis together."""
        return GroupCounts(self.attained.sum(axis), self.offered.sum(axis))

    def ahead_of(self, other: GroupCounts) -> NDArray[np.float64]:
        """Return the difference of the attained shares, (..., B); 0 for a group without requests."""
        return (self.attained - other.attained) / np.maximum(other.offered, 1)


def sacrifice(ahead: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return by how much groups are behind beyond ``ROOM``, summed over the groups, (...), of (..., B)."""
    return np.maximum(0.0, -ahead - ROOM).sum(-1)


def worst(ahead: NDArray[np.float64]) -> tuple[str, float]:
    """Return the prompt lengths that are farthest behind, and their difference [points], of (B,)."""
    least = int(np.argmin(ahead))
    return group_title(f"prompt_{PROMPT_BUCKETS[least]}"), 100.0 * float(ahead[least])
