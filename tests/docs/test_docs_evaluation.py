"""What docs/evaluation.md says to type can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from burstenv.cli.main import make_parser
from burstenv.evaluation.tuning.tuned_policies import load_tuned

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = DOCS.read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```console\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("burstenv ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_understood(line):
    arguments = make_parser().parse_args(shlex.split(line, comments=True)[1:])
    assert callable(arguments.run)


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(code, {"__name__": "example"})
    assert (tmp_path / "reports" / "quick" / "report.html").is_file()


def test_the_shipped_tuned_policies_are_what_the_page_shows():
    tuned = load_tuned("default", "default")
    assert tuned.split == "validation"
    assert tuned.at(1.5) in TEXT
