"""Reader of burstenv's own plain schema, one request per row, times as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burstenv.workload.burstgpt import codes_of
from burstenv.workload.csv_table import Column, read_table
from burstenv.workload.trace import CLASSES, MAX_TOKENS, Trace

_INT32_MAX = 2**31 - 1
_UNUSED = ("prefix_id", "prefix_tokens")

PLAIN_COLUMNS: tuple[Column, ...] = (
    Column("arrival_s", "time"),
    Column("prompt_tokens", "whole", low=1, high=MAX_TOKENS),
    Column("output_tokens", "whole", low=1, high=MAX_TOKENS),
    Column("session_id", "text", required=False, blank=True),
    Column("priority", "whole", required=False, blank=True, low=-_INT32_MAX, high=_INT32_MAX),
    Column("prefix_id", "text", required=False, blank=True),
    Column("prefix_tokens", "whole", required=False, blank=True, high=MAX_TOKENS),
    Column("class", "label", required=False, blank=True, labels=CLASSES),
)


def read_plain(path: str | Path) -> Trace:
    """Read a file of the plain schema.

    Columns ``arrival_s, prompt_tokens, output_tokens[, session_id, priority, prefix_id, prefix_tokens,
    class]``; a blank ``session_id`` means none, a blank ``priority`` 0, a blank ``class`` conversation.
    The prefix columns are checked and not used.

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based data row and the column.
    """
    file = Path(path)
    table = read_table(file, PLAIN_COLUMNS)
    stamp = table.numbers["arrival_s"]
    priority = table.numbers.get("priority")
    present = {*table.codes, *table.numbers}
    class_code = codes_of(table, "class", CLASSES)
    return Trace.from_columns(
        stamp,
        table.numbers["prompt_tokens"],
        table.numbers["output_tokens"],
        log_type=None if class_code is None else np.maximum(class_code, 0),
        session=codes_of(table, "session_id"),
        priority=None if priority is None else np.nan_to_num(priority),
        metadata={
            "source": str(file),
            "schema": "plain",
            "rows_read": table.rows,
            "duplicates": table.duplicates,
            "out_of_order": 0,
            "ignored_columns": [*table.ignored, *(name for name in _UNUSED if name in present)],
            "jitter_seed": None,
            "first_timestamp_s": float(stamp[0]),
            "last_timestamp_s": float(stamp[-1]),
            "largest_gap_s": float(np.diff(stamp).max(initial=0.0)),
        },
    )
