"""The gateway as a service: its log is a trace, its policy changes under traffic, it ends in order."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

import aiohttp

from burstenv.cli import main
from burstenv.errors import BurstenvError
from burstenv.gateway.journal import Journal
from burstenv.workload import read_trace
from burstenv.workload.formats.gateway_log import MARK, read_gateway_log
from tests.gateway.harness import bench, run, until
from tests.gateway.stand_in import StandIn

DEFERS = """
from burstenv.policies import policy


@policy('defers')
def defers(view):
    return 'defer' if view.request.defers < 1 else view.least(lambda r: r.running)
"""


def test_the_log_is_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"

    async def test() -> None:
        async with bench(log=log) as b:
            await b.post(stream=True, max_tokens=7, headers={"X-Session-ID": "a", "X-Burstenv-Class": "conversation"})
            await b.post(max_tokens=2, headers={"X-Session-ID": "a", "X-SLO-TTFT-ms": "1500", "X-SLO-TPOT-ms": "20"})
            await b.post(max_tokens=3, headers={"X-Burstenv-Predicted-Tokens": "55.5"})
            b.engines[0].status = b.engines[1].status = 500
            await b.post(prompt=[1] * 40)
            b.gateway.reload("never/jsq/vllm")
            await b.post()

    run(test())
    read = read_gateway_log(log)
    assert [row["outcome"] for row in read.rows] == ["attained"] * 3 + ["failed", "rejected"]
    assert [row["output_tokens"] for row in read.rows] == [7, 2, 3, 0, 0]
    assert [name for _, name in read.policies] == ["always/round-robin/vllm", "never/jsq/vllm"]
    assert (read.rows[1]["ttft_slo_s"], read.rows[1]["tpot_slo_s"]) == (1.5, 0.02)
    assert read.rows[2]["predicted_tokens"] == 55.5
    assert "a b c" not in log.read_text()  # no prompts, unless asked for
    trace = read_trace(log)
    assert trace.output_tokens.tolist() == [7, 2, 3]
    assert trace.prompt_tokens.tolist() == [1, 3, 3]  # the engine's count where it tells; four bytes a token otherwise
    assert trace.session.tolist() == [0, 0, -1]
    assert trace.log_type.tolist() == [0, 1, 1]
    assert trace.failures.prompt_tokens.tolist() == [40, 1]
    assert main(["trace", "info", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 3


def test_prompts_are_logged_where_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(log=tmp_path / "log.jsonl", log_prompts=True) as b:
            await b.post(prompt="a secret")

    run(test())
    assert json.loads(read_gateway_log(tmp_path / "log.jsonl").rows[0]["body"])["prompt"] == "a secret"


def test_a_log_is_never_written_over_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    journal = Journal(path, {"policy": "x"})
    journal.write({"arrival_s": 1.0, "prompt_tokens": 5, "output_tokens": 2, "class": "api", "outcome": "late"})
    journal.close()
    with pytest.raises(BurstenvError, match="is there already"):
        Journal(path, {})
    whole = path.read_text()
    path.write_text(whole + '{"arrival_s": 2.0, "prom')  # a crash in the middle of a line
    assert len(read_gateway_log(path).rows) == 1
    for wrong, words in (
        (f'{{"{MARK}":9}}\n', "version 9"),
        (whole + '{"arrival_s": -1}\n', "line 3: arrival_s"),
        (whole.replace('"late"', '"late", "finish_s": "soon"'), "line 2: finish_s must be a number of at least 1"),
        (whole + "[]\n", "line 3: must be"),
        (whole.replace('"late"', '"fine"'), "line 2: outcome"),
        (whole.splitlines()[0] + "\n", "holds no request"),
    ):
        path.write_text(wrong)
        with pytest.raises(BurstenvError, match=words):
            read_gateway_log(path)


def test_a_policy_changes_without_dropping_a_request(tmp_path: Path) -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        for engine in engines:
            engine.gate = asyncio.Event()
        async with bench(engines=engines) as b:
            under_way = [asyncio.create_task(b.post(stream=True)) for _ in range(4)]
            await until(lambda: len(b.gateway.flights) == 4)
            async with b.client.post(b.url + "/policy", json={"policy": "never/jsq/vllm"}) as answer:
                assert (answer.status, await answer.json()) == (200, {"policy": "never/jsq/vllm"})
            assert (await b.post())[0] == 429
            for wrong in (
                {"policy": "no/such/vllm"},
                {"policy": "mine.py"},
                {"policy": "always/prefix-aware/vllm"},
                {},
            ):
                async with b.client.post(b.url + "/policy", json=wrong) as answer:
                    assert answer.status == 400
            async with b.client.post(b.url + "/policy", data='{"policy": "always/jsq/vllm"}') as answer:
                assert answer.status == 415
            assert b.gateway.decider.name == "never/jsq/vllm"
            for engine in engines:
                assert engine.gate is not None
                engine.gate.set()
            assert [(await task)[0] for task in under_way] == [200] * 4

    run(test())


def test_a_deferred_request_comes_back_and_one_whose_client_leaves_does_not(tmp_path: Path) -> None:
    file = tmp_path / "defers.py"
    file.write_text(DEFERS)

    async def test() -> None:
        async with bench(str(file)) as b:
            waiting = asyncio.create_task(b.post())
            await until(lambda: b.gateway.world.deferred() == 1)
            leaving = asyncio.create_task(b.post())
            await until(lambda: b.gateway.world.deferred() == 2)
            leaving.cancel()
            await until(lambda: b.gateway.counts == {"cancelled": 1})
            assert (await waiting)[0] == 200
            assert b.gateway.world.deferred() == 0
            assert [row["defers"] for row in b.gateway.finished] == [1, 1]
            assert sum(len(engine.seen) for engine in b.engines) == 1

    run(test())


def test_the_metrics_are_those_of_prometheus() -> None:
    async def test() -> None:
        async with bench() as b:
            for _ in range(3):
                await b.post(stream=True)
            from prometheus_client.parser import text_string_to_metric_families

            status, text = await b.get("/metrics")
            assert status == 200
            told = {
                (sample.name, tuple(sample.labels.values())): sample.value
                for family in text_string_to_metric_families(text.decode())
                for sample in family.samples
            }
            assert told["burstenv_requests_total", ("attained",)] == 3
            assert told["burstenv_sent_total", ("0",)] + told["burstenv_sent_total", ("1",)] == 3
            assert told["burstenv_output_tokens_total", ()] == 12
            assert told["burstenv_ttft_seconds_count", ()] == told["burstenv_decision_seconds_count", ()] == 3
            assert told["burstenv_available", ("1",)] == 1
            await until(lambda: b.gateway.world.ledgers[0].metrics.kv_used == 0.25)
            b.engines[0].preemptions += 5
            await until(lambda: b.gateway.world.ledgers[0].metrics.preemptions == 5)

    run(test())


def test_the_command_serves_and_ends_after_the_answers_under_way(tmp_path: Path) -> None:
    """The real process: it says its address, answers, reloads at SIGHUP, and drains at SIGTERM."""
    file = tmp_path / "own.py"
    file.write_text(DEFERS.replace("'defer' if view.request.defers < 1 else ", ""))
    log = tmp_path / "log.jsonl"

    async def test() -> None:
        engine = StandIn()
        engine.gate = asyncio.Event()
        async with engine.running_on():
            command = [
                sys.executable, "-m", "burstenv.cli", "serve", "--policy", str(file), "--engine", engine.url,
                "--cluster", "llama-2-13b-a100-x1", "--port", "0", "--log", str(log),
            ]  # fmt: skip
            process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.PIPE, env=dict(os.environ))
            assert process.stderr is not None
            try:
                line = ""
                while "serves http" not in line:
                    line = (await asyncio.wait_for(process.stderr.readline(), 600.0)).decode()
                    assert line
                url = re.search(r"http://127.0.0.1:\d+", line)
                assert url is not None
                async with aiohttp.ClientSession() as client:
                    said = {"model": "tiny", "prompt": "a", "max_tokens": 3, "stream": True}
                    answer = await client.post(url[0] + "/v1/completions", json=said)
                    first = await answer.content.readany()
                    file.write_text(file.read_text() + "\n# changed\n")
                    process.send_signal(signal.SIGHUP)
                    while "in force" not in line:
                        line = (await asyncio.wait_for(process.stderr.readline(), 60.0)).decode()
                    process.send_signal(signal.SIGTERM)
                    await asyncio.sleep(0.1)
                    engine.gate.set()
                    assert (first + await answer.read()).endswith(b"[DONE]\n\n")
                assert await asyncio.wait_for(process.wait(), 30.0) in (0, -signal.SIGTERM, 143)
            finally:
                if process.returncode is None:
                    process.kill()
        assert [row["outcome"] for row in read_gateway_log(log).rows] == ["attained"]

    asyncio.run(asyncio.wait_for(test(), 900.0))


WRONG = [
    ([], "needs the engines"),
    (["--engine", "ftp://x"], "is no address"),
    (["--engine", "http://127.0.0.1:1/v2"], "leave out the path"),
    (["--engine", "http://127.0.0.1:1"], "has 4 replicas, but 1 engines"),
    (["--engine", "http://127.0.0.1:1", "--host", "0.0.0.0"], "BURSTENV_TOKEN"),
    (["--engine", "http://127.0.0.1:1", "--mode", "fastest"], "unknown batching mode"),
    (["--engine", "http://127.0.0.1:1", "--tokenizer", "/nowhere"], "tokenizer.json"),
    (["--engine", "http://127.0.0.1:1", "--limits", "nowhere.yaml"], "nowhere.yaml"),
    (["--engine", "http://127.0.0.1:1", "--policy", "always/jsq"], "three parts"),
]


@pytest.mark.parametrize(("options", "words"), WRONG)
def test_wrong_options_are_one_sentence(
    options: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BURSTENV_TOKEN", raising=False)
    assert main(["serve", *options]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


def test_without_the_extra_the_verb_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "burstenv.gateway.server", raising=False)
    assert main(["serve", "--engine", "http://127.0.0.1:1"]) == 1
    assert "pip install 'burstenv[gateway]'" in capsys.readouterr().err
