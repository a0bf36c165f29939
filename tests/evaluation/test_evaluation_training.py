"""The learning curve is read from a run folder's log."""

from __future__ import annotations

import json

import pytest
from burstenv.errors import BurstenvError
from burstenv.evaluation import read_training

RECORDS = [
    {"steps": 0, "validation": {"1": 0.5, "2": 0.3}, "reference": {"1": 0.8, "2": 0.6}, "fps": 0},
    {"steps": 1000, "validation": {"1": 0.9, "2": 0.7}, "reference": {}},
]


@pytest.mark.parametrize("which", ["", "training.json", "best.zip"])
def test_a_run_is_found_by_folder_log_or_checkpoint(tmp_path, which):
    run = tmp_path / "ppo-seed-3"
    run.mkdir()
    (run / "training.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    rows = read_training(run / which if which else run)
    assert rows is not None
    assert [row["steps"] for row in rows] == [0, 1000]
    assert [row["validation_attainment"] for row in rows] == pytest.approx([0.4, 0.8])
    assert rows[0]["reference_attainment"] == pytest.approx(0.7)
    assert rows[1]["reference_attainment"] is None
    assert {row["run"] for row in rows} == {"ppo-seed-3"}


def test_a_run_without_a_log_has_no_curve(tmp_path):
    assert read_training(tmp_path) is None
    with pytest.raises(BurstenvError, match="need a run folder of burstenv train"):
        read_training(tmp_path, required=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "not valid JSON"),
        ("{}", "need a list"),
        ('[{"steps": 1}]', "record 1: need 'steps'"),
        ("[3]", "record 1"),
    ],
)
def test_a_damaged_log_gets_one_sentence(tmp_path, text, message):
    (tmp_path / "training.json").write_text(text, encoding="utf-8")
    with pytest.raises(BurstenvError, match=message):
        read_training(tmp_path)
