"""Two of numba's own functions that take a tenth of a compilation, with the same results in a fraction of the time.

Compiler flags are keys of numba's caches. It compares two of them by listing all their options, more than a hundred
thousand times for one environment's kernels, and hashes the names of the options each time. And it escapes the names of
types again for each function that takes them; those of records are thousands of characters long.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from numba.core import itanium_mangler
from numba.core.targetconfig import TargetConfig


def _equal(one: TargetConfig, other: Any) -> Any:
    """Return whether all options have equal values; options set in neither have their default in both."""
    if one is other:
        return True
    if not isinstance(other, TargetConfig):
        return NotImplemented
    if type(one) is not type(other):
        return one.values() == other.values()
    if one._values == other._values:
        return True
    return all(getattr(one, name) == getattr(other, name) for name in {**one._values, **other._values})


def _hash(one: TargetConfig) -> int:
    """Return numba's own hash, which depends on the names of the options alone."""
    kind = type(one)
    if kind not in _hashes:
        _hashes[kind] = hash(tuple(sorted(kind.options)))
    return _hashes[kind]


_hashes: dict[type, int] = {}


def compile_quicker() -> None:
    """Put the quicker functions in place; call it before anything is compiled."""
    TargetConfig.__eq__, TargetConfig.__hash__ = _equal, _hash
    itanium_mangler._escape_string = lru_cache(maxsize=4096)(itanium_mangler._escape_string)
