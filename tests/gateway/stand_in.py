"""A stand-in engine for tests: an OpenAI server whose answers, faults and pauses a test decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web


class StandIn:
    """One engine. Each test says what it does; tokens come when the test lets them, never by the clock."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []  # bodies, in order
        self.headers: list[dict[str, str]] = []
        self.status = 200  # of an answer
        self.error_body = json.dumps({"error": {"message": "no such thing", "type": "x", "code": 400}})
        self.healthy = True
        self.gate: asyncio.Event | None = None  # tokens after the first wait for it
        self.first_gate: asyncio.Event | None = None  # and the first for this
        self.break_after: int | None = None  # tokens, after which the connection is cut
        self.chunk = "x"
        self.tokens_of_event = 1
        self.left = asyncio.Event()  # set when a client leaves in mid-stream
        self.waiting = self.running = 0
        self.kv_used = 0.25
        self.preemptions = 7
        self.url = ""
        self.max_model_len = 4096

    def application(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        data = [{"id": "tiny", "object": "model", "max_model_len": self.max_model_len}]
        return web.json_response({"object": "list", "data": data})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 500)

    async def _metrics(self, request: web.Request) -> web.Response:
        lines = {
            "num_requests_waiting": self.waiting, "num_requests_running": self.running,
            "kv_cache_usage_perc": self.kv_used, "num_preemptions_total": self.preemptions,
        }  # fmt: skip
        text = "".join(f'vllm:{name}{{engine="0",model_name="tiny"}} {value}\n' for name, value in lines.items())
        return web.Response(text="# HELP x\n" + text)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if self.status != 200:
            return web.Response(status=self.status, text=self.error_body, content_type="application/json")
        count = int(body.get("max_tokens") or 4)
        usage = {"prompt_tokens": 3, "total_tokens": 3 + count, "completion_tokens": count}  # in vLLM's order
        if not body.get("stream"):
            if self.first_gate is not None:
                await self.first_gate.wait()
            return web.json_response({"choices": [{"text": self.chunk * count}], "usage": usage})
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", "x-own": "kept"})
        await response.prepare(request)
        chat = request.path.endswith("chat/completions")
        try:
            if self.first_gate is not None:
                await self.first_gate.wait()
            if chat:
                await response.write(_event({"choices": [{"delta": {"role": "assistant"}}]}))
            for k in range(0, count, self.tokens_of_event):
                if k == 1 and self.gate is not None:
                    await self.gate.wait()
                if self.break_after is not None and k == self.break_after:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                piece = {"delta": {"content": self.chunk}} if chat else {"text": self.chunk}
                await response.write(_event({"choices": [{"index": 0, **piece}]}))
            if (body.get("stream_options") or {}).get("include_usage"):
                await response.write(_event({"choices": [], "usage": usage}))
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            self.left.set()
            raise
        return response

    @asynccontextmanager
    async def running_on(self, port: int = 0) -> AsyncIterator[StandIn]:
        # A client that leaves cancels its handler, as in the engines.
        runner = web.AppRunner(self.application(), handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
        await site.start()
        host, bound = runner.addresses[0][:2]
        self.url = f"http://{host}:{bound}"
        try:
            yield self
        finally:
            await runner.cleanup()


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
