"""The parser of the command line: a short usage, an example for every verb, and ``-h``, help that fits a screen."""

from __future__ import annotations

import argparse
import difflib
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

SCREEN_COLUMNS = 110  # at most: longer lines are hard to read
EXAMPLE = "example:"
_LABEL = 26  # columns of an option at most
# Options of many verbs, listed last where not all options fit a screen.
_COMMON = ("json", "columns", "time_unit", "sort", "policy_file", "seed", "workers", "ray", "parquet", "capacity_split")
_CLAUSES = ("; ", ": ", " (", ", ", " - ")


class HelpFormatter(argparse.HelpFormatter):
    """Wraps a description; an example breaks between words, as a shell takes it."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=_columns() - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return _broken(text, width) if text.startswith(EXAMPLE) else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """Names only positional and required arguments in its usage; ``-h`` fits a screen, ``--help`` says everything."""

    def __init__(self, *arguments: Any, **options: Any):
        options.setdefault("formatter_class", HelpFormatter)
        super().__init__(*arguments, **{**options, "add_help": False})
        self.add_argument(
            "-h",
            dest="help",
            action=_Short,
            nargs=0,
            default=argparse.SUPPRESS,
            help="print the help that fits a screen, and exit",
        )
        self.add_argument("--help", action="help", help="print this whole help, and exit")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the arguments; an unknown option ends with the usage of its verb, and the option that comes near."""
        found, beyond = self.parse_known_args(args, namespace)
        if beyond:
            verb = self._verb(sys.argv[1:] if args is None else args)
            names = [name for action in verb._actions for name in action.option_strings]
            near = difflib.get_close_matches(beyond[0].partition("=")[0], names, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            verb.error(f"unrecognized arguments: {' '.join(beyond)}{hint}")
        return found

    def _verb(self, words: Sequence[str]) -> argparse.ArgumentParser:
        """Return the parser of the verb that a command line names."""
        parser: argparse.ArgumentParser = self
        for word in words:
            verbs = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
            parser = verbs[0].get(word, parser) if verbs else parser
        return parser

    def format_usage(self) -> str:
        """Return the usage."""
        return self._with_short_usage(super().format_usage)

    def format_help(self) -> str:
        """Return the whole help."""
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

    def format_short_help(self) -> str:
        """Return help that fits the terminal: a line for each argument as far as there is room, then the names."""
        columns, lines = _columns(), shutil.get_terminal_size().lines
        head = textwrap.wrap(self.format_usage(), columns - 2, subsequent_indent="    ")
        head += textwrap.wrap(_cut((self.description or "").split(". ")[0].rstrip("."), 2 * columns - 8), columns - 2)
        tail = _broken(self.epilog, columns - 2).splitlines() if self.epilog else []
        rows = self._rows()
        for shown in range(len(rows), -1, -1):
            rest = ", ".join(name for name, _, _ in rows[shown:])
            more = textwrap.wrap(f"more: {rest}", columns - 2) if rest else []
            told = (
                [f"{self.prog} --help describes everything"]
                if rest or len(self.format_help().splitlines()) > lines
                else []
            )
            if len(head) + shown + len(more) + len(told) + len(tail) < lines:  # the prompt needs the last line
                break
        width = min(_LABEL, max((len(label) for _, label, _ in rows[:shown]), default=0))
        listed = []
        for _, label, text in rows[:shown]:
            start = f"  {label:<{width}}  "
            listed.append(f"{start}{_cut(text, columns - 2 - len(start))}".rstrip())
        return "\n".join([*head, *listed, *more, *told, *tail]) + "\n"

    def _rows(self) -> list[tuple[str, str, str]]:
        """Return name, label and text of each argument and subcommand, the common options last."""
        formatter = self._get_formatter()
        placed: list[tuple[str, str, str]] = []
        options: list[tuple[str, str, str]] = []
        common: list[tuple[str, str, str]] = []
        for action in self._actions:
            if action.help == argparse.SUPPRESS or action.dest == "help":
                continue
            if isinstance(action, argparse._SubParsersAction):
                placed += [(a.dest, a.dest, (a.help or "").replace("%%", "%")) for a in action._get_subactions()]
                continue
            text = formatter._expand_help(action) if action.help else ""
            if not action.option_strings:
                name = str(action.metavar or action.dest)
                placed.append((name, name, text))
                continue
            name = next((one for one in action.option_strings if one.startswith("--")), action.option_strings[0])
            value = formatter._format_args(action, action.dest.upper()) if action.nargs != 0 else ""
            label = f"{name} {value}".strip()
            row = (name, label if len(label) <= _LABEL else name, text)
            (common if action.dest in _COMMON else options).append(row)
        return [*placed, *options, *common]


class _Short(argparse.Action):
    """Prints the short help and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        assert isinstance(parser, Parser)
        parser._print_message(parser.format_short_help(), sys.stdout)
        parser.exit()


def example_of(command: str) -> str:
    """Return the closing lines of a help text."""
    return f"{EXAMPLE} {command}"


def _columns() -> int:
    return min(shutil.get_terminal_size().columns, SCREEN_COLUMNS + 2)


def _broken(example: str, width: int) -> str:
    """Break an example between words, with the backslash that a shell needs."""
    if len(example) <= width:
        return example
    lines, line = [], ""
    for word in _words(example):
        if line and len(line) + 1 + len(word) > width - 2:
            lines.append(f"{line} \\")
            line = "   "
        line = f"{line} {word}" if line else word
    return "\n".join([*lines, line])


def _words(example: str) -> Sequence[str]:
    """Return the words of a command as they are written, quotes kept."""
    words = shlex.shlex(example, posix=False, punctuation_chars=False)
    words.whitespace_split, words.commenters = True, ""
    return list(words)


def _cut(text: str, room: int) -> str:
    """Return a text, or as much of it as ends with a clause and fits."""
    text = " ".join(text.split())
    if len(text) <= room:
        return text
    ends = [at for mark in _CLAUSES for at in _places(text, mark) if at <= room]
    if ends and max(ends) >= room // 3:
        return text[: max(ends)]
    return textwrap.shorten(text, room, placeholder=" ...")


def _places(text: str, mark: str) -> list[int]:
    """Return where a mark stands outside brackets."""
    return [
        at for at in range(len(text)) if text.startswith(mark, at) and text.count("(", 0, at) == text.count(")", 0, at)
    ]
