"""Compiled code run by Python: the same numbers, and the same episodes byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from burstenv._jit.decorators import entry
from burstenv._jit.interpreted import interpreted_entry
from tests.jit import episodes

RECORD = np.dtype(
    [("small", "i1"), ("whole", "i4"), ("bits", "u8"), ("single", "f4"), ("real", "f8"), ("row", "f8", (2,))]
)


def _hash(records, numbers, singles, out):
    x = np.uint64(records[0].whole + 1) * np.uint64(0x9E3779B97F4A7C15)
    out[0] = ((x ^ (x >> np.uint64(30))) >> np.uint64(11)) * 2.0**-53
    records[0].bits = x


def _whole(records, numbers, singles, out):
    record = records[1]
    out[0] = record.whole * record.whole  # beyond 32 bits
    record.small += 300  # wraps
    record.whole *= record.whole  # wraps
    numbers[0] += numbers[1] * 3
    out[1] = numbers[0] // record.whole


def _single(records, numbers, singles, out):
    record = records[0]
    out[0] = record.single * 1.1  # double
    out[1] = record.single * singles[1]  # single
    total = 0.0
    for k in range(singles.shape[0]):
        total += singles[k] * singles[k]
    out[2] = total
    out[3] = 1.0 if singles[0] < 0.1 else 0.0
    singles[2] = record.single / 3


def _zero(records, numbers, singles, out):
    out[0] = records[0].whole / (numbers[2] - numbers[2])
    out[1] = records[0].real / 0.0
    out[2] = -out[0] * 0.0
    records[1].row[1] = records[0].row[0] + min(out[0], 7)


@pytest.mark.parametrize("function", [_hash, _whole, _single, _zero])
def test_numbers_are_those_of_compiled_code(function):
    def run(make):
        records = np.zeros(2, RECORD)
        records["whole"], records["single"], records["real"] = [2**31 - 1, 123_457], [0.1, 0.7], [-1.5, 2.0]
        numbers = np.array([2**31 - 1, 2**31 - 1, 5], np.int32)
        singles = np.array([0.1, 0.3, 16_777_217.0], np.float32)
        out = np.zeros(4)
        make(function)(records, numbers, singles, out)
        return [array.tobytes() for array in (records, numbers, singles, out)]

    assert run(interpreted_entry) == run(entry)


def test_a_field_that_is_not_there_is_an_error():
    with pytest.raises(AttributeError, match="wohle"):
        interpreted_entry(lambda records: records[0].wohle)(np.zeros(1, RECORD))


def test_episodes_of_every_id_and_rule_are_the_same_bytes():
    shown = subprocess.run(
        [sys.executable, "-m", "tests.jit.episodes"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout) == episodes.digests()
