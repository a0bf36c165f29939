"""The README's Python runs as it stands, and its commands are ones that the command line has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from burstenv.cli.main import make_parser

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.startswith("burstenv ")
]


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(code, capsys):
    exec(compile(code, "README.md", "exec"), {})  # the user's copy and paste


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    make_parser().parse_args(shlex.split(command)[1:])
