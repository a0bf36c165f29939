"""Positions in arrays of numbers as named constants, made from the table that documents the numbers."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterable
from typing import Any

import numpy as np


def positions(names: Iterable[str], first: int = 0) -> Any:
    """Return a named tuple of positions, counted from ``first``; compiled code reads its fields as constants.

    A hyphen in a name becomes an underscore.

    Example:
        >>> positions(("prompt", "is-api")).is_api
        1
    """
    fields = [name.replace("-", "_") for name in names]
    return namedtuple("Positions", fields)(*range(first, first + len(fields)))


def places_of(record: np.dtype) -> Any:
    """Return the position of each field of a record among its integers of four bytes, as a named tuple of constants."""
    fields: Any = record.fields
    names = [name for name in fields if not name.startswith("unused")]
    return namedtuple("Places", names)(*(fields[name][1] // 4 for name in names))
