"""Documented names of version 0.1, kept for one version with a warning.

An old module name imports its replacement. The next version removes everything here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

NEW_HOMES = {
    "burstenv.agents.monitor": "burstenv.agents.run.monitor",
    "burstenv.agents.vec_env": "burstenv.agents.sb3.vec_env",
    "burstenv.cluster.frontdoor": "burstenv.cluster.gateway",
    "burstenv.envs.core": "burstenv.envs.batch",
    "burstenv.envs.interval_batch": "burstenv.envs.interval.batch",
    "burstenv.evaluation.course": "burstenv.evaluation.time_course",
    "burstenv.evaluation.text": "burstenv.evaluation.report.text",
    "burstenv.evaluation.timeline_page": "burstenv.evaluation.timeline.page",
    "burstenv.evaluation.tuned": "burstenv.evaluation.tuning.tuned_policies",
    "burstenv.workload.mixing": "burstenv.workload.shaping.mixing",
    "burstenv.workload.rates": "burstenv.workload.shaping.rates",
    "burstenv.workload.scaling": "burstenv.workload.shaping.scaling",
}


def _warn(old: str, new: str, stacklevel: int) -> None:
    warnings.warn(
        f"{old} has moved to {new} and will be removed in the next version; import public names from burstenv itself",
        FutureWarning,  # shown by default, also where a library imports it
        stacklevel=stacklevel,
    )


class _OldNames(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old name, and returns its replacement."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self) if name in NEW_HOMES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        _warn(spec.name, NEW_HOMES[spec.name], 2)
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        new = importlib.import_module(NEW_HOMES[module.__name__])
        module.__dict__.update({name: value for name, value in vars(new).items() if not name.startswith("__")})


def install() -> None:
    """Make the old names importable; a second call changes nothing."""
    if not any(isinstance(finder, _OldNames) for finder in sys.meta_path):
        sys.meta_path.append(_OldNames())


def moved_into(package: str, module: str) -> Callable[[str], Any]:
    """Return a ``__getattr__`` for a package that was a module of the same name; its names are now in ``module``."""

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        new = importlib.import_module(module)
        if not hasattr(new, name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        _warn(f"{package}.{name}", f"{module}.{name}", 3)
        return getattr(new, name)

    return get
