"""The log of ``burstenv serve`` as a trace: one JSON object a line, see :mod:`burstenv.gateway.journal`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burstenv.errors import BurstenvError
from burstenv.workload.formats.burstgpt import clock_metadata, served_and_failed
from burstenv.workload.formats.csv_table import open_table
from burstenv.workload.formats.prefix_tree import Recognised, recognise
from burstenv.workload.trace import CLASSES, MAX_TOKENS, MODELS, OTHER_MODEL, Trace

MARK, VERSION = "burstenv_gateway_log", 2
SERVED = ("attained", "late")
OUTCOMES = (*SERVED, "rejected", "failed", "cancelled")


@dataclass(frozen=True)
class GatewayLog:
    """A log: what it says of the gateway, and its requests in the order of their arrivals.

    Attributes:
        about: The first line: ``policy``, ``scenario``, ``mode``, ``engines`` and more.
        rows: One dict a request.
        policies: (time [s], name) of the policies in force, the first at 0.
    """

    about: dict[str, Any]
    rows: list[dict[str, Any]]
    policies: list[tuple[float, str]]

    def recognised(self, rows: list[dict[str, Any]] | None = None) -> Recognised | None:
        """Return the conversations and shared prefixes of requests, by their prompts' blocks; None: not logged.

        Args:
            rows: Some of the log's requests, in their order; None: all.
        """
        rows = self.rows if rows is None else rows
        if not any(row.get("blocks") for row in rows):
            return None
        chains = [_expanded(row.get("blocks") or []) for row in rows]
        ends = np.cumsum([0, *(len(chain) for chain in chains)])
        prompts, outputs = (
            np.array([row[name] for row in rows], np.int32) for name in ("prompt_tokens", "output_tokens")
        )
        return recognise(np.concatenate(chains).astype(np.int64), ends, prompts, outputs, self.block_tokens)

    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
        told = self.about.get("block_tokens")
        return told if isinstance(told, int) and told > 0 else 16

    def sessions(self, rows: list[dict[str, Any]]) -> NDArray[np.int32]:
        """Return the conversations of requests as their clients name them, numbered as they begin, -1 for none."""
        known: dict[str, int] = {}
        names = [str(row.get("session_id") or "") for row in rows]
        return np.array([known.setdefault(name, len(known)) if name else -1 for name in names], np.int32)


def _expanded(runs: list[list[int]]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(first, first + count) for first, count in runs] or [np.zeros(0, np.int64)])


def looks_like_gateway_log(first: str) -> bool:
    """Return whether a first line is that of a gateway's log."""
    return first.startswith(f'{{"{MARK}"')


def read_gateway_log(path: str | Path) -> GatewayLog:
    """Read a log; a last line that was cut off by a crash is left out.

    Raises:
        BurstenvError: On the first line that is wrong; names the file and the line.
    """
    file = Path(path)
    with open_table(file) as stream:
        lines = stream.read().split(b"\n")
    about: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    policies: list[tuple[float, str]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            said = json.loads(line)
        except ValueError:
            if number == len(lines):
                break
            raise BurstenvError(f"{file}, line {number}: is no JSON") from None
        if not isinstance(said, dict):
            raise BurstenvError(f"{file}, line {number}: must be a JSON object")
        if number == 1:
            if said.get(MARK) != VERSION:
                raise BurstenvError(f"{file}: is a gateway's log of version {said.get(MARK)!r}, this reads {VERSION}")
            about = said
            policies.append((0.0, str(said.get("policy", ""))))
        elif "policy" in said:
            policies.append((_number(file, number, said, "at_s", 0.0), str(said["policy"])))
        else:
            rows.append(_checked(file, number, said))
    if not rows:
        raise BurstenvError(f"{file}: the log holds no request")
    rows.sort(key=lambda row: row["arrival_s"])
    return GatewayLog(about, rows, policies)


def _checked(file: Path, number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return a request's line whose fields that every reader uses are there and make sense."""
    arrival_s = _number(file, number, row, "arrival_s", 0.0)
    if row.get("finish_s") is not None:
        _number(file, number, row, "finish_s", arrival_s)
    for name, least in (("prompt_tokens", 0), ("output_tokens", 0)):
        if _number(file, number, row, name, least) > MAX_TOKENS or row[name] != int(row[name]):
            raise BurstenvError(f"{file}, line {number}: {name} must be a whole number up to {MAX_TOKENS:,}")
    for name, valid in (("outcome", OUTCOMES), ("class", CLASSES)):
        if row.get(name) not in valid:
            raise BurstenvError(
                f"{file}, line {number}: {name} must be one of {', '.join(valid)}, got {row.get(name)!r:.40}"
            )
    blocks = row.get("blocks", [])
    if not isinstance(blocks, list) or not all(_is_run(run) for run in blocks):
        raise BurstenvError(f"{file}, line {number}: blocks must be runs [first, count] of block numbers")
    return row


def _is_run(run: Any) -> bool:
    whole = isinstance(run, list) and len(run) == 2 and all(type(x) is int for x in run)
    return whole and run[0] >= 0 and 1 <= run[1] <= MAX_TOKENS


def _number(file: Path, number: int, row: dict[str, Any], name: str, least: float) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < np.inf:
        raise BurstenvError(f"{file}, line {number}: {name} must be a number of at least {least:g}, got {value!r:.40}")
    return float(value)


def trace_of_log(path: str | Path) -> Trace:
    """Return the requests of a log as a trace; those without a whole answer are its failures."""
    file = Path(path)
    log = read_gateway_log(file)
    rows = log.rows
    arrival = np.array([row["arrival_s"] for row in rows], np.float64)
    served = np.array([row["outcome"] in SERVED and row["output_tokens"] > 0 for row in rows])
    if not served.any():
        raise BurstenvError(f"{file}: none of the {len(rows)} requests of the log was answered")
    session, found = log.sessions(rows), log.recognised()
    if found is not None and (session < 0).all():
        session = found.session
    models = [str(row.get("model") or "") for row in rows]
    elapsed = [row["finish_s"] - row["arrival_s"] if row.get("finish_s") is not None else np.nan for row in rows]
    metadata: dict[str, Any] = {
        "source": str(file),
        "schema": "gateway-log",
        "policy": log.about.get("policy"),
        "rows_read": len(rows),
        "duplicates": 0,
        **clock_metadata(arrival),
        "zero_prompts": 0,
        "ignored_columns": [],
        "jitter_seed": None,
        "other_models": {name: models.count(name) for name in dict.fromkeys(models) if name not in MODELS},
    }
    return served_and_failed(
        arrival,
        np.array([row["prompt_tokens"] for row in rows], np.int32),
        np.array([row["output_tokens"] for row in rows], np.int32),
        served,
        metadata,
        model=np.array([MODELS.index(m) if m in MODELS else OTHER_MODEL for m in models], np.int8),
        log_type=np.array([CLASSES.index(row["class"]) for row in rows], np.int8),
        session=session,
        prefix_id=None if found is None else found.prefix_id,
        prefix_tokens=None if found is None else found.prefix_tokens,
        elapsed_s=np.array(elapsed, np.float32),
    )
