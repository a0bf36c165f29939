"""The compiled state machine behind :mod:`burstenv.workload.formats.csv_fast`."""

from __future__ import annotations

import numpy as np

from burstenv._jit.decorators import allocating_entry

IGNORED, TIME, SECONDS, WHOLE, CODED, STAMP = range(6)
DONE, GIVE_UP, GROW = range(3)
MAX_DIGITS = 18  # 10**18 - 1 fits in 63 bits
LONGEST_TEXT = 1000
_NS = 1_000_000_000

# fields of the parser's state, int64
AT, ROWS, ARENA_USED, ZONED, STATE_SIZE = range(5)

_COMMA, _NEWLINE, _RETURN, _TAB, _SPACE = 44, 10, 13, 9, 32
_QUOTE, _MINUS, _PLUS, _DOT, _COLON, _ZERO, _NINE, _UPPER_T, _UPPER_Z = 34, 45, 43, 46, 58, 48, 57, 84, 90


@allocating_entry
def parse(
    buffer, end, kinds, slots, blanks, lows, highs, units, floats, wholes, stamps, codes, slots_of, entries, counts,
    arena, latest, latest_ns, state, max_seconds,
):  # fmt: skip
    """Parse complete lines from ``state[AT]`` to ``end``; leave row count and position in ``state``."""
    columns = len(kinds)
    stop = 0
    at = state[AT]
    row = state[ROWS]
    while at < end:
        state[AT] = at  # where to resume when there is no room for a text
        state[ROWS] = row
        if buffer[at] == _NEWLINE:
            at += 1
            continue
        if buffer[at] == _RETURN and buffer[at + 1] == _NEWLINE:
            at += 2
            continue
        for column in range(columns):
            start = at
            kind = kinds[column]
            if kind != IGNORED and kind != CODED and kind != STAMP:  # most cells are a few digits and no more
                digits = np.int64(0)
                while _ZERO <= buffer[at] <= _NINE and at - start <= MAX_DIGITS:
                    digits = digits * 10 + (np.int64(buffer[at]) - _ZERO)
                    at += 1
                if buffer[at] == (_NEWLINE if column == columns - 1 else _COMMA) and start < at <= start + MAX_DIGITS:
                    at += 1
                    if kind == WHOLE:
                        if digits < lows[column] or digits > highs[column]:
                            return GIVE_UP
                        wholes[slots[column], row] = digits
                        continue
                    seconds = _quotient(digits, units[column])
                    if not 0.0 <= seconds <= max_seconds or (kind == TIME and seconds < latest[column]):
                        return GIVE_UP
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
                        return GIVE_UP
                    at += 1
                stop = at
                at += 1
                if buffer[at] == _RETURN and buffer[at + 1] == _NEWLINE:
                    at += 1
                if buffer[at] != _COMMA and buffer[at] != _NEWLINE:
                    return GIVE_UP
            while buffer[at] != _COMMA and buffer[at] != _NEWLINE:
                byte = buffer[at]
                if byte == _QUOTE or (
                    byte < _SPACE and byte != _TAB and not (byte == _RETURN and buffer[at + 1] == _NEWLINE)
                ):
                    return GIVE_UP
                at += 1
            if (buffer[at] == _NEWLINE) != (column == columns - 1):
                return GIVE_UP  # too few or too many cells
            if not quoted:
                stop = at
                if stop > start and buffer[stop - 1] == _RETURN:
                    stop -= 1
            at += 1
            while start < stop and (buffer[start] == _SPACE or buffer[start] == _TAB):
                start += 1
            while start < stop and (buffer[stop - 1] == _SPACE or buffer[stop - 1] == _TAB):
                stop -= 1
            if stop - start > LONGEST_TEXT:
                return GIVE_UP
            if kind == IGNORED:
                continue
            slot = slots[column]
            if start == stop:
                if not blanks[column]:
                    return GIVE_UP
                if kind == WHOLE:
                    wholes[slot, row] = 0
                elif kind == CODED:
                    codes[slot, row] = -1
                elif kind == SECONDS:
                    floats[slot, row] = np.nan
                else:
                    return GIVE_UP
            elif kind == CODED:
                code = _intern(buffer, start, stop, slot, slots_of, entries, counts, arena, state)
                if code < 0:
                    return GROW
                codes[slot, row] = code
            elif kind == STAMP:
                instant, zoned = _instant(buffer, start, stop)
                if instant < 0 or instant < latest_ns[column]:
                    return GIVE_UP
                if state[ZONED] >= 0 and state[ZONED] != zoned:
                    return GIVE_UP
                state[ZONED] = zoned
                latest_ns[column] = instant
                stamps[slot, row] = instant
            else:
                negative, digits, places = _decimal(buffer, start, stop)
                if places < 0:
                    return GIVE_UP
                if kind == WHOLE:
                    power = _power_of_ten(places)
                    value = digits // power
                    if value * power != digits:
                        return GIVE_UP
                    if negative:
                        value = -value
                    if value < lows[column] or value > highs[column]:
                        return GIVE_UP
                    wholes[slot, row] = value
                else:
                    seconds = _quotient(digits, places + units[column])
                    if negative or not 0.0 <= seconds <= max_seconds:
                        return GIVE_UP
                    if kind == TIME:
                        if seconds < latest[column]:
                            return GIVE_UP
                        latest[column] = seconds
                    floats[slot, row] = seconds
        row += 1
    state[AT] = at
    state[ROWS] = row
    return DONE


@allocating_entry
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
            if used > MAX_DIGITS or after > MAX_DIGITS:
                return negative, np.int64(0), -1
        else:
            return negative, np.int64(0), -1
        at += 1
    if before == 0 or (places == 0):
        return negative, np.int64(0), -1
    return negative, digits, max(places, 0)


@allocating_entry
def _power_of_ten(exponent):
    power = np.int64(1)
    for _ in range(exponent):
        power *= 10
    return power


@allocating_entry
def _quotient(digits, places):
    """Return digits / 10**places as the nearest float64 (ties to even), -1.0 where that is not worked out here."""
    if places > MAX_DIGITS:
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


@allocating_entry
def _two_digits(buffer, at):
    """Return a number of two digits, or -1."""
    tens, ones = np.int64(buffer[at]) - _ZERO, np.int64(buffer[at + 1]) - _ZERO
    if tens < 0 or tens > 9 or ones < 0 or ones > 9:
        return np.int64(-1)
    return tens * 10 + ones


@allocating_entry
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


@allocating_entry
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
    if code >= entries.shape[1] or state[ARENA_USED] + length > len(arena):
        return np.int64(-1)
    base = state[ARENA_USED]
    for offset in range(length):
        arena[base + offset] = buffer[start + offset]
    state[ARENA_USED] = base + length
    entries[slot, code, 0] = base
    entries[slot, code, 1] = length
    entries[slot, code, 2] = signature
    counts[slot] = code + 1
    slots_of[slot, place] = code
    return np.int64(code)


@allocating_entry
def rehash(slots_of, entries, counts):
    """Enter all texts into an empty hash table."""
    mask = slots_of.shape[1] - 1
    for slot in range(len(counts)):
        for code in range(counts[slot]):
            signature = entries[slot, code, 2]
            place = (signature ^ (signature >> 29)) & mask
            while slots_of[slot, place] >= 0:
                place = (place + 1) & mask
            slots_of[slot, place] = code
