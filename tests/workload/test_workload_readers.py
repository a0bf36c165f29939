from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from burstenv.errors import BurstenvError
from burstenv.workload import read_burstgpt, read_trace
from tests.workload.workload_files import EIGHT, PLAIN, SIX

Write = Callable[..., Path]


def test_six_columns(write: Write) -> None:
    trace = read_burstgpt(
        write(SIX, "5,ChatGPT,472,18,490,Conversation log", "7,GPT-4,30,2,32,API log", "9,GPT-4v,1,2,3,API log")
    )
    assert trace.prompt_tokens.tolist() == [472, 30, 1]
    assert trace.output_tokens.tolist() == [18, 2, 2]
    assert trace.model.tolist() == [0, 1, 2]
    assert trace.log_type.tolist() == [0, 1, 1]
    assert trace.session.tolist() == [-1, -1, -1]
    assert trace.metadata["schema"] == "burstgpt-6"
    assert trace.metadata["other_models"] == {"GPT-4v": 1}
    assert trace.metadata["largest_gap_s"] == 2


def test_eight_columns(write: Write) -> None:
    trace = read_burstgpt(
        write(
            EIGHT,
            "100.0,zz,43,GPT-4,906,446,1352,Conversation log",
            "101.0,aa,2,ChatGPT,36,29,65,Conversation log",
            "102.0,,1,ChatGPT,36,29,65,API log",
            "103.0,zz,,GPT-4,1400,10,1410,Conversation log",
        )
    )
    assert trace.session.tolist() == [0, 1, -1, 0]  # numbered in order of first appearance
    assert trace.turn.tolist() == [0, 0, 0, 1]
    assert trace.elapsed_s.tolist()[:3] == [43, 2, 1]
    assert np.isnan(trace.elapsed_s[3])
    assert trace.metadata["schema"] == "burstgpt-8"


def test_columns_are_found_by_name_in_any_order_and_others_ignored(write: Write) -> None:
    shuffled = "note,Log Type,Total tokens,Response tokens,Request tokens,Model,Timestamp"
    trace = read_burstgpt(write(shuffled, "x,API log,7,3,4,GPT-4,1"))
    assert (trace.prompt_tokens[0], trace.output_tokens[0]) == (4, 3)
    assert trace.metadata["ignored_columns"] == ["note"]


def test_rows_without_a_response_are_kept_aside_and_counted(write: Write) -> None:
    trace = read_burstgpt(
        write(
            SIX,
            "1,GPT-4,4,3,7,API log",
            "2,GPT-4,0,0,0,API log",
            "3,ChatGPT,9,0,9,Conversation log",
            "3,GPT-4,4,3,7,API log",
            "3,GPT-4,4,3,7,API log",
        )
    )
    assert len(trace) == 3
    assert len(trace.failures) == 2
    assert trace.failures.log_type.tolist() == [1, 0]
    assert np.floor(trace.failures.arrival_s).tolist() == [2, 3]
    counted = {key: trace.metadata[key] for key in ("rows_read", "requests", "failures", "duplicates")}
    assert counted == {"rows_read": 5, "requests": 3, "failures": 2, "duplicates": 1}


def test_jitter_is_seeded_stays_in_its_second_and_keeps_the_order_of_the_file(write: Write) -> None:
    rows = [f"{second},GPT-4,{row + 1},1,{row + 2},API log" for second in (3, 4) for row in range(200)]
    path = write(SIX, *rows)
    trace, again, other = (read_burstgpt(path, jitter_seed=seed) for seed in (1, 1, 2))
    assert trace.arrival_s.tobytes() == again.arrival_s.tobytes()
    assert (trace.arrival_s != other.arrival_s).all()
    assert np.floor(trace.arrival_s).tolist() == [3] * 200 + [4] * 200
    assert (np.diff(trace.arrival_s) > 0).all()
    assert trace.prompt_tokens.tolist() == [*range(1, 201), *range(1, 201)]
    assert (trace.arrival_s % 1).mean() == pytest.approx(0.5, abs=0.05)
    assert trace.metadata["jitter_seed"] == 1


def test_fractional_timestamps_are_left_as_they_are(write: Write) -> None:
    trace = read_burstgpt(write(SIX, "1.25,GPT-4,4,3,7,API log", "2,GPT-4,4,3,7,API log"))
    assert trace.arrival_s.tolist() == [1.25, 2]
    assert trace.metadata["jitter_seed"] is None


def test_gzip_is_recognised_by_content(write: Write, tmp_path: Path) -> None:
    plain = write(SIX, "1,GPT-4,4,3,7,API log")
    for name in ("trace.csv.gz", "no_ending"):
        packed = tmp_path / name
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        assert read_trace(packed).arrival_s.tolist() == read_trace(plain).arrival_s.tolist()


