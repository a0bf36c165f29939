"""What the gateway itself answers: JSON, text, and OpenAI's errors, over ASGI."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Headers = Sequence[tuple[bytes, bytes]]


async def answer(send: Send, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
    """Send a whole answer."""
    told = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    told += [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
    """Send a value as JSON."""
    await answer(send, status, json.dumps(value).encode(), "application/json", headers)


def error_body(status: int, message: str, kind: str) -> dict[str, Any]:
    """Return an error as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


async def answer_error(
    send: Send, status: int, message: str, kind: str = "invalid_request_error", headers: Mapping[str, str] | None = None
) -> None:
    """Send an error."""
    await answer_json(send, error_body(status, message, kind), status, headers)


def error_event(message: str) -> bytes:
    """Return an error as the last event of a stream that has begun."""
    return b"data: " + json.dumps(error_body(502, message, "upstream_error")).encode() + b"\n\n"
