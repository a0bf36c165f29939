"""Every command that a page shows or names is one that the command line has, with options that it has."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from burstenv.cli.main import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"```(?:bash|console)\n(.*?)```|^    (burstenv .*)$", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"^(?:\$ )?burstenv ([a-z].*)$", re.MULTILINE)
INLINE = re.compile(r"`burstenv\s+([a-z][^`]*)`")
UNFINISHED = ("are required", "expected one argument", "expected at least one argument")  # of one that a text names
PARSER = make_parser()


def commands_of(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the commands of a page, and whether each is one to type, in a block, and not a name in the text."""
    text = text.replace("\\\n", " ")
    for block, indented in BLOCK.findall(text):
        for command in LINE.findall(block or indented):
            yield re.split(r" +#| \| ", command)[0].strip(), True
    for command in INLINE.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield " ".join(command.split()), False


def words_of(command: str) -> list[str]:
    """Return the words of a command; a name in capitals stands for a number or a text, ``...`` for more of them."""
    words = (word.strip("[]") for word in shlex.split(command))
    return ["1" if re.fullmatch(r"[A-Z_]+", word) else word for word in words if word != "..."]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_exist(page, capsys):
    wrong = []
    for command, typed in commands_of(page.read_text(encoding="utf-8")):
        try:
            PARSER.parse_args(words_of(command))
        except SystemExit:
            told = capsys.readouterr().err.strip().splitlines()
            if told and (typed or not any(part in told[-1] for part in UNFINISHED)):
                wrong.append(f"burstenv {command}: {told[-1]}")
    assert not wrong, "\n".join(wrong)


def test_commands_are_found_where_pages_have_them():
    block = "```bash\nburstenv trace info x.csv  # its rows\n```\n"
    text = f"{block}\n    burstenv tune --grid\n\nas `burstenv\npolicies jsq` does"
    assert list(commands_of(text)) == [("trace info x.csv", True), ("tune --grid", True), ("policies jsq", False)]
