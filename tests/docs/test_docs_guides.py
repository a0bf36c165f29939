"""The commands of the how-to pages run, one after the other, and leave what the pages name."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from burstenv.cli.main import main

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
LEAVES = {
    "paper.md": ["paper/attainment-by-scenario.tex", "paper/attainment-by-scenario.csv", "paper/references.bib"],
    "sizing.md": ["traffic.csv", "episode.html"],
}


@pytest.mark.parametrize("name", LEAVES)
def test_the_commands_of_a_how_to_page_run(name, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```console\n(.*?)```", (GUIDES / name).read_text(encoding="utf-8"), re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) > 3
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "burstenv"
        assert main(arguments) == 0, command
    for path in LEAVES[name]:
        assert (tmp_path / path).is_file(), path
