"""The gateway over HTTP: an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from burstenv.errors import BurstenvError
from burstenv.gateway.answers import Receive, Scope, Send, answer, answer_error, answer_json
from burstenv.gateway.dashboard import dashboard_page, dashboard_state
from burstenv.gateway.gateway import Gateway
from burstenv.gateway.incoming import CHAT, COMPLETIONS, BadRequest
from burstenv.policies.load import named_in_data

LOOPBACK = ("127.0.0.1", "::1", "localhost")
LONG_BODY = 1 << 14  # bytes; a longer one is tokenised beside the event loop: 8,000 tokens hold it up for 5 ms
OPEN = ("/health", "/metrics", "/dashboard", "/dashboard/state")  # without a token where only this machine listens
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class Application:
    """Routes of a gateway.

    Args:
        gateway: The gateway.
    """

    def __init__(self, gateway: Gateway):
        self._gateway = gateway
        self._config = gateway.config
        self._routes: dict[tuple[str, str], Handler] = {
            ("POST", COMPLETIONS): self._serve,
            ("POST", CHAT): self._serve,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/dashboard"): self._dashboard,
            ("GET", "/dashboard/state"): self._dashboard_state,
            ("POST", "/policy"): self._policy,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or begin and end with the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        if scope["type"] != "http":
            return
        method, path = scope["method"], scope["path"]
        handler = self._routes.get(("GET" if method == "HEAD" else method, path))
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size > self._config.max_header_bytes:
            limit = self._config.max_header_bytes
            await answer_error(send, 431, f"the headers have {size} bytes; at most {limit} are read")
        elif not self._may(scope, path):
            headers = {"www-authenticate": "Bearer"}
            await answer_error(send, 401, "a bearer token is needed", "authentication_error", headers)
        elif handler is not None:
            await handler(scope, receive, send)
        elif any(path == known for _, known in self._routes):
            await answer_error(send, 405, f"{path} does not take {method}")
        else:
            known = ", ".join(known for _, known in self._routes)
            await answer_error(send, 404, f"{path[:100]} is not served here; valid: {known}")

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self._gateway.start()
                except (BurstenvError, OSError) as error:
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                    return
                await send({"type": "lifespan.startup.complete"})
            else:
                await self._gateway.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _may(self, scope: Scope, path: str) -> bool:
        """Return whether the client has the token, where one is needed."""
        token = self._config.token
        if token is None or (path in OPEN and self._config.host in LOOPBACK):
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(given, b"Bearer " + token.encode())

    # -- the engines' own paths -----------------------------------------------------------------------

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            body = await self._body(headers, receive)
            read = self._gateway.reader.read
            if len(body) < LONG_BODY:
                incoming = read(scope["path"], headers, body)
            else:
                incoming = await asyncio.to_thread(read, scope["path"], headers, body)
        except BadRequest as error:
            await answer_error(send, error.status, str(error), error.kind)
            return
        except ConnectionResetError:
            return  # the client left before it had said what it wants
        await self._gateway.serve(incoming, scope["headers"], receive, send)

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        limit = self._config.max_body_bytes
        too_large = BadRequest(413, f"the body is larger than {limit} bytes, which is the limit")
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _models(self, scope: Scope, receive: Receive, send: Send) -> None:
        names: dict[str, None] = {}
        for backend in self._gateway.backends.all:
            names.update(dict.fromkeys(backend.models if backend.available else ()))
        created = int(self._gateway.started)
        data = [{"id": name, "object": "model", "created": created, "owned_by": "burstenv"} for name in names]
        await answer_json(send, {"object": "list", "data": data})

    # -- the gateway's own ----------------------------------------------------------------------------

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 200 while at least one engine takes requests, else 503."""
        gateway = self._gateway
        engines: list[dict[str, Any]] = [
            {"replica": b.replica, "url": b.url, "available": b.available, "reason": "" if b.available else b.reason}
            for b in gateway.backends.all
        ]
        well = any(engine["available"] for engine in engines) and not gateway.stopping
        told = {"status": "ok" if well else "unavailable", "policy": gateway.decider.name, "engines": engines}
        if gateway.journal.failed:
            told["log"] = gateway.journal.failed
        await answer_json(send, told, 200 if well else 503)

    async def _metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        gateway = self._gateway
        for backend, ledger in zip(gateway.backends.all, gateway.world.ledgers, strict=True):
            name = str(backend.replica)
            gateway.metrics.in_flight.labels(name).set(ledger.in_flight)
            gateway.metrics.unanswered.labels(name).set(ledger.unanswered_tokens)
            gateway.metrics.available.labels(name).set(backend.available)
        gateway.metrics.deferred.set(gateway.world.deferred())
        await answer(send, 200, gateway.metrics.text(), "text/plain; version=0.0.4; charset=utf-8")

    async def _dashboard(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = dashboard_page(self._gateway).encode()
        # Nothing from elsewhere, and no frame around it: what the page shows is for this page alone.
        own = "style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'"
        headers = {"content-security-policy": f"default-src 'none'; {own}", "cache-control": "no-store"}
        await answer(send, 200, page, "text/html; charset=utf-8", headers)

    async def _dashboard_state(self, scope: Scope, receive: Receive, send: Send) -> None:
        await answer_json(send, dashboard_state(self._gateway), headers={"cache-control": "no-store"})

    async def _policy(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put another policy in force: ``{"policy": NAME}``; a name alone, no file of code."""
        if self._config.token is None and self._config.host not in LOOPBACK:
            await answer_error(send, 403, "set a token to change the policy from other machines", "permission_error")
            return
        kind = dict(scope["headers"]).get(b"content-type", b"")
        if not kind.startswith(b"application/json"):  # a page of elsewhere can send any other kind from a browser
            await answer_error(send, 415, "the body must be sent as application/json")
            return
        try:
            said = json.loads(await self._body({}, receive))
            name = self._gateway.reload(named_in_data(said["policy"]))
        except ConnectionResetError:
            return
        except (BadRequest, BurstenvError) as error:
            await answer_error(send, getattr(error, "status", 400), str(error))
        except (ValueError, TypeError, KeyError):
            await answer_error(send, 400, 'the body must be {"policy": NAME}')
        else:
            await answer_json(send, {"policy": name})
