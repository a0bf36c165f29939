"""Named tuples that are passed in few words hold the same arrays as before, with all their numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from burstenv._jit.compact import compact
from burstenv._jit.decorators import entry, outlined

RECORD = np.dtype([("a", "i4"), ("b", "f8")], align=True)


@compact
class Some(NamedTuple):
    """Arrays of one and two axes, and a record."""

    one: Any
    table: Any
    record: Any


@outlined
def _change(some, out):
    out[0] = len(some.one)
    out[1], out[2] = some.table.shape
    out[3] = some.one.size
    out[4] = some.table.size
    out[5] = some.one.strides[0]
    out[6], out[7] = some.table.strides
    out[8] = some.table[-1, -2].a
    some.one[-1] += 1
    some.table[1, 2].b = 0.5
    some.record.a = 7


@entry
def change(one, table, records, out):
    """Let a function that is not a part of this one change what the tuple points to."""
    _change(Some(one, table, records[1]), out)


def test_arrays_keep_their_numbers():
    one, table, records = np.arange(5, dtype=np.int32), np.zeros((3, 4), RECORD), np.zeros(2, RECORD)
    table["a"] = np.arange(12).reshape(3, 4)
    out = np.zeros(9, np.int64)
    change(one, table, records, out)
    assert out.tolist() == [5, 3, 4, 5, 12, 4, 4 * RECORD.itemsize, RECORD.itemsize, 10]
    assert one.tolist() == [0, 1, 2, 3, 5]
    assert table["b"][1, 2] == 0.5
    assert table["b"].sum() == 0.5
    assert records["a"].tolist() == [0, 7]
