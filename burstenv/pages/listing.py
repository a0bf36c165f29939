"""A page of tables with a filter, and pictures above them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from burstenv.files import write_atomic
from burstenv.pages.page import render
from burstenv.pages.svg import Picture

_NUMBER = re.compile(r"([<~+-]?\d[\d.,]*( ?[^\s\[]{1,8})?( \[[^]]*\])?|n/a|)")  # with a unit or an interval, or missing


@dataclass(frozen=True)
class Listing:
    """A table whose first column names its rows."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def of_text(self) -> list[bool]:
        """Whether each column holds text, which stands left and wraps; numbers stand right."""
        return [any(not _NUMBER.fullmatch(row[k]) for row in self.rows) for k in range(len(self.columns))]


def write_listing(
    path: Path,
    title: str,
    facts: str,
    tables: Sequence[Listing],
    pictures: Sequence[Picture] = (),
    legend: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page, atomically.

    Args:
        path: The page.
        title: Its title.
        facts: A sentence below; code in backquotes.
        tables: What it lists.
        pictures: Figures above the tables.
        legend: Pairs of a style and a text, for all pictures.
    """
    write_atomic(
        path,
        render("listing.html.j2", title=title, facts=facts, tables=tables, pictures=list(pictures), legend=legend),
    )
