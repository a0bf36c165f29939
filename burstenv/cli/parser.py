"""The parser of the command line: a short usage, help that fits a screen, an example for every verb."""

from __future__ import annotations

import argparse
import shutil
from typing import Any

SCREEN_COLUMNS = 110  # at most: longer lines are hard to read
EXAMPLE = "example:"


class HelpFormatter(argparse.HelpFormatter):
    """Wraps a description, keeps an example as it is written."""

    def __init__(self, prog: str):
        width = min(shutil.get_terminal_size().columns - 2, SCREEN_COLUMNS)
        super().__init__(prog, max_help_position=30, width=width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Names only positional and required arguments in its usage; the options are listed below it."""

    def __init__(self, *arguments: Any, **options: Any):
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(*arguments, **options)

    def format_usage(self) -> str:
        """Return the usage."""
        return self._with_short_usage(super().format_usage)

    def format_help(self) -> str:
        """Return the help."""
        return self._with_short_usage(super().format_help)

    def _with_short_usage(self, formatted: Any) -> str:
        formatter = self._get_formatter()
        needed = [action for action in self._actions if action.required and action.option_strings]
        placed = self._get_positional_actions()
        formatter.add_usage(None, [*needed, *placed], [], "")
        shown = formatter.format_help().strip().replace("%", "%%")
        self.usage = f"{shown} [options]"
        try:
            return str(formatted())
        finally:
            self.usage = None


def example_of(command: str) -> str:
    """Return the closing lines of a help text."""
    return f"{EXAMPLE} {command}"
