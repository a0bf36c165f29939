"""Checks of the environments' arguments, before anything is built: one clear sentence for a wrong one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from burstenv.config import shortly
from burstenv.errors import BurstenvError, unknown_name

_TEXT = ("split", "admission", "routing", "action", "observation")
_TEXT_OR_NONE = ("batching", "background", "scaling", "migration", "render_mode")
_COUNTS = {"num_envs": 100_000, "num_threads": 1_024}  # with the most of each; memory grows with the first
_MOST_SLOTS = 1_024  # an observation and a mask grow with them
_LEAST_INTERVAL_S = 1e-3  # an episode of minutes must end within a practical number of steps
_COUNTS_OR_NONE = ("max_episode_steps",)


def check_unknown(unknown: Mapping[str, Any], valid: Iterable[str]) -> None:
    """Raise on unknown arguments and list the valid ones.

    Args:
        unknown: Arguments that match no parameter.
        valid: Names of the parameters.

    Raises:
        BurstenvError: If there is one.
    """
    for name in unknown:
        raise unknown_name("argument", name, valid)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Check the types of the given arguments; the code that uses them checks their values.

    Raises:
        BurstenvError: On the first with a wrong type.
    """
    for name, value in arguments.items():
        wrong = _wrong(name, value)
        if wrong:
            raise BurstenvError(f"{name} must be {wrong}, got {shortly(value)}")


def _wrong(name: str, value: Any) -> str:
    """Return a description of the valid values for a wrong argument; empty for a right one."""
    if name in _TEXT:
        return "" if isinstance(value, str) else "a name"
    if name == "reward":
        known = isinstance(value, str | Mapping) or callable(value)
        return "" if known else "a name, a mapping of components to weights, or a function of a StepRecord"
    if name in _TEXT_OR_NONE:
        return "" if value is None or isinstance(value, str) else "a name or None"
    if name in _COUNTS:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return "" if whole and 1 <= value <= _COUNTS[name] else f"a whole number from 1 to {_COUNTS[name]:,}"
    if name in _COUNTS_OR_NONE and value is not None:
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return "" if whole and value >= 1 else "a whole number of at least 1"
    if name == "slots":
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return "" if whole and 1 <= value <= _MOST_SLOTS else f"a whole number from 1 to {_MOST_SLOTS:,}"
    if name == "interval_s":
        enough = _is_number(value) and _LEAST_INTERVAL_S <= float(value) <= 1e6
        return "" if enough else f"a number of seconds from {_LEAST_INTERVAL_S:g} to 1e6"
    if name == "max_admission":
        return "" if _is_number(value) and 0.0 < float(value) <= 1e6 else "a number above 0, at most 1e6"
    if name == "load":
        share = value is None or (_is_number(value) and 0.0 < float(value) < 1e3)
        return "" if share else "a share of capacity above 0, such as 1.5, or None"
    if name in ("privileged", "advised"):
        return "" if isinstance(value, bool) else "True or False"
    if name == "trace":
        return "" if value is None or isinstance(value, str | Path) else "the path of a file, or None"
    if name == "scenario":
        named = isinstance(value, str | Path | Mapping) or type(value).__name__ == "Scenario"
        return "" if named else "a shipped name, the path of a YAML file, or a mapping"
    if name == "decide":
        names = isinstance(value, str) or (
            isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
        )
        return "" if names else "a name or several of admission, routing, batching, background, scaling"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


_Batch = TypeVar("_Batch", bound=type)
_QUICK = "reward_of"  # asked for at every step: it checks its number itself


def places_checked(batch: _Batch) -> _Batch:
    """Check the environment's number in all public methods of a class of batches that take one as ``i``."""
    for name, method in list(vars(batch).items()):
        public = inspect.isfunction(method) and not name.startswith("_") and name != _QUICK
        if public and list(inspect.signature(method).parameters)[1:2] == ["i"]:
            setattr(batch, name, _of_a_place(method))
    return batch


def _of_a_place(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def checking(self: Any, i: int, *args: Any, **kwargs: Any) -> Any:
        check_place(i, self.num_envs)
        return method(self, i, *args, **kwargs)

    return checking


def check_place(i: Any, count: int) -> None:
    """Refuse what is not the number of one of ``count`` environments."""
    if not isinstance(i, int | np.integer) or isinstance(i, bool) or not 0 <= i < count:
        raise BurstenvError(f"i must be the number of an environment, from 0 to {count - 1}, got {shortly(i)}")


def check_flat(flat: Any, size: int) -> None:
    """Refuse what is not an array of flat observations, (..., size)."""
    if not isinstance(flat, np.ndarray) or flat.ndim == 0 or flat.shape[-1] != size:
        got = f"one of shape {flat.shape}" if isinstance(flat, np.ndarray) else f"{shortly(flat)}"
        raise BurstenvError(f"flat must be an array of observations, (..., {size}), got {got}")


def check_render_mode(render_mode: str | None, valid: Iterable[str]) -> None:
    """Raise on an unknown render mode, or one without its extra installed, before an episode begins.

    Raises:
        BurstenvError: In one sentence.
    """
    if render_mode is None:
        return
    if render_mode not in valid:
        raise unknown_name("render_mode", render_mode, valid)
    if render_mode != "ansi":
        from burstenv.envs.rendering.frame import need_pillow

        need_pillow()
    if render_mode == "human":
        from burstenv.envs.rendering.window import need_pygame

        need_pygame()
