"""Every verb: its help fits a screen and has an example that the parser takes; shells complete it."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from burstenv.cli import completion
from burstenv.cli.main import main, make_parser

SCREEN = (100, 40)  # columns and lines


def verbs(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """Return the parsers of all verbs by their words."""
    found = {path: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                found.update(verbs(sub, (*path, name)))
    return found


VERBS = verbs(make_parser())
GROUPS = {("trace",), ("latency",), ("engines",)}


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_help_of_a_verb_fits_a_screen_and_has_an_example_that_works(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(SCREEN[0]))
    lines = verbs(make_parser())[path].format_help().splitlines()
    assert len(lines) <= SCREEN[1]
    assert max(map(len, lines)) <= SCREEN[0]
    if path in GROUPS:
        return
    assert lines[-1].startswith("example: ")
    example = lines[-1].removeprefix("example: ").removeprefix('eval "$(').removesuffix(')"')
    program, *words = shlex.split(example)
    assert program == "burstenv"
    assert words[: len(path)] == list(path)
    assert make_parser().parse_args(words).run


def test_every_option_has_a_help_text():
    for path, parser in VERBS.items():
        for action in parser._actions:
            if action.option_strings and action.help != argparse.SUPPRESS:
                assert action.help or action.choices, f"{' '.join(path)} {action.option_strings[0]}"


def completions(line: str, folder: Path) -> set[str]:
    """Return the names that a shell is offered after a command line."""
    answer = folder / "answer"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(answer)}
    asked |= {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    program = [sys.executable, "-c", "from burstenv.cli import main; main()"]
    subprocess.run(program, env={**os.environ, **asked}, cwd=folder, check=True)
    return {name.strip() for name in answer.read_text().split("\n")}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("burstenv sim", {"simulate"}),
        ("burstenv trace fi", {"fidelity", "fit"}),
        ("burstenv simulate x --scen", {"--scenario"}),
        ("burstenv simulate x --scenario over", {"overload"}),
        ("burstenv simulate x --cluster mixed-x6", {"mixed-x64"}),
        ("burstenv simulate burstgpt-de", {"burstgpt-default"}),
        ("burstenv simulate x --policy agent:joint-u", {"agent:joint-unequal-v1"}),
        ("burstenv validate x --latency opt", {"opt-13b_a100-80g_tp1"}),
        ("burstenv train --agent recurr", {"recurrent-ppo"}),
        ("burstenv completion z", {"zsh"}),
    ],
)
def test_names_are_completed(line, offered, tmp_path):
    assert completions(line, tmp_path) == offered


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_gets_a_script_that_it_can_read(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --command burstenv"}[shell] in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        read = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr
