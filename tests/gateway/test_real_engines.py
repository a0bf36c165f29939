"""The gateway in front of real vLLM servers: ``make real``. $BURSTENV_VLLM_PYTHON names their interpreter."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("tokenizers")

import aiohttp

from burstenv.gateway.endless import text_of
from burstenv.gateway.engines.control import end_engines, hurt, is_well, restart, start_engines
from burstenv.gateway.engines.folder import Engines
from burstenv.gateway.engines.tiny_model import prompt_of
from burstenv.gateway.prefixes import block_keys
from tests.gateway.harness import bench, events, until

PYTHON = os.environ.get("BURSTENV_VLLM_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="no BURSTENV_VLLM_PYTHON: `make real` runs these")


class Real:
    """An engine that is not the harness' own."""

    def __init__(self, url: str):
        self.url = url


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    assert PYTHON is not None
    running = start_engines("mixed-x2", tmp_path_factory.mktemp("engines"), python=PYTHON, port=8301)
    yield running
    end_engines(running)
    assert not any(is_well(url) for url in running.urls)


def body(prompt: int, output: int, **more: object) -> dict[str, object]:
    said = {"model": "tiny", "prompt": prompt_of(prompt), "max_tokens": output, "ignore_eos": True, "stream": True}
    return {**said, "stream_options": {"include_usage": True}, **more}


def run(test) -> None:  # type: ignore[no-untyped-def]
    asyncio.run(asyncio.wait_for(test, 300.0))


def test_answers_are_vllms_own_and_the_log_is_right(engines: Engines, tmp_path: Path) -> None:
    async def test() -> None:
        behind = [Real(url) for url in engines.urls]
        async with bench(engines=behind, tokenizer=engines.model_folder) as b:  # type: ignore[arg-type]
            for k in range(6):
                status, _, told = await b.post(**body(100 + k, 5 + k))
                got = events(told)
                assert status == 200
                assert got[-1] == "[DONE]"
                assert got[-2]["usage"] == {
                    **got[-2]["usage"], "prompt_tokens": 100 + k, "completion_tokens": 5 + k,
                }  # fmt: skip
            assert [(row["prompt_tokens"], row["output_tokens"]) for row in b.gateway.finished] == [
                (100 + k, 5 + k) for k in range(6)
            ]
            assert all(ledger.sent == 3 for ledger in b.gateway.world.ledgers)
            status, _, told = await b.post(prompt="w2", max_tokens=-4)
            assert status == 400
            status, _, told = await b.post(**body(5, 5, model="other"))
            assert status == 404
            assert "other" in json.loads(told)["error"]["message"]
            assert (await b.get("/v1/models"))[1].count(b'"tiny"') == 1

    run(test())


def test_metrics_of_a_loaded_engine_reach_the_policy_and_a_client_that_leaves_frees_its_slot(engines: Engines) -> None:
    async def test() -> None:
        behind = [Real(url) for url in engines.urls]
        async with bench(engines=behind, tokenizer=engines.model_folder) as b:  # type: ignore[arg-type]
            async with aiohttp.ClientSession() as client:
                answers = [
                    await client.post(b.url + "/v1/completions", json=body(1000, 4000)) for _ in range(8)
                ]  # fmt: skip
                ledgers = b.gateway.world.ledgers
                await until(lambda: all(ledger.metrics.running == 4 for ledger in ledgers))
                await until(lambda: all(ledger.metrics.kv_used > 0.05 for ledger in ledgers))
                for answer in answers:
                    answer.close()
            await until(lambda: b.gateway.counts["cancelled"] == 8)
            await until(lambda: all(ledger.metrics.running == 0 for ledger in ledgers))
            assert all(ledger.in_flight == 0 and ledger.context_tokens == 0 for ledger in ledgers)

    run(test())


def test_kv_events_tell_which_engine_has_a_prompt(engines: Engines) -> None:
    async def test() -> None:
        behind = [Real(url) for url in engines.urls]
        telling = {"tokenizer": engines.model_folder, "kv_events": engines.kv_events}
        async with bench("always/prefix-aware/vllm", engines=behind, **telling) as b:  # type: ignore[arg-type]
            said = body(400, 40) | {"prompt": prompt_of(400, 77)}
            _, headers, _ = await b.post(**said)
            first = int(headers["x-burstenv-replica"])
            reported = b.gateway.reports
            longer = block_keys(text_of(77, 0, 480), 16)
            # The answer goes on with the prompt's text; its last token is not computed.
            await until(lambda: reported[first].hits(longer) == 439 // 16)
            assert reported[1 - first].hits(longer) == 0
            for _ in range(3):
                assert int((await b.post(**said))[1]["x-burstenv-replica"]) == first

    run(test())


def test_kill_hang_and_restart_leave_no_request_without_an_answer(engines: Engines) -> None:
    async def test() -> None:
        behind = [Real(url) for url in engines.urls]
        limits = {"health_period_s": 0.2, "health_timeout_s": 0.5}
        async with bench(engines=behind, tokenizer=engines.model_folder, **limits) as b:  # type: ignore[arg-type]

            async def ask() -> tuple[int, bytes]:
                status, _, told = await b.post(**body(200, 60))
                return status, told

            async def volley(how: str) -> list[tuple[int, bytes]]:
                asked = [asyncio.create_task(ask()) for _ in range(10)]
                await until(lambda: all(ledger.decoding > 0 for ledger in b.gateway.world.ledgers), 60.0)
                hurt(engines, 1, how)
                asked += [asyncio.create_task(ask()) for _ in range(10)]
                return list(await asyncio.gather(*asked))

            for how in ("hang", "kill"):
                got = await volley(how)
                assert {status for status, _ in got} == {200}
                for _, told in got:
                    last = events(told)[-1]
                    assert last == "[DONE]" or "error" in last, last
                assert sum(told.endswith(b"[DONE]\n\n") for _, told in got) >= 10
                assert not b.gateway.backends.all[1].available
                if how == "hang":
                    hurt(engines, 1, "go-on")
                else:
                    await asyncio.to_thread(restart, engines, 240.0)
                await until(lambda: b.gateway.backends.all[1].available, 60.0)
                assert (await ask())[0] == (await ask())[0] == 200
            assert b.gateway.backends.all[1].ejections == 2
            assert sum(b.gateway.counts.values()) == 44
            assert all(ledger.in_flight == 0 for ledger in b.gateway.world.ledgers)

    run(test())
