"""Compiled cut of windows of one length from many places of a day's table, the start of every training episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burstenv._jit.decorators import allocating_entry
from burstenv.workload.episodes.day_table import DayTable


@allocating_entry
def _cut(table_s, row, thread, threads, offset_s, window_s, first_thread, out_s, out_row, out_thread):
    """Write the copies one after the other; return the number of their requests, or -1 without room.

    Args:
        table_s: The table, see ``DayTable``; this and the next three.
        row: Likewise.
        thread: Likewise.
        threads: Likewise.
        offset_s: (copies,) begin of each copy's window.
        window_s: Length of the window.
        first_thread: Number of the first conversation of the first copy.
        out_s: (room,) float64 times from the window's start, written.
        out_row: (room,) int32 rows, written.
        out_thread: (room,) int64 conversations, -1 for none, written.
    """
    at = 0
    for copy in range(len(offset_s)):
        begin_s = offset_s[copy]
        end_s = begin_s + window_s
        low, high = 0, len(table_s)  # the first place at or after the window's start, by bisection
        while low < high:
            middle = (low + high) >> 1
            if table_s[middle] < begin_s:
                low = middle + 1
            else:
                high = middle
        base = first_thread + copy * threads
        while low < len(table_s) and table_s[low] < end_s:
            if at == len(out_s):
                return -1
            out_s[at] = table_s[low] - begin_s
            out_row[at] = row[low]
            out_thread[at] = base + thread[low] if thread[low] >= 0 else -1
            at += 1
            low += 1
    return at


def cut_copies(
    table: DayTable, offset_s: NDArray[np.float64], window_s: float, first_thread: int
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int64]]:
    """Cut the window ``offset <= time < offset + window_s`` out of a table once for every offset.

    The times are those of :func:`burstenv.workload.shaping.scaling.lay_over`; conversations of copies are distinct.

    Args:
        table: One class on one day.
        offset_s: Begin of each copy, within the first lap, shape ``(copies,)``.
        window_s: Length of the window, at most one lap.
        first_thread: Number of the first conversation of the first copy; every copy takes ``table.threads`` numbers.

    Returns:
        Times from the window's start, rows of the trace, and conversations, -1 for none; copy after copy.
    """
    room = int(1.5 * len(offset_s) * table.rate_per_s * window_s) + 256
    while True:
        out = np.empty(room), np.empty(room, np.int32), np.empty(room, np.int64)
        count = _cut(
            table.time_s, table.row, table.thread, table.threads, offset_s, float(window_s), first_thread, *out
        )
        if count >= 0:
            time_s, row, thread = out
            return time_s[:count], row[:count], thread[:count]
        room *= 2
