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
from burstenv.workload.csv_table import Column, Table, read_table
from burstenv.workload.trace import LOG_TYPES, MAX_TOKENS, MODELS, OTHER_MODEL, Failures, Trace

BURSTGPT_COLUMNS: tuple[Column, ...] = (
    Column("Timestamp", "time"),
    Column("Session ID", "text", required=False, blank=True),
    Column("Elapsed time", "seconds", required=False, blank=True),
    Column("Model", "text", blank=True),
    Column("Request tokens", "whole", high=MAX_TOKENS),
    Column("Response tokens", "whole", high=MAX_TOKENS),
    Column("Total tokens", "whole", high=2 * MAX_TOKENS),
    Column("Log Type", "label", labels=LOG_TYPES),
)


def read_burstgpt(path: str | Path, *, jitter_seed: int = 0) -> Trace:
    """Read an official BurstGPT file.

    Timestamps of whole seconds are spread: every row moves to a uniformly drawn instant inside its own
    second, and rows of one second keep the order of the file. Rows without a response
    (``Response tokens`` = 0) are failures of the original service and go to ``failures``.

    Args:
        path: A CSV file, plain or gzip-compressed.
        jitter_seed: Seed of the instants inside the second.

    Returns:
        The trace. Its metadata has ``source``, ``schema``, ``rows_read``, ``requests``, ``failures``,
        ``duplicates`` (rows equal to an earlier one; kept), ``out_of_order`` (always 0: unsorted files are
        refused), ``total_mismatches`` (total other than request + response), ``zero_prompts`` (prompts of
        0 tokens with a response, raised to 1), ``other_models`` (names and rows mapped to "other"),
        ``ignored_columns``, ``jitter_seed`` (None when timestamps are not whole seconds),
        ``first_timestamp_s``, ``last_timestamp_s``, ``largest_gap_s`` (between any two rows).

    Raises:
        BurstenvError: On the first thing wrong; names the file, the 1-based data row and the column.
    """
    file = Path(path)
    table = read_table(file, BURSTGPT_COLUMNS)
    prompt, output = table.numbers["Request tokens"], table.numbers["Response tokens"]
    served = output > 0
    if not served.any():
        raise BurstenvError(f"{file}: all {table.rows} rows have 0 response tokens, so there is no request")
    stamp = table.numbers["Timestamp"]
    whole_seconds = bool((stamp == np.floor(stamp)).all())
    arrival = spread_within_second(stamp, jitter_seed) if whole_seconds else stamp
    model, others = _model_codes(table)
    log_type = codes_of(table, "Log Type", LOG_TYPES).astype(np.int8)
    session = codes_of(table, "Session ID")
    failed = ~served
    return Trace.from_columns(
        arrival[served],
        np.maximum(prompt[served], 1),
        output[served],
        model=model[served],
        log_type=log_type[served],
        session=None if session is None else session[served],
        elapsed_s=table.numbers["Elapsed time"][served] if "Elapsed time" in table.numbers else None,
        failures=Failures(arrival[failed], model[failed], log_type[failed]),
        metadata={
            "source": str(file),
            "schema": "burstgpt-8" if session is not None else "burstgpt-6",
            "rows_read": table.rows,
            "duplicates": table.duplicates,
            "out_of_order": 0,
            "total_mismatches": int(np.count_nonzero(table.numbers["Total tokens"] != prompt + output)),
            "zero_prompts": int(np.count_nonzero(prompt[served] == 0)),
            "other_models": others,
            "ignored_columns": list(table.ignored),
            "jitter_seed": jitter_seed if whole_seconds else None,
            "first_timestamp_s": float(stamp[0]),
            "last_timestamp_s": float(stamp[-1]),
            "largest_gap_s": float(np.diff(stamp).max(initial=0.0)),
        },
    )


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
    uniform = np.random.Generator(np.random.PCG64([0x6A697474, seed])).random(len(stamp_s))
    # Whole seconds are sorted and instants are below 1, so one sort orders each second and mixes none.
    spread = np.sort(stamp_s + uniform, kind="stable")
    return np.minimum(spread, np.nextafter(stamp_s + 1.0, 0.0))  # the sum may round up to the next second


def codes_of(table: Table, name: str, labels: tuple[str, ...] | None = None) -> Any:
    """Return a text column as codes, or None when the file lacks it.

    Args:
        table: The table.
        name: The column.
        labels: What the codes shall index; by default the values in order of first appearance.

    Returns:
        Codes, -1 where blank, shape ``(rows,)``.
    """
    if name not in table.codes:
        return None
    codes, names = table.codes[name], table.names[name]
    if labels is not None:
        return np.array([*(labels.index(value.strip()) for value in names), -1])[codes]
    seen, first = np.unique(codes, return_index=True)
    seen, first = seen[seen >= 0], first[seen >= 0]
    rank = np.full(len(names) + 1, -1)
    rank[seen[np.argsort(first)]] = np.arange(len(seen))
    return rank[codes]


def _model_codes(table: Table) -> tuple[NDArray[np.int8], dict[str, int]]:
    """Return model codes and, for names that are not in ``MODELS``, how many rows have each."""
    codes, names = table.codes["Model"], table.names["Model"]
    known = {name: code for code, name in enumerate(MODELS)}
    lookup = np.array([*(known.get(name.strip(), OTHER_MODEL) for name in names), OTHER_MODEL])
    counts = np.bincount(codes + 1, minlength=len(names) + 1)
    others = {name: int(rows) for name, rows in zip(names, counts[1:], strict=True) if name.strip() not in known}
    if counts[0]:
        others["(blank)"] = int(counts[0])
    return lookup[codes].astype(np.int8), others
