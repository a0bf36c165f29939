"""The guides and the first page do what they say: files are written, code runs, commands end well, in their order.

Long commands get the options that the pages name for a first try.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from burstenv import Trace, write_plain
from burstenv.cli.main import main
from burstenv.config import shipped
from tests.shipped_files import real

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "guides").glob("*.md"))]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`(burstenv [^`\n]*[A-Z/.-][^`\n]*)`")  # with an argument, not the mere name of a command
NAMED = re.compile(r"# (\S+\.(?:yaml|py))\n")  # the first line of a file to write
FIRST_TRY = {  # options of long commands, shown in guides/scenario.md
    "train": "--steps 2000",
    "tune": "--trials 12 --episodes 2 --load 1",
    "evaluate": "--episodes 2 --load 1",
}
LEAVES = {
    "paper": ["paper/score-by-scenario.tex", "paper/score-by-scenario.csv", "paper/references.bib"],
    "sizing": ["traffic.csv", "episode.html", "front.html", "hardware.html"],
}
POINTS = (
    "gpu,model,tensor_parallel,concurrency,prompt_tokens,output_tokens,tpot_mean_ms,ttft_mean_ms\n"
    "h100,qwen3-32b,2,8,1024,512,16.48,153.6\n"
)


def made_by_the_reader(page: Path, folder: Path) -> None:
    """Write what a page tells its reader to bring."""
    if page.stem == "scenario":
        shutil.copy(shipped("scenarios")["default"], folder / "mine.yaml")
    if page.stem == "validate":
        (folder / "points.csv").write_text(POINTS)
    if page.stem == "trace":
        random, n = np.random.default_rng(0), 6_000
        arrival_s = np.sort(random.uniform(0.0, 6 * 86_400.0, n))
        write_plain(
            Trace.from_columns(arrival_s, random.integers(20, 900, n), random.integers(5, 300, n)), folder / "a.csv"
        )
        text = (folder / "a.csv").read_text().replace("arrival_s", "created").replace("prompt_tokens", "in")
        (folder / "mine.csv").write_text(text.replace("output_tokens", "out"))


def commands_of(text: str) -> list[str]:
    """Return the commands of a page: the lines of its blocks (those behind a prompt, if any are), and those in text."""
    found: list[str] = []
    for language, block in BLOCK.findall(text):
        if language in ("bash", "console"):
            prompted = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
            found += prompted or block.splitlines()
    return [line.split(" #")[0].strip() for line in found] + INLINE.findall(BLOCK.sub("", text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    made_by_the_reader(page, tmp_path)
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for language, block in BLOCK.findall(text):
        file = NAMED.match(block)
        if file:
            (tmp_path / file[1]).write_text(block)
        elif language == "python":
            exec(compile(block, page.name, "exec"), names)  # what a reader would paste
    measured = real("measured/rtx4090_llama31_8b")
    places = {"PROFILE_DIR": measured / "profile", "RUN_DIR": measured, "SOURCE": measured, "FOLDER": measured}
    for command in commands_of(text):
        program, *words = (str(places.get(word, word)) for word in shlex.split(command))
        if program != "burstenv":
            assert program in ("make", "cd", "git", "pip"), command  # how it is installed
            continue
        given = shlex.split(FIRST_TRY.get(words[0], "")) if "--episodes" not in words else []
        assert main([*words, *given]) == 0, f"{command}: {capsys.readouterr().err}"
    for path in LEAVES.get(page.stem, []):
        assert (tmp_path / path).is_file(), path


def test_the_options_for_a_first_try_are_shown():
    text = (DOCS / "guides" / "scenario.md").read_text(encoding="utf-8")
    for verb, options in FIRST_TRY.items():
        assert f"`{verb} {options}`" in text
