"""The journal of a running evaluation: finished episodes, appended one by one with checksums.

One line for each unit, a (policy, load, seed) that finished: eight hexadecimal digits of CRC-32, a blank, and JSON.
The first line holds the plan. A half-written last line of a killed process fails its checksum and is discarded; only
its episodes run again.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.files import hold
from burstenv.plain_data import parse_json

JOURNAL = "journal.jsonl"
_SYNC_S = 2.0  # interval of syncs to disk, against power cuts; a killed process loses no line anyway

Unit = dict[str, Any]
Key = tuple[str, float, int]


class Journal:
    """Appends finished units to a file, and reads those of an interrupted run with the same plan.

    Args:
        path: The file; made if missing.
        plan: All inputs that determine the units' outcomes, in plain values.
        holds: Fields of a unit besides policy, load and seed, with their types.

    Attributes:
        units: Units by (policy, load, seed).
        resumed: Number of units from an interrupted run.

    Raises:
        BurstenvError: If the file holds another plan, is no journal, or cannot be written.
    """

    def __init__(self, path: Path, plan: dict[str, Any], **holds: type):
        self.path = path
        self._holds: dict[str, Any] = {"policy": str, "load": (int, float), "seed": int, **holds}
        self.units: dict[Key, Unit] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            self._stream = path.open("r+b", buffering=0)
            hold(self._stream.fileno(), f"{path}: another evaluation is using this folder; choose another one")
            kept = self._read(plan)
            self._stream.truncate(kept)
            self._stream.seek(kept)
            self._kept = kept
            if kept == 0:
                self._write({"plan": plan})
        except OSError as error:
            raise BurstenvError(f"{path}: cannot be written ({error.strerror or error})") from None
        self.resumed = len(self.units)
        self._synced_s = time.monotonic()

    def append(self, units: Iterable[Unit]) -> None:
        """Add units that finished together, atomically."""
        found = list(units)
        if not found:
            return
        try:
            self._write({"units": found})
        except OSError as error:
            raise BurstenvError(
                f"{self.path}: cannot be written ({error.strerror or error}); finished episodes are kept, and the same "
                "command continues from there"
            ) from None
        if time.monotonic() - self._synced_s > _SYNC_S:
            os.fsync(self._stream.fileno())
            self._synced_s = time.monotonic()
        self._take(found)

    def _write(self, values: dict[str, Any]) -> None:
        """Append a line, atomically."""
        line = memoryview(_line(values))
        try:
            while line:
                line = line[self._stream.write(line) :]
        except OSError:
            self._stream.truncate(self._kept)
            self._stream.seek(self._kept)
            raise
        self._kept = self._stream.tell()

    def close(self, remove: bool = False) -> None:
        """Close the file, and remove it after its units are stored elsewhere."""
        self._stream.close()
        if remove:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self.units[unit["policy"], unit["load"], unit["seed"]] = unit

    def _read(self, plan: dict[str, Any]) -> int:
        """Read the units of the file; return the number of its valid bytes."""
        kept = 0
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream):
                values = _parsed(line)
                if values is None:
                    if number == 0 and line.endswith(b"\n"):
                        raise BurstenvError(f"{self.path}: is no journal of burstenv evaluate; use another folder")
                    break
                if number == 0:
                    self._check(values.get("plan"), plan)
                else:
                    units = values.get("units")
                    if not isinstance(units, list) or not all(map(self._is_unit, units)):
                        raise BurstenvError(
                            f"{self.path}: line {number + 1} holds no finished episodes; delete the file"
                        )
                    self._take(units)
                kept += len(line)
        return kept

    def _is_unit(self, unit: Any) -> bool:
        return isinstance(unit, dict) and all(isinstance(unit.get(name), kind) for name, kind in self._holds.items())

    def _check(self, found: Any, plan: dict[str, Any]) -> None:
        plain = json.loads(json.dumps(plan))
        if found == plain:
            return
        keys = [key for key in plain if not isinstance(found, dict) or found.get(key) != plain[key]]
        changed = ", ".join(keys) or "what it ran"
        raise BurstenvError(
            f"{self.path}: holds an interrupted evaluation with another plan (different: {changed}); repeat its "
            "command to finish it, or delete the file, or write to another folder"
        )


def _line(values: dict[str, Any]) -> bytes:
    text = json.dumps(values, separators=(",", ":"), allow_nan=False).encode("utf-8")
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the value of a line; None if it is incomplete or damaged."""
    if len(line) < 10 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    text = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(text):
        return None
    try:
        values = parse_json(text, "a line")
    except BurstenvError:
        return None
    return values if isinstance(values, dict) else None
