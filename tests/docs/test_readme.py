"""The README's Python runs as it stands, and the composites of its results are the shipped ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from burstenv.evaluation.tuning.tuned_policies import load_tuned

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("code", [block for language, block in BLOCKS if language == "python"])
def test_python_blocks_run(code, capsys):
    exec(compile(code, "README.md", "exec"), {})  # the user's copy and paste


def test_results_are_those_of_the_shipped_composites():
    shown = re.findall(r"^\| ([\d.]+) \| `([^`]+)` \|", README, flags=re.MULTILINE)
    assert shown
    assert shown == [(f"{tuned.load:.1f}", tuned.policy) for tuned in load_tuned("default", "default").policies]
