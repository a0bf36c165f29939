"""The changes of replicas that an episode brings by itself, as an array of FAULT sorted by time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from burstenv.config import shortly
from burstenv.engine.arena_records import FAULT
from burstenv.errors import BurstenvError, unknown_name

RECOVERIES = ("fail", "retry", "continue")  # what becomes of the requests of a lost replica, see RecoveryConfig
FAIL, RETRY, CONTINUE = range(3)
MOST_FAULTS = 1_000_000  # of an episode
_NAMES = tuple(name for name in FAULT.names or () if name != "unused")


class FaultKind(IntEnum):
    """What a row of an episode's faults does to its replica."""

    CRASH = 0  # it loses its requests, and boots again once that is detected
    HANG = 1  # it stands still for ``duration_s``; if that is detected before, it is restarted
    SLOW = 2  # its GPU takes ``factor`` times as long, for ``duration_s``
    SPOT = 3  # it is warned: lost in ``duration_s``, replaced ``repair_s`` from now
    PACE = 4  # as SLOW, for the whole episode, beside slow spells
    START = 5  # it is wanted: an unused one boots, a draining one stays
    STOP = 6  # it is not wanted: it takes no requests, and is off when it has none or after ``duration_s``


@dataclass(frozen=True, eq=False)
class Faults:
    """The changes of replicas in one episode, known to no policy.

    Attributes:
        rows: (n,) FAULT, sorted by time.
    """

    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Faults:
        """Return faults of rows given by name, in any order; what is left out is 0, the factor 1.

        Raises:
            BurstenvError: On a name that FAULT has not, or a value that is no number.
        """
        rows = list(rows)
        array = np.zeros(len(rows), FAULT)
        array["factor"] = 1.0
        for k, row in enumerate(rows):
            for name, value in row.items():
                if name not in _NAMES:
                    raise unknown_name(f"field of fault {k}", str(name), _NAMES)
                try:
                    array[name][k] = value
                except (TypeError, ValueError, OverflowError):
                    raise BurstenvError(f"fault {k}: {name} must be a number, got {shortly(value)}") from None
        return cls(array[np.argsort(array["time_s"], kind="stable")])


def check_faults(faults: Any, num_replicas: int, room: int, wanted: bool) -> None:
    """Raise on faults that a cluster of ``num_replicas``, made for ``room`` rows, cannot play."""
    if faults is None:
        return
    if not isinstance(faults, Faults):
        raise BurstenvError(f"the faults of an episode must be Faults or None, got {shortly(faults)}")
    if not wanted:
        raise BurstenvError(f"this cluster was made without faults, got an episode with {len(faults)} of them")
    rows = faults.rows
    if not isinstance(rows, np.ndarray) or rows.dtype != FAULT or rows.ndim != 1:
        raise BurstenvError(f"the rows of faults must be an array of FAULT, (n,), got {type(rows).__name__}")
    if len(rows) > room:
        raise BurstenvError(f"the episode has {len(rows)} faults, this cluster was made for {room}; raise fault_room")
    for name, least in (("duration_s", 0.0), ("detect_s", 0.0), ("repair_s", 0.0), ("boot_s", 0.0), ("factor", 1e-3)):
        _check(rows, name, rows[name] >= least, f"a number of at least {least:g}")
    _check(rows, "time_s", (rows["time_s"] >= 0.0) & (rows["time_s"] < np.inf), "a finite time of at least 0")
    _check(rows, "time_s", np.diff(rows["time_s"], prepend=0.0) >= 0.0, "sorted")
    _check(rows, "replica", (rows["replica"] >= 0) & (rows["replica"] < num_replicas), f"0 to {num_replicas - 1}")
    _check(rows, "kind", (rows["kind"] >= 0) & (rows["kind"] < len(FaultKind)), f"0 to {len(FaultKind) - 1}")


def _check(rows: np.ndarray, name: str, sound: np.ndarray, right: str) -> None:
    if not sound.all():
        row = int(np.argmin(sound))
        raise BurstenvError(f"fault {row} of the episode: {name} must be {right}, got {rows[name][row]}")
