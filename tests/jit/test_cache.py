"""Machine code on disk: never stale, and apart from that of the user's own functions."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import burstenv
from burstenv._jit.cache import _outlived, source_digest

PACKAGE = Path(burstenv.__file__).parent

# An entry that takes a constant from another file, which does not say "kernel".
PROBE = """
from burstenv._jit.decorators import entry
from burstenv.errors import LIMIT

@entry
def limit():
    return LIMIT
"""
USERS_OWN = """
import numba

@numba.njit(cache=True)
def twice(x):
    return 2 * x
"""
USE = """
import numba, probe, mine
assert numba.config.CACHE_DIR == {chosen!r}
print(probe.limit(), mine.twice(4), sum(probe.limit.stats.cache_hits.values()))
"""


@pytest.fixture
def copied(tmp_path):
    """A copy of the package's sources, to be edited."""
    sources = shutil.ignore_patterns("__pycache__", "*.npz", "*.html", "*.js", "*.css", "*.j2")
    shutil.copytree(PACKAGE, tmp_path / "burstenv", ignore=sources)
    return tmp_path


def test_the_key_changes_with_every_source_file(copied):
    package = copied / "burstenv"
    before = source_digest(package)
    sources = sorted(package.rglob("*.py"))
    assert len(sources) > 100
    for path in sources:
        source = path.read_bytes()
        path.write_bytes(source + b"\n")
        assert source_digest(package) != before, path
        path.write_bytes(source)
    assert source_digest(package) == before == source_digest()
    (package / "errors.py").rename(package / "mistakes.py")
    assert source_digest(package) != before


@pytest.mark.parametrize(
    ("ages_h", "kept"),
    [([0], 1), ([0, 1, 500], 3), ([0, 1, 2, 100, 500, 600], 4), ([300] * 6, 3), ([k / 10 for k in range(50)], 20)],
)
def test_folders_of_other_versions_go_by_age_and_number(tmp_path, ages_h, kept):
    for k, age_h in enumerate(ages_h):
        (tmp_path / f"{k}").mkdir()
        used_s = time.time() - 3600.0 * age_h
        os.utime(tmp_path / f"{k}", (used_s, used_s))
    gone = {int(path.name) for path in _outlived(tmp_path)}
    assert len(ages_h) - len(gone) == kept
    assert not gone or min(ages_h[k] for k in gone) >= sorted(ages_h)[kept - 1]  # the newest stay


@pytest.mark.parametrize("chosen", ["", "chosen"], ids=["own folder", "NUMBA_CACHE_DIR"])
def test_a_changed_constant_is_never_stale_and_the_users_cache_is_theirs(copied, chosen):
    errors = copied / "burstenv" / "errors.py"
    source = errors.read_text()
    (copied / "probe.py").write_text(PROBE)
    (copied / "mine.py").write_text(USERS_OWN)
    numbas = str(copied / chosen) if chosen else ""
    ours = copied / "chosen" / "burstenv" if chosen else copied / "home" / "kernels"

    def run(limit: int) -> str:
        errors.write_text(f"{source}\nLIMIT = {limit}\n")
        environment = {
            **os.environ, "PYTHONPATH": str(copied), "BURSTENV_CACHE": str(copied / "home"), "NUMBA_CACHE_DIR": numbas,
        }  # fmt: skip
        code = USE.format(chosen=numbas)
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=copied, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert [run(8), run(8), run(2), run(8)] == ["8 8 0", "8 8 1", "2 8 0", "8 8 1"]
    assert len(list(ours.iterdir())) == 2  # one folder for each state of the sources
    assert {path.name.split("-")[0] for path in ours.rglob("*.nbi")} == {"probe.limit"}
    theirs = [path.relative_to(copied) for path in copied.rglob("mine.twice*.nbi")]
    assert [path.parts[0] for path in theirs] == ["chosen" if chosen else "__pycache__"]
