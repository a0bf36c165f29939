"""Engines that fail: no request is left without an answer or a clear error, none is answered twice."""

from __future__ import annotations

import asyncio
import json

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

from tests.gateway.harness import bench, events, run, until
from tests.gateway.stand_in import StandIn


def test_an_engine_that_breaks_before_its_first_token_is_replaced() -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        engines[0].break_after = 0
        async with bench(engines=engines) as b:
            status, headers, body = await b.post(stream=True, max_tokens=3)
            assert (status, headers["x-burstenv-replica"]) == (200, "1")
            assert len(events(body)) == 4  # three tokens, once, and the end
            row = b.gateway.finished[-1]
            assert ([r for r, *_ in row["sent"]], row["outcome"]) == ([0, 1], "attained")
            assert all(ledger.in_flight == 0 for ledger in b.gateway.world.ledgers)

    run(test())


def test_an_engine_that_breaks_in_mid_stream_is_told_and_not_replaced() -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        engines[0].break_after = 2
        async with bench(engines=engines) as b:
            status, _, body = await b.post(stream=True, max_tokens=5)
            got = events(body)
            assert status == 200
            assert [event["choices"][0]["text"] for event in got[:2]] == ["x", "x"]
            assert len(got) == 3
            assert "engine 0" in got[2]["error"]["message"] or "ended" in got[2]["error"]["message"]
            assert not engines[1].seen
            assert b.gateway.counts == {"failed": 1}
            assert b.gateway.finished[-1]["output_tokens"] == 2

    run(test())


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_busy_engine_is_replaced_and_when_all_are_busy_the_client_hears_so(status: int) -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        engines[0].status = status
        async with bench(engines=engines, failures_to_eject=50) as b:
            assert (await b.post())[0] == 200
            engines[1].status = status
            got, headers, body = await b.post()
            assert got == status
            assert ("retry-after" in headers) == (status == 503)
            assert json.loads(body)["error"]["type"] == "upstream_error"
            assert b.gateway.counts == {"attained": 1, "failed": 1}

    run(test())


def test_retries_are_limited() -> None:
    async def test() -> None:
        engines = [StandIn() for _ in range(4)]
        for engine in engines:
            engine.break_after = 0
        async with bench(engines=engines, cluster="default", retries=2, failures_to_eject=50) as b:
            status, _, _ = await b.post(stream=True)
            assert status == 502
            assert sum(len(engine.seen) for engine in engines) == 3

    run(test())


def test_an_engine_that_is_unwell_is_taken_out_and_comes_back() -> None:
    async def test() -> None:
        async with bench() as b:
            assert (await b.post())[1]["x-burstenv-replica"] == "0"
            b.engines[0].healthy = False
            await until(lambda: not b.gateway.backends.all[0].available)
            assert "answers 500" in b.gateway.backends.all[0].reason
            for _ in range(4):
                status, headers, _ = await b.post()
                assert (status, headers["x-burstenv-replica"]) == (200, "1")
            b.engines[0].healthy = True
            await until(lambda: b.gateway.backends.all[0].available)
            assert {(await b.post())[1]["x-burstenv-replica"] for _ in range(2)} == {"0", "1"}
            assert b.gateway.backends.all[0].ejections == 1

    run(test())


def test_without_any_engine_clients_are_told_at_once_and_health_says_so() -> None:
    async def test() -> None:
        dead = StandIn()
        dead.url = "http://127.0.0.1:9"  # nothing listens there
        async with bench(engines=[dead], cluster="llama-2-13b-a100-x1", failures_to_eject=1) as b:
            await until(lambda: not b.gateway.backends.all[0].available)
            status, headers, body = await b.post()
            assert (status, headers["retry-after"]) == (503, "1")
            assert "no engine" in json.loads(body)["error"]["message"]
            status, told = await b.get("/health")
            assert status == 503
            assert json.loads(told)["engines"][0]["available"] is False

    run(test())


def test_requests_that_an_engine_hangs_on_move_when_it_is_taken_out() -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        engines[0].first_gate = asyncio.Event()  # never set
        async with bench(engines=engines) as b:
            hanging = asyncio.create_task(b.post(stream=True, max_tokens=2))
            await until(lambda: bool(engines[0].seen))
            engines[0].healthy = False
            status, headers, body = await hanging
            assert (status, headers["x-burstenv-replica"]) == (200, "1")
            assert len(events(body)) == 3
            assert [r for r, *_ in b.gateway.finished[-1]["sent"]] == [0, 1]
            assert b.gateway.world.ledgers[0].in_flight == 0

    run(test())


def test_an_engine_that_is_only_slow_times_out_and_is_not_asked_twice() -> None:
    async def test() -> None:
        engines = [StandIn(), StandIn()]
        engines[0].first_gate = asyncio.Event()
        async with bench(engines=engines, first_byte_s=0.05) as b:
            status, _, body = await b.post(stream=True)
            assert status == 504
            assert "0.05 s" in json.loads(body)["error"]["message"]
            assert not engines[1].seen
        engines = [StandIn(), StandIn()]
        engines[0].gate = asyncio.Event()
        async with bench(engines=engines, between_bytes_s=0.05) as b:
            status, _, body = await b.post(stream=True)
            got = events(body)
            assert (status, len(got)) == (200, 2)
            assert "0.05 s" in got[1]["error"]["message"]
            assert b.gateway.counts == {"failed": 1}

    run(test())
