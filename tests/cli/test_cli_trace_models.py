"""`burstenv trace generate`, `fit` and `fidelity`, as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from burstenv.cli import main
from burstenv.workload import load_trace, load_workload, read_trace
from tests.shipped_files import real


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSTENV_CACHE", str(tmp_path / "cache"))


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def conversations(tmp_path: Path, capsys) -> Path:
    """A month of GPT-4 conversations, generated from the shipped fit."""
    out = tmp_path / "month.csv"
    code, _, _ = run(capsys, "trace", "generate", out, "--workload", "fitted-gpt4-conversation", "--days", 28)
    assert code == 0
    return out


def test_generate_writes_what_its_reader_reads_back(tmp_path: Path, capsys) -> None:
    out = tmp_path / "two days.csv"
    code, printed, _ = run(capsys, "trace", "generate", out, "--days", 2, "--seed", 5, "--json")
    result = json.loads(printed)
    trace = read_trace(out)
    assert code == 0
    assert (len(trace), len(trace.failures)) == (result["requests"], result["failures"])
    assert trace.turn.max() > 10
    first = out.read_bytes()
    run(capsys, "trace", "generate", out, "--days", 2, "--seed", 5)
    assert out.read_bytes() == first
    run(capsys, "trace", "generate", out, "--days", 2, "--seed", 5, "--whole-seconds")
    assert read_trace(out).metadata["jitter_seed"] == 0


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv.gz", "t.parquet", "t.txt"])
def test_generate_in_the_format_of_the_ending(tmp_path: Path, capsys, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    out = tmp_path / name
    extra = ["--to", "plain"] if name.endswith("txt") else []
    code, printed, _ = run(
        capsys, "trace", "generate", out, "--workload", "fitted-gpt4-conversation", "--days", 1, "--json", *extra
    )
    assert code == 0
    assert len(read_trace(out)) == json.loads(printed)["requests"]


def test_generate_scales_the_population(tmp_path: Path, capsys) -> None:
    counts = []
    for scale in (1, 4):
        code, printed, _ = run(
            capsys, "trace", "generate", tmp_path / "t.csv", "--workload", "fitted-gpt4-conversation",
            "--days", 3, "--scale", scale, "--json",
        )  # fmt: skip
        assert code == 0
        counts.append(json.loads(printed)["requests"])
    assert counts[1] / counts[0] == pytest.approx(4, rel=0.25)


def test_generate_by_the_papers_models(tmp_path: Path, capsys, conversations: Path) -> None:
    out = tmp_path / "paper.csv"
    code, printed, _ = run(capsys, "trace", "generate", out, "--model", "paper", "--like", conversations, "--json")
    assert code == 0
    assert json.loads(printed)["requests"] == pytest.approx(len(read_trace(conversations)), rel=0.05)


def test_fit_writes_a_workload_that_loads_and_resembles(tmp_path: Path, capsys, conversations: Path) -> None:
    out = tmp_path / "fitted.yaml"
    code, printed, _ = run(capsys, "trace", "fit", conversations, "--out", out)
    assert code == 0
    assert "conversation GPT-4" in printed
    assert len(load_trace(load_workload(out))) == pytest.approx(len(read_trace(conversations)), rel=0.15)
    code, printed, _ = run(capsys, "trace", "fidelity", conversations, out, "--paper", "--floor", "--json")
    assert code == 0
    figures = {figure["statistic"]: figure for figure in json.loads(printed)["figures"]}
    for tokens in ("prompt", "response"):
        errors = figures[f"{tokens} tokens, distribution"]["errors"]
        assert errors["fitted"] < 0.05 < errors["paper"]
        assert errors["other half"] < 0.05
    assert set(figures["hour of day"]["errors"]) == {"fitted", "paper", "other half"}


def test_fidelity_of_a_trace_with_itself_is_perfect(capsys, conversations: Path) -> None:
    code, printed, _ = run(capsys, "trace", "fidelity", conversations, conversations, "--json")
    assert code == 0
    errors = [figure["errors"][f"{conversations.name} (again)"] for figure in json.loads(printed)["figures"]]
    assert errors
    assert max(errors) == 0


def test_fidelity_prints_a_table_and_draws_pictures(tmp_path: Path, capsys, conversations: Path) -> None:
    pytest.importorskip("matplotlib")
    for name, start in (("f.html", b"<!doctype html>"), ("f.png", b"\x89PNG")):
        code, printed, _ = run(
            capsys, "trace", "fidelity", conversations, "fitted-gpt4-conversation",
            "--part", "odd-weeks", "--out", tmp_path / name,
        )  # fmt: skip
        assert code == 0
        assert "prompt tokens, distribution" in printed
        assert "Fano factor" not in printed  # the weeks left out are in it
        assert (tmp_path / name).read_bytes().startswith(start)
    page = (tmp_path / "f.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert page.count('<img class="only-light"') == page.count('<img class="only-dark"') > 4
    assert "<h1>Fidelity: " + conversations.stem in page.replace("<wbr>", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["generate", "t.xyz"], "names no format"),
        (["generate", "t.csv", "--days", "0"], "days must be a whole number of at least 1"),
        (["generate", "t.csv", "--scale", "0"], "--scale must be a finite number above 0"),
        (["generate", "t.csv", "--model", "paper"], "name one with --like"),
        (["generate", "t.csv", "--like", "x.csv"], "--like belongs to --model paper"),
        (["generate", "t.jsonl", "--whole-seconds"], "--whole-seconds is for BurstGPT CSV"),
        (["generate", "t.csv", "--workload", "nothing"], "unknown workload 'nothing'"),
        (["fit", "fitted-gpt4-api", "--out", "t.csv"], "t.csv: this goes to a file that ends in .yaml or .yml"),
        (["fit", "missing.csv", "--out", "t.yaml"], "missing.csv"),
        (["fidelity", "missing.csv", "fitted-gpt4-api"], "missing.csv"),
        (["fidelity", "fitted-gpt4-api", "fitted-gpt4-api", "--out", "t.pdf"], "ends in .html or .png"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, "trace", *arguments)
    assert code != 0
    assert sentence in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("t.*"))


def test_pictures_without_matplotlib_are_refused_before_any_work(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, error = run(capsys, "trace", "fidelity", "none.csv", "none.csv", "--out", tmp_path / "f.png")
    assert code != 0
    assert "pip install 'burstenv[report]'" in error


def test_a_fit_to_even_weeks_of_real_conversations_meets_the_odd_weeks(tmp_path: Path, capsys) -> None:
    rows = real("burstgpt_1_gpt4_conversation.csv")
    out = tmp_path / "even.yaml"
    assert run(capsys, "trace", "fit", rows, "--part", "even-weeks", "--days", 120, "--out", out)[0] == 0
    code, printed, _ = run(capsys, "trace", "fidelity", rows, out, "--part", "odd-weeks", "--paper", "--json")
    assert code == 0
    for figure in json.loads(printed)["figures"]:
        if figure["target"] is not None:
            assert figure["errors"]["even"] <= figure["target"], figure
