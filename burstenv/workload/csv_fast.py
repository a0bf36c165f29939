"""A CSV file parsed by a compiled state machine, chunk by chunk: for files of millions of rows.

It accepts a part of what :mod:`burstenv.workload.csv_rows` accepts, with the same meaning, and gives up on
everything else, right or wrong: bytes outside ASCII, quotes and line ends inside quotes, control characters,
carriage returns alone, exponents, plus signs, more than 18 digits, and any cell that its column may not hold.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from burstenv.workload.csv_table import MAX_SECONDS, Column, joined, open_table

CHUNK_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_IGNORED, _TIME, _SECONDS, _WHOLE, _CODED, _STAMP = range(6)
_KINDS = {"time": _TIME, "seconds": _SECONDS, "whole": _WHOLE, "label": _CODED, "text": _CODED, "key": _CODED}
_KINDS["stamp"] = _STAMP
_DONE, _GIVE_UP, _GROW = range(3)
_MAX_DIGITS = 18  # 10**18 - 1 fits in 63 bits
_LONGEST_TEXT = 1000
_NS = 1_000_000_000

# fields of the parser's state, int64
_AT, _ROWS, _ARENA_USED, _ZONED, _STATE_SIZE = range(5)

_COMMA, _NEWLINE, _RETURN, _TAB, _SPACE = 44, 10, 13, 9, 32
_QUOTE, _MINUS, _PLUS, _DOT, _COLON, _ZERO, _NINE, _UPPER_T, _UPPER_Z = 34, 45, 43, 46, 58, 48, 57, 84, 90


def parse_file(
    path: Path, header: tuple[str, ...], present: tuple[Column, ...]
) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]] | None:
    """Read a file whose rows are all plain and valid.

    Args:
        path: The file.
        header: Its column names.
        present: Which of its columns to read, and what they must hold.

    Returns:
        Columns and distinct values as in :class:`burstenv.workload.csv_table.Table`, or None when anything
        in the file is not plain or not valid.
    """
    plan = _Plan(header, present)
    with open_table(path) as stream:
        carried = b""
        first = True
        while True:
            chunk = stream.read(CHUNK_BYTES)
            data = carried + chunk
            if first:
                data = data.removeprefix(_BOM)
                body = _after_header(data, header)
                if body is None:
                    return None
                data, first = data[body:], False
            if not data.isascii():
                return None
            end = len(data) if not chunk else data.rfind(b"\n") + 1
            if not chunk and data and not data.endswith(b"\n"):
                data += b"\n"
                end += 1
            elif chunk and end == 0 and len(data) > CHUNK_BYTES:
                return None  # a line longer than a chunk
            if not plan.take(data, end):
                return None
            carried = data[end:]
            if not chunk:
                return joined(plan.parts, present), plan.names()


def _after_header(data: bytes, header: tuple[str, ...]) -> int | None:
    """Return where the rows begin, or None when the header is not one plain line."""
    at = 0
    while True:
        end = data.find(b"\n", at)
        if end < 0:
            return None
        line = data[at:end].removesuffix(b"\r")
        if line:
            break
        at = end + 1
    if not line.isascii() or b"\r" in line or b"\0" in line:
        return None
    try:
        cells = next(csv.reader([line.decode("ascii")], strict=True))
    except csv.Error:  # a quoted name goes on in the next line
        return None
    return end + 1 if tuple(cell.strip() for cell in cells) == header else None


class _Plan:
    """The arrays that the compiled parser works on, for one file.

    Attributes:
        kinds, slots, blanks, lows, highs, units: What each column of the file is, (columns,).
        floats, wholes, stamps, codes: One chunk of each kind, (columns of the kind, rows of a chunk).
        slots_of: Open-addressed hash tables of the distinct texts, (coded columns, 2**k), code or -1.
        entries: First byte in ``arena``, length and hash of each text, (coded columns, texts, 3) int64.
        counts: Texts known of each coded column.
        arena: The bytes of all texts.
    """

    def __init__(self, header: tuple[str, ...], present: tuple[Column, ...]) -> None:
        self.present = present
        by_name = {column.name: column for column in present}
        groups: dict[int, list[str]] = {_TIME: [], _WHOLE: [], _STAMP: [], _CODED: []}
        kinds, slots = [], []
        for name in header:
            kind = _KINDS[by_name[name].kind] if name in by_name else _IGNORED
            group = groups.get(_TIME if kind == _SECONDS else kind, [])
            kinds.append(kind)
            slots.append(len(group))
            group.append(name)
        found = [by_name.get(name) for name in header]
        self.groups = groups
        self.kinds = np.array(kinds, dtype=np.int8)
        self.slots = np.array(slots, dtype=np.int64)
        self.blanks = np.array([bool(c and c.blank) for c in found])
        self.lows = np.array([c.low if c else 0 for c in found], dtype=np.int64)
        self.highs = np.array([c.high if c else 0 for c in found], dtype=np.int64)
        self.units = np.array([c.unit_digits if c else 0 for c in found], dtype=np.int64)
        rows = 2 * CHUNK_BYTES // max(len(header), 2) + 2
        self.floats = np.empty((len(groups[_TIME]), rows))
        self.wholes = np.empty((len(groups[_WHOLE]), rows), dtype=np.int32)
        self.stamps = np.empty((len(groups[_STAMP]), rows), dtype=np.int64)
        self.codes = np.empty((len(groups[_CODED]), rows), dtype=np.int32)
        self.slots_of = np.full((len(groups[_CODED]), 1 << 10), -1, dtype=np.int32)
        self.entries = np.zeros((len(groups[_CODED]), 1 << 9, 3), dtype=np.int64)
        self.counts = np.zeros(len(groups[_CODED]), dtype=np.int64)
        self.arena = np.empty(1 << 16, dtype=np.uint8)
        self.latest = np.full(len(header), -1.0)
        self.latest_ns = np.full(len(header), np.iinfo(np.int64).min)
        self.state = np.zeros(_STATE_SIZE, dtype=np.int64)
        self.state[_ZONED] = -1
        self.checked = dict.fromkeys(groups[_CODED], 0)
        self.parts: dict[str, list[NDArray[Any]]] = {column.name: [] for column in present}

    def take(self, data: bytes, end: int) -> bool:
        """Parse the complete lines ``data[:end]``; return whether all of them are plain and valid."""
        buffer = np.frombuffer(data, dtype=np.uint8)
        self.state[_AT] = self.state[_ROWS] = 0
        while True:
            status = _parse(
                buffer, end, self.kinds, self.slots, self.blanks, self.lows, self.highs, self.units, self.floats,
                self.wholes, self.stamps, self.codes, self.slots_of, self.entries, self.counts, self.arena,
                self.latest, self.latest_ns, self.state,
            )  # fmt: skip
            if status == _GIVE_UP:
                return False
            if status == _DONE:
                break
            self._grow()
        rows = int(self.state[_ROWS])
        for kind, values in ((_TIME, self.floats), (_WHOLE, self.wholes), (_STAMP, self.stamps), (_CODED, self.codes)):
            for slot, name in enumerate(self.groups[kind]):
                self.parts[name].append(values[slot, :rows].copy())
        return self._labels_are_valid()

    def _grow(self) -> None:
        """Make room for twice the texts."""
        self.entries = np.concatenate([self.entries, np.zeros_like(self.entries)], axis=1)
        self.slots_of = np.full((len(self.counts), 4 * self.entries.shape[1]), -1, dtype=np.int32)
        _rehash(self.slots_of, self.entries, self.counts)
        self.arena = np.concatenate([self.arena, np.empty(len(self.arena) + _LONGEST_TEXT, dtype=np.uint8)])

    def _text(self, slot: int, code: int) -> str:
        start, length, _ = self.entries[slot, code].tolist()
        return bytes(self.arena[start : start + length]).decode("ascii")

    def _labels_are_valid(self) -> bool:
        """Return whether the texts seen for the first time in this chunk may stand in their columns."""
        for slot, name in enumerate(self.groups[_CODED]):
            column = next(c for c in self.present if c.name == name)
            if column.kind == "label":
                for code in range(self.checked[name], int(self.counts[slot])):
                    if self._text(slot, code) not in column.labels:
                        return False
                self.checked[name] = int(self.counts[slot])
        return True

    def names(self) -> dict[str, list[str]]:
        """Return the distinct texts of each coded column."""
        named = {column.name for column in self.present if column.kind != "key"}
        return {
            name: [self._text(slot, code) for code in range(self.counts[slot])]
            for slot, name in enumerate(self.groups[_CODED])
            if name in named
        }


@numba.njit(cache=True, error_model="numpy")
def _parse(
    buffer, end, kinds, slots, blanks, lows, highs, units, floats, wholes, stamps, codes, slots_of, entries, counts,
    arena, latest, latest_ns, state,
):  # fmt: skip
    """Parse complete lines from ``state[_AT]`` to ``end``; leave row count and position in ``state``."""
    columns = len(kinds)
    stop = 0
    at = state[_AT]
    row = state[_ROWS]
    while at < end:
        state[_AT] = at  # where to resume when there is no room for a text
        state[_ROWS] = row
        if buffer[at] == _NEWLINE:
            at += 1
            continue
        if buffer[at] == _RETURN and buffer[at + 1] == _NEWLINE:
            at += 2
            continue
        for column in range(columns):
            start = at
            kind = kinds[column]
            if kind != _IGNORED and kind != _CODED and kind != _STAMP:  # most cells are a few digits and no more
                digits = np.int64(0)
                while _ZERO <= buffer[at] <= _NINE and at - start <= _MAX_DIGITS:
                    digits = digits * 10 + (np.int64(buffer[at]) - _ZERO)
                    at += 1
                if buffer[at] == (_NEWLINE if column == columns - 1 else _COMMA) and start < at <= start + _MAX_DIGITS:
                    at += 1
                    if kind == _WHOLE:
                        if digits < lows[column] or digits > highs[column]:
                            return _GIVE_UP
                        wholes[slots[column], row] = digits
                        continue
                    seconds = _quotient(digits, units[column])
                    if not 0.0 <= seconds <= MAX_SECONDS or (kind == _TIME and seconds < latest[column]):
                        return _GIVE_UP
                    latest[column] = seconds
                    floats[slots[column], row] = seconds
                    continue
                at = start
            quoted = buffer[at] == _QUOTE
            if quoted:
                at += 1
                start = at
                while buffer[at] != _QUOTE:
                    if buffer[at] < _SPACE and buffer[at] != _TAB:
                        return _GIVE_UP
                    at += 1
                stop = at
                at += 1
                if buffer[at] == _RETURN and buffer[at + 1] == _NEWLINE:
                    at += 1
                if buffer[at] != _COMMA and buffer[at] != _NEWLINE:
                    return _GIVE_UP
            while buffer[at] != _COMMA and buffer[at] != _NEWLINE:
                byte = buffer[at]
                if byte == _QUOTE or (
                    byte < _SPACE and byte != _TAB and not (byte == _RETURN and buffer[at + 1] == _NEWLINE)
                ):
                    return _GIVE_UP
                at += 1
            if (buffer[at] == _NEWLINE) != (column == columns - 1):
                return _GIVE_UP  # too few or too many cells
            if not quoted:
                stop = at
                if stop > start and buffer[stop - 1] == _RETURN:
                    stop -= 1
            at += 1
            while start < stop and (buffer[start] == _SPACE or buffer[start] == _TAB):
                start += 1
            while start < stop and (buffer[stop - 1] == _SPACE or buffer[stop - 1] == _TAB):
                stop -= 1
            if stop - start > _LONGEST_TEXT:
                return _GIVE_UP
            if kind == _IGNORED:
                continue
            slot = slots[column]
            if start == stop:
                if not blanks[column]:
                    return _GIVE_UP
                if kind == _WHOLE:
                    wholes[slot, row] = 0
                elif kind == _CODED:
                    codes[slot, row] = -1
                elif kind == _SECONDS:
                    floats[slot, row] = np.nan
                else:
                    return _GIVE_UP
            elif kind == _CODED:
                code = _intern(buffer, start, stop, slot, slots_of, entries, counts, arena, state)
                if code < 0:
                    return _GROW
                codes[slot, row] = code
            elif kind == _STAMP:
                instant, zoned = _instant(buffer, start, stop)
                if instant < 0 or instant < latest_ns[column]:
                    return _GIVE_UP
                if state[_ZONED] >= 0 and state[_ZONED] != zoned:
                    return _GIVE_UP
                state[_ZONED] = zoned
                latest_ns[column] = instant
                stamps[slot, row] = instant
            else:
                negative, digits, places = _decimal(buffer, start, stop)
                if places < 0:
                    return _GIVE_UP
                if kind == _WHOLE:
                    power = _power_of_ten(places)
                    value = digits // power
                    if value * power != digits:
                        return _GIVE_UP
                    if negative:
                        value = -value
                    if value < lows[column] or value > highs[column]:
                        return _GIVE_UP
                    wholes[slot, row] = value
                else:
                    seconds = _quotient(digits, places + units[column])
                    if negative or not 0.0 <= seconds <= MAX_SECONDS:
                        return _GIVE_UP
                    if kind == _TIME:
                        if seconds < latest[column]:
                            return _GIVE_UP
                        latest[column] = seconds
                    floats[slot, row] = seconds
        row += 1
    state[_AT] = at
    state[_ROWS] = row
    return _DONE


@numba.njit(cache=True, error_model="numpy")
def _decimal(buffer, start, stop):
    """Read ``-?digits[.digits]``: sign, all digits as one integer, decimal places; places -1 when it is not that."""
    negative = buffer[start] == _MINUS
    at = start + 1 if negative else start
    digits = np.int64(0)
    used = 0
    places = -1
    before = after = 0
    while at < stop:
        byte = buffer[at]
        if byte == _DOT and places < 0:
            places = 0
        elif _ZERO <= byte <= _NINE:
            digits = digits * 10 + (byte - _ZERO)
            if digits > 0:
                used += 1
            if places < 0:
                before += 1
            else:
                places += 1
                after += 1
            if used > _MAX_DIGITS or after > _MAX_DIGITS:
                return negative, np.int64(0), -1
        else:
            return negative, np.int64(0), -1
        at += 1
    if before == 0 or (places == 0):
        return negative, np.int64(0), -1
    return negative, digits, max(places, 0)


@numba.njit(cache=True, error_model="numpy")
def _power_of_ten(exponent):
    power = np.int64(1)
    for _ in range(exponent):
        power *= 10
    return power


@numba.njit(cache=True, error_model="numpy")
def _quotient(digits, places):
    """Return digits / 10**places as the nearest float64 (ties to even), -1.0 where that is not worked out here."""
    if places > _MAX_DIGITS:
        return -1.0
    if places == 0:
        return np.float64(digits)
    power = _power_of_ten(places)
    if digits < (np.int64(1) << 53) and places <= 15:
        return np.float64(digits) / np.float64(power)  # both exact, one rounding
    whole = digits // power
    rest = digits - whole * power
    if whole >= np.int64(1) << 53:
        return -1.0
    scale = 1.0
    while whole < np.int64(1) << 52:  # long division in binary, up to 53 bits
        if whole == 0 and rest == 0:
            return 0.0
        rest *= 2
        whole *= 2
        if rest >= power:
            rest -= power
            whole += 1
        scale *= 0.5
    if 2 * rest > power or (2 * rest == power and whole % 2 == 1):
        whole += 1
    return np.float64(whole) * scale


@numba.njit(cache=True, error_model="numpy")
def _two_digits(buffer, at):
    """Return a number of two digits, or -1."""
    tens, ones = np.int64(buffer[at]) - _ZERO, np.int64(buffer[at + 1]) - _ZERO
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return np.int64(-1)
    return tens * 10 + ones


@numba.njit(cache=True, error_model="numpy")
def _instant(buffer, start, stop):
    """Read an ISO date and time: nanoseconds since 1970 UTC (-1 when it is none), and whether it has a zone."""
    if stop - start < 19:
        return np.int64(-1), 0
    century, year = _two_digits(buffer, start), _two_digits(buffer, start + 2)
    month, day = _two_digits(buffer, start + 5), _two_digits(buffer, start + 8)
    hour, minute = _two_digits(buffer, start + 11), _two_digits(buffer, start + 14)
    second = _two_digits(buffer, start + 17)
    if min(century, year, month, day, hour, minute, second) < 0:
        return np.int64(-1), 0
    if buffer[start + 4] != _MINUS or buffer[start + 7] != _MINUS:
        return np.int64(-1), 0
    if buffer[start + 10] != _SPACE and buffer[start + 10] != _UPPER_T:
        return np.int64(-1), 0
    if buffer[start + 13] != _COLON or buffer[start + 16] != _COLON:
        return np.int64(-1), 0
    year += 100 * century
    leap = (year % 4 == 0 and year % 100 != 0) or year % 400 == 0
    longest = 31
    if month == 4 or month == 6 or month == 9 or month == 11:
        longest = 30
    elif month == 2:
        longest = 29 if leap else 28
    if not (1970 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= longest):
        return np.int64(-1), 0
    if hour > 23 or minute > 59 or second > 59:
        return np.int64(-1), 0
    at = start + 19
    fraction = np.int64(0)
    if at < stop and buffer[at] == _DOT:
        at += 1
        places = 0
        while at < stop and _ZERO <= buffer[at] <= _NINE:
            fraction = fraction * 10 + (np.int64(buffer[at]) - _ZERO)
            places += 1
            at += 1
            if places > 9:
                return np.int64(-1), 0
        if places == 0:
            return np.int64(-1), 0
        fraction *= _power_of_ten(9 - places)
    zoned = 0
    offset_min = np.int64(0)
    if at < stop:
        zoned = 1
        if buffer[at] == _UPPER_Z and at + 1 == stop:
            at += 1
        elif (buffer[at] == _PLUS or buffer[at] == _MINUS) and at + 6 == stop and buffer[at + 3] == _COLON:
            hours, minutes = _two_digits(buffer, at + 1), _two_digits(buffer, at + 4)
            offset_min = hours * 60 + minutes
            if hours < 0 or minutes < 0 or offset_min >= 1440:
                return np.int64(-1), 0
            if buffer[at] == _MINUS:
                offset_min = -offset_min
        else:
            return np.int64(-1), 0
    # Days from civil, with years that begin in March.
    shifted = year - 1 if month <= 2 else year
    of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400 + of_year - 719468
    seconds = days * 86400 + hour * 3600 + (minute - offset_min) * 60 + second
    return seconds * _NS + fraction, zoned


@numba.njit(cache=True, error_model="numpy")
def _intern(buffer, start, stop, slot, slots_of, entries, counts, arena, state):
    """Return the code of a text, a new one for a new text; -1 when there is no room."""
    hashed = np.uint64(14695981039346656037)  # FNV-1a
    for at in range(start, stop):
        hashed = (hashed ^ np.uint64(buffer[at])) * np.uint64(1099511628211)
    signature = np.int64(hashed >> np.uint64(1))
    mask = slots_of.shape[1] - 1
    place = (signature ^ (signature >> 29)) & mask
    length = stop - start
    while slots_of[slot, place] >= 0:
        code = slots_of[slot, place]
        if entries[slot, code, 2] == signature and entries[slot, code, 1] == length:
            base = entries[slot, code, 0]
            same = True
            for offset in range(length):
                if arena[base + offset] != buffer[start + offset]:
                    same = False
                    break
            if same:
                return np.int64(code)
        place = (place + 1) & mask
    code = counts[slot]
    if code >= entries.shape[1] or state[_ARENA_USED] + length > len(arena):
        return np.int64(-1)
    base = state[_ARENA_USED]
    for offset in range(length):
        arena[base + offset] = buffer[start + offset]
    state[_ARENA_USED] = base + length
    entries[slot, code, 0] = base
    entries[slot, code, 1] = length
    entries[slot, code, 2] = signature
    counts[slot] = code + 1
    slots_of[slot, place] = code
    return np.int64(code)


@numba.njit(cache=True, error_model="numpy")
def _rehash(slots_of, entries, counts):
    """Enter all texts into an empty hash table."""
    mask = slots_of.shape[1] - 1
    for slot in range(len(counts)):
        for code in range(counts[slot]):
            signature = entries[slot, code, 2]
            place = (signature ^ (signature >> 29)) & mask
            while slots_of[slot, place] >= 0:
                place = (place + 1) & mask
            slots_of[slot, place] = code
