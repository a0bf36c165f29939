"""Reader of burstenv's own plain schema, one request per row, times unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.workload.formats.burstgpt import clock_metadata
from burstenv.workload.formats.csv_table import Column, read_table
from burstenv.workload.trace import CLASSES, MAX_TOKENS, Trace

_INT32_MAX = 2**31 - 1

PLAIN_COLUMNS: tuple[Column, ...] = (
    Column("arrival_s", "time"),
    Column("prompt_tokens", "whole", low=1, high=MAX_TOKENS),
    Column("output_tokens", "whole", low=1, high=MAX_TOKENS),
    Column("session_id", "key", required=False, blank=True),
    Column("priority", "whole", required=False, blank=True, low=-_INT32_MAX, high=_INT32_MAX),
    Column("prefix_id", "key", required=False, blank=True),
    Column("prefix_tokens", "whole", required=False, blank=True, high=MAX_TOKENS),
    Column("class", "label", required=False, blank=True, labels=CLASSES),
)


def read_plain(path: str | Path, *, sort: bool = False) -> Trace:
    """Read a file of the plain schema.

    Columns ``arrival_s, prompt_tokens, output_tokens[, session_id, priority, prefix_id, prefix_tokens,
    class]``; a blank ``session_id`` means none, a blank ``priority`` 0, a blank ``class`` conversation.
    ``prefix_tokens`` is how many tokens the request begins with of the shared prefix ``prefix_id`` (a shorter
    prompt is a part of it); a blank or 0 of either means no shared prefix. ``sort`` sorts the rows by time instead
    of an error where they are not.

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based data row and the column.
    """
    file = Path(path)
    table = read_table(file, PLAIN_COLUMNS, sort=sort)
    stamp = table.pop("arrival_s")
    prompt = table.pop("prompt_tokens")
    class_code = table.codes("class", CLASSES)
    prefix, shared = table.codes("prefix_id"), table.columns.pop("prefix_tokens", None)
    if (prefix is None) != (shared is None):
        there, lacking = ("prefix_tokens", "prefix_id") if prefix is None else ("prefix_id", "prefix_tokens")
        raise BurstenvError(f"{file}: column {there!r} needs column {lacking!r} beside it")
    if prefix is not None and shared is not None:
        none = (prefix < 0) | (shared == 0)
        prefix[none], shared[none] = -1, 0
    return Trace.from_columns(
        stamp,
        prompt,
        table.pop("output_tokens"),
        log_type=None if class_code is None else np.maximum(class_code, 0),
        session=table.codes("session_id"),
        priority=table.columns.pop("priority", None),
        prefix_id=prefix,
        prefix_tokens=shared,
        metadata={
            "source": str(file),
            "schema": "plain",
            "rows_read": table.rows,
            "duplicates": table.duplicates,
            **clock_metadata(stamp, table.out_of_order),
            "ignored_columns": list(table.ignored),
            "jitter_seed": None,
        },
    )
