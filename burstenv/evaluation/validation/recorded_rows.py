"""The rows of a recorded schedule: one for every iteration and one for every request, checked and compared.

A recording holds the actions of the real scheduler. Both engines write the same rows, and every field of every row is
compared.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burstenv.engine.reference.records import Iteration, ReferenceRequest
from burstenv.errors import BurstenvError

TIME_TOLERANCE = 1e-9  # relative

# Fields and their types: a whole number, seconds, a text, ids of requests, or the shares of an iteration.
SHARE_FIELDS = {
    "id": "whole",  # of the request
    "n": "whole",  # tokens in this iteration
    "c": "whole",  # tokens computed before
    "k": "text",  # new | resumed | running
    "d": "whole",  # 1 if it decodes
    "s": "whole",  # 1 if it samples a token
}
ITERATION_FIELDS = {
    "i": "whole",  # number of the iteration
    "sched": "shares",  # in the order of scheduling
    "preempted": "ids",  # in the order of eviction
    "free_before": "whole",  # free KV blocks before scheduling
    "free_after": "whole",  # after scheduling
    "free_after_update": "whole",  # after the outputs were processed
    "running": "ids",  # after scheduling, in order of admission
    "waiting": "ids",  # after scheduling, the head of the queue first
    "finished": "ids",
    "tokens": "whole",
    "prefill_tokens": "whole",
    "prefill_attn": "whole",  # tokens that prefill tokens attend to, each itself included
    "decode_seqs": "whole",
    "decode_ctx": "whole",  # tokens that decodes attend to
    "t_sched": "seconds",
    "t_start": "seconds",
    "t_end": "seconds",
    "T": "seconds",  # duration
}
REQUEST_FIELDS = {
    "id": "whole",  # row of workload.csv, from 0
    "arrival_s": "seconds",
    "prompt_tokens": "whole",
    "output_tokens": "whole",
    "max_tokens": "whole",  # output tokens after the cut at the model length
    "status": "text",  # finished | rejected | stuck
    "num_preemptions": "whole",
    "cached_tokens_first": "whole",  # prefix hit at the first admission
    "recomputed_tokens": "whole",  # computed tokens lost at preemptions
    "produced_tokens": "whole",
    "first_scheduled_s": "seconds",
    "first_token_s": "seconds",
    "finish_s": "seconds",
}
MAY_BE_BLANK = ("cached_tokens_first", "first_scheduled_s", "first_token_s", "finish_s")
Row = dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """The actions of a scheduler by row: ``ITERATION_FIELDS`` and ``REQUEST_FIELDS``."""

    iterations: tuple[Row, ...] = ()
    requests: tuple[Row, ...] = ()


def iteration_row(number: int, iteration: Iteration) -> Row:
    """Return iteration ``number`` in a recording's form."""
    prefills = [share for share in iteration.scheduled if not share.decode]
    decodes = [share for share in iteration.scheduled if share.decode]
    return {
        "i": number,
        "sched": [
            {"id": s.id, "n": s.tokens, "c": s.computed_before, "k": s.kind, "d": int(s.decode), "s": int(s.samples)}
            for s in iteration.scheduled
        ],
        "preempted": iteration.preempted,
        "free_before": iteration.free_before,
        "free_after": iteration.free_after,
        "free_after_update": iteration.free_after_update,
        "running": iteration.running,
        "waiting": iteration.waiting,
        "finished": iteration.finished,
        "tokens": sum(s.tokens for s in iteration.scheduled),
        "prefill_tokens": sum(s.tokens for s in prefills),
        "prefill_attn": sum(s.tokens * s.computed_before + s.tokens * (s.tokens + 1) // 2 for s in prefills),
        "decode_seqs": len(decodes),
        "decode_ctx": sum(s.computed_before + 1 for s in decodes),
        "t_sched": iteration.scheduled_s,
        "t_start": iteration.start_s,
        "t_end": iteration.end_s,
        "T": iteration.end_s - iteration.start_s,
    }


def request_row(request: ReferenceRequest) -> Row:
    """Return a request at the end of a run in a recording's form."""
    settled = request.status in ("finished", "rejected")
    return {
        "id": request.id,
        "arrival_s": request.arrival_s,
        "prompt_tokens": request.prompt_tokens,
        "output_tokens": request.output_tokens,
        "max_tokens": request.target_tokens,
        "status": request.status if settled else "stuck",
        "num_preemptions": request.preemptions,
        "cached_tokens_first": request.cached_tokens,
        "recomputed_tokens": request.recomputed_tokens,
        "produced_tokens": request.produced_tokens,
        "first_scheduled_s": request.first_scheduled_s,
        "first_token_s": request.first_token_s,
        "finish_s": None if request.status == "rejected" else request.finish_s,  # as vLLM's front end leaves it
    }


def read_iterations(path: Path) -> Iterator[Row]:
    """Read ``iterations.jsonl``.

    Raises:
        BurstenvError: At the first line that is not an iteration with all fields and no others.
    """
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
            check_keys(row, ITERATION_FIELDS)
            yield {name: _checked(name, row[name], kind) for name, kind in ITERATION_FIELDS.items()}
        except (ValueError, RecursionError) as error:
            raise BurstenvError(f"{path}: line {number}: not an iteration record ({error})") from None


def read_requests(path: Path) -> Iterator[Row]:
    """Read ``requests.csv``.

    Raises:
        BurstenvError: At the first row that is not a request with all fields and no others.
    """
    for number, line in read_csv(path):
        try:
            check_keys(line, REQUEST_FIELDS)
            yield {name: _parsed(name, line[name], kind) for name, kind in REQUEST_FIELDS.items()}
        except ValueError as error:
            raise BurstenvError(f"{path}: row {number}: {error}") from None


def read_csv(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Read the rows of a CSV file with their numbers, from 1; a row has as many values as the header."""
    rows = csv.reader(read_text(path).splitlines())
    try:
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise BurstenvError(f"{path}: a column appears twice in the header {','.join(header)}")
        for number, row in enumerate((row for row in rows if row), start=1):
            if len(row) != len(header):
                raise BurstenvError(f"{path}: row {number}: {len(row)} values, expected {len(header)} as in the header")
            yield number, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise BurstenvError(f"{path}: not a CSV file ({error})") from None


def read_text(path: Path) -> str:
    """Read a file of a recorded case."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file; a recorded case needs it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BurstenvError(f"{path}: cannot be read ({error})") from None


def check_keys(row: Mapping[str, Any], fields: Mapping[str, Any], optional: tuple[str, ...] = ()) -> None:
    """Raise a ValueError on a field that is unknown or missing."""
    for name in row:
        if name not in fields:
            raise ValueError(f"unknown field {name!r}; valid: {', '.join(fields)}")
    for name in fields:
        if name not in row and name not in optional:
            raise ValueError(f"field {name!r} is missing")


def whole(name: str, text: str, least: int, most: int) -> int:
    """Read a whole number of a CSV file."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise ValueError(f"{name} is {text!r:.40}, expected a whole number from {least:,} to {most:,}")
    return value


def seconds(name: str, text: str) -> float:
    """Read a time of a CSV file [s]."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name} is {text!r:.40}, expected a time from 0 on")
    return value


def _parsed(name: str, text: str, kind: str) -> Any:
    if text == "" and name in MAY_BE_BLANK:
        return None
    if kind == "whole":
        return whole(name, text, 0, 2**62)
    return text if kind == "text" else seconds(name, text)


def _checked(name: str, value: Any, kind: str) -> Any:
    """Return a value of a JSON record, or raise a ValueError on another type."""
    if kind == "shares":
        if not (isinstance(value, list) and all(isinstance(share, dict) for share in value)):
            raise ValueError(f"{name} must be a list of objects")
        for share in value:
            check_keys(share, SHARE_FIELDS)
        return [{key: _checked(key, share[key], of) for key, of in SHARE_FIELDS.items()} for share in value]
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    valid = {
        "whole": number and isinstance(value, int),
        "seconds": number,
        "text": isinstance(value, str),
        "ids": isinstance(value, list) and all(type(item) is int for item in value),
    }
    if not valid[kind]:
        raise ValueError(f"{name} is {value!r:.40}")
    return value


def first_difference(recorded: Recording, replayed: Recording) -> str | None:
    """Return a sentence with the first field in which two runs differ, or None."""
    return _first_difference("iteration", recorded.iterations, replayed.iterations, ITERATION_FIELDS) or (
        first_request_difference(recorded.requests, replayed.requests)
    )


def first_request_difference(recorded: tuple[Row, ...], replayed: tuple[Row, ...]) -> str | None:
    """Return :func:`first_difference` of the requests alone."""
    return _first_difference("request", recorded, replayed, REQUEST_FIELDS)


def _first_difference(
    what: str, recorded: tuple[Row, ...], replayed: tuple[Row, ...], fields: Mapping[str, str]
) -> str | None:
    for number, (want, got) in enumerate(zip(recorded, replayed, strict=False)):
        for name, kind in fields.items():
            if not _same(want[name], got[name], kind):
                return f"{what} {number}: {name}: recorded {_short(want[name])}, replayed {_short(got[name])}"
    if len(recorded) != len(replayed):
        at = min(len(recorded), len(replayed))
        return f"{what} {at}: recorded {len(recorded)} {what}s, replayed {len(replayed)}"
    return None


def _same(want: Any, got: Any, kind: str) -> bool:
    if kind != "seconds" or want is None or got is None:
        return bool(want == got)
    return math.isclose(got, want, rel_tol=TIME_TOLERANCE, abs_tol=1e-12)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 160 else text[:157] + "..."
