"""The real material that tests read, unpacked from the archives beside them: recorded schedules and public traces."""

from __future__ import annotations

import atexit
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parent


@cache
def _unpacked(archive: str) -> Path:
    """Unpack an archive into a folder that goes when the tests end, once in each process."""
    folder = Path(tempfile.mkdtemp(prefix="burstenv-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(TESTS / archive) as file:
        file.extractall(folder, filter="data")
    return folder


def golden(case: str) -> Path:
    """Return the folder of a recorded schedule, see golden/README.md."""
    return _unpacked("golden/recorded.tar.xz") / case


def golden_cases() -> list[str]:
    """Return the names of all recorded schedules."""
    return sorted(path.name for path in _unpacked("golden/recorded.tar.xz").iterdir())


def real(name: str) -> Path:
    """Return a file or folder of real data, see data/README.md."""
    path = _unpacked("data/real.tar.xz") / name
    assert path.exists(), f"tests/data/real.tar.xz holds no {name}"
    return path
