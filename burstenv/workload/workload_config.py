"""A workload: the recipe that yields a trace, and the cache that makes it cheap to ask again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from burstenv.config import Config, load
from burstenv.errors import BurstenvError
from burstenv.workload.generator import GENERATOR_VERSION, generate
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.reader import read_trace
from burstenv.workload.splits import DEFAULT_FRACTIONS
from burstenv.workload.trace import COLUMNS, Failures, Trace

FOLDER = "workloads"
DEFAULT = "burstgpt-default"
_CACHED_FROM_REQUESTS = 200_000  # smaller traces are generated faster than a file is worth


class WorkloadConfig(Config):
    """Where requests come from and how their days are divided.

    Attributes:
        kind: ``generated`` by the embedded generator, or read from a ``file``.
        days: Days to generate.
        seed: Seed of the generator.
        generator: Its parameters; by default those of the shipped ``burstgpt-default``.
        path: The file to read, BurstGPT or plain schema.
        jitter_seed: Seed that spreads whole-second timestamps of a file.
        fractions: Shares of the days for train, validation and test.
        skip_ramp_up_days: Days at the start to leave out.
    """

    kind: Literal["generated", "file"]
    days: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    generator: GeneratorConfig | None = None
    path: str | None = None
    jitter_seed: int = Field(default=0, ge=0)
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    skip_ramp_up_days: int = Field(default=0, ge=0)

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-6:
            raise ValueError("fractions must be three positive shares with sum 1")
        return fractions

    @model_validator(mode="after")
    def _complete(self) -> WorkloadConfig:
        if self.kind == "file":
            if self.path is None:
                raise ValueError("a workload of kind 'file' needs 'path'")
            if self.days is not None or self.generator is not None:
                raise ValueError("'days' and 'generator' belong to kind 'generated', not 'file'")
        elif self.days is None:
            raise ValueError("a workload of kind 'generated' needs 'days'")
        elif self.path is not None:
            raise ValueError("'path' belongs to kind 'file', not 'generated'")
        return self


def load_workload(name: str | Path | Mapping[str, Any] = DEFAULT) -> WorkloadConfig:
    """Load a workload by shipped name, path to a YAML file, or mapping."""
    return load(WorkloadConfig, FOLDER, name)


def load_trace(config: WorkloadConfig) -> Trace:
    """Return the trace of a workload.

    The last few are kept in memory and handed out again: treat their arrays as read-only. Large generated
    ones are kept on disk too, in ``$BURSTENV_CACHE`` or ``~/.cache/burstenv``; where that cannot be
    written, they are generated anew.

    Raises:
        BurstenvError: When the file cannot be read or is wrong.
    """
    if config.kind == "file":
        assert config.path is not None
        return _read(config.path, config.jitter_seed, _stamp(config.path))
    assert config.days is not None
    generator = config.generator or _default_generator()
    return _generated(generator.model_dump_json(), config.days, config.seed)


@lru_cache(maxsize=4)
def _read(path: str, jitter_seed: int, stamp: tuple[int, int]) -> Trace:
    return read_trace(path, jitter_seed=jitter_seed)


def _stamp(path: str) -> tuple[int, int]:
    """Return size and time of change, so that a file that changed is read again."""
    try:
        status = os.stat(path)
    except OSError:
        raise BurstenvError(f"{path}: no such file") from None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _default_generator() -> GeneratorConfig:
    generator = load_workload(DEFAULT).generator
    assert generator is not None
    return generator


@lru_cache(maxsize=4)
def _generated(generator_json: str, days: int, seed: int) -> Trace:
    # A new numpy may draw other numbers from the same seed, so its version is part of the key.
    key = json.dumps([generator_json, days, seed, GENERATOR_VERSION, np.__version__])
    file = cache_folder() / f"trace-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"
    trace = _load_cached(file)
    if trace is None:
        trace = generate(GeneratorConfig.model_validate_json(generator_json), days, seed)
        if len(trace) >= _CACHED_FROM_REQUESTS:
            _save_cached(trace, file)
    return trace


def cache_folder() -> Path:
    """Return the user's cache folder: ``$BURSTENV_CACHE``, else ``~/.cache/burstenv``."""
    chosen = os.environ.get("BURSTENV_CACHE")
    return Path(chosen) if chosen else Path(os.path.expanduser("~")) / ".cache" / "burstenv"


def _load_cached(file: Path) -> Trace | None:
    """Load a cached trace, or None when there is none that can be used."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            columns = {name: stored[name] for name in COLUMNS if name in stored}
            count = len(columns["arrival_s"])
            columns.setdefault("priority", np.zeros(count, dtype=np.int32))
            columns.setdefault("elapsed_s", np.full(count, np.nan, dtype=np.float32))
            failures = Failures(*(stored[f"failures_{name}"] for name in ("arrival_s", "model", "log_type")))
            return Trace(**columns, failures=failures, metadata=json.loads(str(stored["metadata"])))
    except Exception:  # absent, unreadable or damaged: whatever the reason, it is generated again
        return None


def _save_cached(trace: Trace, file: Path) -> None:
    """Save a generated trace whole or not at all; a cache that cannot be written is no error."""
    columns = {name: getattr(trace, name) for name in COLUMNS if name not in ("priority", "elapsed_s")}
    failed = {f"failures_{name}": getattr(trace.failures, name) for name in ("arrival_s", "model", "log_type")}
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                np.savez(stream, metadata=np.array(json.dumps(trace.metadata)), **columns, **failed)
            os.replace(temporary, file)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
