"""How evenly tenants and classes are served: waits, service gap, Jain index.

Service is VTC's (Sheng et al., OSDI'24): one for each prompt token, as a request is first scheduled, and two for each
output token; here divided by the tenant's weight. Outputs are taken to come evenly between first token and finish.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burstenv.cluster.flow_config import OUTPUT_PRICE
from burstenv.engine.enums import ATTAINED
from burstenv.engine.records import REQUEST

INSTANTS = 4_000  # at most, at which service is compared
COMPARED = 40  # tenants with the most requests, whose service is compared
Numbers = NDArray[np.float64]


def longest_waits_s(records: NDArray[np.void], code: NDArray[np.integer], count: int) -> list[float | None]:
    """Return the longest wait of each of ``count`` groups [s]; None of one without requests.

    A request waits from its arrival until it is first scheduled or, if it never is, until it is settled.

    Args:
        records: (n,) REQUEST.
        code: (n,) the group of each.
        count: Number of groups.
    """
    waited_s = _end_of_wait_s(records) - records["arrival_s"]
    longest = np.full(count, -np.inf)
    np.maximum.at(longest, code, waited_s)
    return [float(wait) if wait >= 0.0 else None for wait in longest.tolist()]


def _end_of_wait_s(records: NDArray[np.void]) -> Numbers:
    scheduled_s = records["first_scheduled_s"]
    return np.where(np.isnan(scheduled_s), records["finish_s"], scheduled_s)


def by_priority(records: NDArray[np.void]) -> list[dict[str, float | int | None]]:
    """Return how the requests of each priority fared, the most urgent first; none if all have one.

    Rows hold ``priority``, ``offered``, ``attainment``, ``longest_wait_s``, ``ttft_s_p50`` and ``ttft_s_p99``.
    """
    priorities, code = np.unique(records["priority"], return_inverse=True)
    if len(priorities) < 2:
        return []
    ttft_s = records["first_token_s"] - records["arrival_s"]
    rows: list[dict[str, float | int | None]] = []
    for k, wait_s in enumerate(longest_waits_s(records, code, len(priorities))):
        own = ttft_s[(code == k) & ~np.isnan(ttft_s)]
        p50, p99 = np.percentile(own, (50, 99)).tolist() if len(own) else (None, None)
        offered = int(np.count_nonzero(code == k))
        attained = int(np.count_nonzero(records["status"][code == k] == ATTAINED))
        rows.append(
            {
                "priority": int(priorities[k]), "offered": offered, "attainment": attained / offered,
                "longest_wait_s": wait_s, "ttft_s_p50": p50, "ttft_s_p99": p99,
            }
        )  # fmt: skip
    return rows


def jain_index(shares: Sequence[float]) -> float | None:
    """Return Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 if all are equal, 1 / n if one has all.

    None without any, or if all are 0. Source: Jain, Chiu and Hawe, DEC-TR-301, 1984.
    """
    x = np.asarray(shares, np.float64)
    squares = float((x * x).sum())
    return float(x.sum()) ** 2 / (len(x) * squares) if squares > 0.0 else None


def service_gap(records: NDArray[np.void], tenant: NDArray[np.integer], weights: Numbers) -> float | None:
    """Return the greatest service gap [tokens of service]: how far one tenant got ahead of another.

    Over every stretch of time in which two tenants both had requests waiting, the difference of the service that they
    received; the greatest of all pairs and stretches, as VTC bounds it. None if no two tenants ever waited at once.
    Service is divided by weight. Of more than ``COMPARED`` tenants those with the most requests are compared, at
    ``INSTANTS`` instants at most: the gap may be too small then.

    Args:
        records: (n,) REQUEST, all of them settled.
        tenant: (n,) number of each request's tenant.
        weights: (T,) of the tenants.
    """
    if not len(records):
        return None
    assert records.dtype == REQUEST
    requests = np.bincount(tenant, minlength=len(weights))
    compared = [k for k in np.argsort(-requests, kind="stable")[:COMPARED].tolist() if requests[k]]
    instants_s = np.unique(np.concatenate([records["arrival_s"], _end_of_wait_s(records)]))
    if len(instants_s) > INSTANTS:
        instants_s = instants_s[np.linspace(0, len(instants_s) - 1, INSTANTS).astype(np.int64)]
    served, waits = [], []
    for k in compared:
        own = records[tenant == k]
        served.append(_service(own, instants_s) / weights[k])
        waits.append(_waiting(own, instants_s))
    gaps = [_greatest_range(served[i] - served[j], waits[i] & waits[j]) for i in range(len(compared)) for j in range(i)]
    known = [gap for gap in gaps if gap is not None]
    return max(known) if known else None


def _service(records: NDArray[np.void], instants_s: Numbers) -> Numbers:
    """Return the service that requests have received at some instants."""
    answered = ~np.isnan(records["first_token_s"])
    scheduled = ~np.isnan(records["first_scheduled_s"])
    service = _steps(records["first_scheduled_s"][scheduled], records["prompt_tokens"][scheduled], instants_s)
    some = records[answered]
    first_s, last_s, produced = some["first_token_s"], some["finish_s"], some["produced_tokens"]
    span_s = np.maximum(last_s - first_s, 1e-9)
    slope = OUTPUT_PRICE * np.maximum(produced - 1, 0) / span_s
    service += OUTPUT_PRICE * _steps(first_s, np.minimum(produced, 1), instants_s)
    for at_s, sign in ((first_s, 1.0), (first_s + span_s, -1.0)):
        service += sign * (instants_s * _steps(at_s, slope, instants_s) - _steps(at_s, slope * at_s, instants_s))
    return service


def _steps(at_s: Numbers, height: NDArray[np.number], instants_s: Numbers) -> Numbers:
    """Return the sum, at some instants, of the heights of all steps up to then."""
    order = np.argsort(at_s, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(height[order].astype(np.float64))])
    return sums[np.searchsorted(at_s[order], instants_s, side="right")]


def _waiting(records: NDArray[np.void], instants_s: Numbers) -> NDArray[np.bool_]:
    """Return whether any of the requests waits just after some instants."""
    came = np.searchsorted(np.sort(records["arrival_s"]), instants_s, side="right")
    went = np.searchsorted(np.sort(_end_of_wait_s(records)), instants_s, side="right")
    return came > went


def _greatest_range(difference: Numbers, both: NDArray[np.bool_]) -> float | None:
    """Return the greatest range of a difference over the stretches in which both wait, ends included; None: none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], both, [False]]).astype(np.int8)))
    greatest = None
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        part = difference[first : end + 1]
        spread = float(part.max() - part.min())
        greatest = spread if greatest is None else max(greatest, spread)
    return greatest
