"""A column of dates and times, read all at once."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from burstenv.workload.formats.csv_lines import WORD, Lines, digits

_MINUTE_NS = 60 * 10**9
_WORDS = 4  # the longest date and time without its zone has 29
_DIGITS = (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15)  # of YYYY-MM-DD hh:mm
_SIGNS = {4: b"-", 7: b"-", 10: b" T", 13: b":"}
_WHOLE_SECONDS = 19  # characters
_ZONE = re.compile(rb"[0-9](Z|[+-][0-9]{2}:[0-9]{2})?$")
# By the digits of a fraction: the bytes of a word that are digits, of the word that begins with two digits of seconds,
# and of the word of the seventh to the ninth.
_HELD = np.array([(1 << 8 * (2 + min(k, 6))) - 1 for k in range(10)], dtype=np.uint64)
_HELD_BEYOND = np.array([(1 << 8 * max(k - 6, 0)) - 1 for k in range(10)], dtype=np.uint64)


def instants(lines: Lines, place: int) -> tuple[NDArray[np.int64], bool] | None:
    """Read the dates and times in one column of a plain table, such as ``2024-05-10 00:00:00.009930+00:00``.

    Minutes are read once for every run of rows that share one; rows of a trace are in order, so there are few.

    Args:
        lines: The table, at least one row.
        place: Index of the column.

    Returns:
        Nanoseconds since 1970 UTC, (n,), and whether they have a time zone; None when a cell is no such date, or the
        zones differ.
    """
    zone = _ZONE.search(lines.text[: lines.ends[0, place]])
    suffix = (zone[1] if zone else None) or b""
    offset_min = _offset_min(suffix)
    if offset_min is None:
        return None
    found = np.empty(len(lines), dtype=np.int64)
    for rows in lines.parts():
        starts, length = lines.cells(place, rows)
        fraction = length - (_WHOLE_SECONDS + len(suffix))  # characters, the point included
        if fraction.min() < 0 or fraction.max() > 10 or (fraction == 1).any():
            return None
        values = _read(lines, starts, fraction, suffix)
        if values is None:
            return None
        found[rows] = values
    found -= offset_min * _MINUTE_NS
    return found, bool(suffix)


def _read(
    lines: Lines, starts: NDArray[np.int64], fraction: NDArray[np.int64], suffix: bytes
) -> NDArray[np.int64] | None:
    """Return the nanoseconds since 1970 of some cells, as if in UTC; None when one is no date and time."""
    if suffix:
        last = lines.words(starts + (_WHOLE_SECONDS + len(suffix) - WORD + fraction), 1)[:, 0]
        if (last >> np.uint64(8 * (WORD - len(suffix))) != np.uint64(int.from_bytes(suffix, "little"))).any():
            return None
    words = lines.words(starts, _WORDS)
    again = (words[1:, 0] == words[:-1, 0]) & (words[1:, 1] == words[:-1, 1])
    first = np.concatenate([[0], np.flatnonzero(~again) + 1])  # rows of another minute than the one before
    minutes = _minutes(words[first, :2].copy().view(np.uint8))
    nanoseconds = _nanoseconds(words[:, 2], words[:, 3], fraction)
    if minutes is None or nanoseconds is None:
        return None
    return np.repeat(minutes * _MINUTE_NS, np.diff(first, append=len(starts))) + nanoseconds


def _minutes(characters: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Return minutes since 1970 of texts such as ``2024-05-10 00:00``, (n, 16); None when one is none."""
    if not all(
        ((characters[:, at] == signs[0]) | (characters[:, at] == signs[-1])).all() for at, signs in _SIGNS.items()
    ):
        return None
    figures = characters - np.uint8(ord("0"))
    if figures[:, _DIGITS].max() > 9:
        return None

    def number(*places: int) -> NDArray[np.int64]:
        found = np.zeros(len(figures), dtype=np.int64)
        for at in places:
            found = 10 * found + figures[:, at]
        return found

    year, month, day = number(0, 1, 2, 3), number(5, 6), number(8, 9)
    hour, minute = number(11, 12), number(14, 15)
    valid = (year >= 1970) & (year <= 2200) & (month >= 1) & (month <= 12) & (day >= 1) & (hour < 24) & (minute < 60)
    if not valid.all():
        return None
    months = (12 * (year - 1970) + month - 1).astype("M8[M]")
    first, following = (m.astype("M8[D]").astype(np.int64) for m in (months, months + 1))
    days = first + day - 1
    return None if (days >= following).any() else (days * 24 + hour) * 60 + minute


def _nanoseconds(
    words: NDArray[np.uint64], beyond: NDArray[np.uint64], fraction: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Return the nanoseconds of a minute; None when one is none.

    Args:
        words: ``:ss.ffff``.
        beyond: ``fffff`` and anything.
        fraction: Characters of each from the point on.
    """
    signs = words & np.uint64(0xFF0000FF)
    pointed = np.where(fraction > 0, np.uint64(ord(":") | ord(".") << 24), signs & np.uint64(0xFF000000) | ord(":"))
    if (signs != pointed).any():
        return None
    count = np.maximum(fraction - 1, 0)
    two, four, further = words >> np.uint64(8) & np.uint64(0xFFFF), words >> np.uint64(32), beyond << np.uint64(48)
    microseconds = digits(two | four << np.uint64(16) | further, _HELD[count])
    if microseconds is None or microseconds.max() >= 60_000_000:
        return None
    if count.max() <= 6:
        return microseconds * 1000
    # Three digits at the top of a word are its last ones; those above stand for five zeros.
    rest = digits(beyond >> np.uint64(16), _HELD_BEYOND[count])
    return None if rest is None else microseconds * 1000 + rest // 100_000


def _offset_min(suffix: bytes) -> int | None:
    if suffix in (b"", b"Z"):
        return 0
    minutes = 60 * int(suffix[1:3]) + int(suffix[4:6])
    if minutes >= 1440:
        return None
    return -minutes if suffix.startswith(b"-") else minutes
