"""The colours of all pages and pictures, by name: on light paper, on dark paper.

Series have those of Okabe and Ito, which colour-blind eyes tell apart, darkened where they would be faint on white.
"""

from __future__ import annotations

import re

LIGHT, DARK = range(2)
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14181d"),
    "ink": ("#1b1f24", "#e6e9ed"),
    "soft": ("#57606a", "#9aa4af"),
    "line": ("#d8dee4", "#2b323a"),
    "pale": ("#f6f8fa", "#1b2128"),
    "good": ("#0072b2", "#56b4e9"),
    "bad": ("#d55e00", "#f0823c"),
    "c0": ("#0072b2", "#56b4e9"),
    "c1": ("#d55e00", "#ff8a4c"),
    "c2": ("#009e73", "#3fcf9f"),
    "c3": ("#a64d87", "#e39ac6"),
    "c4": ("#8a6d00", "#e8c547"),
    "c5": ("#3b3b98", "#a8a8f5"),
    "c6": ("#6b6b6b", "#a0a7b0"),
    "c7": ("#111111", "#f2f4f6"),
    "attained": ("#2f9e6e", "#37b47e"),
    "rejected": ("#8a94a0", "#6e7883"),
    "failed": ("#40474f", "#c3cad2"),
    "preempted": ("#a64d87", "#d58bb8"),
    "late": ("#e69f00", "#e8b33f"),
    "slow": ("#d55e00", "#f0793a"),
}
SERIES = 8  # c0 to c7


def series(number: int) -> str:
    """Return the style of a series of a picture; from the ninth on the colours come again, thin and outlined."""
    return f"s{number % SERIES}" + (" again" if number >= SERIES else "")


def variables() -> str:
    """Return the colours as variables of a style sheet, which follow the theme."""
    declared = "".join(f" --{name}: light-dark({light}, {dark});" for name, (light, dark) in COLOURS.items())
    return f":root {{{declared} }}\n"


def resolved(css: str, theme: int = LIGHT) -> str:
    """Return a style sheet with the colours of a theme in place of the variables."""
    return re.sub(r"var\(--(\w+)\)", lambda match: COLOURS[match[1]][theme], css)
