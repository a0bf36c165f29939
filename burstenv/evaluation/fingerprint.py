"""Fingerprints of drawn data that agree on any machine.

Mathematics libraries differ in the last bit of a time, so a digest of bytes differs between machines although the
requests are the same. Here times count by their cell, and no time is near the edge of a cell: times are taken modulo
the cell width, and the edge is put into the middle of the largest gap. The width is a microsecond per time, so the
largest gap is several microseconds, a thousand times the error of last bits. A time that moves by more than about ten
microseconds changes the digest, and so does any changed whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from burstenv.config import Config
from burstenv.workload import Trace

Columns = tuple[list[NDArray[Any]], list[NDArray[Any]]]  # times [s] and whole numbers, (n,) each

_WIDTH_S = 1e-6  # of a cell, for each time
_FEWEST = 10  # most times used for the width of a cell
_DECIMALS = 9  # of the shift in files
_NEVER = np.int64(-1)  # the cell of an infinite time
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Fingerprint(Config):
    """The fingerprint of some rows of times and whole numbers.

    Attributes:
        requests: Number of rows.
        shift_s: Offset of the edges of the cells [s].
        digest: 16 hexadecimal digits over all rows; independent of their order, because rows that arrive together may
            change places.
    """

    requests: Annotated[int, Field(ge=0)]
    shift_s: float
    digest: str

    @classmethod
    def of(cls, times_s: Sequence[NDArray[Any]], numbers: Sequence[NDArray[Any]]) -> Fingerprint:
        """Return the fingerprint of rows.

        Args:
            times_s: Columns of times [s], (n,) each; infinite for events that never come.
            numbers: Columns of whole numbers, (n,) each.
        """
        shift_s = _quiet_shift_s(times_s)
        return cls(requests=len(times_s[0]), shift_s=shift_s, digest=_digest(times_s, numbers, shift_s))

    def fits(self, times_s: Sequence[NDArray[Any]], numbers: Sequence[NDArray[Any]]) -> bool:
        """Return whether the rows have this fingerprint, apart from the last bits of times."""
        return len(times_s[0]) == self.requests and _digest(times_s, numbers, self.shift_s) == self.digest


def trace_columns(trace: Trace) -> Columns:
    """Return the columns of a trace that determine episodes: times and whole numbers."""
    return [trace.arrival_s], [trace.prompt_tokens, trace.output_tokens, trace.log_type, trace.session]


def _cell_s(times_s: Sequence[NDArray[Any]]) -> float:
    return _WIDTH_S * max(_FEWEST, sum(len(column) for column in times_s))


def _quiet_shift_s(times_s: Sequence[NDArray[Any]]) -> float:
    """Return the instant within a cell with the largest distance to all times."""
    cell_s = _cell_s(times_s)
    times = np.concatenate([np.asarray(column, np.float64) for column in times_s])
    wound = np.unique(np.mod(times[np.isfinite(times)], cell_s))
    if not len(wound):
        return 0.0
    gaps = np.diff(wound, append=wound[0] + cell_s)
    widest = int(np.argmax(gaps))
    return round(float((wound[widest] + 0.5 * gaps[widest]) % cell_s), _DECIMALS)


def _digest(times_s: Sequence[NDArray[Any]], numbers: Sequence[NDArray[Any]], shift_s: float) -> str:
    cell_s = _cell_s(times_s)
    columns = []
    for column in times_s:
        times = np.asarray(column, np.float64)
        comes = np.isfinite(times)
        cells = np.floor((np.where(comes, times, 0.0) - shift_s) / cell_s).astype(np.int64)
        columns.append(np.where(comes, cells + 2, _NEVER))  # the first cell is -1
    rows = np.zeros(len(times_s[0]), np.uint64)
    with np.errstate(over="ignore"):
        for values in (*columns, *numbers):
            rows = _mixed(rows + _STEP + np.asarray(values).astype(np.int64).view(np.uint64))
        return f"{int(rows.sum(dtype=np.uint64)):016x}"


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 64-bit numbers mixed (the finaliser of SplitMix64; Steele, Lea and Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
