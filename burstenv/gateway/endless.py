"""Endless texts as token ids: prompts are their begins, and the paced engines' answers go on with them.

So the next turn of a conversation, a longer begin of the same text, finds the answer before it in the engine's cache,
as in the simulator.
"""

from __future__ import annotations

from collections.abc import Sequence

FIRST, SPAN = 2, 4094  # ids: small ones, which every vocabulary has; 0 and 1 are special in the tiny model
_STEPS = 13


def text_of(stream: int, begin: int, end: int) -> list[int]:
    """Return the ids of a stream's text from place ``begin`` to ``end``; no two of 53,222 streams in a row agree."""
    step, start = 1 + stream % _STEPS, stream * 7919
    return [FIRST + (start + k * step) % SPAN for k in range(begin, end)]


def after(ids: Sequence[int], count: int) -> int:
    """Return the id that comes ``count`` places after the end of a text, of which the last two ids are looked at."""
    last = ids[-1] - FIRST if ids else 0
    step = last - (ids[-2] - FIRST) if len(ids) > 1 else 1
    return FIRST + (last + step * count) % SPAN
