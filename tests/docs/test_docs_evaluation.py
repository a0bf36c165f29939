"""The Python of docs/evaluation.md runs, and the tuned composite that it shows is the shipped one."""

from __future__ import annotations

import re
from pathlib import Path

from burstenv.evaluation.tuning.tuned_policies import load_tuned

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
TEXT = DOCS.read_text(encoding="utf-8")


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(code, {"__name__": "example"})
    assert (tmp_path / "reports" / "quick" / "report.html").is_file()


def test_the_shipped_tuned_policies_are_what_the_page_shows():
    tuned = load_tuned("default", "default")
    assert tuned.split == "validation"
    shown = next(found for found in tuned.policies if found.load == 1.5)
    assert shown.policy in TEXT
    for name in ("score", "attainment", "token_weighted_attainment", "default_score"):
        assert f"{name}: {getattr(shown, name):.3f}" in TEXT
