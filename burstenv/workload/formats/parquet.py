"""Traces as Parquet, for data frames; needs the ``parquet`` extra."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.files import writing
from burstenv.workload.formats.parquet_table import damaged, open_parquet, pyarrow
from burstenv.workload.trace import CLASSES, COLUMNS, FAILURE_COLUMNS, MODELS, NAMED, Failures, Trace

_KEY = b"burstenv"
_ROW_GROUP = 1 << 20


def write_parquet(trace: Trace, path: str | Path) -> None:
    """Write every column of a trace, losslessly.

    Failures are rows of 0 output tokens among the requests. ``model`` and ``class`` are names. The
    trace's metadata goes into the file's.

    Args:
        trace: The trace.
        path: The file.

    Raises:
        BurstenvError: When pyarrow is missing or the file cannot be written.
    """
    pa, parquet = pyarrow()
    failures = trace.failures
    order = np.argsort(np.concatenate([trace.arrival_s, failures.arrival_s]), kind="stable")
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        values = getattr(trace, name)
        if name in FAILURE_COLUMNS:
            added = getattr(failures, name)
        else:
            added = np.full(len(failures), -1 if name in ("prefix_id", *NAMED) else 0, dtype=values.dtype)
        values = np.concatenate([values, added])[order]
        if name in ("model", "log_type"):
            names = pa.array(MODELS if name == "model" else CLASSES)
            columns["model" if name == "model" else "class"] = pa.DictionaryArray.from_arrays(pa.array(values), names)
        else:
            columns[name] = pa.array(values)
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(trace.metadata).encode()})
    with writing(Path(path)) as stream:
        parquet.write_table(table, stream, row_group_size=_ROW_GROUP, compression="zstd", write_page_checksum=True)


def read_parquet(path: str | Path, *, sort: bool = False) -> Trace:
    """Read a Parquet file of the columns that :func:`write_parquet` writes.

    ``arrival_s``, ``prompt_tokens`` and ``output_tokens`` are needed, the others may be absent; rows of 0
    output tokens are failures. ``sort`` sorts the rows by time instead of an error where they are not.

    Raises:
        BurstenvError: When pyarrow is missing, or on the first thing wrong; names the file and the column.
    """
    file = Path(path)
    pa = pyarrow()[0]
    source = open_parquet(file)
    try:
        present = set(source.schema_arrow.names)
        metadata = json.loads((source.schema_arrow.metadata or {}).get(_KEY, b"{}"))
        for name in ("arrival_s", "prompt_tokens", "output_tokens"):
            if name not in present:
                raise BurstenvError(
                    f"{file}: column {name!r} is missing; found: {', '.join(source.schema_arrow.names)}"
                )
        known = [("class" if name == "log_type" else name) for name in COLUMNS]
        columns = {name: _column(file, source, name) for name in known if name in present}
    except (pa.ArrowException, OSError, ValueError) as error:  # damage can raise any of these
        if isinstance(error, BurstenvError):
            raise
        raise damaged(file, error) from None
    if "class" in columns:
        columns["log_type"] = columns.pop("class")
    if not isinstance(metadata, dict):
        metadata = {}
    metadata = {**metadata, "source": str(file), "schema": "parquet", "rows_read": len(columns["arrival_s"])}
    time = columns["arrival_s"]
    if sort and (time[1:] < time[:-1]).any():
        metadata["out_of_order"] = int(np.count_nonzero(time[1:] < time[:-1]))
        order = np.argsort(time, kind="stable")
        columns = {name: values[order] for name, values in columns.items() if name != "turn"}
    served = columns["output_tokens"] > 0
    failed = None
    try:
        if not served.all():
            failed = _failures({name: columns[name][~served] for name in FAILURE_COLUMNS if name in columns})
            columns = {name: values[served] for name, values in columns.items()}
        return Trace.from_columns(**columns, failures=failed, metadata=metadata)
    except BurstenvError as error:
        raise BurstenvError(f"{file}: {str(error).removeprefix('trace: ')}") from None


def _failures(columns: dict[str, Any]) -> Failures:
    """Return rows without a response as failures, checked as requests are."""
    raised = {**columns, "prompt_tokens": np.maximum(columns["prompt_tokens"], 1)}
    checked = Trace.from_columns(output_tokens=np.ones(len(columns["arrival_s"])), **raised)
    kept = {name: getattr(checked, name) for name in FAILURE_COLUMNS}
    return Failures(**{**kept, "prompt_tokens": columns["prompt_tokens"].astype(np.int32)})


def _column(file: Path, source: Any, name: str) -> Any:
    """Return one column as numbers, read separately: memory holds one at a time."""
    compute, types = import_module("pyarrow.compute"), import_module("pyarrow.types")
    values = source.read(columns=[name]).column(0)
    if values.null_count:
        raise BurstenvError(f"{file}: column {name!r}: {values.null_count:,} values are missing")
    if name in ("model", "class"):
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if not (types.is_string(values.type) or types.is_large_string(values.type)):
            raise BurstenvError(f"{file}: column {name!r}: need names, got {values.type}")
        known = MODELS if name == "model" else CLASSES
        codes = compute.index_in(values, value_set=pyarrow()[0].array(known).cast(values.type))
        if codes.null_count:
            raise BurstenvError(f"{file}: column {name!r}: unknown value; valid: {', '.join(known)}")
        return codes.to_numpy().astype(np.int8)
    if not (types.is_integer(values.type) or types.is_floating(values.type)):
        raise BurstenvError(f"{file}: column {name!r}: need numbers, got {values.type}")
    return values.to_numpy()
