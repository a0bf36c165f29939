"""Reading a trace file of any schema: the header decides which reader it gets."""

from __future__ import annotations

from pathlib import Path

from burstenv.errors import BurstenvError
from burstenv.workload.burstgpt import BURSTGPT_COLUMNS, read_burstgpt
from burstenv.workload.csv_table import Column, missing_columns, read_header
from burstenv.workload.plain import PLAIN_COLUMNS, read_plain
from burstenv.workload.trace import Trace


def read_trace(path: str | Path, *, jitter_seed: int = 0) -> Trace:
    """Read a BurstGPT file or a file of burstenv's plain schema, by its header.

    Args:
        path: A CSV file, plain or gzip-compressed.
        jitter_seed: See :func:`burstenv.workload.read_burstgpt`; the plain schema has no jitter.

    Raises:
        BurstenvError: When the header is of neither schema, or a row is wrong.
    """
    header = read_header(Path(path))
    if not missing_columns(header, PLAIN_COLUMNS):
        return read_plain(path)
    if not missing_columns(header, BURSTGPT_COLUMNS):
        return read_burstgpt(path, jitter_seed=jitter_seed)
    shared = {column.name for column in BURSTGPT_COLUMNS} & set(header)
    if len(shared) >= 3:  # meant as BurstGPT: let its reader name the missing column
        return read_burstgpt(path, jitter_seed=jitter_seed)
    raise BurstenvError(
        f"{path}: unknown header {','.join(header)[:120]!r}; accepted are BurstGPT's "
        f"{_listed(BURSTGPT_COLUMNS)} and the plain {_listed(PLAIN_COLUMNS)}"
    )


def _listed(columns: tuple[Column, ...]) -> str:
    return ",".join(column.name if column.required else f"[{column.name}]" for column in columns)
