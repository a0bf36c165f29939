"""Checks of the environments' arguments, before anything is built: one clear sentence for a wrong one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from burstenv.errors import BurstenvError, unknown_name

_TEXT = ("split", "admission", "routing", "action", "observation")
_TEXT_OR_NONE = ("batching", "render_mode")
_COUNTS = ("num_envs", "num_threads")
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
            raise BurstenvError(f"{name} must be {wrong}, got {value!r:.80}")


def _wrong(name: str, value: Any) -> str:
    """Return a description of the valid values for a wrong argument; empty for a right one."""
    if name in _TEXT:
        return "" if isinstance(value, str) else "a name"
    if name == "reward":
        known = isinstance(value, str | Mapping) or callable(value)
        return "" if known else "a name, a mapping of components to weights, or a function of a StepRecord"
    if name in _TEXT_OR_NONE:
        return "" if value is None or isinstance(value, str) else "a name or None"
    if name in _COUNTS or (name in _COUNTS_OR_NONE and value is not None):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return "" if whole and value >= 1 else "a whole number of at least 1"
    if name == "slots":
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        return "" if whole and 1 <= value <= _MOST_SLOTS else f"a whole number from 1 to {_MOST_SLOTS:,}"
    if name == "interval_s":
        enough = _is_number(value) and _LEAST_INTERVAL_S <= float(value) < float("inf")
        return "" if enough else f"a number of seconds of at least {_LEAST_INTERVAL_S:g}"
    if name == "max_admission":
        return "" if _is_number(value) and 0.0 < float(value) < float("inf") else "a number above 0"
    if name == "load":
        share = value is None or (_is_number(value) and 0.0 < float(value) < 1e3)
        return "" if share else "a share of capacity above 0, such as 1.5, or None"
    if name == "privileged":
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
        return "" if names else "a name or several of admission, routing, batching"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


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
