"""The runs of trained agents named by a user."""

from __future__ import annotations

import glob
import hashlib
from pathlib import Path

from burstenv.errors import BurstenvError

_CHECKPOINTS = ("best.zip", "last.zip")
EXPORTED = ".npz"
_FILES = (".zip", EXPORTED)


def find_runs(text: str) -> tuple[str | None, list[Path]]:
    """Return the training runs of an ``--agent``, and their group of training seeds.

    Args:
        text: A run folder, a checkpoint or an exported agent; or ``NAME=PATTERN`` for a group, such as
            ``ppo=runs/ppo-s*``.

    Returns:
        The group's name, or None; and its runs in the order of their names.

    Raises:
        BurstenvError: If a pattern matches no run.
    """
    name, equals, pattern = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, [Path(text)]
    if not name:
        raise BurstenvError(
            f"--agent {text!r}: a group of training seeds needs a name, such as ppo={pattern or 'runs/*'}"
        )
    runs = [Path(path) for path in sorted(glob.glob(pattern))]
    runs = [run for run in runs if run.suffix in _FILES or (run / "agent.json").is_file()]
    if not runs:
        raise BurstenvError(f"--agent {text!r}: no run folder, checkpoint or {EXPORTED} file matches {pattern!r}")
    return name, runs


def checkpoint_digest(run: Path) -> str:
    """Return the SHA-256 of a run's checkpoint, which identifies the agent in a journal."""
    files = [run] if run.suffix in _FILES else [run / name for name in _CHECKPOINTS if (run / name).is_file()][:1]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
