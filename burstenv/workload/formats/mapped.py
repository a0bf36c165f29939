"""Traces of other origins: any CSV by a map of its columns, and the maps of well-known formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from burstenv.errors import BurstenvError
from burstenv.workload.formats.burstgpt import clock_metadata, served_and_failed
from burstenv.workload.formats.csv_table import Column, read_table
from burstenv.workload.formats.names import named_columns
from burstenv.workload.trace import CLASSES, MAX_TOKENS, MODELS, OTHER_MODEL, Trace

TimeUnit = Literal["s", "ms", "us", "ns", "iso"]
UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_INT32_MAX = 2**31 - 1
_DAY_NS = 86_400 * 10**9

REQUIRED = ("arrival_s", "prompt_tokens", "output_tokens")
TARGETS = (*REQUIRED, "session_id", "prefix_id", "prefix_tokens", "priority", "class", "tenant", "model", "elapsed_s")


@dataclass(frozen=True)
class Format:
    """A well-known CSV format.

    Attributes:
        name: Its name in metadata.
        columns: Its column for each of :data:`TARGETS`.
        time_unit: Unit of its times.
        classes_by_name: Class of all rows of a file by a word of the file's name; conversation otherwise.
    """

    name: str
    columns: Mapping[str, str]
    time_unit: TimeUnit = "s"
    classes_by_name: Mapping[str, str] = field(default_factory=dict)


def _three(arrival: str, prompt: str, output: str) -> dict[str, str]:
    return dict(zip(REQUIRED, (arrival, prompt, output), strict=True))


FORMATS: tuple[Format, ...] = (
    # Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.md and ...2024.md: dates and times, in 2024 with a
    # zone; one file for code completion (calls of an editor: API traffic) and one for conversation.
    Format("azure", _three("TIMESTAMP", "ContextTokens", "GeneratedTokens"), "iso", {"code": "api"}),
    # alibaba/ServeGen, servegen.utils.save_requests_to_csv: request_id, timestamp [s], input and output tokens.
    Format("servegen", _three("timestamp", "input_tokens", "output_tokens")),
    # microsoft/vidur, processed traces.
    Format("vidur", _three("arrived_at", "num_prefill_tokens", "num_decode_tokens")),
    # Mutinifni/splitwise-sim, request traces.
    Format("splitwise", _three("arrival_timestamp", "prompt_size", "token_size")),
)


def known_format(header: tuple[str, ...]) -> Format | None:
    """Return the well-known format of a header, or None."""
    return next((f for f in FORMATS if set(f.columns.values()) <= set(header)), None)


def read_format(path: str | Path, kind: Format, *, sort: bool = False) -> Trace:
    """Read a CSV of a well-known format; see :func:`read_mapped`."""
    file = Path(path)
    trace = read_mapped(file, kind.columns, kind.time_unit, sort=sort)
    word = next((word for word in kind.classes_by_name if word in file.name.lower()), None)
    chosen = kind.classes_by_name[word] if word else CLASSES[0]
    trace.log_type[:] = trace.failures.log_type[:] = CLASSES.index(chosen)
    trace.metadata.update({"schema": kind.name, "assumed_class": chosen})
    return trace


def read_mapped(
    path: str | Path, columns: Mapping[str, str], time_unit: TimeUnit = "s", *, sort: bool = False
) -> Trace:
    """Read any CSV of requests by a map of its columns.

    Rows of 0 output tokens become failures; prompts of 0 tokens are raised to 1 and counted. Times are unchanged (whole
    seconds are not spread); dates and times become seconds since midnight UTC of the first row's day.

    Args:
        path: A CSV file, plain or gzip-compressed.
        columns: Name in the file of each of :data:`TARGETS`; ``arrival_s``, ``prompt_tokens`` and
            ``output_tokens`` are needed.
        time_unit: Unit of the arrival column: ``s``, ``ms``, ``us``, ``ns``, or ``iso`` for dates and times.
        sort: Sort the rows by time instead of an error where they are not.

    Raises:
        BurstenvError: On a map that cannot be used, or the first thing wrong in the file; names the file,
            the 1-based data row and the column.
    """
    file = Path(path)
    table = read_table(file, _columns(columns, time_unit), sort=sort)
    source = dict(columns)
    arrival = table.pop(source["arrival_s"])
    metadata: dict[str, Any] = {"source": str(file), "schema": "mapped", "columns": source, "time_unit": time_unit}
    if time_unit == "iso":
        midnight = int(arrival[0]) // _DAY_NS * _DAY_NS
        metadata["clock_zero"] = str(np.datetime64(midnight, "ns").astype("datetime64[s]")) + "Z"
        arrival = (arrival - midnight) / 1e9
    prompt, output = table.pop(source["prompt_tokens"]), table.pop(source["output_tokens"])
    served = output > 0
    if not served.any():
        raise BurstenvError(f"{file}: all {table.rows} rows have 0 output tokens, so there is no request")
    named, names = named_columns(table, source.get("class", ""), source.get("tenant", ""))
    model = table.codes(source["model"]) if "model" in source else None
    if model is not None:
        model = _models(model, table.names[source["model"]], metadata)
    metadata |= {
        "rows_read": table.rows,
        "duplicates": table.duplicates,
        **clock_metadata(arrival, table.out_of_order),
        "zero_prompts": int(np.count_nonzero(served & (prompt == 0))),
        "ignored_columns": list(table.ignored),
        "jitter_seed": None,
        **names,
    }
    elapsed = table.columns.pop(source.get("elapsed_s", ""), None)
    prefix = table.codes(source.get("prefix_id", ""))
    shared = table.columns.pop(source.get("prefix_tokens", ""), None)
    if prefix is not None and shared is not None:
        none = (prefix < 0) | (shared == 0)
        prefix[none], shared[none] = -1, 0
    return served_and_failed(
        arrival, prompt, output, served, metadata,
        model=model,
        **named,
        session=table.codes(source.get("session_id", "")),
        priority=table.columns.pop(source.get("priority", ""), None),
        elapsed_s=None if elapsed is None else elapsed.astype(np.float32),
        prefix_id=prefix,
        prefix_tokens=shared,
    )  # fmt: skip


def parse_columns(text: str) -> dict[str, str]:
    """Return the map of ``arrival_s=ts,prompt_tokens=in,output_tokens=out``.

    Raises:
        BurstenvError: If it is no such list.
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        target, equals, name = (piece.strip() for piece in part.partition("="))
        if not (target and equals and name) or target in found:
            raise BurstenvError(
                f"--columns: {part!r} is wrong; write arrival_s=NAME,prompt_tokens=NAME,output_tokens=NAME, each once"
            )
        found[target] = name
    check_columns(found)
    return found


