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
from burstenv.pretrained import shipped_agents

SCREEN = (80, 24)  # columns and lines
WIDE = 100  # columns of the whole help


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
def test_the_help_of_a_verb_has_an_example_that_works(path, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDE))
    text = verbs(make_parser())[path].format_help()
    assert max(map(len, text.splitlines())) <= WIDE
    if path in GROUPS:
        return
    example = text.partition("\nexample: ")[2].replace("\\\n", "").strip()
    program, *words = shlex.split(example.removeprefix('eval "$(').removesuffix(')"'))
    assert program == "burstenv"
    assert words[: len(path)] == list(path)
    assert make_parser().parse_args(words).run


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_short_help_fits_a_terminal_and_names_every_argument(path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(SCREEN[0]))
    monkeypatch.setenv("LINES", str(SCREEN[1]))
    with pytest.raises(SystemExit) as end:
        main([*path, "-h"])
    assert not end.value.code
    text = capsys.readouterr().out
    assert text.count("\n") < SCREEN[1]
    assert max(map(len, text.splitlines())) < SCREEN[0]
    assert "%%" not in text
    for action in VERBS[path]._actions:
        names = action.option_strings[-1:] or [str(action.metavar or action.dest)]
        if isinstance(action, argparse._SubParsersAction):
            names = list(action.choices)
        assert all(name in text for name in names if name not in ("-h", "--help") and not name.startswith("--no-"))


def test_an_example_breaks_where_a_shell_lets_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    lines = VERBS["tune",].format_help().partition("\nexample: ")[2].splitlines()
    assert len(lines) > 1
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split(" ".join(line.rstrip("\\") for line in lines)).count("*/jsq/vllm") == 1


@pytest.mark.parametrize(
    ("words", "verb", "near"),
    [
        (["simulate", "x.csv", "--polcy", "a/b/c"], "simulate", "--policy"),
        (["trace", "plot", "x.csv", "--uot=plots"], "trace plot", "--out"),
        (["hardware", "--zzz"], "hardware", None),
    ],
)
def test_an_unknown_option_ends_with_the_usage_of_its_verb(words, verb, near, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    assert end.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith(f"usage: burstenv {verb} ")
    assert text.rstrip().partition("did you mean ")[2] == (f"{near}?" if near else "")


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
        ("burstenv simulate x --scenario retr", {"retrying"}),
        ("burstenv simulate x --cluster default-x6", {"default-x64"}),
        ("burstenv simulate burstgpt-de", {"burstgpt-default"}),
        (
            "burstenv simulate x --policy agent:joint-v",
            {f"agent:{name}" for name in shipped_agents() if name.startswith("joint-v")},
        ),
        ("burstenv validate x --latency opt", {"opt-13b_a100-80g_tp1"}),
        ("burstenv train --agent recurr", {"recurrent-ppo"}),
        ("burstenv completion z", {"zsh"}),
        ("burstenv policies lmet", {"lmetric"}),
        ("burstenv trace download burstgpt-3-w", {"burstgpt-3-without-fails"}),
    ],
)
def test_names_are_completed(line, offered, tmp_path):
    assert completions(line, tmp_path) == offered


TYPED = {"burstenv sim": "simulate", "burstenv scenarios uneq": "unequal", "burstenv schema work": "workloads"}
BASH = r"""
eval "$(burstenv completion bash)"
COMP_LINE='{line}' COMP_POINT={point} COMP_WORDS=({line}) COMP_CWORD={word} COMP_TYPE=9
$(complete -p burstenv | sed 's/.*-F \([^ ]*\) .*/\1/') burstenv
printf '%s\n' "${{COMPREPLY[@]}}"
"""
FISH = "burstenv completion fish | source; complete -C '{line}'"


@pytest.fixture
def path_with_burstenv(tmp_path):
    """A PATH that finds ``burstenv`` of this installation first."""
    program = tmp_path / "bin" / "burstenv"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from burstenv.cli import main; raise SystemExit(main())" "$@"\n'
    )
    program.chmod(0o755)
    return f"{program.parent}:{os.environ['PATH']}"


@pytest.mark.parametrize("line", TYPED)
@pytest.mark.parametrize(("shell", "asks"), [("bash", BASH), ("fish", FISH)])
def test_a_shell_completes(shell, asks, line, path_with_burstenv, tmp_path):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    environment = {**os.environ, "PATH": path_with_burstenv, "HOME": str(tmp_path)}
    asked = [shell, "-c", asks.format(line=line, point=len(line), word=len(line.split()) - 1)]
    run = subprocess.run(asked, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert TYPED[line] in [found.split("\t")[0].strip() for found in run.stdout.splitlines()], run


@pytest.mark.parametrize("line", TYPED)
def test_zsh_completes_at_its_prompt(line, path_with_burstenv, tmp_path):
    pexpect = pytest.importorskip("pexpect")
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    environment = {**os.environ, "PATH": path_with_burstenv, "HOME": str(tmp_path), "TERM": "dumb"}
    zsh = pexpect.spawn("zsh", ["-f", "-i"], env=environment, cwd=str(tmp_path), encoding="utf-8", timeout=300)
    zsh.sendline(
        "autoload -U compinit && compinit -u; eval \"$(burstenv completion zsh)\"; PS1='ready> '; echo begun$((1))"
    )
    zsh.expect("begun1")
    zsh.expect("ready> ")
    zsh.send(f"{line}\t")
    zsh.expect(TYPED[line])
    zsh.close(force=True)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_gets_a_script_that_it_can_read(shell, capsys, tmp_path):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --command burstenv"}[shell] in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script)
        read = subprocess.run([shell, "-n", str(tmp_path / "script")], capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr
