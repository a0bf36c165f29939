"""Formats of other origins, and writing traces: what is written is read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burstenv.errors import BurstenvError
from burstenv.workload import Failures, Trace, read_mapped, read_mooncake, read_trace, write_mooncake
from burstenv.workload.formats import csv_table
from burstenv.workload.formats.mapped import parse_columns
from burstenv.workload.trace import COLUMNS, FAILURE_COLUMNS
from tests.shipped_files import real

Write = Callable[..., Path]


def same(a: Trace, b: Trace, *left_out: str) -> bool:
    """Whether two traces have the same columns, bit for bit."""
    columns = [n for n in COLUMNS if n not in left_out]
    return all(getattr(a, n).tobytes() == getattr(b, n).tobytes() for n in columns) and all(
        getattr(a.failures, n).tobytes() == getattr(b.failures, n).tobytes() for n in FAILURE_COLUMNS
    )


def conversations() -> Trace:
    """Sessions that grow, one whose context starts anew, shared prefixes, lone requests, failures."""
    return Trace.from_columns(
        [0.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.125],
        [1000, 600, 1500, 2600, 700, 40, 3000],
        [300, 10, 100, 50, 5, 5, 9],
        session=[0, 1, 0, 0, 1, -1, -1],
        prefix_id=[-1, 0, -1, -1, 0, -1, 0],
        prefix_tokens=[0, 512, 0, 0, 512, 0, 512],
        model=[0, 1, 0, 0, 1, 2, 0],
        log_type=[0, 0, 0, 0, 0, 1, 1],
        priority=[0, -2, 0, 0, 3, 0, 0],
        elapsed_s=[1, 2, np.nan, 4, 5, 6, 7],
        failures=Failures(
            np.array([0.5, 6.5]), np.array([0, 1], np.int8), np.array([0, 1], np.int8), np.array([9, 0], np.int32)
        ),
        metadata={"source": "here"},
    )


# ---- reading


def test_azure_of_both_years(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    header = "TIMESTAMP,ContextTokens,GeneratedTokens"
    old = write(header, "2023-11-16 18:17:03.9799600,4808,10", "2023-11-16 18:17:04,0,8", "2023-11-17 00:00:00.5,7,0")
    new = write(
        header, "2024-05-10 00:00:00.009930+00:00,2162,5", "2024-05-10T02:00:01+02:00,3,4",
        "2024-02-29 23:59:59.999999999Z,1,1", name="bad_code.csv",
    )  # fmt: skip
    for threshold in (1 << 40, 0):
        monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
        trace = read_trace(old)
        assert trace.arrival_s.tolist() == [65823.97996, 65824.0]
        assert trace.prompt_tokens.tolist() == [4808, 1]
        assert trace.failures.arrival_s.tolist() == [86400.5]
        assert trace.metadata["clock_zero"] == "2023-11-16T00:00:00Z"
        assert trace.metadata["zero_prompts"] == 1
        with pytest.raises(BurstenvError, match=r"row 3: column 'TIMESTAMP': .* is earlier than the time in the row"):
            read_trace(new)
        new.write_text(new.read_text().replace("2024-02-29 23", "2024-05-10 23"))
        trace = read_trace(new)
        assert trace.arrival_s.tolist() == [0.00993, 1.0, 86399.999999999]
        assert (trace.log_type == 1).all()  # code completion is API traffic
        new.write_text(new.read_text().replace("2024-05-10 23", "2024-02-29 23"))


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("2023-02-29 00:00:00", "need a date and time"),
        ("2023-13-01 00:00:00", "need a date and time"),
        ("2023-11-16 24:00:00", "need a date and time"),
        ("2023-11-16 18:17:60", "need a date and time"),
        ("2023-11-16", "need a date and time"),
        ("2023-11-16 18:17:03.", "need a date and time"),
        ("2023-11-16 18:17:03.0123456789", "need a date and time"),
        ("2023-11-16 18:17:04+25:00", "need a date and time"),
        ("2023-11-16 18:17:04Z", "has a time zone, unlike the rows before"),
        ("1700158623", "need a date and time"),
        ("2023-11-16 18:17:02", "is earlier than"),
    ],
)
def test_wrong_dates_are_refused_by_both_parsers(
    write: Write, monkeypatch: pytest.MonkeyPatch, cell: str, sentence: str
) -> None:
    path = write("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:17:03,1,1", f"{cell},1,1")
    for threshold in (1 << 40, 0):
        monkeypatch.setattr(csv_table, "PANDAS_FROM_BYTES", threshold)
        with pytest.raises(BurstenvError, match=f"row 2: column 'TIMESTAMP': .*{sentence}"):
            read_trace(path)


def test_real_azure_files_read_alike_by_both_parsers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rows, chosen in (("azure_2023_code.csv", 8819, 1), ("azure_2023_conv_first4000.csv", 4000, 0)):
        path = real(name)
        walked = read_trace(path)
        with monkeypatch.context() as patch:
            patch.setattr(csv_table, "PANDAS_FROM_BYTES", 0)
            assert same(read_trace(path), walked)
        assert len(walked) == rows
        assert set(walked.log_type.tolist()) == {chosen}
        assert walked.metadata["ignored_columns"] == []


def test_other_well_known_headers(write: Write) -> None:
    for schema, header, row in (
        ("servegen", "request_id,timestamp,input_tokens,output_tokens", "0,0.5,10,20"),
        ("vidur", "arrived_at,num_prefill_tokens,num_decode_tokens", "0.5,10,20"),
        ("splitwise", "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size",
         "0,2,0,0.5,1,10,20"),
    ):  # fmt: skip
        trace = read_trace(write(header, row))
        assert trace.metadata["schema"] == schema
        assert (trace.arrival_s[0], trace.prompt_tokens[0], trace.output_tokens[0]) == (0.5, 10, 20)


def test_any_csv_by_a_map_of_its_columns(write: Write) -> None:
    path = write("ts,in,out,chat,kind,who", "1700000000123456789,5,6,a,api,GPT-4", "1700000000123456790,5,0,,,x")
    columns = parse_columns("arrival_s=ts, prompt_tokens=in,output_tokens=out,session_id=chat,class=kind,model=who")
    trace = read_trace(path, columns=columns, time_unit="ns")
    assert trace.arrival_s.tolist() == [1700000000.1234568]
    assert trace.log_type.tolist() == [1]
    assert trace.model.tolist() == [1]
    assert trace.failures.model.tolist() == [2]
    assert trace.metadata["other_models"] == {"x": 1}
    small = write("t,i,o", "1500,2,3", name="small.csv")
    three = dict(zip(("arrival_s", "prompt_tokens", "output_tokens"), "tio", strict=True))
    assert read_mapped(small, three, "ms").arrival_s.tolist() == [1.5]
    with pytest.raises(BurstenvError, match="row 1: column 'ts': need a finite number of seconds from 0 to"):
        read_trace(path, columns=columns)  # nanoseconds taken for seconds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arrival_s=a,prompt_tokens=b", "'output_tokens' is missing"),
        ("arrival_s=a,prompt_tokens=b,output_tokens=b", "'b' stands for more than one"),
        ("arrival_s=a,prompt_tokens=b,output_tokens=c,colour=d", "unknown 'colour'; valid: arrival_s"),
        ("arrival_s=a,prompt_tokens=b,output_tokens=c,prefix_id=d", "need one another"),
        ("arrival_s", "'arrival_s' is wrong"),
        ("arrival_s=a,arrival_s=b", "'arrival_s=b' is wrong"),
    ],
)
def test_wrong_maps(text: str, sentence: str) -> None:
    with pytest.raises(BurstenvError, match=sentence):
        parse_columns(text)


# ---- Mooncake


def lines(*records: tuple[int, int, int, list[int]]) -> list[str]:
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    return [json.dumps(dict(zip(keys, record, strict=True))) for record in records]


def test_a_chain_that_goes_on_is_the_next_turn_and_a_shared_head_a_shared_prefix(write: Write) -> None:
    trace = read_trace(
        write(
            *lines(
                (0, 1200, 100, [0, 1, 2]),  # system prompt 0
                (1000, 1300, 100, [0, 3, 4]),
                (2000, 2000, 9, [0, 1, 5, 6]),  # goes on from the first
                (3000, 520, 9, [0, 7]),  # the system prompt alone is no conversation
                (3500, 2100, 9, [0, 1, 5, 6, 8]),  # and once more
                (3600, 700, 9, [20, 21]),
            ),
            name="trace.jsonl",
        )
    )
    assert trace.arrival_s.tolist() == [0, 1, 2, 3, 3.5, 3.6]
    assert trace.session.tolist() == [0, -1, 0, -1, 0, -1]
    assert trace.turn.tolist() == [0, 0, 1, 0, 2, 0]
    assert trace.prefix_tokens.tolist() == [512, 512, 512, 512, 512, 0]
    assert trace.prefix_id.tolist() == [0, 0, 0, 0, 0, -1]
    counts = {key: trace.metadata[key] for key in ("block_tokens", "reused_blocks", "reused_blocks_kept")}
    assert counts == {"block_tokens": 512, "reused_blocks": 7, "reused_blocks_kept": 7}


def test_real_mooncake_keeps_almost_all_reuse() -> None:
    trace = read_trace(real("mooncake_conversation.jsonl"))
    m = trace.metadata
    rows = [json.loads(line) for line in real("mooncake_conversation.jsonl").read_text().splitlines()]
    seen: set[int] = set()
    reused = 0
    for row in rows:  # blocks of this file have one hash each, wherever they stand
        full = row["hash_ids"][: row["input_length"] // 512]
        reused += sum(block in seen for block in full)
        seen.update(full)
    assert m["reused_blocks"] == reused
    assert m["reused_blocks_kept"] > 0.99 * reused
    assert m["reused_blocks_added"] < 0.03 * reused
    assert trace.prompt_tokens.tolist() == [row["input_length"] for row in rows]
    chats = trace.session >= 0
    for session in range(0, int(trace.session.max()) + 1, 50):
        turns = np.flatnonzero(trace.session == session)
        assert len(turns) >= 2
        assert (np.diff(trace.prompt_tokens[turns]) > 0).all()
    assert 5000 < np.count_nonzero(chats) < 7000


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"timestamp": 5, "input_length": 3}', "key 'output_length' is missing"),
        ('{"timestamp": 5, "input_length": "3", "output_length": 1}', "key 'input_length': need a number, got '3'"),
        ('{"timestamp": 5, "input_length": true, "output_length": 1}', "key 'input_length': need a number"),
        ('{"timestamp": 5, "input_length": 3.5, "output_length": 1}', "key 'input_length': need a whole number"),
        ('{"timestamp": NaN, "input_length": 3, "output_length": 1}', "NaN is no number"),
        ('{"timestamp": 1e999, "input_length": 3, "output_length": 1}', "key 'timestamp': need a finite time"),
        ('{"timestamp": 5, "input_length": -3, "output_length": 1}', "key 'input_length': need a whole number"),
        ('{"timestamp": 5, "input_length": 1e30, "output_length": 1}', "key 'input_length': need a whole number"),
        ('{"timestamp": 5, "input_length": 3, "output_length": 1, "hash_ids": 5}', "key 'hash_ids': need a list"),
        ('{"timestamp": 5, "input_length": 3, "output_length": 1, "hash_ids": [1.5]}', "key 'hash_ids'"),
        ('{"timestamp": 5, "input_length": 3, "output_length": 1, "hash_ids": [1, 2, 3]}', "no block size"),
        ('{"timestamp": 0, "input_length": 3, "output_length": 1, "hash_ids": [9]}', "is earlier than"),
        ('{"timestamp": 5, "input_leng', "is the row truncated"),
        ("[1, 2]", "not a JSON object"),
        ('{"a":' * 100_000, "not a JSON object"),
        ("\x00", "not a text file"),
    ],
)
def test_wrong_json_lines(write: Write, line: str, sentence: str) -> None:
    good = '{"timestamp": 1, "input_length": 3, "output_length": 1, "hash_ids": [1]}'
    path = write(good, line, name="trace.jsonl")
    with pytest.raises(BurstenvError, match=sentence) as caught:
        read_trace(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_mooncake_blocks_are_equal_exactly_where_the_tokens_are(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    trace = conversations()
    write_mooncake(trace, path, block_tokens=100)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["timestamp"] for row in rows] == [0, 1250, 1750, 2750, 3750, 4750, 5875]
    ids = [row["hash_ids"] for row in rows]
    assert [len(i) for i in ids] == [-(-p // 100) for p in trace.prompt_tokens]

    def shared(a: int, b: int) -> int:
        return next((k for k, (x, y) in enumerate(zip(ids[a], ids[b], strict=False)) if x != y), len(ids[a]))

    assert shared(0, 2) == 10  # 1500 >= 1000 + 300: the conversation goes on
    assert shared(2, 3) == 15  # and again
    assert shared(1, 4) == 6  # 700 >= 600 + 10
    assert shared(1, 6) == 5  # the shared prefix of 512 tokens
    assert shared(5, 6) == 0


def expected_stream(trace: Trace) -> list[list[tuple[Any, ...]]]:
    """Return every prompt's tokens, each named after where it comes from, the slow way."""
    known: dict[int, list[tuple[Any, ...]]] = {}
    prompts = []
    for k in range(len(trace)):
        session, length = int(trace.session[k]), int(trace.prompt_tokens[k])
        head = [("p", int(trace.prefix_id[k]), i) for i in range(min(length, int(trace.prefix_tokens[k])))]
        before = known.get(session, []) if session >= 0 else []
        goes_on = before and length >= len(before) and before[: len(head)] == head
        start = before if goes_on else head
        tokens = start + [("r", k, i) for i in range(length - len(start))]
        prompts.append(tokens)
        if session >= 0:
            known[session] = tokens + [("a", k, i) for i in range(int(trace.output_tokens[k]))]
    return prompts


