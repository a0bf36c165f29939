"""An episode by second: arrivals, attained and lost requests, and requests in the system."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import array, checked, number
from burstenv.engine.enums import ATTAINED, LATE
from burstenv.engine.records import REQUEST
from burstenv.evaluation.result import Row

BINS = 100  # at most this many points


@checked(records=array(REQUEST, dimensions=1), duration_s=number(least=0.0))
def course(records: NDArray[Any], duration_s: float) -> Row:
    """Return an episode as counts over time.

    Args:
        records: (n,) REQUEST, all settled.
        duration_s: Length of the arrivals' window [s].

    Returns:
        ``bin_s``, and one number for each bin of arrivals: ``attained``, ``late`` and ``lost`` (rejected or failed)
        requests that arrived in it, and ``in_system``, the number of finishing requests waiting or running at its end.
    """
    bin_s = max(1.0, float(np.ceil(duration_s / BINS)))
    bins = max(1, int(np.ceil(duration_s / bin_s)))
    place = np.clip((records["arrival_s"] / bin_s).astype(np.int64), 0, bins - 1)
    status = records["status"]
    finished = (status == ATTAINED) | (status == LATE)

    def count(mask: NDArray[np.bool_]) -> list[int]:
        return [int(v) for v in np.bincount(place[mask], minlength=bins)]

    ends = (np.arange(bins) + 1) * bin_s
    came = np.searchsorted(np.sort(records["arrival_s"][finished]), ends, side="right")
    went = np.searchsorted(np.sort(records["finish_s"][finished]), ends, side="right")
    return {
        "bin_s": bin_s,
        "attained": count(status == ATTAINED),
        "late": count(status == LATE),
        "lost": count(~finished),
        "in_system": [int(v) for v in came - went],
    }
