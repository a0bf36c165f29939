"""Results travel through files unchanged, and damaged files are refused in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.evaluation import EvaluationResult, headline
from burstenv.evaluation.provenance import command_line
from burstenv.evaluation.report.text import summary_lines
from burstenv.evaluation.summary import QUANTILE_LEVELS


def test_a_result_comes_back_exactly(small, tmp_path):
    path = tmp_path / "deep" / "result.json"
    text = small.to_json(path)
    assert path.read_text(encoding="utf-8") == text
    again = EvaluationResult.from_json(path)
    assert again == small
    assert again.to_json() == text
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "manifest.json",
        "result.json",
    ]  # nothing temporary is left


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "", "line 1: not valid JSON"),
        (lambda text: "[1, 2]", "no evaluation result"),
        (lambda text: text.replace('"version": 3', '"version": 99'), "format version 99, this burstenv reads 3"),
        (lambda text: text.replace('"episodes": [', '"episodio": [', 1), "key 'episodes' is missing"),
        (lambda text: json.dumps({**json.loads(text), "summary": "none"}), "'summary' holds a str"),
        (lambda text: json.dumps({**json.loads(text), "summary": [1]}), "'summary': every row must be a mapping"),
    ],
)
def test_a_damaged_file_gets_one_sentence(small, tmp_path, damage, message):
    path = tmp_path / "result.json"
    path.write_text(damage(small.to_json()), encoding="utf-8")
    with pytest.raises(BurstenvError, match=message) as caught:
        EvaluationResult.from_json(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_gets_one_sentence(tmp_path):
    with pytest.raises(BurstenvError, match="cannot be read"):
        EvaluationResult.from_json(tmp_path / "none.json")


def test_an_interrupted_write_leaves_the_old_file(small, tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(BurstenvError, match="cannot be written"):
        small.to_json(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_the_terminal_shows_the_headline_and_every_policy(small):
    shown = summary_lines(small)
    assert shown[0] == headline(small).replace("`", "")
    at = shown.index("load 1.5")
    ranked = small.ranking(1.5)
    assert [line.split()[0] for line in shown[at + 1 :]] == [row["policy"] for row in ranked]
    assert f"score {100 * ranked[0]['score']:.1f} %" in shown[at + 1]


def test_the_summary_follows_from_the_episodes(small):
    for row in small.summary:
        mine = [e for e in small.episodes if (e["policy"], e["load"]) == (row["policy"], row["load"])]
        for metric in ("score", "attainment", "token_weighted_attainment"):
            assert row[metric] == pytest.approx(np.mean([e[metric] for e in mine]))
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
        assert row["offered"] == sum(e["offered"] for e in mine)
        assert row["offered"] == row["conversation_offered"] + row["api_offered"]
        difference = small.difference(row["policy"], row["load"], "best")
        best = small.summary_of(small.best_at(row["load"])["policy"], row["load"])
        assert difference["mean"] == pytest.approx(row["score"] - best["score"])
        assert difference["better"] + difference["equal"] + difference["worse"] == 9


def test_the_reference_differs_from_itself_by_exactly_zero(small):
    for load in small.loads:
        row = small.difference(small.reference, load, "reference")
        assert (row["mean"], row["low"], row["high"], row["verdict"]) == (0.0, 0.0, 0.0, "undecided")


def test_the_best_heuristic_is_no_agent(small):
    for best in small.best:
        ranked = [r["policy"] for r in small.ranking(best["load"]) if small.policy(r["policy"])["kind"] == "heuristic"]
        assert best["policy"] == ranked[0]
        assert best["candidates"] == 4


def test_quantiles_agree_with_the_summary(small):
    for row in small.distributions:
        assert row["ttft_s"] == sorted(row["ttft_s"])
        assert len(row["ttft_s"]) == len(QUANTILE_LEVELS) == len(small.quantile_levels)
        summary = small.summary_of(row["policy"], row["load"])
        assert row["finished"] == summary["attained"] + summary["late"]
        assert summary["ttft_s_p99"] == row["ttft_s"][QUANTILE_LEVELS.index(0.99)]
        assert math.isfinite(row["e2e_s_mean"])


def test_provenance_reproduces_and_tells_no_paths(small, scenario):
    origin = small.provenance
    assert origin["seeds"] == list(range(9))
    assert origin["scenario"]["episode"]["duration_s"] == 30
    assert len(origin["trace"]["sha256"]) == 64
    assert small.manifest["packages"]["numpy"] == np.__version__
    assert small.manifest["command"] == "burstenv evaluate"
    assert small.manifest["hardware"]["cores"] >= 1
    assert str(scenario.config.name) == small.scenario
    assert command_line(["/usr/bin/burstenv", "evaluate", "--trace=/home/me/a b.csv", "/data/x.csv", "1.5"]) == (
        "burstenv evaluate '--trace=a b.csv' x.csv 1.5"
    )


def test_importing_the_package_is_light():
    code = (
        "import sys, burstenv.evaluation as e; e.block_bootstrap([1.0], [0]);"
        "print([m for m in ('matplotlib', 'jinja2', 'pandas', 'numba', 'torch', 'tqdm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_announced_is_there():
    import burstenv.evaluation as package

    assert all(getattr(package, name) is not None for name in package.__all__)
    assert dir(package) == sorted(package.__all__)
