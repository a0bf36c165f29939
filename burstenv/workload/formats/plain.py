"""Reader of burstenv's own plain schema, one request per row, times unchanged."""

from __future__ import annotations

from pathlib import Path

from burstenv.errors import BurstenvError
from burstenv.workload.formats.burstgpt import clock_metadata
from burstenv.workload.formats.csv_table import Column, read_table
from burstenv.workload.formats.names import named_columns
from burstenv.workload.trace import MAX_TOKENS, Trace

_INT32_MAX = 2**31 - 1

PLAIN_COLUMNS: tuple[Column, ...] = (
    Column("arrival_s", "time"),
    Column("prompt_tokens", "whole", low=1, high=MAX_TOKENS),
    Column("output_tokens", "whole", low=1, high=MAX_TOKENS),
    Column("session_id", "key", required=False, blank=True),
    Column("priority", "whole", required=False, blank=True, low=-_INT32_MAX, high=_INT32_MAX),
    Column("prefix_id", "key", required=False, blank=True),
    Column("prefix_tokens", "whole", required=False, blank=True, high=MAX_TOKENS),
    Column("class", "text", required=False, blank=True),
    Column("tenant", "text", required=False, blank=True),
)


def read_plain(path: str | Path, *, sort: bool = False) -> Trace:
    """Read a file of the plain schema.

    Columns ``arrival_s, prompt_tokens, output_tokens[, session_id, priority, prefix_id, prefix_tokens,
    class, tenant]``; a blank ``session_id`` or ``tenant`` means none, a blank ``priority`` 0, a blank ``class``
    conversation. Classes of other names than conversation and api are the trace's own.
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
    named, names = named_columns(table, "class", "tenant")
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
        log_type=named.get("log_type"),
        own_class=named.get("own_class"),
        tenant=named.get("tenant"),
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
            **names,
        },
    )
