"""The folder of one training run: its files, and their atomic writes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from burstenv.agents.agent import BEST_FILE, DESCRIPTION_FILE, LAST_FILE
from burstenv.agents.run.state_file import read_state, write_state
from burstenv.errors import BurstenvError
from burstenv.files import locked, writing
from burstenv.plain_data import read_json

LOG_FILE = "training.json"
STATE_FILE = "resume.bin"
TENSORBOARD_FOLDER = "tensorboard"


class RunFolder:
    """``agent.json``, ``best.zip``, ``last.zip``, ``resume.bin``, ``training.json`` and ``tensorboard/`` of one run.

    Attributes:
        path: The folder.
        description: What is needed to load the agent.
        best: Checkpoint with the best validation score.
        last: The latest checkpoint.
        resume: The state needed to continue a run, including environments in the middle of their episodes.
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

    @contextlib.contextmanager
    def held(self, resume: bool) -> Iterator[None]:
        """Make the folder and lock it for one run, new or resumed.

        Raises:
            BurstenvError: If another run is using it, a new run would replace an existing one, or it cannot be made.
        """
        if not resume:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BurstenvError(f"{self.path}: cannot be made ({error.strerror})") from None
        elif not self.path.is_dir():
            raise BurstenvError(f"{self.path}: no such run folder; train one with `burstenv train`")
        with locked(self.path, f"{self.path}: another training run is using this folder; choose another folder"):
            if not resume and self.description.exists():
                raise BurstenvError(f"{self.path}: already holds a training run; resume it or choose another folder")
            yield

    def write_json(self, file: Path, values: Any) -> None:
        """Write values as JSON, atomically."""
        self.write(file, lambda out: out.write(json.dumps(values, indent=1).encode()))

    def read_log(self) -> list[dict[str, Any]]:
        """Return the records of the run so far; none when it has not been validated."""
        if not self.log.is_file():
            return []
        records = read_json(self.log)
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise BurstenvError(f"{self.log}: is not the log of a training run; remove it to go on without")
        return records

    def write_state(self, state: dict[str, Any]) -> None:
        """Write the state needed to continue a run, atomically."""
        self.write(self.resume, lambda out: write_state(out, state))

    def read_state(self) -> dict[str, Any]:
        """Return the state written by :meth:`write_state`.

        Reading it runs no code; but clusters in the middle of their episodes go to compiled code as they are, so the
        file must be the user's own.

        Raises:
            BurstenvError: When it cannot be read, or belongs to another user.
        """
        if hasattr(os, "getuid") and self.resume.stat().st_uid != os.getuid():
            raise BurstenvError(
                f"{self.resume}: belongs to another user, and the clusters in it would go to compiled code unchecked; "
                "to trust it, make it your own (cp -r the folder) and resume that"
            )
        try:
            return read_state(self.resume)
        except BurstenvError as error:
            raise BurstenvError(
                f"{self.resume}: is not a state that training can resume from ({error}); it may be of another version "
                "of burstenv"
            ) from None

    @staticmethod
    def write(file: Path, fill: Callable[[IO[bytes]], Any]) -> None:
        """Write a file atomically.

        Raises:
            BurstenvError: If it cannot be written; the old file stays, and the run can be resumed from it.
        """
        with writing(file) as out:
            fill(out)
