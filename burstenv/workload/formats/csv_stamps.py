"""A column of dates and times, read all at once."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18)  # of YYYY-MM-DD hh:mm:ss
_SIGNS = {4: b"-", 7: b"-", 10: b" T", 13: b":", 16: b":"}
_WHOLE_SECONDS = 19  # characters
_ZONE = re.compile(rb"[0-9](Z|[+-][0-9]{2}:[0-9]{2})?$")


def instants(lines: bytes, place: int, columns: int) -> tuple[NDArray[np.int64], bool] | None:
    """Read the dates and times in one column of a plain table, such as ``2024-05-10 00:00:00.009930+00:00``.

    Args:
        lines: Lines of ``columns`` cells each, without quotes.
        place: Index of the column.
        columns: Cells of a line.

    Returns:
        Nanoseconds since 1970 UTC, (n,), and whether they have a time zone; None when a cell is no such date, or the
        zones differ.
    """
    text = np.frombuffer(lines, dtype=np.uint8)
    ends = np.flatnonzero((text == ord(",")) | (text == ord("\n"))).reshape(-1, columns)
    starts = ends[:, place - 1] + 1 if place else np.concatenate([[0], ends[:-1, -1] + 1])
    length = ends[:, place] - starts
    zone = _ZONE.search(lines[starts[0] : starts[0] + length[0]])
    if zone is None or length.min() < _WHOLE_SECONDS:
        return None
    suffix = zone[1] or b""
    fraction = length - len(suffix) - _WHOLE_SECONDS  # characters, the point included
    if fraction.min() < 0 or fraction.max() > 10 or (fraction == 1).any():
        return None
    for at, byte in enumerate(suffix, start=-len(suffix)):
        if (text[ends[:, place] + at] != byte).any():
            return None
    cells = [text[starts + at] for at in range(_WHOLE_SECONDS)]
    if not all(((cells[at] == signs[0]) | (cells[at] == signs[-1])).all() for at, signs in _SIGNS.items()):
        return None
    digit = {at: cells[at] - np.uint8(ord("0")) for at in _DIGITS}
    if any(values.max() > 9 for values in digit.values()):
        return None
    nanoseconds = np.zeros(len(starts), dtype=np.int64)
    for at in range(int(fraction.max())):
        inside = fraction > at
        values = text[np.where(inside, starts + _WHOLE_SECONDS + at, starts)]  # a digit where the fraction has ended
        if at == 0:
            if (values[inside] != ord(".")).any():
                return None
            continue
        values = np.where(inside, values - np.uint8(ord("0")), 0)
        if values.max() > 9:
            return None
        nanoseconds += values * np.int64(10 ** (9 - at))

    def number(*places: int) -> NDArray[np.int64]:
        found = np.zeros(len(starts), dtype=np.int64)
        for at in places:
            found = 10 * found + digit[at]
        return found

    year, month, day = number(0, 1, 2, 3), number(5, 6), number(8, 9)
    hour, minute, second = number(11, 12), number(14, 15), number(17, 18)
    offset_min = _offset_min(suffix)
    valid = (year >= 1970) & (year <= 2200) & (month >= 1) & (month <= 12) & (day >= 1)
    valid &= (hour < 24) & (minute < 60) & (second < 60)
    if offset_min is None or not valid.all():
        return None
    months = (12 * (year - 1970) + month - 1).astype("M8[M]")
    first, following = (m.astype("M8[D]").astype(np.int64) for m in (months, months + 1))
    days = first + day - 1
    if (days >= following).any():
        return None
    seconds = ((days * 24 + hour) * 60 + minute - offset_min) * 60 + second
    return seconds * 10**9 + nanoseconds, bool(suffix)


def _offset_min(suffix: bytes) -> int | None:
    if suffix in (b"", b"Z"):
        return 0
    minutes = 60 * int(suffix[1:3]) + int(suffix[4:6])
    if minutes >= 1440:
        return None
    return -minutes if suffix.startswith(b"-") else minutes
