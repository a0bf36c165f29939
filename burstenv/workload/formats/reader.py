"""Reader of a trace file of any format: its first bytes select the reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burstenv.arguments import checked
from burstenv.errors import BurstenvError
from burstenv.workload.cache import content_hash, load_cached, save_cached
from burstenv.workload.formats.burstgpt import BURSTGPT_COLUMNS, read_burstgpt
from burstenv.workload.formats.csv_table import (
    PARQUET_MAGIC,
    Column,
    begins,
    missing_columns,
    open_table,
    read_header,
)
from burstenv.workload.formats.foreign import refuse_header
from burstenv.workload.formats.gateway_log import looks_like_gateway_log, trace_of_log
from burstenv.workload.formats.mapped import (
    FORMATS,
    REQUIRED,
    TimeUnit,
    check_columns,
    check_time_unit,
    known_format,
    read_format,
    read_mapped,
)
from burstenv.workload.formats.mooncake import looks_like_mooncake, read_mooncake
from burstenv.workload.formats.parquet import read_parquet
from burstenv.workload.formats.plain import PLAIN_COLUMNS, read_plain
from burstenv.workload.official.files import locate
from burstenv.workload.trace import Trace

READER_VERSION = 2  # increment it when a reader gives another trace for the same file
CACHED_FROM_BYTES = 4 << 20  # a copy of a smaller file saves no time


@dataclass(frozen=True)
class _How:
    """Reading options: the arguments of :func:`read_trace`."""

    jitter_seed: int
    columns: Mapping[str, str] | None
    time_unit: TimeUnit | None
    sort: bool


@checked()
def read_trace(
    path: str | Path,
    *,
    jitter_seed: int = 0,
    columns: Mapping[str, str] | None = None,
    time_unit: TimeUnit | None = None,
    sort: bool = False,
    cache: bool = True,
) -> Trace:
    """Read a trace of any supported format, recognised by the first bytes of the file.

    BurstGPT in both schemas, the plain schema, Azure LLM inference 2023 and 2024, ServeGen, Vidur and
    splitwise-sim, as CSV or Parquet; Mooncake and Qwen (Bailian) JSON lines; the log of ``burstenv serve``; Parquet as
    written by burstenv; and with ``columns`` any CSV or Parquet.

    Args:
        path: A file, text formats plain or gzip-compressed; or the name of an official file
            (``burstgpt-1``), which is looked for in the data directory.
        jitter_seed: See :func:`burstenv.workload.read_burstgpt`; other formats keep their times.
        columns: For other files: the name in the file of each column, see
            :func:`burstenv.workload.read_mapped`.
        time_unit: Unit of the times of such a file (default ``s``), or of JSON lines (default: by their keys, see
            :func:`burstenv.workload.read_mooncake`). The other formats have one unit each; another is an error.
        sort: Sort the rows by time, those of one time in the order of the file, instead of an error.
        cache: Keep a columnar copy of a large file beside the user's data, and use it the next time.

    Raises:
        BurstenvError: If the file has no known format, or is invalid.
    """
    file = locate(path)
    if columns is not None:
        check_columns(columns)
    check_time_unit(time_unit)
    how = _How(jitter_seed, columns, time_unit, sort)
    try:
        large = file.stat().st_size >= CACHED_FROM_BYTES
    except OSError:
        large = False  # the reader reports the error
    if not (cache and large):
        return _read(file, how)
    recipe: dict[str, Any] = {
        "reader": READER_VERSION,
        "sha256": content_hash(file),
        "name": file.name if columns is None else "",  # some formats take a class from it
        "jitter_seed": jitter_seed,
        "columns": dict(columns) if columns is not None else None,
        "time_unit": time_unit,
        "sort": sort,
    }
    trace = load_cached(recipe)
    if trace is None:
        trace = _read(file, how)
        save_cached(recipe, trace)
    trace.metadata["source"] = str(file)
    return trace


def _read(file: Path, how: _How) -> Trace:
    is_parquet = begins(file, PARQUET_MAGIC)
    if not is_parquet:
        with open_table(file) as stream:
            first = stream.readline(1 << 16)
        if looks_like_gateway_log(first.decode("utf-8", errors="replace")):
            _only_in(file, how, "s", "a gateway's log")
            return trace_of_log(file)
        if looks_like_mooncake(first.decode("utf-8", errors="replace")):
            if how.columns is not None:
                raise BurstenvError(f"{file}: JSON lines have keys, not columns; columns are for CSV and Parquet")
            return read_mooncake(file, how.time_unit, sort=how.sort)
    if how.columns is not None:
        return read_mapped(file, how.columns, how.time_unit or "s", sort=how.sort)
    header = read_header(file)
    if is_parquet and set(REQUIRED) <= set(header):
        _only_in(file, how, "s", "burstenv's Parquet")
        return read_parquet(file, sort=how.sort)
    if not missing_columns(header, PLAIN_COLUMNS):
        _only_in(file, how, "s", "the plain schema")
        return read_plain(file, sort=how.sort)
    kind = known_format(header)
    if kind is not None:
        _only_in(file, how, kind.time_unit, kind.name)
        return read_format(file, kind, sort=how.sort)
    shared = {column.name for column in BURSTGPT_COLUMNS} & set(header)
    if len(shared) >= 3:  # the reader names a missing one
        _only_in(file, how, "s", "BurstGPT")
        return read_burstgpt(file, jitter_seed=how.jitter_seed, sort=how.sort)
    refuse_header(file, header)
    others = "; ".join(f"{f.name}'s {','.join(f.columns.values())}" for f in FORMATS)
    raise BurstenvError(
        f"{file}: unknown header {','.join(header)[:120]!r}; accepted are BurstGPT's {_listed(BURSTGPT_COLUMNS)}; "
        f"the plain {_listed(PLAIN_COLUMNS)}; {others}; for any other CSV or Parquet give a map of its columns, "
        "--columns arrival_s=NAME,prompt_tokens=NAME,output_tokens=NAME, or a workload's YAML with 'columns'"
    )


def _only_in(file: Path, how: _How, unit: str, form: str) -> None:
    """Raise on another time unit than the format's."""
    if how.time_unit not in (None, unit):
        raise BurstenvError(
            f"{file}: times of {form} are in {unit!r}, not {how.time_unit!r}; another unit needs --columns"
        )


def _listed(columns: tuple[Column, ...]) -> str:
    return ",".join(column.name if column.required else f"[{column.name}]" for column in columns)
