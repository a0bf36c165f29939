"""A result as Parquet files, for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.evaluation.result import EvaluationResult, Row
from burstenv.files import write_atomic

TABLES = ("episodes", "summary", "differences", "groups", "ranks")


def write_parquet(result: EvaluationResult, folder: str | Path) -> dict[str, Path]:
    """Write the tables of a result as ``episodes.parquet``, ``summary.parquet`` and so on, atomically.

    The columns are the keys of the rows of :class:`EvaluationResult`; the file's metadata, under ``burstenv``, holds
    the inputs of the numbers. The same result gives the same bytes.

    Args:
        result: The evaluation.
        folder: Output folder; made if missing.

    Returns:
        The paths by table.

    Raises:
        BurstenvError: Without pyarrow.
    """
    try:
        import pyarrow  # type: ignore[import-untyped,unused-ignore]
        from pyarrow import parquet
    except ImportError:
        raise BurstenvError("writing Parquet needs pyarrow; install it with: pip install 'burstenv[parquet]'") from None
    import json

    about = {"burstenv": json.dumps(result.provenance, sort_keys=True, default=str)}
    paths = {}
    for name in TABLES:
        rows: list[Row] = getattr(result, name)
        if not rows:
            continue
        columns: dict[str, list[Any]] = {key: [row.get(key) for row in rows] for row in rows[:1] for key in row}
        for row in rows:
            for key in row:
                if key not in columns:
                    columns[key] = [other.get(key) for other in rows]
        table = pyarrow.table(columns).replace_schema_metadata(about)
        stream = pyarrow.BufferOutputStream()
        parquet.write_table(table, stream, compression="zstd")
        paths[name] = Path(folder) / f"{name}.parquet"
        write_atomic(paths[name], stream.getvalue().to_pybytes())
    return paths
