"""Downloading, from a server on this machine: checked, whole or not at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import OFFICIAL
from burstenv.workload.official.download import download
from burstenv.workload.official.files import OfficialFile
from tests.workload.workload_files import SIX

CONTENT = (SIX + "\n" + "".join(f"{k},ChatGPT,{k % 900},7,9,API log\n" for k in range(40_000))).encode()
FILE = OfficialFile(
    "burstgpt-1",
    "BurstGPT_1.csv",
    "v1.1",
    len(CONTENT),
    hashlib.sha256(CONTENT).hexdigest(),
    {"rows": (40_000, "test")},
)


class Server(http.server.ThreadingHTTPServer):
    """A server whose behaviour the tests set, and that counts what it was asked."""

    content = CONTENT
    cut_after: int | None = None  # bytes after which the connection breaks
    status = 200
    announces = True  # the length
    asked: int = 0

    def handle_error(self, *_: Any) -> None:
        """Say nothing about clients that leave early: some tests do."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        self.send_response(200)
        body = self.server.content
        if self.server.announces:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut_after])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_port}/release"


def test_a_file_arrives_whole_and_checked(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    got = download(FILE, tmp_path / "new", url(server), lambda done, total: seen.append((done, total)))
    assert got.path.read_bytes() == CONTENT
    assert (got.verified, got.fetched_bytes, got.bytes) == ("sha256", len(CONTENT), len(CONTENT))
    assert [p.name for p in got.path.parent.iterdir()] == ["BurstGPT_1.csv"]
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert sorted(seen) == seen
    again = download(FILE, tmp_path / "new", url(server))
    assert again.fetched_bytes == 0
    assert server.asked == 1


def test_a_broken_connection_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.cut_after = 300_000
    with pytest.raises(BurstenvError, match=r"no connection .*; nothing was kept; a file from elsewhere can be put"):
        download(FILE, tmp_path, url(server))
    assert list(tmp_path.iterdir()) == []
    server.cut_after = None
    assert download(FILE, tmp_path, url(server)).path.read_bytes() == CONTENT


def test_a_wrong_file_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:-2] + b"X\n"
    with pytest.raises(BurstenvError, match=r"what came does not have sha256 .*; nothing was kept"):
        download(FILE, tmp_path, url(server))
    assert list(tmp_path.iterdir()) == []


def test_a_server_with_another_size_is_refused_at_once(server: Server, tmp_path: Path) -> None:
    for content in (CONTENT + b"more", CONTENT[:-50]):
        server.content = content
        with pytest.raises(BurstenvError, match=r"the server offers [\d,]+ bytes, the official file has"):
            download(FILE, tmp_path, url(server))
    server.announces, server.content = False, CONTENT + bytes(1 << 20)
    with pytest.raises(BurstenvError, match="the server sends more than the"):
        download(FILE, tmp_path, url(server))
    server.content = CONTENT[:-50]
    with pytest.raises(BurstenvError, match="nothing was kept"):
        download(FILE, tmp_path, url(server))
    assert list(tmp_path.iterdir()) == []


def test_without_a_published_hash_bytes_and_rows_are_checked(server: Server, tmp_path: Path) -> None:
    file = dataclasses.replace(FILE, sha256=None)
    assert download(file, tmp_path, url(server)).verified == "bytes and rows"
    (tmp_path / "BurstGPT_1.csv").unlink()
    server.content = CONTENT.replace(b"\n", b" ", 1)
    with pytest.raises(BurstenvError, match=r"39,999 rows, the official file .* 40,000; nothing was kept"):
        download(file, tmp_path, url(server))


def test_a_file_of_the_user_is_never_overwritten(server: Server, tmp_path: Path) -> None:
    mine = tmp_path / "BurstGPT_1.csv"
    mine.write_text("mine")
    with pytest.raises(BurstenvError, match=r"has 4 bytes, the official file .*; move it away"):
        download(FILE, tmp_path, url(server))
    assert mine.read_text() == "mine"
    assert server.asked == 0


@pytest.mark.parametrize("status", [403, 404, 416, 500])
def test_what_the_server_answers_is_said(server: Server, tmp_path: Path, status: int) -> None:
    server.status = status
    with pytest.raises(BurstenvError, match=r"/release/BurstGPT_1\.csv: the server"):
        download(FILE, tmp_path, url(server))
    assert list(tmp_path.iterdir()) == []


def test_offline(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]  # bound and not listening: the connection is refused
        with pytest.raises(BurstenvError, match=r"no connection \(.*refused\); nothing") as caught:
            download(FILE, tmp_path, f"http://127.0.0.1:{port}")
    assert "\n" not in str(caught.value)
    with pytest.raises(BurstenvError, match="no connection"):
        download(FILE, tmp_path, "http://does-not-exist.invalid")


def test_a_full_disk_is_said(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: usage)
        with pytest.raises(BurstenvError, match=r"10 bytes are free, BurstGPT_1\.csv needs"):
            download(FILE, tmp_path, url(server))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("burstenv.workload.official.download._Bar.update", full)
    with pytest.raises(BurstenvError, match=r"the disk is full; BurstGPT_1\.csv needs"):
        download(FILE, tmp_path, url(server))
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BurstenvError, match="cannot be written"):
        download(FILE, blocked / "sub", url(server))


def test_the_official_addresses() -> None:
    base = "https://github.com/HPMLL/BurstGPT/releases/download"
    assert OFFICIAL["burstgpt-1"].url == f"{base}/v1.1/BurstGPT_1.csv"
    assert OFFICIAL["burstgpt-3-without-fails"].url == f"{base}/v2.0/BurstGPT_without_fails_3.csv"


@pytest.mark.parametrize("mirror", ["not-a-url", "", "ftp://x/y", "file:///etc", "http://[::1", "http://"])
def test_a_mirror_that_is_no_address_is_one_sentence(mirror, tmp_path):
    with pytest.raises(BurstenvError, match=r"must be an address|no connection") as error:
        download(FILE, tmp_path, mirror)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