def test_byte_order_mark_blank_lines_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{SIX}\r\n1,GPT-4,4,3,7,API log\r\n\r\n".encode())
    assert len(read_trace(path)) == 1


def test_plain_schema(write: Write) -> None:
    header = PLAIN + ",session_id,priority,prefix_id,prefix_tokens,class"
    trace = read_trace(write(header, "0.5,3,1,s1,-2,sys,1,api", "1,4,2,,,,,", "1,5,2,s1,1,,,conversation"))
    assert trace.arrival_s.tolist() == [0.5, 1, 1]
    assert trace.session.tolist() == [0, -1, 0]
    assert trace.turn.tolist() == [0, 0, 1]
    assert trace.priority.tolist() == [-2, 0, 1]
    assert trace.log_type.tolist() == [1, 0, 0]
    assert trace.metadata["schema"] == "plain"


def test_plain_schema_with_three_columns(write: Write) -> None:
    trace = read_trace(write(PLAIN, "0,3,1"))
    assert trace.log_type.tolist() == [0]
    assert trace.session.tolist() == [-1]


GOOD = "1,GPT-4,4,3,7,API log"

BAD_ROWS = [
    ("2,GPT-4,x,3,7,API log", "row 2: column 'Request tokens': need a whole number .* got 'x'"),
    ("2,GPT-4,4,-3,7,API log", "row 2: column 'Response tokens': need a whole number from 0 .* got '-3'"),
    ("2,GPT-4,4,3.5,7,API log", "row 2: column 'Response tokens': .* got '3.5'"),
    ("2,GPT-4,10000001,3,7,API log", "row 2: column 'Request tokens': .* to 10,000,000, got '10000001'"),
    ("2,GPT-4,1e400,3,7,API log", "row 2: column 'Request tokens': .* got '1e400'"),
    ("2,GPT-4,,3,7,API log", "row 2: column 'Request tokens': is blank"),
    ("0.5,GPT-4,4,3,7,API log", "row 2: column 'Timestamp': 0.5 is earlier than 1 in the row before"),
    ("nan,GPT-4,4,3,7,API log", "row 2: column 'Timestamp': need a finite number .* got 'nan'"),
    ("inf,GPT-4,4,3,7,API log", "row 2: column 'Timestamp': need a finite number .* got 'inf'"),
    ("-1,GPT-4,4,3,7,API log", "row 2: column 'Timestamp': need a finite number .* got '-1'"),
    ("2,GPT-4,4,3,7,Chat log", "row 2: column 'Log Type': unknown value 'Chat log'; valid: Conversation log"),
    ("2,GPT-4,4,3,7,", "row 2: column 'Log Type': is blank"),
    ("2,GPT-4,4", r"row 2: has 3 columns, the header has 6; is the row truncated\?"),
    ("2,GPT-4,4,3,7,API log,9", "row 2: has 7 columns, the header has 6"),
    ("2,GPT-4,4,3,7,API", "row 2: column 'Log Type': unknown value 'API'"),
]


@pytest.mark.parametrize(("row", "sentence"), BAD_ROWS)
def test_a_bad_row_gets_one_sentence_with_file_row_and_column(write: Write, row: str, sentence: str) -> None:
    path = write(SIX, GOOD, row, GOOD)
    with pytest.raises(BurstenvError, match=sentence) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_every_row_too_long_is_noticed(write: Write) -> None:
    with pytest.raises(BurstenvError, match="row 1: has 7 columns, the header has 6"):
        read_burstgpt(write(SIX, GOOD + ",1", GOOD + ",1"))


def test_a_bad_cell_far_down_a_file_names_its_row(write: Write) -> None:
    rows = [GOOD] * 5000
    rows[4321] = "1,GPT-4,4,three,7,API log"
    with pytest.raises(BurstenvError, match=r"row 4322: column 'Response tokens': .* got 'three'"):
        read_burstgpt(write(SIX, *rows))


def test_plain_schema_refuses_an_output_of_no_tokens(write: Write) -> None:
    with pytest.raises(BurstenvError, match="row 1: column 'output_tokens': need a whole number from 1"):
        read_trace(write(PLAIN, "0,3,0"))


def test_a_missing_column_is_named_with_what_was_found(write: Write) -> None:
    path = write("Timestamp,Model,Request tokens,Total tokens,Log Type", "1,GPT-4,4,7,API log")
    with pytest.raises(BurstenvError, match=r"column 'Response tokens' is missing; found: Timestamp, Model,.*needed"):
        read_burstgpt(path)
    with pytest.raises(BurstenvError, match="column 'Response tokens' is missing"):
        read_trace(path)


