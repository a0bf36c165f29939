"""Positions in arrays of numbers as named constants, made from the table that documents the numbers."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from typing import Any


def positions(names: Iterable[str], first: int = 0) -> Any:
    """Return a named tuple of positions, counted from ``first``; compiled code reads its fields as constants.

    A hyphen in a name becomes an underscore.

    Example:
        >>> positions(("prompt", "is-api")).is_api
        1
    """
    fields = [name.replace("-", "_") for name in names]
    return namedtuple("Positions", fields)(*range(first, first + len(fields)))
