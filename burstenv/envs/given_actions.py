"""Callers' actions: one conversion and check of all forms, for one environment and for a batch.

An index outside the space is clipped, and so is a number beyond the bounds of a box: an illegal action never raises.
A value that is no action is an error in one sentence: another shape, a fraction or an infinity in place of a whole
number, NaN.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np

from burstenv.errors import BurstenvError

_BOUNDS = np.iinfo(np.int64)


def read_actions(given: Any, shape: tuple[int, ...], continuous: bool, of: str = "the action") -> np.ndarray:
    """Return actions as an array.

    Args:
        given: Numbers, a list, an array or a tensor.
        shape: (C,) of one environment, (N, C) of a batch; a last dimension of 1 may be left out.
        continuous: Whether they are real numbers; otherwise indices.
        of: Name of the actions in an error.

    Returns:
        float64 or int64, of that shape; indices are not clipped to the space, but to 64 bits.

    Raises:
        BurstenvError: If this is no action: another shape, no numbers, fractions as indices, NaN.
    """
    if not continuous:
        if type(given) is np.ndarray and given.shape == shape and given.dtype == np.int64:
            return given
        if shape == (1,) and type(given) is int and _BOUNDS.min <= given <= _BOUNDS.max:
            return np.array([given])
    try:
        array = np.asarray(given)
    except (ValueError, TypeError) as error:  # of unequal lengths, or a tensor elsewhere
        raise BurstenvError(f"{of} must be {_wanted(shape, continuous)}: {error}") from None
    numbers = whole_numbers(array, of) if not continuous else _reals(array, of)
    if shape[-1] == 1 and numbers.shape == shape[:-1]:
        numbers = numbers[..., None]
    if numbers.shape != shape:
        raise BurstenvError(f"{of} must be {_wanted(shape, continuous)}, got shape {array.shape}")
    return numbers


def _wanted(shape: tuple[int, ...], continuous: bool) -> str:
    kind = "numbers from -1 to 1" if continuous else "whole numbers"
    rows = ", one row for each environment and one column for each component" if len(shape) > 1 else ""
    return f"{kind} of shape {shape}{rows}"


def whole_numbers(given: Any, of: str = "the action") -> np.ndarray:
    """Return indices of any shape as int64, those beyond 64 bits as the nearest.

    Raises:
        BurstenvError: On NaN, fractions, and values that are no numbers.
    """
    array = np.asarray(given)
    kind = array.dtype.kind
    if kind in "ib":
        return array.astype(np.int64, copy=False)
    if kind == "u":
        return np.minimum(array.astype(np.uint64), np.uint64(_BOUNDS.max)).astype(np.int64)
    if kind == "f":
        _check_no_nan(array, of)
        whole = np.isfinite(array) & (array == np.floor(array))
        if not whole.all():
            raise BurstenvError(f"{of} must be whole numbers, got {array[~whole].flat[0]:g}")
        # the largest real below 2**63
        return np.clip(array.astype(np.float64), float(_BOUNDS.min), np.nextafter(2.0**63, 0.0)).astype(np.int64)
    if kind == "O" and all(isinstance(one, Integral) for one in array.flat):
        clipped = [min(max(int(one), _BOUNDS.min), _BOUNDS.max) for one in array.flat]
        return np.array(clipped, np.int64).reshape(array.shape)
    if kind == "O" and all(isinstance(one, Real) for one in array.flat):
        return whole_numbers(array.astype(np.float64), of)
    raise BurstenvError(f"{of} must be whole numbers, got {_shown(given)}")


def _reals(array: np.ndarray, of: str) -> np.ndarray:
    try:
        if array.dtype.kind not in "iufbO" or (
            array.dtype == object and not all(isinstance(x, Real) for x in array.flat)
        ):
            raise TypeError
        numbers = array.astype(np.float64)
    except (TypeError, OverflowError):  # no numbers, or one beyond the range of reals
        raise BurstenvError(f"{of} must be numbers from -1 to 1, got {_shown(array.tolist())}") from None
    _check_no_nan(numbers, of)
    return numbers


def _check_no_nan(array: np.ndarray, of: str) -> None:
    missing = np.isnan(array)
    if missing.any():
        where = ", ".join(str(int(axis)) for axis in np.argwhere(missing)[0])
        at = f" at [{where}]" if where else ""
        raise BurstenvError(f"{of} is NaN{at}, which is no action; the policy has diverged")


def _shown(given: Any) -> str:
    """Return a value as one short line."""
    return " ".join(repr(given).split())[:80]
