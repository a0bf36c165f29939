"""Declaration of a rule: its name, its parameters with defaults and ranges, and its source."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from burstenv._jit.positions import positions
from burstenv.errors import BurstenvError, unknown_name

SCALES = ("linear", "log", "integer")


class Range(NamedTuple):
    """The tuner's range of a parameter: from ``low`` to ``high``, both included.

    Attributes:
        low: Smallest value worth trying.
        high: Largest one.
        scale: ``linear``, ``log`` (both ends above 0), or ``integer`` (whole numbers, linearly).
    """

    low: float
    high: float
    scale: str = "linear"


AUTO = "auto"  # the choice that leaves it to the scenario
BEYOND = 1_000.0  # factor beyond the tuner's range; a value further out is a typo, unless a parameter says otherwise


@dataclass(frozen=True)
class Parameter:
    """One parameter of a rule: its name, default, meaning with its unit, and tuner's range.

    Attributes:
        name: Its name in a composite.
        default: Its value if left out.
        range: The tuner's range.
        meaning: Its meaning, with its unit.
        least: Smallest accepted value; None: that of ``limits``.
        most: Largest accepted value; None: that of ``limits``.
        whole: Whether only whole numbers are accepted; those of an ``integer`` range always are.
        choices: Names of its values, which are then their positions; ``auto`` means that the scenario decides, and is
            not tuned.
    """

    name: str
    default: float
    range: Range
    meaning: str
    least: float | None = None
    most: float | None = None
    whole: bool = False
    choices: tuple[str, ...] = ()

    @property
    def limits(self) -> tuple[float, float]:
        """Smallest and largest accepted value: wider than the tuner's range, but always meaningful."""
        low, high, scale = self.range
        near = {"log": low / BEYOND, "integer": low}.get(scale, 0.0 if low >= 0.0 else low * BEYOND)
        far = high if scale == "integer" else max(high * BEYOND, high / BEYOND)
        return near if self.least is None else self.least, far if self.most is None else self.most

    def read(self, owner: str, text: str) -> float:
        """Return the value of a text.

        Raises:
            BurstenvError: If it is no number or outside the limits, or none of the choices, which the error names.
        """
        if self.choices:
            if text not in self.choices:
                raise unknown_name(f"{self.name} of {owner}", text, self.choices)
            return float(self.choices.index(text))
        least, most = self.limits
        whole = self.whole or self.range.scale == "integer"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most or (whole and value != int(value)):
            kind = "whole number" if whole else "number"
            raise BurstenvError(
                f"parameter {self.name} of {owner} must be a {kind} from {least:g} to {most:g}, got {text!r:.40}"
            )
        return value

    def written(self, value: float) -> str:
        """Return the text of a value, which :meth:`read` understands."""
        return self.choices[int(value)] if self.choices else repr(value).removesuffix(".0")

    @property
    def tuned(self) -> tuple[str, ...]:
        """The choices that a tuner tries."""
        return tuple(name for name in self.choices if name != AUTO)

    def described(self) -> dict[str, Any]:
        """Return it in plain values, apart from its name and default."""
        if self.choices:
            return {"choices": list(self.choices), "meaning": self.meaning}
        least, most = self.limits
        return {**self.range._asdict(), "least": least, "most": most, "meaning": self.meaning}


