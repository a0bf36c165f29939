"""Writing a trace in the format that a file's ending names."""

from __future__ import annotations

from pathlib import Path

from burstenv.errors import BurstenvError, unknown_name
from burstenv.workload.parquet import write_parquet
from burstenv.workload.trace import Trace
from burstenv.workload.write_csv import write_burstgpt, write_plain
from burstenv.workload.write_mooncake import write_mooncake

FORMATS: tuple[str, ...] = ("burstgpt", "plain", "mooncake", "parquet")
FORMAT_OF_ENDING = {".csv": "burstgpt", ".jsonl": "mooncake", ".parquet": "parquet"}


def format_of(path: str | Path, name: str | None = None) -> str:
    """Return the format to write a file in: the one named, else the one of its ending (before ``.gz``).

    Raises:
        BurstenvError: On an unknown format or ending.
    """
    if name is not None:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
        return name
    ending = Path(str(path).removesuffix(".gz")).suffix
    if ending not in FORMAT_OF_ENDING:
        raise BurstenvError(
            f"{path}: no format is known for the ending {ending!r}; use {', '.join(FORMAT_OF_ENDING)}, or name one of "
            f"{', '.join(FORMATS)}"
        )
    return FORMAT_OF_ENDING[ending]


def write_trace(trace: Trace, path: str | Path, name: str | None = None) -> None:
    """Write a trace; BurstGPT CSV gets its times in full.

    Args:
        trace: The trace.
        path: The file; ``.csv``, ``.jsonl`` (Mooncake) or ``.parquet``, the first two also with ``.gz``.
        name: One of ``FORMATS``, whatever the ending.

    Raises:
        BurstenvError: On an unknown format, or when the file cannot be written.
    """
    form = format_of(path, name)
    if form == "burstgpt":
        write_burstgpt(trace, path, exact_times=True)
    elif form == "plain":
        write_plain(trace, path)
    elif form == "mooncake":
        write_mooncake(trace, path)
    else:
        write_parquet(trace, path)
