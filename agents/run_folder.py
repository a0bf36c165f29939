"""The folder of one training run: what lies in it, and how it is written (all or nothing)."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from burstenv.agents.agent import BEST_FILE, DESCRIPTION_FILE, LAST_FILE
from burstenv.errors import BurstenvError

LOG_FILE = "training.json"
STATE_FILE = "resume.bin"
TENSORBOARD_FOLDER = "tensorboard"


class RunFolder:
    """``agent.json``, ``best.zip``, ``last.zip``, ``resume.bin``, ``training.json`` and ``tensorboard/`` of one run.

    Attributes:
        path: The folder.
        description: What is needed to load the agent.
        best: Checkpoint with the best validation attainment.
        last: The latest checkpoint.
        resume: All that a run needs to go on, environments in the middle of their episodes included.
        log: List of records, one for each validation.
        tensorboard: Event files.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.description = self.path / DESCRIPTION_FILE
        self.best = self.path / BEST_FILE
        self.last = self.path / LAST_FILE
        self.resume = self.path / STATE_FILE
        self.log = self.path / LOG_FILE
        self.tensorboard = self.path / TENSORBOARD_FOLDER

    def create(self) -> None:
        """Make the folder; refuse one that already holds a run.

        Raises:
            BurstenvError: When there is a run in it, or it cannot be made.
        """
        if self.description.exists():
            raise BurstenvError(f"{self.path}: already holds a training run; resume it or choose another folder")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BurstenvError(f"{self.path}: cannot be made ({error.strerror})") from None

    def write_json(self, file: Path, values: Any) -> None:
        """Write values as JSON, atomically."""
        self.write(file, lambda out: out.write(json.dumps(values, indent=1).encode()))

    def read_log(self) -> list[dict[str, Any]]:
        """Return the records of the run so far; none when it has not been validated."""
        if not self.log.is_file():
            return []
        try:
            return list(json.loads(self.log.read_text(encoding="utf-8")))
        except ValueError:
            raise BurstenvError(f"{self.log}: is not valid JSON; remove it to resume without the log") from None

    def write_state(self, state: dict[str, Any]) -> None:
        """Write what a run needs to go on, atomically."""
        packed = zlib.compress(pickle.dumps(state, pickle.HIGHEST_PROTOCOL), 1)
        self.write(self.resume, lambda out: out.write(packed))

    def read_state(self) -> dict[str, Any]:
        """Return what :meth:`write_state` wrote. Reading it can run code: resume runs of your own only.

        Raises:
            BurstenvError: When it cannot be read.
        """
        try:
            return dict(pickle.loads(zlib.decompress(self.resume.read_bytes())))
        except (OSError, zlib.error, pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError):
            raise BurstenvError(
                f"{self.resume}: is not a state that training can resume from; it may be of another version of burstenv"
            ) from None

    @staticmethod
    def write(file: Path, fill: Callable[[IO[bytes]], Any]) -> None:
        """Write a file atomically: into a temporary one beside it, then rename."""
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as out:
                fill(out)
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
