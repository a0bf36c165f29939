"""What MkDocs is told beside mkdocs.yml: the reference of public names, and links to files of the repository."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = "<!-- public names -->"
GROUPS = {  # by the package that a name lives in
    "envs": "Environments", "cluster": "Clusters", "hardware": "Hardware", "policies": "Policies", "workload": "Traces",
    "evaluation": "Evaluation", "agents": "Agents", "pretrained": "Agents", "errors": "Errors",
}  # fmt: skip
OUTSIDE = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#]+)(?:#[^)]*)?\)")


def reference() -> str:
    """Return the reference of every name of burstenv/api.pyi, one section a package, as mkdocstrings reads it."""
    names: dict[str, list[str]] = {title: [] for title in GROUPS.values()}
    for node in ast.parse((ROOT / "burstenv" / "api.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            group = GROUPS[str(node.module).split(".")[0]]
            names[group] += [f"burstenv.{node.module}.{name.name}" for name in node.names]
    sections = [
        f"## {group}\n\n" + "\n\n".join(f"::: {name}" for name in found) for group, found in names.items() if found
    ]
    return "\n\n".join(sections)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in the reference; a link to a file outside docs/ shows its path, since the site does not hold it."""
    markdown = markdown.replace(MARK, reference())
    here = Path(page.file.src_path).parent

    def shown(match: re.Match[str]) -> str:
        path = os.path.normpath(Path("docs") / here / match[2])
        if path.startswith("docs/"):
            return match[0]
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"docs/{page.file.src_path} links to {path}, which is not there")
        return match[1] if path.rstrip("/") in match[1] else f"{match[1]} (`{path}`)"

    return OUTSIDE.sub(shown, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Drop the roles of reStructuredText that docstrings have before a name."""
    return re.sub(r":(?:mod|func|class|meth|attr):\s*(?=<code)", "", html)