def check_columns(columns: Mapping[str, str]) -> None:
    """Check a map of columns.

    Raises:
        BurstenvError: If it lacks a column, has an unknown one, or uses one name twice.
    """
    unknown = [name for name in columns if name not in TARGETS]
    if unknown:
        raise BurstenvError(f"columns: unknown {unknown[0]!r}; valid: {', '.join(TARGETS)}")
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise BurstenvError(f"columns: {missing[0]!r} is missing; needed: {', '.join(REQUIRED)}")
    if ("prefix_id" in columns) != ("prefix_tokens" in columns):
        raise BurstenvError("columns: 'prefix_id' and 'prefix_tokens' need one another")
    names = list(columns.values())
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise BurstenvError(f"columns: {twice[0]!r} stands for more than one column")


def check_time_unit(time_unit: str | None) -> None:
    """Raise on an unknown time unit."""
    if time_unit is not None and time_unit not in get_args(TimeUnit):
        raise BurstenvError(f"time unit: unknown {time_unit!r}; valid: {', '.join(get_args(TimeUnit))}")


def _columns(columns: Mapping[str, str], time_unit: TimeUnit) -> tuple[Column, ...]:
    check_columns(columns)
    check_time_unit(time_unit)
    iso = time_unit == "iso"
    kinds: dict[str, dict[str, Any]] = {
        "arrival_s": {"kind": "stamp"} if iso else {"kind": "time", "unit_digits": UNIT_DIGITS[time_unit]},
        "prompt_tokens": {"kind": "whole", "high": MAX_TOKENS},
        "output_tokens": {"kind": "whole", "high": MAX_TOKENS},
        "session_id": {"kind": "key", "blank": True},
        "prefix_id": {"kind": "key", "blank": True},
        "prefix_tokens": {"kind": "whole", "blank": True, "high": MAX_TOKENS},
        "priority": {"kind": "whole", "blank": True, "low": -_INT32_MAX, "high": _INT32_MAX},
        "class": {"kind": "text", "blank": True},
        "tenant": {"kind": "text", "blank": True},
        "model": {"kind": "text", "blank": True},
        "elapsed_s": {"kind": "seconds", "blank": True},
    }
    return tuple(Column(name, **kinds[target]) for target, name in columns.items())


def _models(codes: np.ndarray, names: list[str], metadata: dict[str, Any]) -> np.ndarray:
    """Return model codes, and count the names that are mapped to "other"."""
    counts = np.bincount(codes + 1, minlength=len(names) + 1)[1:]
    metadata["other_models"] = {
        name: int(rows) for name, rows in zip(names, counts, strict=True) if name not in MODELS
    }  # fmt: skip
    lookup = [MODELS.index(name) if name in MODELS else OTHER_MODEL for name in names]
    return np.array([*lookup, OTHER_MODEL], dtype=np.int8)[codes]
