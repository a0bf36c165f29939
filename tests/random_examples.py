"""How many random examples a property meets."""

from __future__ import annotations

import os

from hypothesis import settings


def examples(usual: int) -> settings:
    """The same ``usual`` examples in every run; with ``BURSTENV_EXAMPLES=5000``, so many others in each run.

    A check that finds a difference prints the example, and how to meet it again.
    """
    wanted = os.environ.get("BURSTENV_EXAMPLES")
    if wanted is None:
        return settings(max_examples=usual, deadline=None, derandomize=True)
    return settings(max_examples=int(wanted), deadline=None, print_blob=True)


def decisions(usual: int) -> int:
    """How many decisions a property is played for; ``BURSTENV_DECISIONS=10000000`` says another number."""
    return int(os.environ.get("BURSTENV_DECISIONS", usual))
