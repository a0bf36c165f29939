"""The inputs needed to repeat an evaluation, without traces of the machine's owner."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from burstenv import __version__
from burstenv.envs.scenario import Scenario
from burstenv.workload import Trace

PACKAGES = (
    "numpy", "numba", "gymnasium", "pandas", "pydantic", "torch", "stable-baselines3", "sb3-contrib", "optuna",
)  # fmt: skip


def provenance(scenario: Scenario) -> dict[str, Any]:
    """Return what fixes an evaluation's numbers: version, scenario, workload and trace, in plain values.

    The same on every machine and at every time, apart from the trace's ``sha256``, which the last bits of times change
    (``fingerprint.py``). Folders are left out: of a file only its name stays.

    Args:
        scenario: What was evaluated on.
    """
    return {
        "burstenv": __version__,
        "scenario": _without_folders(scenario.config.model_dump(mode="json")),
        "workload": _without_folders(scenario.workload.model_dump(mode="json")),
        "trace": {
            "sha256": trace_digest(scenario.trace),
            **_without_folders(_plain(scenario.trace.metadata)),
        },
    }


def manifest(command: str | None = None) -> dict[str, Any]:
    """Return on what an evaluation ran: command, revision, packages and hardware, in plain values.

    Host names, user names and folders are left out.

    Args:
        command: The command line; None: that of this process.
    """
    return {
        "command": command if command is not None else command_line(sys.argv),
        "burstenv": __version__,
        "revision": source_revision(),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "hardware": {
            "platform": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str | None:
    """Return the name of the processor, where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def command_line(arguments: list[str]) -> str:
    """Return a command as one would type it, folders of absolute paths left out."""
    words = [_file_name(word) for word in arguments]
    return " ".join(f"'{word}'" if set(word) & set(" ()*;&|<>$") else word for word in words)


def trace_digest(trace: Trace) -> str:
    """Return the SHA-256 of the bytes of a trace's arrivals, lengths, classes and sessions."""
    digest = hashlib.sha256()
    for column in (trace.arrival_s, trace.prompt_tokens, trace.output_tokens, trace.log_type, trace.session):
        digest.update(column.tobytes())
    return digest.hexdigest()


def source_revision() -> str | None:
    """Return the git commit of burstenv's own checkout, ``+`` appended if edited; None if installed."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # A virtual environment may lie inside another repository, whose commits are irrelevant here.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent:
            return None
        edited = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+" if edited else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _file_name(text: str) -> str:
    """Return ``text``, or only the last part of an absolute path, also behind an option's ``=``."""
    option, equals, value = text.rpartition("=")
    if Path(value).is_absolute():
        return f"{option}{equals}{Path(value).name}"
    return text


def _without_folders(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_folders(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_without_folders(value) for value in values]
    return _file_name(values) if isinstance(values, str) else values


def _plain(value: Any) -> Any:
    """Return metadata as JSON can hold it; what is neither a number, a text nor a collection becomes text."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(inner) for inner in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
