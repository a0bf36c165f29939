from __future__ import annotations

import builtins
import json
import re
import struct
import sys

import numpy as np
import pytest

from burstenv.cli import main
from burstenv.workload import Failures, Trace
from burstenv.workload.plots.style import draw
from burstenv.workload.plots.trace_page import trace_pictures

NAMES = [
    "weekly", "daily", "tokens", "prompt-lengths", "response-lengths", "response-given-prompt", "conversations",
    "failures", "interarrival",
]  # fmt: skip


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    """Three days of both classes, two models, one failure in 50, in the schema of BurstGPT_1."""
    random = np.random.default_rng(1)
    stamps = np.sort(random.integers(0, 3 * 86_400, 4000))
    lines = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"]
    for k, stamp in enumerate(stamps):
        prompt, output = random.integers(5, 2000), 0 if k % 50 == 0 else random.integers(1, 500)
        kind = "API log" if k % 3 else "Conversation log"
        lines.append(f"{stamp},{'GPT-4' if k % 2 else 'ChatGPT'},{prompt},{output},{prompt + output},{kind}")
    path = tmp_path_factory.mktemp("plot") / "three.days.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_every_picture_and_one_page_that_loads_nothing(capsys, csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "plot", str(csv), "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)
    assert list(paths) == [*NAMES, "html"]
    folder = tmp_path / "trace-three.days"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*(f"{name}.png" for name in NAMES), "trace.html"])
    for name in NAMES:
        data = (folder / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG")
        assert width == 920
        assert height > 100
    page = (folder / "trace.html").read_text()
    assert "3,920 served requests and 80 failures over" in page
    assert page.count("data:image/png;base64,") == 2 * len(NAMES)  # light and dark
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert not re.search(r"(src|href|srcset)=\"(?!data:)", page)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert len(captions) == len(NAMES)
    assert all(re.search(r"\d", text) or "records no" in text for text in captions)
    # The numbers in the sentences are the trace's own.
    failing = captions[NAMES.index("failures")]
    assert re.search(r"API: 53 of 2,666 \(1\.99 %", failing), failing


def test_the_same_picture_gives_the_same_bytes():
    def plot(panels, theme):
        panels[0].plot([1, 2], [3, 4], color=theme.prompt)

    first, second = draw(plot, [1.0]), draw(plot, [1.0])
    assert first == second
    assert first["light"] != first["dark"]


def test_sentences_on_a_trace_worked_out_by_hand():
    # Two sessions: turns after 10 s and 100 s beyond a recorded service of 5 s; one failure among 5 submissions.
    trace = Trace.from_columns(
        [0.0, 15.0, 3700.0, 3805.0], [10, 30, 10, 40], [5, 5, 5, 5], session=[0, 0, 1, 1], elapsed_s=[5.0] * 4,
        failures=Failures(np.array([7.0]), np.zeros(1, np.int8), np.zeros(1, np.int8)),
    )  # fmt: skip
    sentences = {picture.name: picture.sentence for picture in trace_pictures(trace)}
    assert (
        "2 sessions of 2.00 turns in the mean (p50 2, p90 2, most 2); 0 % have one turn only"
        in (sentences["conversations"])
    )
    assert "(recorded) to the next turn: p10/p50/p90 19/55/91 s" in sentences["conversations"]
    assert "+25 tokens longer in the mean; 100 % hold at least all" in sentences["conversations"]
    assert "1 of 5 (20.00 %" in sentences["failures"]
    assert "mean 22, p50/p90/p99 20/37/40" in sentences["prompt-lengths"]
    assert "90 prompt and 20 response tokens (4.5 to 1)" in sentences["tokens"]


@pytest.mark.parametrize("rows", [1, 40])
def test_tiny_and_constant_traces_are_drawn_without_a_warning(rows, recwarn):
    trace = Trace.from_columns(np.arange(rows) * 2.0, [10] * rows, [1] * rows)
    sentences = [picture.sentence for picture in trace_pictures(trace)]
    assert "The trace records no sessions." in sentences
    assert any(text.startswith("The trace records no failures") for text in sentences)
    assert not [str(warning.message) for warning in recwarn.list]


def test_without_the_report_extra_there_is_one_sentence(capsys, csv, tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["trace", "plot", str(csv), "--out", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert error == "burstenv: drawing a trace needs matplotlib; install it with: pip install 'burstenv[report]'\n"
    assert not (tmp_path / "none").exists()


def test_wrong_places_get_one_sentence(capsys, csv, tmp_path):
    assert main(["trace", "plot", str(tmp_path / "nowhere.csv")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "taken").write_text("a file")
    assert main(["trace", "plot", str(csv), "--out", str(tmp_path / "taken")]) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1


def test_importing_the_package_draws_in_no_matplotlib():
    import subprocess

    code = "import sys, burstenv.workload, burstenv.workload.plots.trace_page; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
