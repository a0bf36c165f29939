"""Large files: bounded memory; speeds are in docs/traces.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from burstenv.workload.formats.csv_table import PANDAS_FROM_BYTES
from tests.workload.workload_files import EIGHT

ROWS = 800_000
MEASURE = """
import json, resource, sys
from burstenv.workload import read_trace, read_burstgpt
from burstenv.workload.trace import COLUMNS
def peak(): return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from burstenv.workload.formats.csv_table import Column, read_table
from burstenv.workload.formats import csv_table
large, csv_table.PANDAS_FROM_BYTES = csv_table.PANDAS_FROM_BYTES, 0
read_burstgpt(sys.argv[1])  # numba is there now, and what it compiled
csv_table.PANDAS_FROM_BYTES = large
before = peak()
trace = read_trace(sys.argv[2], cache=False)
held = sum(getattr(trace, name).nbytes for name in COLUMNS)
print(json.dumps({"rows": len(trace), "held": held, "added": peak() - before}))
"""


def test_a_large_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    seconds = np.sort(random.integers(0, 5_000_000, ROWS)).tolist()
    sessions, prompts = random.integers(0, 30_000, ROWS).tolist(), random.integers(1, 3000, ROWS).tolist()
    rows = [
        f"{t}.0,{s:08x}-0a46-4bf0-aa08-89794e7a2b3f,7,GPT-4,{p},9,{p + 9},Conversation log"
        for t, s, p in zip(seconds, sessions, prompts, strict=True)
    ]
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    small.write_text("\n".join([EIGHT, *rows[:10]]))
    large.write_text("\n".join([EIGHT, *rows]))
    assert large.stat().st_size > PANDAS_FROM_BYTES
    ran = subprocess.run([sys.executable, "-c", MEASURE, small, large], capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    assert found["rows"] == ROWS
    assert found["added"] < 4 * found["held"]
