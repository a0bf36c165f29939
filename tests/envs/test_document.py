"""The committed pages match the docstrings, and the docstrings match the code."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from burstenv.envs.env import BurstGPTEnv
from burstenv.envs.pages import documented_ids, main, pages

FOLDER = Path(__file__).parents[2] / "docs" / "environments"


@pytest.fixture(scope="module")
def made():
    return pages()


def test_pages_are_up_to_date(made):
    for name, text in made.items():
        path = FOLDER / name
        assert path.exists(), f"{name} is missing; run python -m burstenv.envs.pages"
        assert path.read_text(encoding="utf-8") == text, f"{name} is old; run python -m burstenv.envs.pages"
    there = {path.name for path in FOLDER.glob("*.md")}
    assert there == set(made), "a page of an id that is no longer registered"


def test_check_lists_outdated_pages(tmp_path, capsys):
    assert main(["--check", str(tmp_path)]) == 1
    assert "BurstGPT-v0.md" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 0
    assert main(["--check", str(tmp_path)]) == 0


def test_every_id_has_its_page_and_its_own_defaults(made):
    assert {f"{env_id}.md" for env_id in documented_ids()} <= set(made)
    routing = made["BurstGPT-Routing-v0.md"]
    row = next(line for line in routing.splitlines() if line.startswith("| admission "))
    assert '"size-aware-kv"' in row
    assert "Discrete(4)" in routing
    assert "``" not in routing


def test_the_docstring_lists_every_argument_and_every_observation():
    text = inspect.getdoc(BurstGPTEnv)
    arguments = text.split("## Arguments")[1]
    for name in inspect.signature(BurstGPTEnv).parameters:
        if name != "unknown":
            assert re.search(rf"^\| {name} ", arguments, re.MULTILINE), name
    env = BurstGPTEnv()
    for name in env.observation_names:
        bare = re.sub(r"replica\d+\.", "replica.", name)
        bare = re.sub(r"mode=.*", "mode=m", bare)
        assert bare in text, name
