"""Writing traces as CSV: the official BurstGPT schemas and the plain one."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.arguments import checked
from burstenv.files import writing
from burstenv.workload.formats.names import class_texts, texts
from burstenv.workload.trace import LOG_TYPES, MODELS, Trace

_ROWS_AT_ONCE = 1 << 16


@checked()
def write_burstgpt(trace: Trace, path: str | Path, *, exact_times: bool = False) -> None:
    """Write a trace in the official schema: eight columns where it has sessions or elapsed times, else six.

    Failures are rows of 0 response tokens among the requests. Times are cut to whole seconds, as in the
    official files: reading such a file back with the jitter seed of the trace gives the same times, because
    the instants inside a second depend on nothing but seed and row. Models other than ChatGPT and GPT-4 are
    written as ``other``; the schema has no priorities and shared prefixes.

    Args:
        trace: The trace.
        path: The file; ending in ``.gz`` it is compressed.
        exact_times: Write times in full instead of whole seconds.

    Raises:
        BurstenvError: When the file cannot be written.
    """
    failures = trace.failures
    order = np.argsort(np.concatenate([trace.arrival_s, failures.arrival_s]), kind="stable")
    eight = bool((trace.session >= 0).any() or not np.isnan(trace.elapsed_s).all())

    def merged(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(trace, name), getattr(failures, name)])

    none = np.zeros(len(failures), dtype=np.int32)
    output = np.concatenate([trace.output_tokens, none])
    header = [*(("Session ID", "Elapsed time") if eight else ()), "Model", "Request tokens", "Response tokens"]

    def rows(part: NDArray[np.int64]) -> Iterator[str]:
        times = merged_arrival[part]
        stamps = map(repr, times.tolist()) if exact_times else map(str, np.floor(times).astype(np.int64).tolist())
        cells: list[Any] = [stamps]
        if eight:
            cells.append(["" if s < 0 else f"s{s}" for s in session[part].tolist()])
            cells.append(["" if e != e else f"{e:.9g}" for e in elapsed[part].tolist()])
        tokens, answers = prompt[part], output[part]
        cells += [
            [MODELS[code] for code in model[part].tolist()],
            map(str, tokens.tolist()),
            map(str, answers.tolist()),
            map(str, (tokens.astype(np.int64) + answers).tolist()),
            [LOG_TYPES[code] for code in log_type[part].tolist()],
        ]
        return map(",".join, zip(*cells, strict=True))

    merged_arrival, prompt, model, log_type = (
        merged(n) for n in ("arrival_s", "prompt_tokens", "model", "log_type")
    )  # fmt: skip
    session, elapsed = (merged("session"), merged("elapsed_s")) if eight else (none, none)
    _write(path, ["Timestamp", *header, "Total tokens", "Log Type"], order, rows)


@checked()
def write_plain(trace: Trace, path: str | Path) -> None:
    """Write a trace in the plain schema, times in full precision.

    ``session_id``, ``priority``, ``prefix_id`` with ``prefix_tokens``, ``class`` and ``tenant`` are written where the
    trace has any. The schema has no models, elapsed times and failures.

    Args:
        trace: The trace.
        path: The file; ending in ``.gz`` it is compressed.

    Raises:
        BurstenvError: When the file cannot be written.
    """
    sessions, priorities = bool((trace.session >= 0).any()), bool(trace.priority.any())
    prefixes, tenants = bool((trace.prefix_id >= 0).any()), bool((trace.tenant >= 0).any())
    classes = bool(trace.log_type.any() or (trace.own_class >= 0).any())
    header = ["arrival_s", "prompt_tokens", "output_tokens"]
    header += ["session_id"] * sessions + ["priority"] * priorities
    header += ["prefix_id", "prefix_tokens"] * prefixes + ["class"] * classes + ["tenant"] * tenants

    def rows(part: slice) -> Iterator[str]:
        cells: list[Any] = [
            map(repr, trace.arrival_s[part].tolist()),
            map(str, trace.prompt_tokens[part].tolist()),
            map(str, trace.output_tokens[part].tolist()),
        ]
        if sessions:
            cells.append(["" if s < 0 else f"s{s}" for s in trace.session[part].tolist()])
        if priorities:
            cells.append(map(str, trace.priority[part].tolist()))
        if prefixes:
            cells.append(["" if p < 0 else f"p{p}" for p in trace.prefix_id[part].tolist()])
            cells.append(map(str, trace.prefix_tokens[part].tolist()))
        if classes:
            cells.append(map(quoted, class_texts(trace, part)))
        if tenants:
            cells.append(map(quoted, texts(trace, "tenant", part)))
        return map(",".join, zip(*cells, strict=True))

    _write(path, header, range(len(trace)), rows)


def quoted(name: str) -> str:
    """Return a name as a cell of a CSV file."""
    return f'"{name.replace(chr(34), chr(34) * 2)}"' if set(name) & set(',"\n\r') else name


def _write(path: str | Path, header: list[str], order: Any, rows: Any) -> None:
    """Write a header and rows; ``rows`` gives the lines of a slice or of an array of row numbers."""
    file = Path(path)
    with writing(file) as raw:
        packed: Any = gzip.GzipFile("", "wb", 6, raw, mtime=0) if file.suffix == ".gz" else raw
        packed.write((",".join(header) + "\n").encode())
        for start in range(0, len(order), _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, len(order))
            part = order[start:stop] if isinstance(order, np.ndarray) else slice(start, stop)
            packed.write(("\n".join(rows(part)) + "\n").encode())
        if packed is not raw:
            packed.close()
