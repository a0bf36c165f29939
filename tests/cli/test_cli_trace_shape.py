from __future__ import annotations

import json

import numpy as np
import pytest

from burstenv.cli import main
from burstenv.workload import read_trace

HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


@pytest.fixture
def files(tmp_path):
    """Two traces of two days: API requests of GPT-4 with a failure in ten, and conversation of ChatGPT."""
    random = np.random.default_rng(2)
    paths = []
    for name, model, kind, count in (
        ("calls", "GPT-4", "API log", 3000),
        ("chats", "ChatGPT", "Conversation log", 1000),
    ):
        stamps = np.sort(random.integers(0, 2 * 86_400, count))
        rows = [f"{t},{model},10,{0 if name == 'calls' and k % 10 == 0 else 5},15,{kind}" for k, t in enumerate(stamps)]
        path = tmp_path / f"{name}.csv"
        path.write_text("\n".join([HEADER, *rows]) + "\n")
        paths.append(str(path))
    return paths


def run(capsys, *arguments):
    code = main(["trace", "shape", *[str(argument) for argument in arguments]])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_mix_brought_to_a_rate(capsys, files, tmp_path):
    out = tmp_path / "made.csv"
    code, text, _ = run(
        capsys, *files, out, "--shares", 0.5, 0.5, "--rate-per-s", 2, "--duration-s", 1800, "--seed", 3, "--json"
    )
    assert code == 0
    result = json.loads(text)
    trace = read_trace(out)
    assert len(trace) == result["requests"] == pytest.approx(3600, abs=20)
    assert len(trace.failures) == result["failures"] > 100
    assert (trace.log_type == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert 0 <= trace.arrival_s[0] < trace.arrival_s[-1] < 1800
    assert [step.split()[0] for step in result["steps"]][-1] == "shift"


def test_selecting_days_and_classes(capsys, files, tmp_path):
    out = tmp_path / "day.jsonl"
    code, text, _ = run(capsys, files[0], out, "--class", "api", "--model", "GPT-4", "--days", 1, 2)
    assert code == 0
    assert "select model ['GPT-4'], class ['api'], days (1.0, 2.0): kept" in text
    assert len(read_trace(out)) == pytest.approx(1350, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--class", "chat"], "unknown class 'chat'"),
        (["--class", "conversation"], "no request is left by select"),
        (["--days", 5, 9], "no request is left by select"),
        (["--shares", 1], "--shares needs several traces"),
        (["--to", "csv"], "unknown format 'csv'"),
        (["--rate-per-s", 9, "--scaling", "thin"], "thinning cannot raise"),
        (["--duration-s", 1e9], "duration_s must be above 0 and at most"),
    ],
)
def test_wrong_arguments_get_one_sentence_and_write_nothing(capsys, files, tmp_path, arguments, sentence):
    out = tmp_path / "none.csv"
    code, printed, error = run(capsys, files[0], out, *arguments)
    assert code == 1
    assert printed == ""
    assert sentence in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_an_ending_without_a_format(capsys, files, tmp_path):
    code, _, error = run(capsys, files[0], tmp_path / "none.xls")
    assert code == 1
    assert "names no format" in error
