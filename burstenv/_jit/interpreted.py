"""Compiled code run by Python instead, with the arithmetic that numba gives it (``NUMBA_DISABLE_JIT=1``).

For debuggers, coverage and shrinking. NumPy alone is not enough: a record of an array has no attributes, 32-bit
numbers overflow where numba counts in 64 bits, and a single-precision number times a literal stays single. An entry
therefore passes its arrays as :class:`InterpretedArray`, with the records and numbers of compiled code:

* integers of any size are read as 64 bits and wrap when they are written;
* reals divide by zero without an error (the error model of :mod:`burstenv._jit`);
* a single-precision number is single only among its like; with literals and integers it is double.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numba
import numpy as np

INTERPRETED = bool(numba.config.DISABLE_JIT)


class Single(np.float32):
    """A single-precision number that becomes double in operations with other types, Python's numbers included."""

    __slots__ = ()


def _arithmetic(name: str, operation: Callable[[Any, Any], Any]) -> None:
    def forward(self: Single, other: Any) -> Any:
        return _operate(operation, self, other)

    def backward(self: Single, other: Any) -> Any:
        return _operate(operation, other, self)

    setattr(Single, f"__{name}__", forward)
    setattr(Single, f"__r{name}__", backward)


def _comparison(name: str, operation: Callable[[Any, Any], Any]) -> None:
    def compare(self: Single, other: Any) -> Any:
        return operation(np.float64(self), np.float64(other))  # exact for any other operand

    setattr(Single, f"__{name}__", compare)


def _operate(operation: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    if isinstance(a, np.float32) and isinstance(b, np.float32):
        return Single(operation(a.astype(np.float32), b.astype(np.float32)))
    return operation(np.float64(a), np.float64(b))


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    _arithmetic(_name, getattr(operator, _name))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _comparison(_name, getattr(operator, _name))
Single.__hash__ = np.float32.__hash__  # type: ignore[method-assign]
Single.__neg__ = lambda self: Single(-self.astype(np.float32))  # type: ignore[method-assign, assignment, return-value]
Single.__abs__ = lambda self: Single(abs(self.astype(np.float32)))  # type: ignore[method-assign, assignment, return-value]


def _wrapped(value: Any, dtype: np.dtype) -> Any:
    """Return a number as an integer of ``dtype``, its upper bits cut off."""
    if not isinstance(value, np.generic):
        value = int(value) & (2**64 - 1)
        value = np.uint64(value)
    elif value.dtype.kind == "f":
        value = np.int64(value)
    return value.astype(dtype)


class Record:
    """One record of an array: its fields are attributes, read from the array and written to it."""

    __slots__ = ("_void",)

    def __init__(self, void: np.void):
        self._void = void


def _field(name: str, dtype: np.dtype) -> property:
    if dtype.kind in "iu":
        kind: Any = np.int64 if dtype.kind == "i" else np.uint64

        def read(self: Record) -> Any:
            return kind(self._void[name])

        def write(self: Record, value: Any) -> None:
            self._void[name] = _wrapped(value, dtype)

    else:

        def read(self: Record) -> Any:
            return lifted(self._void[name])

        def write(self: Record, value: Any) -> None:
            self._void[name] = value

    return property(read, write)


@functools.cache
def _record_kind(dtype: np.dtype) -> type[Record]:
    """Return the class of the records of a type; an attribute that is no field is an error, as in compiled code."""
    assert dtype.fields is not None
    fields = {name: _field(name, field[0]) for name, field in dtype.fields.items()}
    return type("Record", (Record,), {"__slots__": (), **fields})


class InterpretedArray(np.ndarray):
    """An array with reads and writes of items as in compiled code."""

    def __getitem__(self, at: Any) -> Any:
        """Return an item, lifted, or a view."""
        return lifted(super().__getitem__(at))

    def __setitem__(self, at: Any, value: Any) -> None:
        """Write an item, cut to its size, or a slice."""
        if isinstance(value, Record):
            value = value._void
        elif self.dtype.kind in "iu" and not isinstance(value, np.ndarray):
            value = _wrapped(value, self.dtype)
        super().__setitem__(at, value)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items, lifted."""
        return (self[k] for k in range(len(self)))


def lifted(value: Any) -> Any:
    """Return the counterpart of an argument or an item in compiled code; without one, return it unchanged."""
    kind = type(value)
    if kind is np.void:
        return _record_kind(value.dtype)(value)
    if isinstance(value, np.ndarray):
        return value if kind is InterpretedArray else value.view(InterpretedArray)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.signedinteger):
        return np.int64(value)
    if isinstance(value, np.unsignedinteger):
        return np.uint64(value)
    if isinstance(value, np.float32):
        return Single(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, tuple):
        items = map(lifted, value)
        return kind(*items) if hasattr(value, "_fields") else kind(items)
    return value


def _returned(value: Any) -> Any:
    """Return a result in the form that compiled code returns to Python."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return tuple(map(_returned, value))
    return value


def interpreted_entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an entry that Python runs: its arguments lifted, its arithmetic without warnings."""

    @functools.wraps(function)
    def enter(*arguments: Any, **named: Any) -> Any:
        with np.errstate(all="ignore"):
            given = {name: lifted(value) for name, value in named.items()}
            return _returned(function(*map(lifted, arguments), **given))

    enter.py_func = function  # type: ignore[attr-defined]  # as in a compiled one
    return enter
