"""With ``BURSTENV_BOUNDSCHECK=1`` an index outside an array is an IndexError, however deep it stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import numba, numpy as np
from burstenv._jit.decorators import DETACHED, detached, entry, kernel, outlined

@{kind}
def read(array, out, k):
    out[0] = array[k]

@entry
def read_at(array, out, k):
    read(array, out, k)

for part in DETACHED:
    part.make_ready(None)
array, out = np.arange(4), np.zeros(1, np.int64)
read_at(array, out, 3)
print(out[0])
read_at(array, out, 4)
"""
DETACHED = "detached(lambda state: True, lambda state: (numba.int64[::1], numba.int64[::1], numba.int64))"


@pytest.mark.parametrize("kind", ["kernel", "outlined", DETACHED], ids=lambda kind: kind.split("(")[0])
def test_an_index_outside_is_an_error(kind, tmp_path):
    (tmp_path / "code.py").write_text(CODE.format(kind=kind))
    shown = subprocess.run(
        [sys.executable, tmp_path / "code.py"],
        env={**os.environ, "BURSTENV_BOUNDSCHECK": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.stdout == "3\n"
    assert shown.returncode == 1
    assert "IndexError: index is out of bounds" in shown.stderr
