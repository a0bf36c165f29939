"""Odd files: one sentence or the right rows, whichever way a file is read."""

from __future__ import annotations

import csv
import gzip
import io
import random
import re
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import read_trace
from burstenv.workload.formats import csv_table
from burstenv.workload.formats.burstgpt import BURSTGPT_COLUMNS
from burstenv.workload.formats.csv_fast import parse_file
from tests.workload.workload_files import EIGHT, PLAIN, SIX, read_or_sentence

Rows = list[dict[str, Any]]
_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
BOUNDS = {"tokens": (0, 10**7), "total": (0, 2 * 10**7), "positive": (1, 10**7), "whole": (1 - 2**31, 2**31 - 1)}
LABELS = ("Conversation log", "API log")


def oracle(content: bytes, header: str, names: dict[str, str]) -> Rows | None:
    """Read a table the slow and obvious way; None where it must be refused.

    ``names`` says what each column of the schema is: time, seconds, tokens, whole, label, text; a question mark
    after it marks a column that may be blank, an exclamation mark one that may be absent.
    """
    try:
        raw = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        text = raw.decode("utf-8-sig")
        lines = [[c.strip() for c in row] for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error):
        return None
    if "\0" in text:
        return None
    if len(lines) < 2 or any(lines[0].count(n) > 1 for n in lines[0] if n):
        return None
    head, rows, latest = lines[0], [], Fraction(-1)
    if any(name not in head for name, kind in names.items() if "!" not in kind):
        return None
    for line in lines[1:]:
        if len(line) != len(head):
            return None
        row: dict[str, Any] = {}
        for name, kind in names.items():
            if name in head:
                cell = line[head.index(name)]
                value = _value(cell, kind.strip("?!"), "?" in kind)
                if value is None:
                    return None
                if kind == "time":
                    if float(value) < float(latest):
                        return None
                    latest = value
                row[name] = value
        rows.append(row)
    return rows


def _value(cell: str, kind: str, blank: bool) -> Any:
    if cell == "":
        return "" if blank else None
    if kind == "text":
        return cell
    if kind == "label":
        return cell if cell in LABELS else None
    if len(cell) > 400 or not _DECIMAL.fullmatch(cell):
        return None
    value = Fraction(cell)
    if kind in ("time", "seconds"):
        return value if 0 <= value <= 10**10 else None
    low, high = BOUNDS[kind]
    return value if value.denominator == 1 and low <= value <= high else None


SCHEMAS: dict[str, tuple[str, dict[str, str], Callable[[random.Random, int], list[str]]]] = {
    "six": (
        SIX,
        {"Timestamp": "time", "Model": "text?", "Request tokens": "tokens", "Response tokens": "tokens",
         "Total tokens": "total", "Log Type": "label", "Session ID": "text?!", "Elapsed time": "seconds?!"},
        lambda r, t: [str(t), r.choice(["ChatGPT", "GPT-4"]), str(r.randrange(900)), str(r.randrange(1, 90)),
                      str(r.randrange(990)), r.choice(LABELS)],
    ),
    "eight": (
        EIGHT,
        {"Timestamp": "time", "Session ID": "text?!", "Elapsed time": "seconds?!", "Model": "text?",
         "Request tokens": "tokens", "Response tokens": "tokens", "Total tokens": "total", "Log Type": "label"},
        lambda r, t: [f"{t}.0", r.choice(["", "a-1", "b-2"]), str(r.randrange(50)), "GPT-4", str(r.randrange(900)),
                      str(r.randrange(1, 90)), str(r.randrange(990)), r.choice(LABELS)],
    ),
    "plain": (
        PLAIN + ",session_id,priority",
        {"arrival_s": "time", "prompt_tokens": "positive", "output_tokens": "positive", "session_id": "text?!",
         "priority": "whole?!", "class": "text?!", "tenant": "text?!"},
        lambda r, t: [repr(t / 7), str(r.randrange(1, 900)), str(r.randrange(1, 90)),
                      r.choice(["", "s1", "s2"]), r.choice(["", "-3", "7"])],
    ),
}  # fmt: skip

