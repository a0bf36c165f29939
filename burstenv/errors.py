"""Errors caused by users: one sentence with the mistake, its place and the correct form."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BurstenvError(ValueError):
    """A user's mistake; the command line prints its message without a traceback."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> BurstenvError:
    """Return the error for an unknown name, listing the nearest valid ones first.

    Args:
        kind: Kind of the name, such as ``"scenario"``.
        name: The user's text.
        valid: All valid names.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(str(name)[:100], names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return BurstenvError(f"unknown {kind} {name!r:.100}; {hint}valid: {', '.join(names) or '(none)'}")
