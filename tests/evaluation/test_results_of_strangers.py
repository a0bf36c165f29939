"""A result.json from anywhere: what it names is text, and what it holds is checked before a report prints from it."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest

from burstenv.cli import main
from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationResult, write_report
from burstenv.evaluation.report.leaderboard import write_leaderboard
from burstenv.evaluation.report.report import markdown

EVIL = "<img src=x onerror=alert(1)>`<script>alert(2)</script>|\n```\n<b>[a](javascript:alert(3))![b](//c)"
WRONG = [None, -1, 0, 1.5, "x", "<b>", True, [], {}, [[]], 1e308, 10**30, float("nan"), [None], {"a": 1}]


def renamed(values, names):
    """Return plain values with every text that is one of ``names`` replaced."""
    if isinstance(values, dict):
        return {key: renamed(value, names) for key, value in values.items()}
    if isinstance(values, list):
        return [renamed(value, names) for value in values]
    return names.get(values, values) if isinstance(values, str) else values


def outside_code(text):
    """Return a page of Markdown without its fenced blocks, which show what they hold as it is."""
    lines, fence = [], ""
    for line in text.splitlines():
        opened = re.match(r" {0,3}(`{3,})", line)
        if fence:
            fence = "" if opened and len(opened[1]) >= len(fence) and not line.strip().strip("`") else fence
        elif opened:
            fence = opened[1]
        else:
            lines.append(line)
    assert not fence
    return "\n".join(lines)


def test_names_are_text_wherever_they_are_printed(small, tmp_path):
    values = json.loads(small.to_json())
    names = {row["name"]: f"{row['name']}{EVIL}" for row in small.policies}
    values = renamed(values, {**names, small.scenario: f"default{EVIL}", "agent-of-none": EVIL})
    values["provenance"]["unused"] = [f"The composites of {EVIL} are not used."]
    values["provenance"]["trace"]["source"] = EVIL
    (tmp_path / "result.json").write_text(json.dumps(values), encoding="utf-8")
    result = EvaluationResult.from_json(tmp_path / "result.json")
    write_report(result, tmp_path)
    write_leaderboard([result], tmp_path / "board.html")
    for name in ("report.md", "board.md"):
        text = outside_code((tmp_path / name).read_text(encoding="utf-8"))
        assert "img src=x" in text
        assert not re.search(r"<[a-zA-Z/!]", text)
        assert "](" not in text
    for name in ("report.html", "board.html"):
        page = (tmp_path / name).read_text(encoding="utf-8")
        assert not re.search(r"<img\b|<b>\[", page)
        assert page.count("<script") == 1  # the page's own
        assert 'onerror=alert(1)"' not in page


def leaves(values, path=()):
    """Yield the path of everything that a result holds, a few of each list."""
    yield path
    inner = values.items() if isinstance(values, dict) else enumerate(values[:2]) if isinstance(values, list) else ()
    for key, value in inner:
        yield from leaves(value, (*path, key))


def test_whatever_is_wrong_in_a_file_is_one_sentence(small, tmp_path, capsys):
    """Values of other types and sizes, missing keys and shortened lists, anywhere: a report or a sentence."""
    values = json.loads(small.to_json())
    paths = [path for path in leaves(values) if path and path[:2] != ("provenance", "workload")]
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(250):
        damaged = values
        path = paths[random.integers(len(paths))]
        changed = damaged = copy.copy(values)
        for key in path[:-1]:  # copies only what lies on the way
            changed[key] = copy.copy(changed[key])
            changed = changed[key]
        if random.random() < 0.3:
            del changed[path[-1]]
        else:
            changed[path[-1]] = WRONG[random.integers(len(WRONG))]
        (tmp_path / "result.json").write_text(json.dumps(damaged), encoding="utf-8")
        try:
            result = EvaluationResult.from_json(tmp_path / "result.json")
            markdown(result)
        except BurstenvError as error:
            refused += len(str(error).splitlines()) == 1
        except Exception as error:
            raise AssertionError(f"{'.'.join(map(str, path))} = {changed}") from error
    assert refused > 60
    assert main(["report", str(tmp_path / "result.json"), "--out", str(tmp_path / "out")]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda v: v["policies"][0].update(kind='a"><script>'),
            "policies.0.kind: input should be 'heuristic' or",
        ),
        (lambda v: v["summary"][0].update(offered=0), "summary.0.offered: input should be greater than or equal to 1"),
        (lambda v: v["summary"][0].update(attainment="x"), "summary.0.attainment: input should be a valid number"),
        (lambda v: v["pairs"][0]["low"].pop(), "pairs.0.low: need a row and a column for each"),
        (lambda v: v["timelines"][0]["late"].pop(), "timelines.0: need as many numbers"),
        (lambda v: v["provenance"].pop("trace"), "key 'provenance.trace' is missing"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(damage, message, small, tmp_path):
    values = json.loads(small.to_json())
    damage(values)
    (tmp_path / "result.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(BurstenvError, match=re.escape(message)):
        EvaluationResult.from_json(tmp_path / "result.json")
