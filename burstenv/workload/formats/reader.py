"""Reading a trace file of any format: what it begins with decides which reader it gets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.workload.cache import content_hash, load_cached, save_cached
from burstenv.workload.formats.burstgpt import BURSTGPT_COLUMNS, read_burstgpt
from burstenv.workload.formats.csv_table import Column, missing_columns, open_table, read_header
from burstenv.workload.formats.mapped import FORMATS, TimeUnit, check_columns, known_format, read_format, read_mapped
from burstenv.workload.formats.mooncake import looks_like_mooncake, read_mooncake
from burstenv.workload.formats.parquet import MAGIC, read_parquet
from burstenv.workload.formats.plain import PLAIN_COLUMNS, read_plain
from burstenv.workload.official.files import locate
from burstenv.workload.trace import Trace

READER_VERSION = 1  # raise it whenever a reader makes another trace of the same file
CACHED_FROM_BYTES = 4 << 20  # smaller files are read faster than a copy is worth


def read_trace(
    path: str | Path,
    *,
    jitter_seed: int = 0,
    columns: Mapping[str, str] | None = None,
    time_unit: TimeUnit = "s",
    cache: bool = True,
) -> Trace:
    """Read a trace of any format that burstenv knows, by what the file begins with.

    BurstGPT in both schemas, the plain schema, Azure LLM inference 2023 and 2024, ServeGen, Vidur and
    splitwise-sim CSV; Mooncake JSON lines; Parquet as written by burstenv; and with ``columns`` any CSV.

    Args:
        path: A file, text formats plain or gzip-compressed; or the name of an official file
            (``burstgpt-1``), which is looked for in the data directory.
        jitter_seed: See :func:`burstenv.workload.read_burstgpt`; other formats keep their times.
        columns: For other CSV files: the name in the file of each column, see
            :func:`burstenv.workload.read_mapped`.
        time_unit: Unit of the arrival column of such a file.
        cache: Keep a columnar copy of a large file beside the user's data, and use it the next time.

    Raises:
        BurstenvError: When the file is of no known format, or something in it is wrong.
    """
    file = locate(path)
    if columns is not None:
        check_columns(columns)
    try:
        large = file.stat().st_size >= CACHED_FROM_BYTES
    except OSError:
        large = False  # reading will say what is wrong
    if not (cache and large):
        return _read(file, jitter_seed, columns, time_unit)
    recipe: dict[str, Any] = {
        "reader": READER_VERSION,
        "sha256": content_hash(file),
        "name": file.name if columns is None else "",  # some formats take a class from it
        "jitter_seed": jitter_seed,
        "columns": dict(columns) if columns is not None else None,
        "time_unit": time_unit,
    }
    trace = load_cached(recipe)
    if trace is None:
        trace = _read(file, jitter_seed, columns, time_unit)
        save_cached(recipe, trace)
    trace.metadata["source"] = str(file)
    return trace


def _read(file: Path, jitter_seed: int, columns: Mapping[str, str] | None, time_unit: TimeUnit) -> Trace:
    if columns is not None:
        return read_mapped(file, columns, time_unit)
    if _begins(file, MAGIC):
        return read_parquet(file)
    with open_table(file) as stream:
        first = stream.readline(1 << 16)
    if looks_like_mooncake(first.decode("utf-8", errors="replace")):
        return read_mooncake(file)
    header = read_header(file)
    if not missing_columns(header, PLAIN_COLUMNS):
        return read_plain(file)
    if not missing_columns(header, BURSTGPT_COLUMNS):
        return read_burstgpt(file, jitter_seed=jitter_seed)
    kind = known_format(header)
    if kind is not None:
        return read_format(file, kind)
    shared = {column.name for column in BURSTGPT_COLUMNS} & set(header)
    if len(shared) >= 3:  # meant as BurstGPT: let its reader name the missing column
        return read_burstgpt(file, jitter_seed=jitter_seed)
    others = "; ".join(f"{f.name}'s {','.join(f.columns.values())}" for f in FORMATS)
    raise BurstenvError(
        f"{file}: unknown header {','.join(header)[:120]!r}; accepted are BurstGPT's {_listed(BURSTGPT_COLUMNS)}; "
        f"the plain {_listed(PLAIN_COLUMNS)}; {others}; for any other CSV give a map of its columns"
    )


def _begins(file: Path, magic: bytes) -> bool:
    try:
        with file.open("rb") as stream:
            return stream.read(len(magic)) == magic
    except OSError:
        return False  # opening it as a table will say what is wrong


def _listed(columns: tuple[Column, ...]) -> str:
    return ",".join(column.name if column.required else f"[{column.name}]" for column in columns)
