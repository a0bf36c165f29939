"""The errors a user can cause: one sentence, naming what was wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class BurstenvError(ValueError):
    """A user's mistake; the command line prints its message and no traceback."""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> BurstenvError:
    """Return the error for an unknown name, listing the nearest valid ones first.

    Args:
        kind: What the name was for, such as ``"scenario"``.
        name: What the user wrote.
        valid: Every name that would have been right.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return BurstenvError(f"unknown {kind} {name!r}; {hint}valid: {', '.join(names) or '(none)'}")
