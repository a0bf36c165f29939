"""Whole policies in plain Python, and the conversion of a user function's result."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burstenv.cluster.gateway import ADMISSION_NAMES, ADMIT, REJECT
from burstenv.errors import BurstenvError, unknown_name
from burstenv.policies.rule import Rule
from burstenv.policies.view import ReplicaView, View

Decision = tuple[int, int, int]  # admission, replica, mode


@dataclass(frozen=True)
class PythonPolicy:
    """A user's function that decides all components, with all its parameters.

    Attributes:
        rule: Its declaration; ``rule.function`` decides.
        parameters: Their values, in the order of the declaration.
        modes: The batching modes it names.
        ticks: Whether it is called at ticks.
    """

    rule: Rule
    parameters: tuple[float, ...]
    modes: tuple[str, ...] = ()
    ticks: bool = False

    @property
    def name(self) -> str:
        """The name, readable by ``load_policy`` once the policy's file is loaded."""
        return self.rule.written(self.parameters)

    @property
    def oracle(self) -> bool:
        """Whether it uses true output lengths."""
        return self.rule.oracle

    @property
    def floor(self) -> bool:
        """Whether it is bad on purpose."""
        return self.rule.floor

    @property
    def compiled(self) -> bool:
        """Whether compiled code runs it: never."""
        return False

    @property
    def named(self) -> dict[str, float]:
        """The parameters by name."""
        return dict(zip(self.rule.parameters, self.parameters, strict=True))

    def with_parameters(self, values: tuple[float, ...]) -> PythonPolicy:
        """Return the same policy with other parameters."""
        return replace(self, parameters=values)

    def check(self, mode_names: Sequence[str]) -> None:
        """Raise a one-sentence error if the scenario lacks a batching mode that the policy names."""
        for mode in self.modes:
            if mode not in mode_names:
                raise unknown_name(f"batching mode of policy {self.name} in this scenario", mode, mode_names)

    def decide(self, view: View) -> Decision:
        """Return (admission, replica, mode) for the decision epoch that ``view`` shows.

        Raises:
            BurstenvError: If the function fails or returns no decision; names its file and line.
        """
        if view.request is None and not self.ticks:
            return ADMIT, 0, view.modes.index(view.replicas[0].mode)
        answer = call(self.rule, view, **self.named)
        if answer is None or (isinstance(answer, str) and answer in ADMISSION_NAMES):
            if answer == "admit":
                raise _wrong(self.rule, answer, "admit where? return a replica")
            admission, target, mode = (answer or "reject"), view.replicas[0], None
        elif isinstance(answer, tuple):
            if len(answer) not in (2, 3):
                raise _wrong(self.rule, answer, "a tuple needs two or three parts: admission, replica, mode")
            admission, target, mode = (*answer, None)[:3]
        else:
            admission, target, mode = "admit", answer, None
        chosen = replica_of(self.rule, target, view)
        return admission_of(self.rule, admission), chosen, _mode_of(self.rule, mode, view, chosen)


def call(rule: Rule, *arguments: Any, **named: Any) -> Any:
    """Call a rule's function; a failure becomes one sentence with the file and line of the user's code."""
    assert rule.function is not None
    try:
        return rule.function(*arguments, **named)
    except Exception as error:
        message = str(error) if isinstance(error, BurstenvError) else f"{type(error).__name__}: {error}"
        raise BurstenvError(f"{where(error, rule.function.__code__.co_filename)}: {rule.name}: {message}") from None


def where(error: BaseException, file: str) -> str:
    """Return the file and line of the last frame of an error within a file."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}, line {lines[-1]}" if lines else file


def admission_of(rule: Rule, answer: Any) -> int:
    """Return the engine's code of an admission decision."""
    if isinstance(answer, str):
        if answer not in ADMISSION_NAMES:
            raise _wrong(rule, answer, "an admission is one of " + ", ".join(ADMISSION_NAMES))
        return ADMISSION_NAMES.index(answer)
    number = _whole(answer)
    if number is None or not 0 <= number < len(ADMISSION_NAMES):
        raise _wrong(rule, answer, "an admission is True, False or one of " + ", ".join(ADMISSION_NAMES))
    return ADMIT if number == 1 else number if number else REJECT


def replica_of(rule: Rule, answer: Any, view: View) -> int:
    """Return the number of a replica that a function named."""
    number = answer.index if isinstance(answer, ReplicaView) else None if _is_bool(answer) else _whole(answer)
    if number is None or not 0 <= number < len(view.replicas):
        raise _wrong(rule, answer, f"need one of view.replicas or its number, 0 to {len(view.replicas) - 1}")
    return number


def _mode_of(rule: Rule, answer: Any, view: View, replica: int) -> int:
    if answer is None:
        return view.modes.index(view.replicas[replica].mode)
    if isinstance(answer, str):
        if answer not in view.modes:
            raise BurstenvError(f"{_place(rule)}: {unknown_name('batching mode of this scenario', answer, view.modes)}")
        return view.modes.index(answer)
    number = None if _is_bool(answer) else _whole(answer)
    if number is None or not 0 <= number < len(view.modes):
        raise _wrong(rule, answer, "a mode is one of " + ", ".join(view.modes))
    return number


def _is_bool(answer: Any) -> bool:
    return type(answer).__name__ in ("bool", "bool_")


def _whole(answer: Any) -> int | None:
    try:
        return int(answer.__index__())
    except (AttributeError, TypeError):
        return int(answer) if _is_bool(answer) else None


def _place(rule: Rule) -> str:
    function: Callable[..., Any] | None = rule.function
    assert function is not None
    return f"{function.__code__.co_filename}, line {function.__code__.co_firstlineno}"


def _wrong(rule: Rule, answer: Any, need: str) -> BurstenvError:
    return BurstenvError(f"{_place(rule)}: {rule.name} returned {answer!r}; {need}")