@dataclass(frozen=True)
class Rule:
    """One heuristic for one component of a decision.

    Attributes:
        code: Its number in the compiled code; -1 for a rule in Python.
        name: Its name in a composite.
        summary: One line about it.
        source: Paper, system or document that defines it.
        differs: Differences from the source; empty if there are none.
        declared: The parameters, in the order of the compiled code's record.
        sees_cache: Whether it reads KV use or context, which change in every iteration, and not only queues.
        needs_log: Whether it reads the gateway's log, whatever its source of load.
        sees_prefixes: Whether it reads the cached part of a prompt, which engines tell in KV events alone.
        oracle: Whether it uses true output lengths, unknown to any deployed policy.
        floor: Whether it is bad on purpose, to show the worst case.
        function: The function of a rule in Python; None for a compiled one.
    """

    code: int
    name: str
    summary: str
    source: str
    differs: str = ""
    declared: tuple[Parameter, ...] = ()
    sees_cache: bool = False
    needs_log: bool = False
    sees_prefixes: bool = False
    oracle: bool = False
    floor: bool = False
    function: Callable[..., Any] | None = None

    @property
    def parameters(self) -> dict[str, float]:
        """Names, in the order of the record, with defaults."""
        return {parameter.name: parameter.default for parameter in self.declared}

    @property
    def ranges(self) -> dict[str, Range]:
        """The tuner's range of each parameter."""
        return {parameter.name: parameter.range for parameter in self.declared}

    def written(self, values: Sequence[float]) -> str:
        """Return the text of the rule with values of its parameters, those at their defaults left out."""
        changed = [
            f"{parameter.name}={parameter.written(value)}"
            for parameter, value in zip(self.declared, values, strict=True)
            if value != parameter.default
        ]
        return self.name + (f"({','.join(changed)})" if changed else "")

    def described(self) -> dict[str, Any]:
        """Return the rule in plain values, as ``burstenv policies --json`` prints it."""
        return {
            "name": self.name,
            "summary": self.summary,
            "source": self.source,
            "differs": self.differs,
            "parameters": {
                p.name: {"default": p.choices[0] if p.choices else p.default, **p.described()} for p in self.declared
            },
            "oracle": self.oracle,
            "floor": self.floor,
            "python": self.function is not None,
        }


SOURCES = ("auto", "log", "metrics", "both")  # of a gateway's knowledge of load, see known_load.py
SOURCE = Parameter(
    "source",
    0.0,
    Range(0.0, 3.0, "integer"),
    "of its knowledge of load: the gateway's log, the engines' metrics, or metrics brought up to date by the log; "
    "auto: the log where the scenario has one, else the metrics",
    choices=SOURCES,
)


def parameters_of(rules: tuple[Rule, ...], name: str) -> Any:
    """Return the position of each parameter in a rule's record, as a named tuple of constants for compiled code."""
    return positions(by_name(rules)[name].parameters)


def by_name(rules: tuple[Rule, ...]) -> dict[str, Rule]:
    """Return rules by name."""
    return {rule.name: rule for rule in rules}


def declare(owner: str, given: dict[str, Any]) -> tuple[Parameter, ...]:
    """Return parameters from ``{name: default}`` or ``{name: (default, low, high, scale)}``.

    A default alone is tuned between a quarter and four times itself.

    Raises:
        BurstenvError: On a value that is neither, or a range that does not hold its default.
    """
    declared = []
    for name, value in given.items():
        parts = tuple(value) if isinstance(value, tuple | list) else (value,)
        if not str(name).isidentifier() or len(parts) not in (1, 3, 4) or not all(map(_is_number, parts[:3])):
            raise BurstenvError(
                f"parameter {name!r} of {owner} must be a number or (default, low, high, scale), got {value!r}"
            )
        default = float(parts[0])
        if len(parts) == 1:
            low, high = sorted((default / 4.0, default * 4.0)) if default else (0.0, 1.0)
            scale = "log" if default > 0.0 else "linear"
        else:
            low, high, scale = float(parts[1]), float(parts[2]), parts[3] if len(parts) == 4 else "linear"
        if scale not in SCALES:
            raise unknown_name(f"scale of parameter {name} of {owner}", str(scale), SCALES)
        if not low <= default <= high or (scale == "log" and low <= 0.0):
            raise BurstenvError(
                f"parameter {name!r} of {owner}: the default {default:g} must lie between {low:g} and {high:g}"
                + (", both above 0 on a log scale" if scale == "log" else "")
            )
        anything = (-1e9, 1e9) if len(parts) == 1 else (None, None)  # no range was declared
        declared.append(Parameter(name, default, Range(low, high, scale), "", *anything))
    return tuple(declared)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
