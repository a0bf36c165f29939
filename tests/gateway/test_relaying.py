"""What a client gets through the gateway is what the engine said; what an engine cannot do, a client is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from tests.gateway.harness import bench, events, run, until
from tests.gateway.stand_in import StandIn


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False])
def test_answers_are_relayed_byte_for_byte(path: str, stream: bool) -> None:
    async def test() -> None:
        async with bench(count=2) as b:
            said: dict[str, Any] = {"model": "tiny", "max_tokens": 9, "stream": stream, "own": {"kept": [1, 2]}}
            said["messages" if "chat" in path else "prompt"] = (
                [{"role": "user", "content": "a"}] if "chat" in path else "a"
            )
            async with b.client.post(b.engines[0].url + path, json=said) as direct:
                expected = await direct.read()
            async with b.client.post(b.url + path, json=said) as relayed:
                assert relayed.status == 200
                assert await relayed.read() == expected
                assert relayed.headers["x-burstenv-replica"] in ("0", "1")
                assert relayed.headers.get("x-own") == ("kept" if stream else None)
            assert [body for engine in b.engines for body in engine.seen] == [said, said]
            row = b.gateway.finished[-1]
            assert (row["outcome"], row["output_tokens"], row["class"]) == (
                "attained", 9, "conversation" if "chat" in path else "api",
            )  # fmt: skip

    run(test())


def test_headers_of_a_client_reach_the_engine_but_the_gateways_token_does_not() -> None:
    async def test() -> None:
        async with bench(token="secret", count=1, cluster="llama-2-13b-a100-x1") as b:
            headers = {"Authorization": "Bearer secret", "X-Request-Id": "7", "Connection": "x-hop"}
            status, _, _ = await b.post(headers=headers)
            assert status == 200
            got = b.engines[0].headers[0]
            assert got["x-request-id"] == "7"
            assert "authorization" not in got
            for wrong in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret"}):
                status, told, body = await b.post(headers=wrong)
                assert (status, told["www-authenticate"]) == (401, "Bearer")
                assert json.loads(body)["error"]["type"] == "authentication_error"
            assert len(b.engines[0].seen) == 1
            assert (await b.get("/health"))[0] == 200  # of this machine alone

    run(test())


WRONG = [
    ({"prompt": None}, {}, 400, "prompt"),
    ({"prompt": []}, {}, 400, "prompt"),
    ({"prompt": [1, "a", True]}, {}, 400, "prompt"),
    ({"prompt": [1] * 5000}, {}, 400, "5000 tokens"),
    ({"max_tokens": 0}, {}, 400, "max_tokens"),
    ({"max_tokens": "9"}, {}, 400, "max_tokens"),
    ({}, {"X-Burstenv-Class": "vip"}, 400, "conversation, api"),
    ({}, {"X-SLO-TTFT-ms": "soon"}, 400, "x-slo-ttft-ms"),
    ({}, {"X-SLO-TPOT-ms": "-3"}, 400, "x-slo-tpot-ms"),
    ({"prompt": "x" * 40_000}, {}, 413, "30000 bytes"),
    ({}, {"X-Long": "y" * 3000}, 431, "at most 2000"),
]


def test_wrong_requests_are_answered_in_one_sentence_and_reach_no_engine() -> None:
    async def test() -> None:
        async with bench(max_body_bytes=30_000, max_header_bytes=2000) as b:
            for body, headers, expected, words in WRONG:
                status, _, told = await b.post(headers=headers, **body)
                error = json.loads(told)["error"]
                assert (status, error["code"]) == (expected, expected), error
                assert words in error["message"]
            async with b.client.post(b.url + "/v1/completions", data=b"{nonsense") as answer:
                assert answer.status == 400
            async with b.client.post(b.url + "/v1/completions", data=b"[" * 20_000) as answer:
                assert answer.status == 400
            assert (await b.get("/v1/completions"))[0] == 405
            status, told = await b.get("/v1/embeddings")
            assert status == 404
            assert "/v1/chat/completions" in json.loads(told)["error"]["message"]
            assert all(not engine.seen for engine in b.engines)
            assert not b.gateway.counts

    run(test())


def test_a_body_that_does_not_say_its_size_is_limited_as_it_comes() -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 1000

    async def test() -> None:
        async with bench(max_body_bytes=30_000) as b:
            async with b.client.post(b.url + "/v1/completions", data=parts()) as answer:
                assert answer.status == 413
                assert "30000 bytes" in (await answer.json())["error"]["message"]
            assert all(not engine.seen for engine in b.engines)

    run(test())


def test_other_machines_need_the_token_for_everything_and_change_no_policy_without_one() -> None:
    async def test() -> None:
        async with bench(host="0.0.0.0", token="secret") as b:
            for path in ("/health", "/metrics", "/dashboard", "/dashboard/state", "/v1/models"):
                assert (await b.get(path))[0] == 401, path
                async with b.client.get(b.url + path, headers={"Authorization": "Bearer secret"}) as answer:
                    assert answer.status == 200, path
        async with bench(host="0.0.0.0") as b:  # as with --public
            async with b.client.post(b.url + "/policy", json={"policy": "never/jsq/vllm"}) as answer:
                assert answer.status == 403
            assert (await b.post())[0] == 200

    run(test())


def test_a_rejected_request_is_told_when_to_come_again() -> None:
    async def test() -> None:
        async with bench("never/jsq/vllm", retry_after_s=2.5) as b:
            status, headers, body = await b.post()
            assert (status, headers["retry-after"]) == (429, "3")
            assert json.loads(body)["error"]["type"] == "rate_limit_error"
            assert b.gateway.counts == {"rejected": 1}
            assert int(b.gateway.world.cluster.state.environments["rejected"][0]) == 1

    run(test())


def test_more_than_the_limit_in_flight_is_rejected() -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        for engine in engines:
            engine.gate = asyncio.Event()
        async with bench(engines=engines, max_in_flight=2) as b:
            tasks = [asyncio.create_task(b.post(stream=True)) for _ in range(2)]
            await until(lambda: len(b.gateway.flights) == 2)
            assert (await b.post())[0] == 429
            for engine in engines:
                assert engine.gate is not None
                engine.gate.set()
            assert [(await task)[0] for task in tasks] == [200, 200]
            assert b.gateway.counts == {"attained": 2, "rejected": 1}

    run(test())


def test_errors_of_an_engine_are_passed_on_in_openais_form_and_not_tried_again() -> None:
    async def test() -> None:
        for status, body, message in (
            (400, None, "no such thing"),
            (500, "<html>oops</html>", "engine 0 answered with status 500"),
            (404, json.dumps({"object": "error", "message": "no model"}), "no model"),
        ):
            engines = [StandIn(), StandIn()]
            engines[0].status = status
            engines[0].error_body = body or engines[0].error_body
            async with bench(engines=engines) as b:
                got, _, told = await b.post()
                assert got == status
                assert message in told.decode()
                assert not engines[1].seen
                assert b.gateway.counts == {"failed": 1}

    run(test())


def test_a_client_that_leaves_is_cancelled_at_the_engine() -> None:
    async def test() -> None:
        engine = StandIn()
        engine.gate = asyncio.Event()
        async with bench(engines=[engine], cluster="llama-2-13b-a100-x1") as b:
            said = {"model": "tiny", "prompt": "a", "max_tokens": 5, "stream": True}
            async with b.client.post(b.url + "/v1/completions", json=said) as answer:
                assert b"data" in await answer.content.readany()
                answer.close()
            await asyncio.wait_for(engine.left.wait(), 120.0)
            await until(lambda: b.gateway.counts == {"cancelled": 1})
            ledger = b.gateway.world.ledgers[0]
            assert (ledger.in_flight, ledger.decoding, ledger.unanswered, ledger.context_tokens) == (0, 0, 0, 0)
            assert b.gateway.finished[-1]["output_tokens"] == 1

    run(test())


def test_a_slow_reader_holds_the_engine_back() -> None:
    async def test() -> None:
        engine = StandIn()
        engine.chunk = "y" * 50_000
        async with bench(engines=[engine], cluster="llama-2-13b-a100-x1") as b:
            said = {"model": "tiny", "prompt": "a", "max_tokens": 2000, "stream": True}  # 100 MB
            async with b.client.post(b.url + "/v1/completions", json=said) as answer:
                await answer.content.readany()
                seen = -1
                while seen != (seen := next(iter(b.gateway.flights)).tokens):
                    await asyncio.sleep(0.2)
                assert 0 < seen < 1000  # what fits in the sockets' buffers, not the answer
                whole = await answer.read()
            assert whole.count(b"data: ") >= 1990
            assert whole.endswith(b"data: [DONE]\n\n")
            await until(lambda: b.gateway.counts == {"attained": 1})

    run(test())


def test_long_prompts_are_read_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with bench() as b:
            read, threads = b.gateway.reader.read, []

            def noted(*given: Any) -> Any:
                threads.append(threading.current_thread() is threading.main_thread())
                return read(*given)

            monkeypatch.setattr(b.gateway.reader, "read", noted)
            for prompt in ("a" * 100, "a" * 10_000, "a" * 15_000):
                assert (await b.post(prompt=prompt, headers={"X-Session-ID": "s"}))[0] == 200
            assert [row["prompt_tokens"] for row in b.gateway.finished] == [3, 3, 3]  # as the engine says
            assert [row["read_prompt_tokens"] for row in b.gateway.finished] == [25, 2500, 3750]
            assert (await b.post(prompt="a" * 40_000))[0] == 400  # its error comes through
            assert threads == [True, True, True, False]

    run(test())


def test_many_streams_at_once_are_all_answered_and_counted() -> None:
    async def test() -> None:
        async with bench("always/jsq/vllm", max_in_flight=2000) as b:
            got = await asyncio.gather(*(b.post(stream=k % 3 > 0, max_tokens=1 + k % 7) for k in range(300)))
            assert {status for status, _, _ in got} == {200}
            for k, (_, _, body) in enumerate(got):
                assert b"x" * (1 + k % 7) in body if k % 3 == 0 else len(events(body)) == 2 + k % 7
            assert sum(b.gateway.counts.values()) == 300 == sum(len(engine.seen) for engine in b.engines)
            assert all(ledger.in_flight == ledger.context_tokens == 0 for ledger in b.gateway.world.ledgers)
            assert sum(ledger.sent for ledger in b.gateway.world.ledgers) == 300

    run(test())