ODD_CELLS = [
    "", " ", "nan", "NaN", "inf", "-inf", "Infinity", "1e308", "1e400", "1E2", "1e-3", "0x10", "1_000", "1,000",
    "\u0967\u0968", "\u0663",
    "\uff15",
    "-1", "-0", "+5", "5.", ".5", "5.0", "5.000", "0005", "5.5", "1.0000000000000000000000001", "12345678901234567890",
    "9" * 60, "9" * 500, "10000000", "10000001", "2147483648", "-2147483647", "-2147483648", "true", "None", "NA",
    "N/A",     "null", '"5"', '"5', '5"', '"a,b"', '"a\nb"', "a\tb", "\t5\t", "  5  ", "5 5", "\u00a05",
    "5\u2003", "\x0b5", "5\x1f", "--5",
    "1e", "e5", ".", "-", "+", "1.2.3", "Conversation log", "API log", "api log", "'5'", "0.1", "4503599627370497.5",
    "9007199254740993", "0.30000000000000004", "179769313486231580000000000000000000000.0", "1" + "0" * 309, "\x00",
    "\x7f", "\u00e9",
]  # fmt: skip


def damaged(r: random.Random, schema: str) -> bytes:
    """Return a file that is right, or wrong in one or more of many ways."""
    header, _, row = SCHEMAS[schema]
    lines = [header.split(",")]
    at = 0
    for _ in range(r.choice([1, 2, 5, 30])):
        at += r.choice([0, 0, 1, 3])
        lines.append(row(r, at))
    for _ in range(r.choice([0, 1, 1, 2])):
        target = r.randrange(0 if r.random() < 0.1 else 1, len(lines))
        if r.random() < 0.75:
            lines[target][r.randrange(len(lines[target]))] = r.choice(ODD_CELLS)
        elif r.random() < 0.3:
            lines[target].insert(r.randrange(len(lines[target]) + 1), r.choice(ODD_CELLS))
        elif len(lines[target]) > 1:
            lines[target].pop()
    if r.random() < 0.05:
        lines.insert(r.randrange(len(lines)), [r.choice(["", " ", "\t"])])
    if r.random() < 0.15:
        lines = [[f'"{cell}"' for cell in line] for line in lines]
    end = r.choice(["\n", "\n", "\n", "\r\n", "\r", "mixed"])
    text = "".join(",".join(line) + (r.choice(["\n", "\r\n", "\r", "\n\n", "\n\r"]) if end == "mixed" else end)
                   for line in lines)  # fmt: skip
    if r.random() < 0.3:
        text = text.rstrip("\r\n")
    content = text.encode("utf-8", errors="surrogatepass")
    what = r.random()
    if what < 0.05:
        content = text.encode(r.choice(["utf-16", "utf-16-le", "utf-32", "latin-1"]), errors="replace")
    elif what < 0.10:
        content = b"\xef\xbb\xbf" + content
    elif what < 0.20 and content:
        content = content[: r.randrange(len(content))]
    elif what < 0.30 and content:
        at = r.randrange(len(content))
        content = content[:at] + bytes([r.randrange(256)]) + content[at + r.randrange(2) :]
    if r.random() < 0.1:
        content = gzip.compress(content)
        if r.random() < 0.5:
            at = r.randrange(len(content))
            content = r.choice([content[:at], content[:at] + bytes([r.randrange(256)]) + content[at + 1 :]])
    return content


