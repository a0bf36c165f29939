"""Engines without a model, in a process of their own: every token says when it was sent.

``python -m burstenv.gateway.trial.engine COUNT`` prints the ports. A request names its pace: ``gap_s`` between tokens.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import uvloop

HEAD = b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\n"
STREAM = HEAD + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MODELS = json.dumps({"object": "list", "data": [{"id": "tiny", "object": "model"}]}).encode()
END = b"data: [DONE]\n\n"


def _whole(body: bytes, kind: bytes = b"application/json") -> bytes:
    return HEAD + b"content-type: " + kind + b"\r\ncontent-length: " + str(len(body)).encode() + b"\r\n\r\n" + body


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def _token() -> bytes:
    return b'data: {"object":"text_completion","choices":[{"index":0,"text":"%.6f "}]}\n\n' % time.monotonic()


async def _answer(asked: dict[str, Any], writer: asyncio.StreamWriter) -> None:
    count, gap_s = int(asked.get("max_tokens") or 1), float(asked.get("gap_s") or 0.0)
    usage = {"prompt_tokens": 1, "completion_tokens": count, "total_tokens": 1 + count}
    if not asked.get("stream"):
        writer.write(_whole(json.dumps({"choices": [{"index": 0, "text": "x " * count}], "usage": usage}).encode()))
        return
    writer.write(STREAM)
    for k in range(count):
        if k and gap_s:
            await asyncio.sleep(gap_s)
        writer.write(_chunk(_token()))
        await writer.drain()
    writer.write(_chunk(END) + b"0\r\n\r\n")


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split(" ", 2)[1]
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
            body = await reader.readexactly(int(fields.get("content-length", 0)))
            if path == "/v1/models":
                writer.write(_whole(MODELS))
            elif path.endswith("/completions"):
                await _answer(json.loads(body), writer)
            else:
                writer.write(_whole(b"", b"text/plain"))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client has left
    finally:
        writer.close()


async def start() -> tuple[asyncio.Server, int]:
    """Start one engine; return its server and its port."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0, limit=1 << 24, backlog=4096)
    return server, int(server.sockets[0].getsockname()[1])


async def _main(count: int) -> None:
    started = [await start() for _ in range(count)]
    print(*(port for _, port in started), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
