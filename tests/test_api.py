"""The public names: each is there, and documents, examples and notebooks import nothing else."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import burstenv
from burstenv.deprecated import NEW_HOMES

ROOT = Path(__file__).parents[1]
IMPORT = re.compile(
    r"^\s*(?:from (burstenv[\w.]*) import ([\w, ()\n]+?)|import (burstenv[\w.]*))(?:\s*#.*)?$", re.MULTILINE
)
# Shown where a page is about the inside of the engine, which is not for import by users.
PLUGINS = {f"burstenv.gateway.plugins.{name}" for name in ("advisor", "endpoint_picker", "litellm_router")}
INSIDE = {
    "docs/serve.md": PLUGINS,  # they bring what other programs' packages need
    "examples/endpoint_picker.py": PLUGINS,
    "examples/litellm_router.py": PLUGINS,
    "notebooks/inspect_agent.ipynb": {"burstenv.cluster"},
    "docs/scaling.md": {"burstenv.cluster.scaling.config"},
    "docs/transfers.md": {"burstenv.cluster.transfer_config"},
}


def shown_to_users() -> list[Path]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [*pages, *sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def run(code: str, *options: str) -> str:
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=True).stdout


def text_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"])


def test_every_public_name_is_there_and_documented():
    for name in burstenv.api.__all__:
        value = getattr(burstenv, name)
        assert getattr(burstenv.api, name) is value
        if callable(value):
            assert value.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("path", shown_to_users(), ids=lambda path: str(path.relative_to(ROOT)))
def test_users_are_shown_public_names_only(path):
    allowed = INSIDE.get(str(path.relative_to(ROOT)), set())
    for match in IMPORT.finditer(text_of(path)):
        module = match[1] or match[3]
        assert module in {"burstenv", "burstenv.api", "burstenv.pettingzoo", *allowed}, (
            f"{path.name}: {match[0].strip()}"
        )
        if module == "burstenv" and match[2]:
            for name in re.findall(r"\w+", match[2].replace(" as ", "#")):
                assert name in {*burstenv.__all__, "pettingzoo"}, f"{path.name}: burstenv has no {name}"


def test_an_unknown_name_is_an_error_that_says_where_the_names_are():
    with pytest.raises(AttributeError, match=r"burstenv\.__all__"):
        burstenv.nonsense  # noqa: B018


def test_old_modules_import_the_new_ones_with_a_warning():
    for old, new in NEW_HOMES.items():
        sys.modules.pop(old, None)
        with pytest.warns(FutureWarning, match=f"{old} has moved to {new}"):
            moved = importlib.import_module(old)
        public = {name for name in vars(importlib.import_module(new)) if not name.startswith("__")}
        assert public <= set(vars(moved))


def test_importing_burstenv_imports_none_of_the_heavy_packages():
    heavy = ["numba", "torch", "pandas", "pydantic", "yaml"]
    assert run(f"import burstenv, sys; print([name for name in {heavy} if name in sys.modules])") == "[]\n"
