"""A gateway in front of stand-in engines, within one event loop, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn

from burstenv.gateway.app import Application
from burstenv.gateway.config import GatewayConfig
from burstenv.gateway.gateway import Gateway
from burstenv.gateway.incoming import Reader
from burstenv.gateway.lengths import OutputLengths
from burstenv.gateway.scene import scene_for_gateway
from burstenv.gateway.tokens import TokenCounter
from tests.gateway.stand_in import StandIn

FAST = {"health_period_s": 0.02, "scrape_period_s": 0.02, "health_timeout_s": 30.0, "connect_s": 30.0}


class Bench:
    """A gateway with its engines, and a client."""

    def __init__(self, gateway: Gateway, engines: list[StandIn], url: str, client: aiohttp.ClientSession):
        self.gateway, self.engines, self.url, self.client = gateway, engines, url, client

    async def post(self, path: str = "/v1/completions", headers: dict[str, str] | None = None, **body: Any) -> Any:
        """Send a request and return (status, headers, body)."""
        said = {"model": "tiny", "prompt": "a b c", "max_tokens": 4, **body}
        async with self.client.post(self.url + path, json=said, headers=headers) as answer:
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read()

    async def get(self, path: str) -> tuple[int, bytes]:
        async with self.client.get(self.url + path) as answer:
            return answer.status, await answer.read()


@asynccontextmanager
async def bench(
    policy: str = "always/round-robin/vllm",
    count: int = 2,
    cluster: str | None = "mixed-x2",
    scenario: str = "default",
    log: Path | None = None,
    engines: list[StandIn] | None = None,
    tokenizer: Path | None = None,
    kv_events: Sequence[str] = (),
    mode: str | None = None,
    **limits: Any,
) -> AsyncIterator[Bench]:
    """Run a gateway."""
    config = GatewayConfig(port=0, **{**FAST, **limits})
    scene = scene_for_gateway(scenario, cluster, policy)
    longest = max(spec.max_model_len for spec in scene.specs)
    reader = Reader(TokenCounter(tokenizer), OutputLengths(), longest)
    async with AsyncExitStack() as stack:
        behind = engines or [StandIn() for _ in range(count)]
        for engine in behind:
            if not engine.url:
                await stack.enter_async_context(engine.running_on())
        gateway = Gateway(
            scene, policy, [e.url for e in behind], mode or scene.mode_names[0], config, reader, log,
            kv_events=kv_events,
        )  # fmt: skip
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            uvicorn.Config(
                Application(gateway), loop="none", http="httptools", lifespan="on", log_level="error",
                access_log=False, timeout_graceful_shutdown=2,
            )
        )  # fmt: skip
        task = asyncio.create_task(server._serve([listener]))  # without its signal handlers
        while not server.started:
            assert not task.done(), task
            await asyncio.sleep(0.001)
        client = await stack.enter_async_context(aiohttp.ClientSession(auto_decompress=False))
        try:
            yield Bench(gateway, behind, f"http://127.0.0.1:{listener.getsockname()[1]}", client)
        finally:
            server.should_exit = True
            await task


async def until(what: Callable[[], bool], limit_s: float = 120.0) -> None:
    """Wait until something holds; a test that waits for ever fails."""
    async with asyncio.timeout(limit_s):
        while not what():
            await asyncio.sleep(0.002)


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine."""
    asyncio.run(asyncio.wait_for(test, 900.0))  # kernels may have to be compiled first


def events(body: bytes) -> list[Any]:
    """Return the events of a stream, ``[DONE]`` as text."""
    parts = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    return ["[DONE]" if part == b"[DONE]" else json.loads(part) for part in parts]
