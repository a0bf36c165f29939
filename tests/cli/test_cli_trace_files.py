"""`burstenv trace info`, `download` and `convert`, as a user meets them."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from burstenv.cli.main import main
from burstenv.workload import OFFICIAL, read_trace
from burstenv.workload.official import files as official
from tests.shipped_files import real

HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURSTENV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BURSTENV_CACHE", raising=False)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


@pytest.fixture
def trace_csv(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    rows = ["5,ChatGPT,472,18,490,Conversation log", "5,ChatGPT,472,18,490,Conversation log"]
    rows += ["4000,GPT-4,0,3,3,API log", "9000,gpt-5,7,0,9,API log"]
    path.write_text("\n".join([HEADER, *rows, ""]))
    return path


def test_info_says_what_was_counted_and_what_was_done_about_it(capsys: Any, trace_csv: Path) -> None:
    code, out, _ = run(capsys, "trace", "info", trace_csv)
    assert code == 0
    for sentence in (
        "3 requests and 1 failures (25.00 %)",
        "read as burstgpt-6: 4 rows",
        "kept aside: 1 rows without a response",
        "1 rows equal to an earlier one, kept",
        "1 prompts of 0 tokens with a response, raised to 1",
        "1 rows whose total is not request + response",
        "other models: gpt-5 1",
        "longest gap 5,000 s, 2 gaps over an hour",
    ):
        assert sentence in out
    result = json.loads(run(capsys, "trace", "info", trace_csv, "--json")[1])
    assert result["metadata"]["duplicates"] == 1
    assert "published" not in result


def test_info_says_how_a_trace_begins(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "ramp.csv"
    times = [86400 * day + second for day in range(20) for second in range(2 if day < 5 else 60)]
    path.write_text("\n".join([HEADER, *(f"{t},GPT-4,4,3,7,API log" for t in times)]))
    code, out, _ = run(capsys, "trace", "info", path)
    assert code == 0
    assert "ramp-up: the first 5 days have 2 rows a day, later ones 60 (kept" in out


def test_info_holds_an_official_file_against_what_is_published(capsys: Any, trace_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "BurstGPT_1.csv").write_bytes(trace_csv.read_bytes())
    code, out, _ = run(capsys, "trace", "info", "burstgpt-1")
    assert code == 1  # it is not the file it says it is
    assert "published figures: 2 of 7 agree" in out
    assert "rows                              1,429,737" in out
    result = json.loads(run(capsys, "trace", "info", "burstgpt-1", "--json")[1])
    assert {c["what"]: c["agrees"] for c in result["published"]}["out_of_order"]


def test_info_of_an_absent_official_file_names_the_command(capsys: Any) -> None:
    code, _, error = run(capsys, "trace", "info", "burstgpt-3")
    assert code == 1
    assert "run 'burstenv trace download burstgpt-3'" in error
    assert error.count("\n") == 1


def test_info_by_a_map_of_columns(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("when,in,out\n1500,4,5\n2500,6,7\n")
    columns = "arrival_s=when,prompt_tokens=in,output_tokens=out"
    words = ("trace", "info", path, "--columns", columns, "--time-unit", "ms", "--json")
    result = json.loads(run(capsys, *words)[1])
    assert result["metadata"]["first_timestamp_s"] == 1.5
    assert "unknown header 'when,in,out'" in run(capsys, "trace", "info", path)[2]


def test_convert_to_every_format_and_back(capsys: Any, tmp_path: Path) -> None:
    source = real("burstgpt_3_first400.csv")
    code, out, _ = run(capsys, "trace", "convert", source, tmp_path / "a.csv")
    assert (code, out) == (0, f"{tmp_path / 'a.csv'}: 399 requests and 1 failures as burstgpt\n")
    code, out, _ = run(capsys, "trace", "convert", tmp_path / "a.csv", tmp_path / "b.jsonl", "--block-tokens", 16)
    assert code == 0
    assert "399 requests as mooncake\nnot written, because the format cannot hold them: " in out
    back = read_trace(tmp_path / "b.jsonl")
    assert back.metadata["block_tokens"] == 16
    assert back.prompt_tokens.tolist() == read_trace(source).prompt_tokens.tolist()
    code, out, _ = run(capsys, "trace", "convert", source, tmp_path / "c.csv", "--to", "plain", "--json")
    assert code == 0
    assert json.loads(out)["format"] == "plain"
    pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
    assert run(capsys, "trace", "convert", source, tmp_path / "d.parquet")[0] == 0
    assert read_trace(tmp_path / "d.parquet").arrival_s.tolist() == read_trace(source).arrival_s.tolist()


def test_convert_with_no_ending(capsys: Any, trace_csv: Path, tmp_path: Path) -> None:
    code, _, error = run(capsys, "trace", "convert", trace_csv, tmp_path / "x")
    assert code == 1
    assert "its ending names no format; end it in .csv, .jsonl, .parquet or choose" in error


@pytest.fixture
def mirror(tmp_path: Path, trace_csv: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that has two of the files, small ones, known to the package as official."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    content = trace_csv.read_bytes()
    for name in ("burstgpt-1", "burstgpt-3-without-fails"):
        file = OFFICIAL[name]
        (folder / file.file).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest() if file.sha256 else None
        changed = official.OfficialFile(name, file.file, file.release, len(content), sha256, {"rows": (4, "test")})
        monkeypatch.setitem(OFFICIAL, name, changed)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_then_use_by_name(capsys: Any, mirror: str, tmp_path: Path) -> None:
    code, out, error = run(capsys, "trace", "download", "burstgpt-1", "--mirror", mirror)
    path = tmp_path / "data" / "BurstGPT_1.csv"
    assert code == 0
    assert error == ""  # no bar where there is no terminal
    assert out.startswith(f"{path}: {path.stat().st_size} bytes, {path.stat().st_size} bytes fetched, sha256 right\n")
    assert "CC-BY-4.0" in out
    assert "was there already" in run(capsys, "trace", "download", "burstgpt-1", "--mirror", mirror)[1]
    code, out, _ = run(capsys, "trace", "info", "burstgpt-1")
    assert code == 0
    assert "published figures: 3 of 3 agree" in out


def test_download_to_another_folder_without_a_published_hash(capsys: Any, mirror: str, tmp_path: Path) -> None:
    words = ("trace", "download", "burstgpt-3", "--without-fails", "--to", tmp_path / "there", "--mirror", mirror)
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert "bytes and rows right (no sha256 is published for it)" in out
    assert f"export BURSTENV_DATA={tmp_path / 'there'}" in out
    result = json.loads(run(capsys, *words, "--json")[1])
    assert result["files"][0]["fetched_bytes"] == 0


def test_download_of_an_unknown_file_and_from_nowhere(capsys: Any, tmp_path: Path) -> None:
    assert "unknown trace 'burstgpt-9'; valid: burstgpt-1," in run(capsys, "trace", "download", "burstgpt-9")[2]
    code, _, error = run(capsys, "trace", "download", "burstgpt-1", "--mirror", "http://127.0.0.1:9")
    assert code == 1
    assert "no connection" in error
    assert error.count("\n") == 1
