"""The load generator sends what the trace says, when it says so, and counts everything it sent."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from burstenv.cli import main
from burstenv.envs.recorded import recorded_episode
from burstenv.errors import BurstenvError
from burstenv.gateway.load import Planned, plan_of, prompt_ids, send_all, summary, write_results
from burstenv.gateway.scene import scene_for_gateway
from burstenv.workload import Trace
from tests.gateway.harness import bench, run
from tests.gateway.stand_in import StandIn

SCENE = scene_for_gateway("default", "mixed-x2", "always/jsq/vllm")


def _trace(count: int = 12) -> Trace:
    k = np.arange(count)
    return Trace.from_columns(
        50.0 + 0.01 * k, (5 + 11 * k).astype(np.int32), (1 + k % 9).astype(np.int32),
        log_type=(k % 2).astype(np.int8), session=np.where(k % 3 == 0, k % 2, -1).astype(np.int32),
    )  # fmt: skip


def test_a_trace_reaches_the_engines_as_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        drawn = recorded_episode(_trace(), SCENE, 0)
        planned = plan_of(drawn, SCENE, seed=3)
        async with bench() as b:
            results = await send_all(planned, b.url)
            seen = sorted((body for e in b.engines for body in e.seen), key=lambda body: len(body["prompt"]))
            assert [len(body["prompt"]) for body in seen] == (5 + 11 * np.arange(12)).tolist()
            assert [body["max_tokens"] for body in seen] == (1 + np.arange(12) % 9).tolist()
            assert {body["model"] for body in seen} == {"tiny"}
            assert seen[0]["prompt"] == seen[6]["prompt"][:5]  # one conversation
            rows = sorted(b.gateway.finished, key=lambda row: row["arrival_s"])
            expected = SCENE.requests_from(drawn, 3)
            for row, request in zip(rows, expected, strict=True):
                assert row["predicted_tokens"] == pytest.approx(float(request["predicted_tokens"]), abs=1e-3)
                assert row["ttft_slo_s"] == pytest.approx(float(request["ttft_slo_s"]), rel=1e-5)
                assert row["class"] == ("api" if request["class_code"] else "conversation")
            assert len({row["session_id"] for row in rows if row["session_id"]}) == 2
        told = summary(results)
        assert (told["sent"], told["answered"], told["rejected"], told["failed"]) == (12, 12, 0, 0)
        assert [sent.output_tokens for sent in results] == (1 + np.arange(12) % 9).tolist()
        assert all(sent.at_s <= sent.sent_s <= sent.first_token_s <= sent.end_s for sent in results)
        write_results(results, tmp_path / "out.csv")
        with (tmp_path / "out.csv").open() as file:
            assert [int(row["prompt_tokens"]) for row in csv.DictReader(file)] == (5 + 11 * np.arange(12)).tolist()

    run(test())


def test_tokens_are_those_of_the_usage_where_an_event_brings_several() -> None:
    async def test() -> None:
        planned = plan_of(recorded_episode(_trace(), SCENE, 0), SCENE, 0)
        engine = StandIn()
        engine.tokens_of_event = 3
        async with bench(engines=[engine], cluster="llama-2-13b-a100-x1") as b:
            results = await send_all(planned, b.url)
            rows = sorted(b.gateway.finished, key=lambda row: row["arrival_s"])
        asked = [request.output_tokens for request in planned]
        assert [sent.output_tokens for sent in results] == [row["output_tokens"] for row in rows] == asked

    run(test())


def test_what_fails_is_counted_and_nothing_twice() -> None:
    async def test() -> None:
        planned = plan_of(recorded_episode(_trace(), SCENE, 0), SCENE, 0)
        async with bench("never/jsq/vllm") as b:
            told = summary(await send_all(planned, b.url))
            assert (told["rejected"], told["failed"], told["attainment"], told["ttft_s_mean"]) == (12, 0, 0.0, None)
        engine = StandIn()
        engine.break_after = 1
        async with bench(engines=[engine], cluster="llama-2-13b-a100-x1") as b:
            told = summary(await send_all(planned, b.url))
            assert told["answered"] == 2  # the answers of one token
            assert told["failed"] == 10
        engine = StandIn()
        engine.gate = asyncio.Event()
        async with engine.running_on():
            told = summary(await send_all(planned, engine.url, grace_s=0.2))
            assert told["answered"] + told["failed"] == 12
            assert any("not over" in text for text in told["problems"])
        with pytest.raises(BurstenvError, match="does not answer"):
            await send_all(planned, "http://127.0.0.1:9")

    run(test())


def test_prompts_begin_alike_where_the_traces_do() -> None:
    def planned(tokens: int, stream: int, prefix_stream: int = 0, prefix_tokens: int = 0) -> list[int]:
        return prompt_ids(Planned(0.0, tokens, 1, stream, {}, 1.0, 1.0, prefix_stream, prefix_tokens))

    assert planned(40, 5)[:17] == planned(17, 5)
    assert planned(40, 5) != planned(40, 6)
    shared = planned(40, 5, 3, 20)
    assert shared == planned(20, 3) + planned(40, 5)[20:]
    assert planned(12, 5, 3, 20) == planned(12, 3)


def test_a_slower_pace_stretches_times_and_objectives() -> None:
    drawn = recorded_episode(_trace(), SCENE, 0)
    plain, slow = plan_of(drawn, SCENE, 0), plan_of(drawn, SCENE, 0, speed=0.5)
    assert [p.at_s for p in slow] == [2 * p.at_s for p in plain]
    assert [p.tpot_slo_s for p in slow] == [2 * p.tpot_slo_s for p in plain]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--url", "nowhere"], "is no address"),
        (["--url", "http://127.0.0.1:9", "--rate-per-s", "0"], "--rate-per-s"),
        (["--url", "http://127.0.0.1:9", "--speed", "-1"], "--speed"),
        (["--url", "http://127.0.0.1:9"], "does not answer"),
    ],
)
def test_wrong_words_are_one_sentence(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0.0,5,2\n")
    assert main(["load", str(trace), *options]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,prompt_tokens,output_tokens\n0.0,5,2\n0.05,9,1\n")
    engine = StandIn()

    async def test() -> None:
        async with engine.running_on():
            words = ["load", str(trace), "--url", engine.url, "--json", "--out", str(tmp_path / "out.csv")]
            assert await asyncio.to_thread(main, words) == 0

    run(test())
    told = json.loads(capsys.readouterr().out)
    assert (told["sent"], told["answered"], told["attainment"]) == (2, 2, 1.0)
    assert (tmp_path / "out.csv").read_text().count("\n") == 3
