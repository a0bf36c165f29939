"""The styles of a picture's series."""

from __future__ import annotations

from burstenv.pages.palette import SERIES, series


def test_twice_the_colours_are_told_apart() -> None:
    styles = [series(k) for k in range(2 * SERIES)]
    assert len(set(styles)) == len(styles)
    assert [style.split()[0] for style in styles] == [f"s{k % SERIES}" for k in range(2 * SERIES)]
