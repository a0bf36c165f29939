"""Plain lines of a table as arrays: where every cell ends, and eight characters at a time as the bytes of a word."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

WORD = 8  # characters
_AT_ONCE = 1 << 18  # characters compared together; they stay in the processor's cache
_ROWS = 1 << 15
_MARGIN = 4 * WORD  # characters that may be read beyond the first and the last
_ZEROS = np.uint64(int.from_bytes(b"0" * WORD, "little"))
_LAST = np.array([((1 << 8 * k) - 1) << 8 * (WORD - k) for k in range(WORD + 1)], dtype=np.uint64)  # k bytes of a word


class Lines:
    """Lines of one number of cells each, without quotes, ended by a line feed.

    Attributes:
        text: Their bytes.
        columns: Cells of a line.
    """

    def __init__(self, text: bytes, columns: int) -> None:
        self.text = text
        self.columns = columns

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """Index in ``text`` behind each cell: shape ``(rows, columns)``."""
        return self._ends.reshape(-1, self.columns)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        found = []
        for at in range(0, len(self.text), _AT_ONCE):
            part = self._characters[at : at + _AT_ONCE]
            separates = part == ord(",")
            separates |= part == ord("\n")
            found.append(np.flatnonzero(separates) + at)
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    @property
    def _characters(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.text, dtype=np.uint8)

    def has_cells(self, longest: int) -> bool:
        """Return whether each line has ``columns`` cells and at most ``longest`` characters."""
        if len(self._ends) % self.columns:
            return False
        line_ends = self._characters[self.ends] == ord("\n")
        return bool(
            line_ends[:, -1].all()
            and not line_ends[:, :-1].any()
            and np.diff(self.ends[:, -1], prepend=-1).max(initial=0) <= longest
        )

    def __len__(self) -> int:
        return len(self.ends)

    def parts(self) -> Iterator[slice]:
        """Yield rows so few that their words stay in the processor's cache."""
        return (slice(at, min(at + _ROWS, len(self))) for at in range(0, len(self), _ROWS))

    def cells(self, place: int, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return where some cells of a column start, and their lengths: each of shape ``(rows,)``."""
        ends = self.ends[rows, place]
        if place:
            starts = self.ends[rows, place - 1] + 1
        else:
            starts = np.empty(len(ends), dtype=np.int64)
            starts[0] = self.ends[rows.start - 1, -1] + 1 if rows.start else 0
            starts[1:] = self.ends[rows.start : rows.stop - 1, -1] + 1
        return starts, ends - starts

    def words(self, starts: NDArray[np.int64], count: int) -> NDArray[np.uint64]:
        """Return characters as words, the first one in the lowest byte.

        Args:
            starts: Index in ``text`` of the first character of each row, at least ``-WORD``.
            count: Words of each row, at most 4; behind the end of the text they hold zeros.

        Returns:
            Shape ``(rows, count)``.
        """
        every = np.ndarray((len(self._buffer) - WORD * count + 1,), f"V{WORD * count}", self._buffer, strides=(1,))
        return every[starts + _MARGIN].view("<u8").reshape(-1, count)

    @cached_property
    def _buffer(self) -> bytes:
        return bytes(_MARGIN) + self.text + bytes(_MARGIN)

    def wholes(self, place: int) -> NDArray[np.int64] | None:
        """Return a column of whole numbers; None where a cell is not one to eight digits."""
        found = np.empty(len(self), dtype=np.int64)
        for rows in self.parts():
            starts, length = self.cells(place, rows)
            if length.min() < 1 or length.max() > WORD:
                return None
            values = digits(self.words(starts + length - WORD, 1)[:, 0], _LAST[length])
            if values is None:
                return None
            found[rows] = values
        return found


def digits(words: NDArray[np.uint64], held: NDArray[np.uint64]) -> NDArray[np.int64] | None:
    """Return the numbers of eight digits in words; bytes that are not ``held`` count as 0. None when one is no digit.

    Pairs of digits, then pairs of pairs, are joined by one multiplication each.
    """
    words = words & held | _ZEROS & ~held
    high, low = np.uint64(0x8080808080808080), np.uint64(0x4646464646464646)
    if ((words + low | words - _ZEROS) & high).any():
        return None
    words = (words - _ZEROS) * np.uint64((10 << 8) + 1) >> np.uint64(8) & np.uint64(0x00FF00FF00FF00FF)
    words = words * np.uint64((100 << 16) + 1) >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF)
    return (words * np.uint64((10_000 << 32) + 1) >> np.uint64(32)).astype(np.int64)
