"""Every command and every piece of Python and YAML of docs/traces.md works as it is written."""

from __future__ import annotations

import hashlib
import re
import shlex
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from burstenv.cli.main import main
from burstenv.config import parse
from burstenv.workload import OFFICIAL, WorkloadConfig, load_trace
from burstenv.workload.official import files as official

PAGE = Path(__file__).parents[2] / "docs" / "traces.md"
HEADER = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files that the page names, and a server in place of GitHub."""
    content = "\n".join([HEADER, *(f"{k},GPT-4,{40 + k},5,{45 + k},API log" for k in range(60)), ""]).encode()
    (tmp_path / "trace.csv").write_bytes(content)
    (tmp_path / "other.csv").write_text("ts,in,out,chat\n1500,4,5,a\n2500,6,7,a\n")
    for name, file in list(OFFICIAL.items()):
        sha256 = hashlib.sha256(content).hexdigest()
        published = {"rows": (60, "test")}
        changed = official.OfficialFile(name, file.file, file.release, len(content), sha256, published)
        monkeypatch.setitem(OFFICIAL, name, changed)
        there = tmp_path / "server" / file.release / file.file
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(content)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "server")))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    monkeypatch.setattr(official, "RELEASES", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("BURSTENV_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("BURSTENV_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for block in blocks("bash") for line in block.splitlines() if line]
    assert len(commands) >= 8
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "burstenv"
        if "trace.parquet" in words:
            pytest.importorskip("pyarrow", reason="the parquet extra is not installed")
        assert main(words[1:]) == 0, command
    assert "published figures: 3 of 3 agree" in capsys.readouterr().out
    assert (place / "exact.csv").exists()


def test_the_yaml(place: Path) -> None:
    assert main(["trace", "download", "burstgpt-3"]) == 0
    workloads = [parse(WorkloadConfig, yaml.safe_load(block), "docs") for block in blocks("yaml")]
    assert [len(load_trace(workload)) for workload in workloads] == [60, 2]


def test_the_python(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("python"):
        exec(compile(block, str(PAGE), "exec"), {})
    assert capsys.readouterr().out == "0 0\n"
    assert (place / "trace.jsonl").read_text().count("\n") == 60