def test_an_unknown_header_lists_both_accepted_ones(write: Write) -> None:
    with pytest.raises(BurstenvError, match=r"unknown header 'a,b'; accepted .*Timestamp.*arrival_s,prompt_tokens"):
        read_trace(write("a,b", "1,2"))


def test_a_column_named_twice_is_refused(write: Write) -> None:
    with pytest.raises(BurstenvError, match="column 'Model' appears more than once"):
        read_burstgpt(write(SIX + ",Model", GOOD + ",GPT-4"))


def test_only_failures_is_no_trace(write: Write) -> None:
    with pytest.raises(BurstenvError, match="all 1 rows have 0 response tokens"):
        read_burstgpt(write(SIX, "1,GPT-4,0,0,0,API log"))


FILES = {
    "empty": (b"", "the file is empty"),
    "only a header": ((SIX + "\n").encode(), "a header but no row"),
    "binary": (b"\x7fELF\x02\x01\0\0\0", "not a text file"),
    "not UTF-8 in a row": ((SIX + "\n1,GPT\xff,4,3,7,API log\n").encode("latin-1"), "not UTF-8 text"),
    "not UTF-8 in the header": (b"T\xff,i\n1,2\n", "not UTF-8 text in the header"),
    "UTF-16": ("T,i\n1,2\n".encode("utf-16"), "text in UTF-16; save it as UTF-8"),
    "UTF-16 without a mark": ("Timestamp,i\n1,2\n".encode("utf-16-be"), "text in UTF-16 or UTF-32; save it as UTF-8"),
    "zstd": (b"\x28\xb5\x2f\xfd\x24\x0b", "compressed with zstd; unpack it or use gzip"),
    "bzip2": (bz2.compress(SIX.encode()), "compressed with bzip2; unpack it or use gzip"),
    "xz": (lzma.compress(SIX.encode()), "compressed with xz; unpack it or use gzip"),
    "zip": (b"PK\x03\x04\x14\0\0\0\x08\0" + b"\0" * 16 + b"trace.csv", "a zip archive; unpack it or use gzip"),
    "Excel": (b"PK\x03\x04\x14\0\0\0\x08\0" + b"\0" * 16 + b"xl/workbook.xml", "an Excel workbook; save the sheet"),
    "old Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 9, "an Excel workbook; save the sheet as CSV"),
    "gzip twice": (gzip.compress(gzip.compress(SIX.encode())), "compressed with gzip twice; unpack it once"),
    "zstd inside gzip": (gzip.compress(b"\x28\xb5\x2f\xfd\x24"), "compressed with zstd"),
    "a web page": (b"<!DOCTYPE html><html>", "a page of HTML or XML"),
    "a JSON array": (b'[{"timestamp": 0}]', "a JSON array; expected JSON lines"),
    "semicolons": ((SIX + "\n" + GOOD).replace(",", ";").encode(), "separated by ';'; need commas"),
    "tabs": ((SIX + "\n" + GOOD).replace(",", "\t").encode(), "separated by tabs; need commas"),
    "no header": (f"{GOOD}\n{GOOD}\n".encode(), "the header is missing: the first line is"),
    "thousands": (
        (SIX + '\n1,GPT-4,"1,234",3,7,API log').encode(),
        "'Request tokens': .* without thousands separators",
    ),
    "a decimal comma": ((SIX + '\n"1,5",GPT-4,4,3,7,API log').encode(), "'Timestamp': .* write decimals with a point"),
    "a date": ((SIX + "\n2024-05-10 00:00:01,GPT-4,4,3,7,API log").encode(), "row 1: .*--time-unit iso"),
    "negative tokens": ((SIX + "\n1,GPT-4,4,3,7,API log\n2,GPT-4,-4,3,7,API log").encode(), "row 2: .*got '-4'"),
    "truncated gzip": (gzip.compress(SIX.encode() * 50)[:-9], "damaged gzip file"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_table_gets_one_sentence(tmp_path: Path, kind: str) -> None:
    content, sentence = FILES[kind]
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(BurstenvError, match=sentence) as caught:
        read_burstgpt(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(BurstenvError, match="no such file"):
        read_trace(tmp_path / "absent.csv")
    with pytest.raises(BurstenvError, match="cannot be read"):
        read_trace(tmp_path)
    fake = tmp_path / "fake.gz"
    fake.write_text(SIX)
    with pytest.raises(BurstenvError, match=r"ends in \.gz but is not gzip"):
        read_trace(fake)