def _agrees(trace: Any, rows: Rows, schema: str) -> None:
    """Check a trace against the rows that the oracle read, cell by cell."""
    if schema == "plain":
        served, failed = rows, []
        prompt, output, time = "prompt_tokens", "output_tokens", "arrival_s"
        assert trace.priority.tolist() == [int(row.get("priority") or 0) for row in rows]
    else:
        prompt, output, time = "Request tokens", "Response tokens", "Timestamp"
        served = [row for row in rows if row[output] > 0]
        failed = [row for row in rows if row[output] == 0]
        assert trace.metadata["duplicates"] == len(rows) - len({tuple(map(str, row.values())) for row in rows})
        assert [("Conversation log", "API log")[c] for c in trace.log_type] == [row["Log Type"] for row in served]
        known = {"ChatGPT": 0, "GPT-4": 1}
        assert trace.model.tolist() == [known.get(row["Model"], 2) for row in served]
        assert trace.metadata["total_mismatches"] == sum(r["Total tokens"] != r[prompt] + r[output] for r in rows)
    assert trace.prompt_tokens.tolist() == [max(int(row[prompt]), 1) for row in served]
    assert trace.output_tokens.tolist() == [int(row[output]) for row in served]
    assert len(trace.failures) == len(failed)
    assert trace.metadata["rows_read"] == len(rows)
    whole = schema != "plain" and all(float(row[time]).is_integer() for row in rows)
    times = np.floor(trace.arrival_s) if whole else trace.arrival_s
    assert times.tolist() == [float(row[time]) for row in served]
    session = "session_id" if schema == "plain" else "Session ID"
    ids = [row.get(session, "") for row in rows]
    numbers = {name: k for k, name in enumerate(dict.fromkeys(i for i in ids if i))}
    kept = [row.get(session, "") for row in served]
    assert trace.session.tolist() == [numbers.get(name, -1) for name in kept]


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("seed", range(4))
def test_odd_files_are_refused_or_read_right_by_both_parsers(
    schema: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header, names, _ = SCHEMAS[schema]
    r = random.Random(f"{schema} {seed}")
    path = tmp_path / "trace.csv"
    accepted = refused = 0
    for _ in range(100):
        content = damaged(r, schema)
        path.write_bytes(content)
        rows = oracle(content, header, names)
        if rows is not None and schema != "plain" and all(row["Response tokens"] == 0 for row in rows):
            rows = None  # nothing but failures is no trace
        for threshold in (1 << 40, 0):
            monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
            found = read_or_sentence(path)
            assert isinstance(found, str) == (rows is None), (content, found)
            if rows is None:
                assert found.startswith(f"{path}: ")
                assert "\n" not in found
            else:
                _agrees(found, rows, schema)
        accepted, refused = accepted + (rows is not None), refused + (rows is None)
    assert accepted > 20
    assert refused > 20


def test_pandas_takes_the_files_it_is_made_for(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    for ends in ("\n", "\r\n"):
        path.write_bytes(
            ends.join(
                [
                    EIGHT,
                    "1.0,7,3,GPT-4,5,6,11,API log",
                    "2.5,,,ChatGPT,5,6,11,API log",
                    "3,007,,GPT-4,5,6,11,API log",
                    "3,7.0,,GPT-4,5,6,11,API log",
                ]
            ).encode()
        )
        found = parse_file(path, tuple(EIGHT.split(",")), BURSTGPT_COLUMNS)
        assert found is not None
        assert found[0]["Timestamp"].tolist() == [1.0, 2.5, 3.0, 3.0]
        assert found[0]["Session ID"].tolist() == [0, -1, 1, 2]  # texts, not numbers
        assert found[1]["Model"] == ["GPT-4", "ChatGPT"]


def test_many_chunks_and_many_sessions_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from burstenv.workload.formats import csv_fast

    r = random.Random(5)
    rows = [
        f"{k // 7},s{r.randrange(3000)},{r.randrange(9)},GPT-4,{r.randrange(1, 99)},{r.randrange(3)},7,API log"
        for k in range(9000)
    ]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([EIGHT, *rows]))
    walked = read_trace(path)
    monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", 0)
    monkeypatch.setattr(csv_fast, "CHUNK_BYTES", 1000)
    compiled = read_trace(path)
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "session", "turn", "elapsed_s", "model", "log_type"):
        assert getattr(walked, name).tobytes() == getattr(compiled, name).tobytes(), name
    assert walked.metadata == compiled.metadata
    assert walked.metadata["duplicates"] == len(rows) - len(set(rows))


