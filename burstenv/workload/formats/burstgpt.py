"""Reader of the official BurstGPT files, in both of their schemas, by column name.

Schema and meaning: the README of HPMLL/BurstGPT (Wang et al., KDD 2025). Files 1 and 2 have six columns;
file 3 also has ``Session ID`` (blank on API rows) and ``Elapsed time`` (submission to last token).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.formats.csv_table import Column, Table, read_table
from burstenv.workload.trace import FAILURE_COLUMNS, LOG_TYPES, MAX_TOKENS, MODELS, OTHER_MODEL, Failures, Trace

BURSTGPT_COLUMNS: tuple[Column, ...] = (
    Column("Timestamp", "time"),
    Column("Session ID", "key", required=False, blank=True),
    Column("Elapsed time", "seconds", required=False, blank=True),
    Column("Model", "text", blank=True),
    Column("Request tokens", "whole", high=MAX_TOKENS),
    Column("Response tokens", "whole", high=MAX_TOKENS),
    Column("Total tokens", "whole", high=2 * MAX_TOKENS),
    Column("Log Type", "label", labels=LOG_TYPES),
)


def read_burstgpt(path: str | Path, *, jitter_seed: int = 0, sort: bool = False) -> Trace:
    """Read an official BurstGPT file.

    Timestamps of whole seconds are spread: every row moves to a uniformly drawn instant inside its own
    second, and rows of one second keep the order of the file. Rows without a response
    (``Response tokens`` = 0) are failures of the original service and go to ``failures``.

    Args:
        path: A CSV file, plain or gzip-compressed.
        jitter_seed: Seed of the instants inside the second.
        sort: Sort the rows by time; without it unsorted rows are an error.

    Returns:
        The trace. Its metadata has what :func:`clock_metadata` counts and ``source``, ``schema``,
        ``rows_read``, ``requests``, ``failures``, ``duplicates`` (rows equal to an earlier one; kept),
        ``total_mismatches`` (total other than request + response), ``zero_prompts`` (prompts of 0 tokens
        with a response, raised to 1), ``other_models`` (names and rows mapped to "other"),
        ``ignored_columns``, ``jitter_seed`` (None when timestamps are not whole seconds).

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based data row and the column.
    """
    file = Path(path)
    table = read_table(file, BURSTGPT_COLUMNS, sort=sort)
    prompt, output = table.pop("Request tokens"), table.pop("Response tokens")
    served = output > 0
    if not served.any():
        raise BurstenvError(f"{file}: all {table.rows} rows have 0 response tokens, so there is no request")
    stamp = table.pop("Timestamp")
    metadata: dict[str, Any] = {
        "source": str(file),
        "schema": "burstgpt-8" if "Session ID" in table.columns else "burstgpt-6",
        "rows_read": table.rows,
        "duplicates": table.duplicates,
        **clock_metadata(stamp, table.out_of_order),
        "total_mismatches": int(np.count_nonzero(table.pop("Total tokens") != prompt + output)),
        "zero_prompts": int(np.count_nonzero(served & (prompt == 0))),
        "ignored_columns": list(table.ignored),
    }
    model, metadata["other_models"] = _model_codes(table)
    whole_seconds = bool((stamp == np.floor(stamp)).all())
    metadata["jitter_seed"] = jitter_seed if whole_seconds else None
    arrival = spread_within_second(stamp, jitter_seed) if whole_seconds else stamp
    del stamp
    elapsed = table.columns.pop("Elapsed time", None)
    if elapsed is not None:
        elapsed = elapsed.astype(np.float32)
    return served_and_failed(
        arrival, prompt, output, served, metadata, model=model, log_type=table.codes("Log Type", LOG_TYPES),
        session=table.codes("Session ID"), elapsed_s=elapsed,
    )  # fmt: skip


def served_and_failed(
    arrival_s: NDArray[np.float64],
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    served: NDArray[np.bool_],
    metadata: dict[str, Any],
    **others: NDArray[Any] | None,
) -> Trace:
    """Build a trace with its rows without a response as failures.

    Args:
        arrival_s: Sorted times of all rows, shape ``(n,)``.
        prompt_tokens: Prompt lengths, shape ``(n,)``; those of served rows are raised to at least 1.
        output_tokens: Response lengths, shape ``(n,)``.
        served: Whether a row has a response, shape ``(n,)``.
        metadata: Counts of the reader.
        others: Further columns of the trace, shape ``(n,)``, or None where the file has none.
    """
    columns = {name: values for name, values in others.items() if values is not None}
    n = len(arrival_s)
    failed = ~served
    if failed.any():
        count = int(np.count_nonzero(failed))
        kept = {name: columns[name][failed] for name in FAILURE_COLUMNS if name in columns}
        kept.setdefault("model", np.full(count, OTHER_MODEL, dtype=np.int8))
        kept.setdefault("log_type", np.zeros(count, dtype=np.int8))
        failures = Failures(arrival_s=arrival_s[failed], prompt_tokens=prompt_tokens[failed], **kept)
        arrival_s, prompt_tokens, output_tokens = arrival_s[served], prompt_tokens[served], output_tokens[served]
        for name in list(columns):
            columns[name] = columns[name][served]
    else:
        failures = Failures.none()
    assert len(arrival_s) + len(failures) == n
    return Trace.from_columns(
        arrival_s,
        np.maximum(prompt_tokens, 1),
        output_tokens,
        failures=failures,
        metadata=metadata,
        **columns,
    )


def clock_metadata(stamp_s: NDArray[np.float64], out_of_order: int = 0) -> dict[str, Any]:
    """Return statistics of the times of all rows of a file, failures included.

    Args:
        stamp_s: Sorted times in seconds as recorded, shape ``(n,)``, n at least 1.
        out_of_order: Rows that were earlier than the one before, until they were sorted.

    Returns:
        ``first_timestamp_s``, ``last_timestamp_s``, ``largest_gap_s``, ``gaps_over_1h`` (between one row
        and the next), and ``out_of_order`` as given.
    """
    largest, long_gaps = 0.0, 0
    for start in range(0, len(stamp_s), 1 << 20):  # a piece at a time, without a column for gaps
        gaps = np.diff(stamp_s[start : start + (1 << 20) + 1])
        largest = max(largest, float(gaps.max(initial=0.0)))
        long_gaps += int(np.count_nonzero(gaps > 3600.0))
    return {
        "out_of_order": out_of_order,
        "first_timestamp_s": float(stamp_s[0]),
        "last_timestamp_s": float(stamp_s[-1]),
        "largest_gap_s": largest,
        "gaps_over_1h": long_gaps,
    }


def spread_within_second(stamp_s: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Move each whole-second timestamp to a seeded uniform instant inside its second.

    Sub-second structure was never recorded; without this, ties of dozens of requests would reach a
    simulator as one arrival. Rows of one second receive their instants in increasing order, so the order
    of the file is kept.

    Args:
        stamp_s: Sorted whole seconds, shape ``(n,)``.
        seed: Seed.

    Returns:
        Sorted times, each in ``[stamp, stamp + 1)``, shape ``(n,)``.
    """
    spread = np.random.Generator(np.random.PCG64([0x6A697474, seed])).random(len(stamp_s))
    spread += stamp_s
    # Whole seconds are sorted and instants are below 1, so one sort orders each second and mixes none.
    spread.sort()
    latest = stamp_s + 1.0
    np.nextafter(latest, 0.0, out=latest)  # the sum may round up to the next second
    return np.minimum(spread, latest, out=spread)


def _model_codes(table: Table) -> tuple[NDArray[np.int8], dict[str, int]]:
    """Return model codes and, for names that are not in ``MODELS``, their numbers of rows."""
    codes, names = table.pop("Model"), table.names["Model"]
    known = {name: code for code, name in enumerate(MODELS)}
    lookup = np.array([*(known.get(name, OTHER_MODEL) for name in names), OTHER_MODEL], dtype=np.int8)
    counts = np.bincount(codes + 1, minlength=len(names) + 1)
    others = {name: int(rows) for name, rows in zip(names, counts[1:], strict=True) if name not in known}
    if counts[0]:
        others["(blank)"] = int(counts[0])
    return lookup[codes], others