REQUEST = st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(-1, 2), st.integers(-1, 1))


@given(st.lists(REQUEST, min_size=1, max_size=14), st.sampled_from([1, 4, 16]))
@settings(max_examples=150, deadline=None)
def test_equal_blocks_mean_equal_tokens_and_the_reverse(rows: list[tuple[int, int, int, int]], size: int) -> None:
    import tempfile

    prefix_tokens = {-1: 0, 0: 16, 1: 20}
    session_prefix: dict[int, int] = {}
    prefixes = [session_prefix.setdefault(s, p) if s >= 0 else p for _, _, s, p in rows]
    trace = Trace.from_columns(
        np.arange(len(rows)),
        [r[0] for r in rows],
        [r[1] for r in rows],
        session=[r[2] for r in rows],
        prefix_id=prefixes,
        prefix_tokens=[prefix_tokens[p] for p in prefixes],
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.jsonl"
        write_mooncake(trace, path, block_tokens=size)
        ids = [json.loads(line)["hash_ids"] for line in path.read_text().splitlines()]
    prompts = expected_stream(trace)
    for k, prompt in enumerate(prompts):
        assert len(ids[k]) == -(-len(prompt) // size)
        for earlier in range(k):
            full = min(len(prompt), len(prompts[earlier])) // size
            for block in range(full):
                equal = ids[k][: block + 1] == ids[earlier][: block + 1]
                tokens = slice(0, (block + 1) * size)
                same_tokens = prompt[tokens] == prompts[earlier][tokens]
                if same_tokens != equal:  # a block of prefix and session tokens is the session's own
                    head = int(trace.prefix_tokens[k])
                    assert same_tokens
                    assert block * size < head < (block + 1) * size or (block + 1) * size > head


def test_a_mooncake_file_is_written_and_read_back(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    prompts, sessions, times = [], [], []
    for session in range(40):
        length = 500
        for turn in range(3):
            length += int(random.integers(600, 1500))
            prompts.append(length)
            sessions.append(session)
            times.append(10.0 * turn + session / 100)
    order = np.argsort(times, kind="stable")
    trace = Trace.from_columns(
        np.array(times)[order], np.array(prompts)[order], np.full(120, 50), session=np.array(sessions)[order],
        prefix_id=np.zeros(120), prefix_tokens=np.full(120, 512),
    )  # fmt: skip
    path = tmp_path / "out.jsonl.gz"
    write_mooncake(trace, path)
    back = read_mooncake(path)
    assert back.session.tolist() == trace.session.tolist()
    assert back.turn.tolist() == trace.turn.tolist()
    assert back.prefix_tokens.tolist() == trace.prefix_tokens.tolist()
    assert back.metadata["reused_blocks"] == back.metadata["reused_blocks_kept"]