def test_decimals_are_rounded_as_python_rounds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = random.Random(11)
    cells = [repr(r.uniform(0, 10 ** r.randrange(-3, 9))) for _ in range(3000)]
    cells += [
        f"{r.randrange(10 ** r.randrange(1, 10))}.{r.randrange(10 ** r.randrange(1, 9)):09d}" for _ in range(3000)
    ]
    cells += ["0.000000000000000001", "9007199254.74099250", "0.999999999999999999", "4294967296.00000047"]
    cells = [cell for cell in cells if "e" not in cell and sum(map(str.isdigit, cell.lstrip("0."))) <= 18]
    cells = [cell for cell in cells if len(cell.partition(".")[2]) <= 18]
    assert len(cells) > 4000
    cells.sort(key=float)
    path = tmp_path / "trace.csv"
    path.write_text("\n".join([PLAIN, *(f"{cell},1,1" for cell in cells)]))
    monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", 0)
    found = parse_file(path, tuple(PLAIN.split(",")), (csv_table.Column("arrival_s", "time"),))
    assert found is not None
    assert found[0]["arrival_s"].tolist() == [float(cell) for cell in cells]


EPOCH_NS = 1_700_000_000_123_456_789
CHUNKED = {
    "a time zone from the middle on": ("iso", [f"2024-05-10 00:00:00.{k:04d}{'Z' * (k > 250)}" for k in range(500)]),
    "other zones": ("iso", [f"2024-05-10 0{1 + (k > 250)}:00:00.{k:04d}+0{1 + (k > 250)}:00" for k in range(500)]),
    "Unix times in ns": ("ns", [str(EPOCH_NS + 7 * k) for k in range(500)]),
    "Unix times in ms with a fraction": ("ms", [f"{1_700_000_000_000 + k}.12345" for k in range(500)]),
    "small ms": ("ms", [str(k // 3) for k in range(500)]),
    "flags": ("s", ["true"] * 500),
    "an earlier row in a later chunk": ("s", [str(k if k < 250 else k - 200) for k in range(500)]),
    "a quoted column": ("s", [f'"{k}"' for k in range(500)]),
    "quoted thousands": ("s", [f'"{k:,}"' for k in range(800, 1300)]),
    "a cell less and one more": ("s", [*map(str, range(400)), "400,1,2,9\n400", "401,1,1,9\n402"]),
}


@pytest.mark.parametrize("what", CHUNKED)
def test_what_changes_between_chunks_is_read_alike(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from burstenv.workload.formats import csv_fast

    unit, times = CHUNKED[what]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["at,in,out", *(f"{time},{k % 9},{1 + k % 7}" for k, time in enumerate(times))]))
    columns = {"arrival_s": "at", "prompt_tokens": "in", "output_tokens": "out"}
    monkeypatch.setattr(csv_fast, "CHUNK_BYTES", 1000)
    found = []
    for threshold in (1 << 40, 0):
        monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
        try:
            found.append(read_trace(path, columns=columns, time_unit=unit).arrival_s.tolist())
        except BurstenvError as error:
            found.append(str(error))
    assert found[0] == found[1]
    places = {"ns": 9, "ms": 3}
    if unit in places:
        assert found[0] == [float(Fraction(time) / 10 ** places[unit]) for time in times]


def test_one_endless_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(SIX + "\n" + "1" * (3 << 20))
    with pytest.raises(BurstenvError, match="row 1: not valid CSV"):
        read_trace(path)
