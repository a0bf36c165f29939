"""Where outputs go: files whole or not at all, devices written through, links followed, nothing left behind."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from burstenv.errors import BurstenvError
from burstenv.files import check_ending, locked, write_atomic, writing


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path):
    (tmp_path / "away").mkdir()
    target, link = tmp_path / "away" / "real.txt", tmp_path / "link.txt"
    link.symlink_to(target)
    for text in ("first", "second"):  # the target is missing, then there
        write_atomic(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["away", "link.txt", "real.txt"]


def test_links_in_a_circle_and_folders_are_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for place in (tmp_path / "a", tmp_path):
        with pytest.raises(BurstenvError, match="cannot be written"):
            write_atomic(place, "x")
    assert (tmp_path / "a").is_symlink()


def test_a_fifo_is_written_through(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(fifo.read_bytes()))
    reader.start()
    write_atomic(fifo, b"x" * 200_000)
    reader.join(10)
    assert found == [b"x" * 200_000]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_devices_stay_devices():
    write_atomic(Path("/dev/null"), "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(BurstenvError, match=r"/dev/full: cannot be written \(No space left"):
        write_atomic(Path("/dev/full"), "x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_permissions_of_a_file_that_is_replaced_stay(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")
    file.chmod(0o640)
    write_atomic(file, "new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_an_error_in_the_middle_changes_nothing(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), writing(file) as stream:
        stream.write(b"%d" % (1 // (stream.write(b"new") - 3)))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_a_sentence_and_changes_nothing(tmp_path):
    file = tmp_path / "a"
    file.write_text("old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # writes beyond it fail, as on a full disk
    try:
        with pytest.raises(BurstenvError, match="cannot be written"):
            write_atomic(file, b"x" * 5_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_no_temporary_file(number, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from burstenv.cli.main import main\n"
        "from burstenv.cli import listing; from burstenv.files import writing\n"
        "def slow(arguments):\n"
        "    with writing(Path(sys.argv[1])) as stream:\n"
        "        stream.write(b'x' * (1 << 22)); print('ready', flush=True); time.sleep(60)\n"
        "listing._policies = slow\n"
        "sys.exit(main(['policies']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    assert list(tmp_path.iterdir()) == []
    if number == signal.SIGTERM:
        assert (process.returncode, told) == (143, "burstenv: terminated\n")


def test_a_second_holder_is_told(tmp_path):
    with locked(tmp_path, "busy"), pytest.raises(BurstenvError, match="busy"), locked(tmp_path, "busy"):
        pass
    with locked(tmp_path, "busy"):  # free again
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["x.pdf", "x", "html"])
def test_an_ending_of_another_format_is_refused(place, tmp_path):
    with pytest.raises(BurstenvError, match=r"ends in \.html"):
        check_ending(tmp_path / place, [".html"], "a page")
    check_ending(tmp_path / "x.HTML", [".html"], "a page")
    for free in ("-", "/dev/null"):
        check_ending(Path(free), [".html"], "a page")


@pytest.mark.parametrize("arguments", [["hardware", "--out", "-"], ["scenarios", "--page", "-"]], ids=" ".join)
def test_an_output_on_standard_output_stands_alone_there(arguments, capfd):
    from burstenv.cli import main

    assert main(arguments) == 0
    found = capfd.readouterr()
    assert found.out.lower().startswith("<!doctype html>")
    assert found.out.rstrip().endswith("</html>")
    assert found.err.startswith("page: -")


WRONG_ENDINGS = [
    ["simulate", "t.csv", "--timeline", "x.pdf"],
    ["simulate", "t.csv", "--requests-out", "x.json"],
    ["leaderboard", "r.json", "--out", "x.md"],
    ["agents", "export", "run", "--out", "x.pt"],
    ["agents", "card", "run", "report", "--name", "a", "--out", "x.html"],
    ["bench", "--out", "x.csv"],
    ["validate", "run", "--out", "x.gif"],
    ["latency", "fit", "profile", "--out", "x.json"],
    ["trace", "fit", "t.csv", "--out", "x.json"],
    ["trace", "fidelity", "a.csv", "b.csv", "--out", "x.pdf"],
    ["evaluate", "--out", "-"],
    ["evaluate", "--out", "/dev/null"],
    ["train", "--out", "-"],
    ["tune", "--out", "/dev/null"],
    ["trace", "plot", "t.csv", "--out", "-"],
]


@pytest.mark.parametrize("arguments", WRONG_ENDINGS, ids=" ".join)
def test_every_verb_refuses_an_output_of_the_wrong_kind_before_it_works(arguments, capsys, tmp_path, monkeypatch):
    from burstenv.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert "ends in" in told or "several files" in told
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("redirect", "sentence", "code"),
    [
        (">/dev/full", "standard output: No space left on device", 1),
        (">&-", "standard output is closed", 1),
        ("| head -1 >/dev/null", "", 0),
    ],
)
def test_a_closed_or_full_standard_output_is_one_sentence(redirect, sentence, code):
    command = f"'{sys.executable}' -m burstenv.cli policies {redirect}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == bool(sentence)


@pytest.mark.parametrize("module", ["gymnasium", "burstenv.cli.train", "burstenv.policies.pretrained", "numba", "yaml"])
def test_an_interrupt_during_imports_is_one_word(module):
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a suite in the background ignores it
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == sys.argv[1]:\n"
        "            sys.meta_path.remove(self); os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder()); sys.argv[0] = 'bin/burstenv'\n"
        "from burstenv.cli import main\n"
        "sys.exit(main(['policies', 'jsq']))"
    )
    done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, check=False)
    never_imported = done.returncode == 0
    assert never_imported or (done.returncode, done.stderr) == (130, "burstenv: interrupted\n")
    assert module not in ("gymnasium", "burstenv.cli.train") or not never_imported
