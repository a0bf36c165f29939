"""A workload: the recipe of a trace, and its cache."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from burstenv.arguments import checked
from burstenv.config import Config, load, shipped
from burstenv.errors import BurstenvError
from burstenv.workload.cache import load_cached, save_cached
from burstenv.workload.formats.mapped import TimeUnit, check_columns
from burstenv.workload.formats.reader import read_trace
from burstenv.workload.generator import GENERATOR_VERSION, generate
from burstenv.workload.generator.config import GeneratorConfig
from burstenv.workload.official.data_directory import cache_folder
from burstenv.workload.official.files import OFFICIAL, locate
from burstenv.workload.shaping.selection import SelectConfig, select
from burstenv.workload.splits import DEFAULT_FRACTIONS
from burstenv.workload.trace import Trace

FOLDER = "workloads"
DEFAULT = "burstgpt-default"
_CACHED_FROM_REQUESTS = 200_000  # a file of a smaller trace saves no time


class WorkloadConfig(Config):
    """The source of requests and the split of their days.

    Attributes:
        kind: ``generated`` by the embedded generator, or read from a ``file``.
        days: Days to generate.
        seed: Seed of the generator.
        generator: Its parameters; by default those of the shipped ``burstgpt-default``.
        own_part_sigma: Replaces that of the generator's API traffic (``ApiConfig``): what the requests of a job share.
        path: The file to read, of any format of :func:`burstenv.workload.read_trace`, or the name of an
            official one (``burstgpt-1``).
        columns: For other CSV and Parquet files: the name in the file of each column.
        time_unit: Unit of the times of such a file, or of JSON lines; see :func:`burstenv.workload.read_trace`.
        sort: Sort the rows of a file by time, instead of an error where they are not.
        jitter_seed: Seed that spreads whole-second timestamps of a file.
        fractions: Shares of the days for train, validation and test.
        skip_ramp_up_days: Days at the start to leave out.
        select: Keep only some models, log types, classes or days.
    """

    kind: Literal["generated", "file"]
    days: int | None = Field(default=None, ge=1, le=36_525)
    seed: int = Field(default=0, ge=0)
    generator: GeneratorConfig | None = None
    own_part_sigma: float | None = Field(default=None, ge=1e-3, le=1e3)
    path: str | None = None
    columns: dict[str, str] | None = None
    time_unit: TimeUnit | None = None
    sort: bool = False
    jitter_seed: int = Field(default=0, ge=0)
    fractions: tuple[float, float, float] = DEFAULT_FRACTIONS
    skip_ramp_up_days: int = Field(default=0, ge=0, le=36_525)
    select: SelectConfig = SelectConfig()

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) <= 0 or abs(sum(fractions) - 1.0) > 1e-6:
            raise ValueError("fractions must be three positive shares with sum 1")
        return fractions

    @field_validator("columns")
    @classmethod
    def _map(cls, columns: dict[str, str] | None) -> dict[str, str] | None:
        if columns is not None:
            try:
                check_columns(columns)
            except BurstenvError as error:
                raise ValueError(str(error)) from None
        return columns

    @model_validator(mode="after")
    def _complete(self) -> WorkloadConfig:
        if self.kind == "file":
            if self.path is None:
                raise ValueError("a workload of kind 'file' needs 'path'")
            if self.days is not None or self.generator is not None or self.own_part_sigma is not None:
                raise ValueError("'days', 'generator' and 'own_part_sigma' belong to kind 'generated', not 'file'")
        elif self.days is None:
            raise ValueError("a workload of kind 'generated' needs 'days'")
        elif self.path is not None:
            raise ValueError("'path' belongs to kind 'file', not 'generated'")
        else:
            of_files = {"columns": None, "time_unit": None, "sort": False, "jitter_seed": 0}
            given = [name for name, unset in of_files.items() if getattr(self, name) != unset]
            if given:
                raise ValueError(f"{given[0]!r} belongs to kind 'file', not 'generated'")
        return self


@checked()
def load_workload(name: str | Path | Mapping[str, Any] = DEFAULT) -> WorkloadConfig:
    """Load a workload by shipped name, path to a YAML file, or mapping."""
    return load(WorkloadConfig, FOLDER, name)


def workload_named(name: str | Path | Mapping[str, Any] | WorkloadConfig) -> WorkloadConfig:
    """Return the workload of a trace argument.

    Args:
        name: A shipped workload (``burstgpt-default``), a workload's YAML file or mapping, an official file
            (``burstgpt-1``), or the path of a trace file.

    Raises:
        BurstenvError: When there is no such name or file, with the names there are, or a key or value is wrong.
    """
    if isinstance(name, WorkloadConfig):
        return name
    known = shipped(FOLDER)
    if isinstance(name, Mapping) or str(name) in known or str(name).endswith((".yaml", ".yml")):
        return load_workload(name)
    if str(name) not in OFFICIAL and Path(name).name == str(name) and not Path(name).suffix and not Path(name).exists():
        names = [*known, *OFFICIAL]
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BurstenvError(f"{name}: no such file, and no trace of that name; {hint}names: {', '.join(names)}")
    return WorkloadConfig(kind="file", path=str(name))


def trace_named(name: str | Path | Mapping[str, Any] | WorkloadConfig) -> Trace:
    """Return the trace of a trace argument; see :func:`workload_named`."""
    return load_trace(workload_named(name))


@checked()
def load_trace(config: WorkloadConfig) -> Trace:
    """Return the trace of a workload.

    The last few are kept in memory and shared: treat their arrays as read-only. Large ones are also stored on disk, in
    :func:`cache_folder`; if that cannot be written, they are made again.

    Raises:
        BurstenvError: When the file cannot be read or is wrong.
    """
    stamp = None if config.path is None else _stamp(locate(config.path))
    return _selected(config.model_dump_json(by_alias=True), stamp)


@lru_cache(maxsize=4)
def _selected(config_json: str, stamp: tuple[int, int] | None) -> Trace:
    """Return the trace of a workload; the same object as long as its file (size and time of change) is the same."""
    config = WorkloadConfig.model_validate_json(config_json)
    if stamp is not None:
        assert config.path is not None
        path = locate(config.path)
        columns = None if config.columns is None else tuple(sorted(config.columns.items()))
        trace = _read(path, config.jitter_seed, columns, config.time_unit, config.sort, stamp)
    else:
        assert config.days is not None
        generator = config.generator or _default_generator()
        if config.own_part_sigma is not None:
            if generator.api is None:
                raise BurstenvError("workload: own_part_sigma needs API traffic (generator.api)")
            api = generator.api.model_copy(update={"own_part_sigma": config.own_part_sigma})
            generator = generator.model_copy(update={"api": api})
        trace = _generated(generator.model_dump_json(), config.days, config.seed)
    return select(trace, config.select)


@lru_cache(maxsize=4)
def _read(
    path: Path,
    jitter_seed: int,
    columns: tuple[tuple[str, str], ...] | None,
    time_unit: TimeUnit | None,
    sort: bool,
    stamp: tuple[int, int],
) -> Trace:
    mapped = None if columns is None else dict(columns)
    return read_trace(path, jitter_seed=jitter_seed, columns=mapped, time_unit=time_unit, sort=sort)


def _stamp(path: Path) -> tuple[int, int]:
    """Return size and modification time, which detect a changed file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise BurstenvError(f"{path}: no such file") from None
    except OSError as error:
        raise BurstenvError(f"{path}: cannot be read ({error.strerror or error})") from None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1)
def _default_generator() -> GeneratorConfig:
    generator = load_workload(DEFAULT).generator
    assert generator is not None
    return generator


@lru_cache(maxsize=4)
def _generated(generator_json: str, days: int, seed: int) -> Trace:
    # A new numpy may draw other numbers from the same seed, so its version is part of the key.
    recipe: dict[str, Any] = {
        "generator": json.loads(generator_json),
        "days": days,
        "seed": seed,
        "version": GENERATOR_VERSION,
        "numpy": np.__version__,
    }
    trace = load_cached(recipe)
    if trace is None:
        trace = generate(GeneratorConfig.model_validate_json(generator_json), days, seed)
        if len(trace) >= _CACHED_FROM_REQUESTS:
            save_cached(recipe, trace)
    return trace


__all__ = [
    "DEFAULT", "FOLDER", "WorkloadConfig", "cache_folder", "load_trace", "load_workload", "trace_named",
    "workload_named",
]  # fmt: skip
