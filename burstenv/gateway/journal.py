"""The gateway's log on disk: one JSON object a line, which ``burstenv trace`` and ``burstenv validate`` read.

The first line describes the gateway, a line with ``policy`` and ``at_s`` notes a new policy, every other line is one
request, written when it is over. Times are in seconds since the gateway began. ``blocks`` are the numbers of its
prompt's full KV blocks as runs [first, count]: prompts that begin alike begin with the same numbers. ``sent`` is where
it was sent: [replica, when, when that ended, whether the engine failed it]. ``read_prompt_tokens`` is the length of the
prompt as the policy saw it, ``prompt_tokens`` as the engine told it.

``decisions`` are those of the policy: what it ``chose``, what was ``done`` where that is something else (it may not
defer again, or chose a replica that had just failed), the state of its random stream, and what it saw that does not
follow from the other lines, for each replica: ``context_tokens`` of the answers under way, the ``metrics`` read last,
the ``cached_blocks`` of this prompt, and ``longest_tokens``, the longest request that it takes, where that is not what
the cluster says (0: it takes none).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.files import cannot_write
from burstenv.gateway.flight import Flight
from burstenv.workload import CLASSES
from burstenv.workload.formats.gateway_log import MARK, SERVED, VERSION


def row_of(flight: Flight, outcome: str, status: int, now_s: float) -> dict[str, Any]:
    """Return the line of a request that has ended with an outcome and an HTTP status."""
    incoming = flight.incoming
    served = outcome in SERVED
    return {
        "arrival_s": round(flight.arrival_s, 6),
        "prompt_tokens": incoming.prompt_tokens if flight.told_prompt_tokens is None else flight.told_prompt_tokens,
        "output_tokens": flight.tokens,
        "class": CLASSES[incoming.class_code],
        "model": incoming.model,
        "session_id": incoming.session_id,
        "outcome": outcome,
        "status": status,
        "replica": flight.replica if flight.tries else None,
        "sent": flight.sent,
        "defers": flight.defers,
        "streamed": incoming.streamed,
        "decisions": flight.decisions,
        "first_token_s": _rounded(flight.first_token_s),
        "finish_s": _rounded(flight.last_byte_s) if served else round(now_s, 6),
        "predicted_tokens": incoming.predicted_tokens,
        "read_prompt_tokens": incoming.prompt_tokens,
        "ttft_slo_s": incoming.ttft_slo_s,
        "tpot_slo_s": incoming.tpot_slo_s,
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


class Journal:
    """Writes the log; without a path it writes nothing.

    Args:
        path: A new file, or a device.
        about: The description of the gateway.

    Raises:
        BurstenvError: If the file cannot be written.
    """

    def __init__(self, path: Path | None, about: dict[str, Any]):
        self._out = None
        self.path = path
        self.failed = ""
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            new = os.O_EXCL if not path.exists() or path.is_file() else 0
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | new, 0o600)  # it may hold prompts
            self._out = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1 << 16)
        except FileExistsError:
            raise BurstenvError(f"{path}: is there already; name another file for the log, or move this one") from None
        except OSError as error:
            raise cannot_write(path, error) from None
        self.write({MARK: VERSION, **about})

    def write(self, line: dict[str, Any]) -> None:
        """Add a line. A full disk stops the log, not the gateway; ``failed`` then says why."""
        if self._out is None:
            return
        try:
            self._out.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as error:
            self._stop(error)

    def flush(self) -> None:
        """Hand what was written to the operating system."""
        if self._out is None:
            return
        try:
            self._out.flush()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: OSError) -> None:
        self.failed = f"{self.path}: the log ends here ({error.strerror or error})"
        with contextlib.suppress(OSError):
            assert self._out is not None
            self._out.close()
        self._out = None

    def close(self) -> None:
        """End the log."""
        self.flush()
        if self._out is not None:
            self._out.close()
            self._out = None
